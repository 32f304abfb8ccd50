# From all tables and figures, samples and documents: the run on one page.
use rule light as page with:
    input:
        unpack(made_from("page")),
    # A failed job leaves the printed files as they were; without their manifest, the rerun is not skipped.
    output:
        manifest=where("page").manifest,
        html=report(
            update(where("page").printed("html")),
            caption="../report/index.rst",
            category="Page",
            labels={"page": "the whole run on one page"},
        ),
    log:
        where("page").log,
    params:
        **work("page"),

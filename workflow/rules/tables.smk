# From published values and the artifacts of its methods: a table, ours beside the published.
use rule light as tables with:
    input:
        unpack(made_from("tables")),
    # A failed job leaves the printed files as they were; without their manifest, the rerun is not skipped.
    output:
        manifest=where("tables").manifest,
        csv=report(
            update(where("tables").printed("csv")),
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
        json=update(where("tables").printed("json")),
        md=update(where("tables").printed("md")),
        tex=update(where("tables").printed("tex")),
    log:
        where("tables").log,
    params:
        **work("tables"),


# From published values and the artifacts of its methods: a figure, and the numbers behind it.
use rule light as figures with:
    input:
        unpack(made_from("tables")),
    output:
        manifest=where("tables").manifest,
        png=report(
            update(where("tables").printed("png")),
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{table}"},
        ),
        pdf=update(where("tables").printed("pdf")),
        csv=update(where("tables").printed("csv")),
    log:
        where("tables").log,
    wildcard_constraints:
        table="|".join(FIGURES),
    params:
        **work("tables"),

# Set the page of the run: tables, figures, claims, samples and the chain of artifacts behind them.
rule page:
    input:
        **page_inputs(config, TABLES),
    # A failed job leaves the printed files as they were; without a manifest of its own no rerun passes for done.
    output:
        manifest=f"paper_tables/{config['run']}/index.manifest.json",
        html=report(
            update(f"paper_tables/{config['run']}/index.html"),
            caption="../report/index.rst",
            category="Page",
            labels={"page": "the whole run on one page"},
        ),
    log:
        f"logs/{config['run']}/page.log",
    benchmark:
        f"{RESULTS}/runs/page.tsv"
    conda:
        "../../envs/mixdpo.yaml"
    threads: 1
    resources:
        device="cpu",
        precision=PRECISION,
    params:
        spec=lambda wildcards: json.dumps(page_spec(config, TABLES), sort_keys=True),
        code=code_of("page"),
        facts=f"{RESULTS}/runs",
        inputs=named,
    shell:
        f"python -m mixdpo page{MANIFEST_COMMAND}"

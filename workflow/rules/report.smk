# Set the page of the run: tables, figures, claims, samples and the chain of artifacts behind them.
rule report:
    input:
        **report_inputs(config, TABLES),
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
        f"logs/{config['run']}/report.log",
    benchmark:
        f"{RESULTS}/runs/report.tsv"
    conda:
        "../../envs/mixdpo.yaml"
    threads: 1
    resources:
        device="cpu",
        precision=PRECISION,
    params:
        spec=spec_of("report"),
        code=code_of("report"),
        facts=f"{RESULTS}/runs",
        inputs=named,
    shell:
        f"python -m mixdpo report{MANIFEST_COMMAND}"

# Print a table: ours beside the published values.
rule tables:
    input:
        unpack(lambda wildcards: table_inputs(config, TABLES, wildcards.table)),
    # A failed job leaves the printed files as they were; without a manifest of its own no rerun passes for done.
    output:
        manifest=f"paper_tables/{config['run']}/{{table}}.manifest.json",
        csv=report(
            update(f"paper_tables/{config['run']}/{{table}}.csv"),
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
        json=update(f"paper_tables/{config['run']}/{{table}}.json"),
        md=update(f"paper_tables/{config['run']}/{{table}}.md"),
        tex=update(f"paper_tables/{config['run']}/{{table}}.tex"),
    log:
        f"logs/{config['run']}/tables/{{table}}.log",
    benchmark:
        f"{RESULTS}/runs/tables--{{table}}.tsv"
    conda:
        "../../envs/mixdpo.yaml"
    threads: 1
    resources:
        device="cpu",
        precision=PRECISION,
    params:
        spec=spec_of("tables"),
        code=code_of("tables"),
        facts=f"{RESULTS}/runs",
        inputs=named_with_records,
    shell:
        f"python -m mixdpo tables{MANIFEST_COMMAND}"


# Draw a figure, with the numbers behind it.
rule figures:
    input:
        unpack(lambda wildcards: table_inputs(config, TABLES, wildcards.figure)),
    output:
        manifest=f"paper_tables/{config['run']}/{{figure}}.manifest.json",
        png=report(
            update(f"paper_tables/{config['run']}/{{figure}}.png"),
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
        pdf=update(f"paper_tables/{config['run']}/{{figure}}.pdf"),
        csv=update(f"paper_tables/{config['run']}/{{figure}}.csv"),
    log:
        f"logs/{config['run']}/figures/{{figure}}.log",
    benchmark:
        f"{RESULTS}/runs/figures--{{figure}}.tsv"
    conda:
        "../../envs/mixdpo.yaml"
    threads: 1
    resources:
        device="cpu",
        precision=PRECISION,
    params:
        spec=spec_of("figures"),
        code=code_of("figures"),
        facts=f"{RESULTS}/runs",
        inputs=named,
    shell:
        f"python -m mixdpo figures{MANIFEST_COMMAND}"

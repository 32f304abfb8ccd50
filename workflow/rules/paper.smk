# Print a table: ours beside the published values.
rule paper:
    input:
        unpack(lambda wildcards: table_inputs(wildcards.table)),
    output:
        manifest=f"paper_tables/{config['run']}/{{table}}.manifest.json",
        csv=report(
            f"paper_tables/{config['run']}/{{table}}.csv",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
        md=f"paper_tables/{config['run']}/{{table}}.md",
        tex=f"paper_tables/{config['run']}/{{table}}.tex",
    log:
        f"logs/{config['run']}/paper/{{table}}.log",
    benchmark:
        f"{RESULTS}/runs/paper--{{table}}.tsv"
    conda:
        "../../envs/mixdpo.yaml"
    threads: 1
    resources:
        device="cpu",
        precision=PRECISION,
    params:
        spec=spec_of("paper"),
        code=code_of("paper"),
        facts=f"{RESULTS}/runs",
        inputs=named,
    shell:
        f"python -m mixdpo paper{MANIFEST_COMMAND}"

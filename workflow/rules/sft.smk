# Fine-tune the base model on the training reviews of an experiment's domains.
rule sft:
    input:
        base=base_of,
        reviews=corpus_of,
    output:
        f"{RESULTS}/sft/{{experiment}}/manifest.json",
    log:
        f"logs/{config['run']}/sft/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/runs/sft--{{experiment}}.tsv"
    conda:
        "../../envs/mixdpo.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
        device=DEVICE,
        precision=PRECISION,
    params:
        spec=spec_of("sft"),
        code=code_of("sft"),
        facts=f"{RESULTS}/runs",
        inputs=named,
    shell:
        f"python -m mixdpo sft{COMMAND}"

# Turn scored completions into preference triplets, one per style.
rule preferences:
    input:
        completions=f"{RESULTS}/completions/{{experiment}}/manifest.json",
        rewards=f"{RESULTS}/rewards/{{experiment}}/manifest.json",
    output:
        f"{RESULTS}/preferences/{{experiment}}/manifest.json",
    log:
        f"logs/{config['run']}/preferences/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/runs/preferences--{{experiment}}.tsv"
    conda:
        "../../envs/mixdpo.yaml"
    threads: 1
    resources:
        device=DEVICE,
        precision=PRECISION,
    params:
        spec=spec_of("preferences"),
        code=code_of("preferences"),
        facts=f"{RESULTS}/runs",
        inputs=named,
    shell:
        f"python -m mixdpo preferences{COMMAND}"

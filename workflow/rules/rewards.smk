# Annotate the completions with every reward of the experiment.
rule rewards:
    input:
        completions=f"{RESULTS}/completions/{{experiment}}/manifest.json",
        classifier=f"{RESULTS}/assets/classifier/manifest.json",
        pipeline=f"{RESULTS}/assets/pipeline/manifest.json",
    output:
        f"{RESULTS}/rewards/{{experiment}}/manifest.json",
    log:
        f"logs/{config['run']}/rewards/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/runs/rewards--{{experiment}}.tsv"
    conda:
        "../../envs/mixdpo.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
        device=DEVICE,
        precision=PRECISION,
    params:
        spec=spec_of("rewards"),
        code=code_of("rewards"),
        facts=f"{RESULTS}/runs",
        inputs=named,
    shell:
        f"python -m mixdpo rewards{COMMAND}"


# Measure on test reviews that each reward measures what it is named for.
rule validity:
    input:
        reviews=f"{RESULTS}/assets/reviews/manifest.json",
        classifier=f"{RESULTS}/assets/classifier/manifest.json",
        pipeline=f"{RESULTS}/assets/pipeline/manifest.json",
    output:
        f"{RESULTS}/validity/manifest.json",
    log:
        f"logs/{config['run']}/validity.log",
    benchmark:
        f"{RESULTS}/runs/validity.tsv"
    conda:
        "../../envs/mixdpo.yaml"
    threads: 1
    resources:
        gpu=GPU,
        device=DEVICE,
        precision=PRECISION,
    params:
        spec=spec_of("validity"),
        code=code_of("validity"),
        facts=f"{RESULTS}/runs",
        inputs=named,
    shell:
        f"python -m mixdpo validity{COMMAND}"

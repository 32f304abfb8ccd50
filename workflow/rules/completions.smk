# Sample completions of training prompts from the reference policy.
rule completions:
    input:
        reference=f"{RESULTS}/sft/{{experiment}}/manifest.json",
        reviews=f"{RESULTS}/assets/reviews/manifest.json",
    output:
        f"{RESULTS}/completions/{{experiment}}/manifest.json",
    log:
        f"logs/{config['run']}/completions/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/runs/completions--{{experiment}}.tsv"
    conda:
        "../../envs/mixdpo.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
        device=DEVICE,
        precision=PRECISION,
    params:
        spec=spec_of("completions"),
        code=code_of("completions"),
        facts=f"{RESULTS}/runs",
        inputs=named,
    shell:
        f"python -m mixdpo completions{COMMAND}"

# Turn scored completions, or rated responses, into preference triplets: one per style, or per user.
rule preferences:
    input:
        unpack(preference_inputs),
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
        stage=preference_stage,
        spec=lambda wildcards: spec_of(preference_stage(wildcards))(wildcards),
        code=lambda wildcards: code_of(preference_stage(wildcards)),
        facts=f"{RESULTS}/runs",
        inputs=named,
    shell:
        f"python -m mixdpo {{params.stage}}{COMMAND}"

# Complete the test prompts with a policy.
rule evaluations:
    input:
        unpack(evaluation_inputs),
    output:
        f"{RESULTS}/evaluations/{{experiment}}/{{policy}}/completions/manifest.json",
    log:
        f"logs/{config['run']}/evaluations/{{experiment}}/{{policy}}/completions.log",
    benchmark:
        f"{RESULTS}/runs/evaluations/{{experiment}}/{{policy}}/completions.tsv"
    conda:
        "../../envs/mixdpo.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
        device=DEVICE,
        precision=PRECISION,
    params:
        spec=spec_of("evaluations"),
        code=code_of("evaluations"),
        facts=f"{RESULTS}/runs",
        inputs=named,
    shell:
        f"python -m mixdpo evaluations{COMMAND}"


# Score the completions of the test prompts.
rule evaluation_rewards:
    input:
        completions=f"{RESULTS}/evaluations/{{experiment}}/{{policy}}/completions/manifest.json",
        classifier=f"{RESULTS}/assets/classifier/manifest.json",
        pipeline=f"{RESULTS}/assets/pipeline/manifest.json",
    output:
        f"{RESULTS}/evaluations/{{experiment}}/{{policy}}/rewards/manifest.json",
    log:
        f"logs/{config['run']}/evaluations/{{experiment}}/{{policy}}/rewards.log",
    benchmark:
        f"{RESULTS}/runs/evaluations/{{experiment}}/{{policy}}/rewards.tsv"
    conda:
        "../../envs/mixdpo.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
        device=DEVICE,
        precision=PRECISION,
    params:
        spec=spec_of("evaluation_rewards"),
        code=code_of("rewards"),
        facts=f"{RESULTS}/runs",
        inputs=named,
    shell:
        f"python -m mixdpo rewards{COMMAND}"


# Judge the completions of the test prompts against those of the opponents.
rule judgements:
    input:
        unpack(judgement_inputs),
    output:
        f"{RESULTS}/evaluations/{{experiment}}/{{policy}}/judgements/manifest.json",
    log:
        f"logs/{config['run']}/evaluations/{{experiment}}/{{policy}}/judgements.log",
    benchmark:
        f"{RESULTS}/runs/evaluations/{{experiment}}/{{policy}}/judgements.tsv"
    conda:
        "../../envs/mixdpo.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
        device=DEVICE,
        precision=PRECISION,
    params:
        spec=spec_of("judgements"),
        code=code_of("judgements"),
        facts=f"{RESULTS}/runs",
        inputs=named,
    shell:
        f"python -m mixdpo judgements{COMMAND}"

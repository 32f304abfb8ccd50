# Compute the log-probabilities of all triplets under the reference policy.
rule reference:
    input:
        policy=f"{RESULTS}/sft/{{experiment}}/manifest.json",
        preferences=f"{RESULTS}/preferences/{{experiment}}/manifest.json",
    output:
        f"{RESULTS}/reference/{{experiment}}/manifest.json",
    log:
        f"logs/{config['run']}/reference/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/runs/reference--{{experiment}}.tsv"
    conda:
        "../../envs/mixdpo.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
        device=DEVICE,
        precision=PRECISION,
    params:
        spec=spec_of("reference"),
        code=code_of("reference"),
        facts=f"{RESULTS}/runs",
        inputs=named,
    shell:
        f"python -m mixdpo reference{COMMAND}"


# Pretrain a gate to tell the experiment's domains apart by the prompt.
rule gates:
    input:
        policy=f"{RESULTS}/sft/{{experiment}}/manifest.json",
        preferences=f"{RESULTS}/preferences/{{experiment}}/manifest.json",
    output:
        f"{RESULTS}/gates/{{experiment}}/manifest.json",
    log:
        f"logs/{config['run']}/gates/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/runs/gates--{{experiment}}.tsv"
    conda:
        "../../envs/mixdpo.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
        device=DEVICE,
        precision=PRECISION,
    params:
        spec=spec_of("gates"),
        code=code_of("gates"),
        facts=f"{RESULTS}/runs",
        inputs=named,
    shell:
        f"python -m mixdpo gates{COMMAND}"


# Optimise a policy on the preferences.
rule policies:
    input:
        unpack(training_inputs),
    output:
        f"{RESULTS}/policies/{{experiment}}/{{method}}/seed{{seed}}/manifest.json",
    log:
        f"logs/{config['run']}/policies/{{experiment}}/{{method}}/seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/runs/policies--{{experiment}}--{{method}}--seed{{seed}}.tsv"
    conda:
        "../../envs/mixdpo.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
        device=DEVICE,
        precision=PRECISION,
    params:
        spec=spec_of("policies"),
        code=code_of("policies"),
        facts=f"{RESULTS}/runs",
        inputs=named,
    shell:
        f"python -m mixdpo policies{COMMAND}"

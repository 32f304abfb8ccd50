# Compute the log-probabilities of all triplets under the reference policy.
rule reference_log_probs:
    input:
        reference=f"{RESULTS}/sft/{{experiment}}/manifest.json",
        preferences=f"{RESULTS}/preferences/{{experiment}}/manifest.json",
    output:
        f"{RESULTS}/reference_log_probs/{{experiment}}/manifest.json",
    log:
        f"logs/{config['run']}/reference_log_probs/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/runs/reference_log_probs--{{experiment}}.tsv"
    conda:
        "../../envs/mixdpo.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
        device=DEVICE,
        precision=PRECISION,
    params:
        spec=spec_of("reference_log_probs"),
        code=code_of("reference_log_probs"),
        facts=f"{RESULTS}/runs",
        inputs=named,
    shell:
        f"python -m mixdpo reference_log_probs{COMMAND}"


# Pretrain a gate to tell the experiment's domains apart by the prompt.
rule gates:
    input:
        reference=f"{RESULTS}/sft/{{experiment}}/manifest.json",
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

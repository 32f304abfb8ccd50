# Bring the review corpus into one form.
rule reviews:
    input:
        **asset_inputs("reviews"),
    output:
        f"{RESULTS}/assets/reviews/manifest.json",
    log:
        f"logs/{config['run']}/assets/reviews.log",
    benchmark:
        f"{RESULTS}/runs/assets--reviews.tsv"
    conda:
        "../../envs/mixdpo.yaml"
    threads: 1
    resources:
        device=DEVICE,
        precision=PRECISION,
    params:
        stage=asset_stage(config, "reviews"),
        spec=spec_of(asset_stage(config, "reviews")),
        code=code_of(asset_stage(config, "reviews")),
        facts=f"{RESULTS}/runs",
        inputs=named,
    shell:
        f"python -m mixdpo {{params.stage}}{COMMAND}"


# Train the base language model on reviews, or obtain a checkpoint.
rule base:
    input:
        **asset_inputs("base"),
    output:
        f"{RESULTS}/assets/base/manifest.json",
    log:
        f"logs/{config['run']}/assets/base.log",
    benchmark:
        f"{RESULTS}/runs/assets--base.tsv"
    conda:
        "../../envs/mixdpo.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
        device=DEVICE,
        precision=PRECISION,
    params:
        spec=spec_of("base"),
        code=code_of("base"),
        facts=f"{RESULTS}/runs",
        inputs=named,
    shell:
        f"python -m mixdpo base{COMMAND}"


# Train the sentiment classifier, or obtain a checkpoint.
rule classifier:
    input:
        **asset_inputs("classifier"),
    output:
        f"{RESULTS}/assets/classifier/manifest.json",
    log:
        f"logs/{config['run']}/assets/classifier.log",
    benchmark:
        f"{RESULTS}/runs/assets--classifier.tsv"
    conda:
        "../../envs/mixdpo.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
        device=DEVICE,
        precision=PRECISION,
    params:
        spec=spec_of("classifier"),
        code=code_of("classifier"),
        facts=f"{RESULTS}/runs",
        inputs=named,
    shell:
        f"python -m mixdpo classifier{COMMAND}"


# Train the spaCy pipeline on gold parses, or obtain one.
rule pipeline:
    input:
        **asset_inputs("pipeline"),
    output:
        f"{RESULTS}/assets/pipeline/manifest.json",
    log:
        f"logs/{config['run']}/assets/pipeline.log",
    benchmark:
        f"{RESULTS}/runs/assets--pipeline.tsv"
    conda:
        "../../envs/mixdpo.yaml"
    threads: 1
    resources:
        device=DEVICE,
        precision=PRECISION,
    params:
        stage=asset_stage(config, "pipeline"),
        spec=spec_of(asset_stage(config, "pipeline")),
        code=code_of(asset_stage(config, "pipeline")),
        facts=f"{RESULTS}/runs",
        inputs=named,
    shell:
        f"python -m mixdpo {{params.stage}}{COMMAND}"


# Bring instructions with rated responses into one form.
rule feedback:
    input:
        **asset_inputs("feedback"),
    output:
        f"{RESULTS}/assets/feedback/manifest.json",
    log:
        f"logs/{config['run']}/assets/feedback.log",
    benchmark:
        f"{RESULTS}/runs/assets--feedback.tsv"
    conda:
        "../../envs/mixdpo.yaml"
    threads: 1
    resources:
        device=DEVICE,
        precision=PRECISION,
    params:
        stage=asset_stage(config, "feedback"),
        spec=spec_of(asset_stage(config, "feedback")),
        code=code_of(asset_stage(config, "feedback")),
        facts=f"{RESULTS}/runs",
        inputs=named,
    shell:
        f"python -m mixdpo {{params.stage}}{COMMAND}"


# Obtain the base model that an experiment has for itself.
rule bases:
    input:
        unpack(lambda wildcards: own_base_files(config, wildcards.experiment)),
    output:
        f"{RESULTS}/bases/{{experiment}}/manifest.json",
    log:
        f"logs/{config['run']}/bases/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/runs/bases--{{experiment}}.tsv"
    conda:
        "../../envs/mixdpo.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
        device=DEVICE,
        precision=PRECISION,
    params:
        spec=spec_of("base"),
        code=code_of("base"),
        facts=f"{RESULTS}/runs",
        inputs=named,
    shell:
        f"python -m mixdpo base{COMMAND}"

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.dirname(workflow.current_basedir)))

from mixdpo.run.checks import check_tables, validate
from mixdpo.run.config import (
    asset_files,
    asset_stage,
    has_users,
    initial_methods,
    is_figure,
    is_gated,
    own_base_files,
    present,
    published,
    reward_model_files,
    spec,
)
from mixdpo.errors import UserError
from mixdpo.provenance.artifact import keep
from mixdpo.provenance.fingerprint import fingerprint
from mixdpo.run.graph import PUBLISHED, page_inputs, page_spec, records, results, table_inputs, targets
from mixdpo.run.settings import completed
from mixdpo.run.stages import STAGES
from mixdpo.run.yaml import read, shipped

try:
    shipped()  # Snakemake keeps the last of equal keys in a file; these two refuse them
    for overlay in workflow.overwrite_configfiles:
        read(overlay)
    config.update(completed(config))
    validate(config)
    TABLES = published(PUBLISHED, config)
    check_tables(config, TABLES)
except UserError as error:
    sys.exit(f"error: {error}")

RESULTS = results(config)
DEVICE, PRECISION, THREADS = (config["runtime"][key] for key in ("device", "precision", "threads"))
GPU = 0 if DEVICE == "cpu" else 1
FIGURES = [name for name, table in TABLES.items() if is_figure(table)]


onstart:
    every = {table.get("target", "all") for table in TABLES.values()}
    keep(Path(path) for target in every for path in targets(config, TABLES, target))


wildcard_constraints:
    experiment="|".join(present(config)),
    policy="reference|({})/seed[0-9]+".format("|".join(config["policies"]["methods"])),
    method="|".join(config["policies"]["methods"]),
    seed="[0-9]+",
    table="|".join(name for name in TABLES if name not in FIGURES),
    figure="|".join(FIGURES),


def asset_inputs(asset):
    """Local files that an asset is made from, and the reviews if it is trained on them."""
    trained = config["assets"][asset]["source"] == "reviews"
    return asset_files(config, asset) | ({"reviews": f"{RESULTS}/assets/reviews/manifest.json"} if trained else {})


def spec_of(stage):
    """The stage's slice of the configuration, as JSON: a change elsewhere does not rerun the job."""
    return lambda wildcards: json.dumps(spec(config, stage, **wildcards_of(wildcards)), sort_keys=True)


def wildcards_of(wildcards):
    """Wildcards as the names that `spec` knows."""
    known = dict(wildcards.items())
    if "method" in known:
        known["policy"] = f"{known.pop('method')}/seed{known.pop('seed')}"
    return known


def code_of(stage):
    """Fingerprint of the code that the stage runs: a comment does not rerun the job, an edited function does."""
    return fingerprint(STAGES[stage])


def named(wildcards, input):
    """Inputs as name=path, in the form of the command line."""
    return [f"{name}={path}" for name, path in input.items()]


def named_with_records(wildcards, input):
    """Inputs of a table, and the run records that it reads, which no rule declares as output."""
    there = {n: path for n, path in records(config, TABLES, wildcards.table).items() if os.path.exists(path)}
    return named(wildcards, input) + named(wildcards, there)


def model_of(wildcards):
    """The manifest of a policy: the fine-tuned model is the reference policy."""
    if wildcards.policy == "reference":
        return f"{RESULTS}/sft/{wildcards.experiment}/manifest.json"
    return f"{RESULTS}/policies/{wildcards.experiment}/{wildcards.policy}/manifest.json"


def training_inputs(wildcards):
    """What a policy is trained from; a gate only where the method has one."""
    stages = {"reference": "sft", "preferences": "preferences", "reference_log_probs": "reference_log_probs"}
    if is_gated(config, wildcards.method):
        stages["gate"] = "gates"
    inputs = {name: f"{RESULTS}/{stage}/{wildcards.experiment}/manifest.json" for name, stage in stages.items()}
    for method in initial_methods(config, wildcards.method):
        inputs[method] = f"{RESULTS}/policies/{wildcards.experiment}/{method}/seed{wildcards.seed}/manifest.json"
    return inputs


def corpus_of(wildcards):
    """What an experiment reads: reviews, or instructions with rated responses, which are texts to train on too."""
    return f"{RESULTS}/assets/{'feedback' if has_users(config, wildcards.experiment) else 'reviews'}/manifest.json"


def base_of(wildcards):
    """The base model of an experiment, its own if it names one."""
    own = "base" in config["experiments"][wildcards.experiment]
    return f"{RESULTS}/bases/{wildcards.experiment}/manifest.json" if own else f"{RESULTS}/assets/base/manifest.json"


def preference_inputs(wildcards):
    """What preferences are made from: scored completions, or rated responses in the tokens of the reference policy."""
    if has_users(config, wildcards.experiment):
        return {"reference": f"{RESULTS}/sft/{wildcards.experiment}/manifest.json", "feedback": corpus_of(wildcards)}
    stages = ("completions", "rewards")
    return {stage: f"{RESULTS}/{stage}/{wildcards.experiment}/manifest.json" for stage in stages}


def preference_stage(wildcards):
    return "user_preferences" if has_users(config, wildcards.experiment) else "preferences"


def evaluation_inputs(wildcards):
    """A policy, its reference, and what the prompts are taken from."""
    corpus = "feedback" if has_users(config, wildcards.experiment) else "reviews"
    reference = f"{RESULTS}/sft/{wildcards.experiment}/manifest.json"
    return {"policy": model_of(wildcards), "reference": reference, corpus: corpus_of(wildcards)}


def judgement_inputs(wildcards):
    """Completions of a policy and of its opponents, which are judged with its own training seed."""
    folder = f"{RESULTS}/evaluations/{wildcards.experiment}"
    seed = wildcards.policy.partition("/")[2]
    inputs = {"policy": f"{folder}/{wildcards.policy}/completions/manifest.json"}
    for method in config["judge"]["opponents"]:
        opponent = method if method == "reference" else f"{method}/{seed}"
        inputs[method] = f"{folder}/{opponent}/completions/manifest.json"
    return inputs | reward_model_files(config)


# A rule with one output is called with that manifest; one that declares more names it.
COMMAND = (
    " --out {output} --spec {params.spec:q} --code {params.code} --facts {params.facts} {params.inputs:q}"
    " --device {resources.device} --precision {resources.precision} --threads {threads} > {log} 2>&1"
)
MANIFEST_COMMAND = COMMAND.replace("{output}", "{output.manifest}")

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.dirname(workflow.current_basedir)))

from mixdpo.config import asset_files, asset_stage, check_tables, methods_of, policies_of, published, spec, validate
from mixdpo.errors import UserError
from mixdpo.fingerprint import fingerprint
from mixdpo.stages import STAGES

PUBLISHED = Path("workflow/published")  # relative, as manifests record it

try:
    validate(config)
    TABLES = published(PUBLISHED)
    check_tables(config, TABLES)
except UserError as error:
    sys.exit(f"error: {error}")

RESULTS = f"results/{config['run']}"
DEVICE, PRECISION, THREADS = (config["runtime"][key] for key in ("device", "precision", "threads"))
GPU = 0 if DEVICE == "cpu" else 1


wildcard_constraints:
    experiment="|".join(config["experiments"]),
    policy="reference|({})/seed[0-9]+".format("|".join(config["policies"]["methods"])),
    method="|".join(config["policies"]["methods"]),
    seed="[0-9]+",
    table="|".join(TABLES),


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


def model_of(wildcards):
    """The manifest of a policy: the fine-tuned model is the reference policy."""
    if wildcards.policy == "reference":
        return f"{RESULTS}/sft/{wildcards.experiment}/manifest.json"
    return f"{RESULTS}/policies/{wildcards.experiment}/{wildcards.policy}/manifest.json"


def table_inputs(name):
    """What a table is made from: its published values and, by kind, manifests below results/."""
    table = TABLES[name]
    inputs = {"published": str(PUBLISHED / f"{name}.yaml")}
    if table["kind"] == "validity":
        return inputs | {"validity": f"{RESULTS}/validity/manifest.json"}
    if table["kind"] in ("perplexity", "preferences"):
        stage = {"perplexity": "sft", "preferences": "preferences"}[table["kind"]]
        return inputs | {f"{stage}:{e}": f"{RESULTS}/{stage}/{e}/manifest.json" for e in table["experiments"]}
    folder = f"{RESULTS}/evaluations/{table['experiment']}"
    return inputs | {
        f"{stage}:{policy}": f"{folder}/{policy}/{stage}/manifest.json"
        for method in ["reference", *methods_of(table)]
        for policy in policies_of(config, method)
        for stage in ("completions", "rewards")
    }


def all_targets():
    """Every table and every artifact behind it: a table in Git does not stand in for a result that is not there."""
    tables = [f"paper_tables/{config['run']}/{name}.manifest.json" for name in TABLES]
    artifacts = {f"{RESULTS}/assets/{asset}/manifest.json" for asset in config["assets"]}
    artifacts |= {path for name in TABLES for path in table_inputs(name).values() if path.startswith(RESULTS)}
    for table in TABLES.values():
        if "experiment" in table:
            stages = ["sft", "completions", "rewards", "preferences", "reference"]
            trained = [policy for m in methods_of(table) if m != "reference" for policy in policies_of(config, m)]
            artifacts |= {f"{RESULTS}/{stage}/{table['experiment']}/manifest.json" for stage in stages}
            artifacts |= {f"{RESULTS}/policies/{table['experiment']}/{policy}/manifest.json" for policy in trained}
    return tables + sorted(artifacts)


# A rule with one output is called with that manifest; one that declares more names it.
COMMAND = (
    " --out {output} --spec {params.spec:q} --code {params.code} --facts {params.facts} {params.inputs:q}"
    " --device {resources.device} --precision {resources.precision} --threads {threads} > {log} 2>&1"
)
MANIFEST_COMMAND = COMMAND.replace("{output}", "{output.manifest}")

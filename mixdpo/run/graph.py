"""The run as a graph of artifacts: what each is, what it is made from, and which of them a run has.

The rules of the workflow and the audit ask here, so that they agree.
"""

import contextlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from mixdpo.fields import merged
from mixdpo.run.config import (
    asset_files,
    asset_stage,
    experiments_of,
    has_rating_classifier,
    has_users,
    initial_methods,
    is_figure,
    is_gated,
    left_out,
    methods_of,
    own_base_files,
    policies_of,
    reward_model_files,
    spec,
)
from mixdpo.run.differences import differences
from mixdpo.run.kinds import KINDS, SAMPLES
from mixdpo.run.layout import PRINTED, PUBLISHED, Key, is_manifest, parse, policy_of, split_policy
from mixdpo.run.published import sources_of
from mixdpo.run.settings import completed
from mixdpo.run.yaml import read, shipped

TEXTS = {  # of the page of a run, by input name
    "template": "mixdpo/paper/page.html.j2",
    "style": "mixdpo/paper/page.css",
    "script": "mixdpo/paper/page.js",
    "decisions": "docs/decisions.md",
    "notes": "docs/replication-notes.md",
}
PAPER = "config/paper.yaml"  # the paper's own experiment, which the page compares the run with


def artifact(config: dict, stage: str, experiment: str = "", policy: str = "", table: str = "") -> str:
    """The manifest of an artifact of this run."""
    return Key(config["run"], stage, experiment, policy, table).manifest


def printed(config: dict, table: str) -> str:
    """The manifest of a table or figure, or with `index` that of the page."""
    return artifact(config, "page") if table == "index" else artifact(config, "tables", table=table)


def job(config: dict, tables: dict[str, dict], manifest: str) -> tuple[str, dict]:
    """Stage and spec that today's configuration gives an artifact of the run, by the path of its manifest."""
    key = parse(manifest)
    stage = section = key.stage
    match key.stage:
        case "reviews" | "feedback" | "base" | "classifier" | "pipeline":
            stage = section = asset_stage(config, key.stage)
        case "bases":
            stage = section = "base"
        case "preferences" if has_users(config, key.experiment):
            stage = section = "user_preferences"
        case "evaluation_rewards":
            stage = "rewards"
        case "tables" if is_figure(tables[key.table]):
            stage = section = "figures"
        case "page":
            return stage, page_spec(config, tables)
    return stage, spec(config, section, experiment=key.experiment, policy=key.policy, table=key.table)


def inputs_of(config: dict, tables: dict[str, dict], manifest: str) -> dict[str, str]:
    """What an artifact is made from: manifests, and files from outside, by the names that its stage knows them by."""
    key, made = parse(manifest), partial(artifact, config)
    experiment, scorers = key.experiment, {name: made(name) for name in ("classifier", "pipeline")}
    reference = {"reference": made("sft", experiment)}
    match key.stage:
        case "reviews" | "feedback" | "base" | "classifier" | "pipeline":
            section, corpora = config["assets"][key.stage], []
            if section["source"] == "reviews":
                corpora = ["reviews", *["feedback"] * section["reviews"].get("responses", False)]
            return asset_files(config, key.stage) | {name: made(name) for name in corpora}
        case "bases":
            return own_base_files(config, experiment)
        case "sft":
            own = "base" in config["experiments"][experiment]
            return {"base": made("bases" if own else "base", experiment), "reviews": made(corpus(config, experiment))}
        case "completions":
            return reference | {"reviews": made("reviews")}
        case "rewards":
            return {"completions": made("completions", experiment)} | scorers
        case "validity":
            return {"reviews": made("reviews")} | scorers
        case "preferences" if has_users(config, experiment):
            return reference | {"feedback": made("feedback")}
        case "preferences":
            return {stage: made(stage, experiment) for stage in ("completions", "rewards")}
        case "reference_log_probs" | "gates":
            return reference | {"preferences": made("preferences", experiment)}
        case "policies":
            return reference | training_inputs(config, key)
        case "evaluations":
            source = corpus(config, experiment)
            trained = {} if has_users(config, experiment) else {"completions": made("completions", experiment)}
            return {"policy": model(config, key)} | reference | {source: made(source)} | trained
        case "evaluation_rewards":
            return {"completions": made("evaluations", experiment, key.policy)} | scorers
        case "rating_classifier":
            return {"feedback": made("feedback")}
        case "judgements":
            learned = {"rating_classifier": made("rating_classifier")} if has_rating_classifier(config) else {}
            return judgement_inputs(config, key) | reward_model_files(config) | learned
        case _:
            return table_inputs(config, tables, key.table or "index")


def corpus(config: dict, experiment: str) -> str:
    """The asset that an experiment takes its texts and prompts from: reviews, or instructions with rated responses."""
    return "feedback" if has_users(config, experiment) else "reviews"


def model(config: dict, key: Key) -> str:
    """The manifest of a policy's model: that of `reference` is the SFT model."""
    if key.policy == "reference":
        return artifact(config, "sft", key.experiment)
    return artifact(config, "policies", key.experiment, key.policy)


def training_inputs(config: dict, key: Key) -> dict[str, str]:
    """What a policy is trained from beside its reference: a gate if the method has one, and the policies, of the same
    seed, whose experts it starts from."""
    stages = {"preferences": "preferences", "reference_log_probs": "reference_log_probs"}
    stages |= {"gate": "gates"} if is_gated(config, key.method) else {}
    found = {name: artifact(config, stage, key.experiment) for name, stage in stages.items()}
    for method in initial_methods(config, key.method):
        found[method] = artifact(config, "policies", key.experiment, policy_of(method, key.seed))
    return found


def judgement_inputs(config: dict, key: Key) -> dict[str, str]:
    """Completions of a policy and of its opponents, those of the same training seed."""
    opponents = {"policy": key.policy}
    for method in config["judge"]["opponents"]:
        opponents[method] = method if method == "reference" else policy_of(method, key.seed)
    return {name: artifact(config, "evaluations", key.experiment, policy) for name, policy in opponents.items()}


def policy_inputs(config: dict, experiment: str, policy: str, stages: Iterable[str]) -> dict[str, str]:
    """The manifests of a policy that `stages` name, those it has: `stage:experiment/policy` → path."""
    there = {"completions": "evaluations"}
    if not has_users(config, experiment):
        there["rewards"] = "evaluation_rewards"
    elif split_policy(policy)[0] not in config["judge"]["opponents"]:
        there["judgements"] = "judgements"
    if policy != "reference":
        there["policies"] = "policies"
    known = [name for name in stages if name in there]
    return {f"{name}:{experiment}/{policy}": artifact(config, there[name], experiment, policy) for name in known}


def policies_behind(config: dict, table: dict, experiment: str) -> list[str]:
    """The policies of every method of an experiment that a table compares."""
    return [policy for method in methods_of(table, experiment) for policy in policies_of(config, method)]


def table_inputs(config: dict, tables: dict[str, dict], name: str) -> dict[str, str]:
    """What a table or figure is made from, by name: `published`, its values in print, and manifests of the run.

    A manifest is named `stage:experiment` or `stage:experiment/policy`, as the table's kind needs them; another table
    that it takes rows or published values from has its own name. `index` is the page of the run.
    """
    if name == "index":
        return page_inputs(config, tables)
    table = tables[name]
    kind = KINDS[table["kind"]]
    found = {source: str(PUBLISHED / f"{source}.yaml") for source in sources_of(table)}
    found["published"] = str(PUBLISHED / f"{name}.yaml")
    found |= {stage: artifact(config, stage) for stage in kind.run}
    if table["kind"] == "compute":
        others = {n: t for n, t in tables.items() if t["kind"] != "compute"}
        keys = [parse(manifest) for manifest in targets(config, others)]
        found |= {key.place: key.manifest for key in keys if key.stage not in PRINTED}
    for experiment in experiments_of(table):
        methods = [method for method in methods_of(table, experiment) if method != "reference"]
        gated = any(is_gated(config, method) for method in methods)
        stages = [stage for stage in kind.experiments if stage != "gates" or gated]
        found |= {f"{stage}:{experiment}": artifact(config, stage, experiment) for stage in stages}
        for policy in policies_behind(config, table, experiment):
            found |= policy_inputs(config, experiment, policy, kind.policies)
    return found


def records(config: dict, tables: dict[str, dict], name: str) -> dict[str, str]:
    """The run records that a table of times reads where they are, named after its inputs."""
    if not KINDS[tables[name]["kind"]].records:
        return {}
    found = table_inputs(config, tables, name).items()
    return {f"record:{n}": parse(path).record for n, path in found if is_manifest(path)}


def page_inputs(config: dict, tables: dict[str, dict]) -> dict[str, str]:
    """What the page of a run is made from, by name: its texts, every table and figure of target `all` with its values
    in print, and the artifacts of their experiments that the page quotes."""
    found = dict(TEXTS)
    for name, table in tables.items():
        if table.get("target", "all") != "all":
            continue
        found |= {f"published:{source}": str(PUBLISHED / f"{source}.yaml") for source in [name, *sources_of(table)]}
        found[f"table:{name}"] = printed(config, name)
        quoted = "completions" in KINDS[table["kind"]].policies  # no completions are made for the page alone
        stages = SAMPLES if quoted else ("policies",)
        for experiment in experiments_of(table):
            found[f"preferences:{experiment}"] = artifact(config, "preferences", experiment)
            for policy in policies_behind(config, table, experiment):
                found |= policy_inputs(config, experiment, policy, stages)
    return found


def targets(config: dict, tables: dict[str, dict], target: str = "all") -> list[str]:
    """Every table and figure of a target and every artifact behind them, by their manifests.

    What is in Git does not stand in for a missing result, so the artifacts are targets too.
    """
    wanted = [printed(config, name) for name, table in tables.items() if table.get("target", "all") == target]
    wanted += [printed(config, "index")] if target == "all" else []
    behind, todo = set(), [*wanted]
    while todo:
        new = {*filter(is_manifest, inputs_of(config, tables, todo.pop()).values())} - behind
        behind |= new
        todo += new
    return wanted + sorted(behind - {*wanted})


def page_spec(config: dict, tables: dict[str, dict]) -> dict:
    """The page's slice of the configuration, with the settings in which the run differs from the paper's experiment.

    Those are told from both configurations here, so that neither is an input of the page, nor a comment in them.
    """
    paper = merged(shipped(), read(Path(PAPER)))
    paper["experiments"] |= dict.fromkeys(left_out(config))  # what this run leaves out is not compared
    paper, ours, theirs = completed(paper) | {"run": config["run"]}, {}, {}
    for path in targets(config, tables):
        if (key := parse(path)).stage not in PRINTED:
            ours[key.place] = job(config, tables, path)
            with contextlib.suppress(KeyError):  # a method or experiment that the paper's configuration lacks
                theirs[key.place] = job(paper, tables, path)
    return spec(config, "page") | {"differences": differences(ours, theirs)}

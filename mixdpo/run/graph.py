"""The run as a graph of artifacts: what a table is made from, which artifacts a run has, and what each should be.

The rules of the workflow say how an artifact is made. What the audit and the rules must both know stands here.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path

from mixdpo.provenance.artifact import label
from mixdpo.run.config import (
    asset_stage,
    configuration,
    experiments_of,
    has_users,
    initial_methods,
    is_figure,
    is_gated,
    methods_of,
    policies_of,
    present,
    spec,
)
from mixdpo.run.differences import differences
from mixdpo.run.kinds import KINDS, SAMPLES
from mixdpo.run.published import sources_of

PUBLISHED = Path("workflow/published")  # relative, as manifests record it
TEXTS = {  # of the page of a run, by input name
    "template": "workflow/report/index.html.j2",
    "decisions": "docs/decisions.md",
    "notes": "docs/replication-notes.md",
}
PAPER = "config/paper.yaml"  # the paper's own experiment, which the page compares the run with


def results(config: dict) -> str:
    return f"results/{config['run']}"


def printed(config: dict, table: str) -> str:
    """The manifest of a table or figure."""
    return f"paper_tables/{config['run']}/{table}.manifest.json"


def policy_inputs(config: dict, experiment: str, policy: str, stages: Iterable[str]) -> dict[str, str]:
    """The manifests of a policy that `stages` name, those it has: `stage:experiment/policy` → path."""
    run = results(config)
    evaluation = f"{run}/evaluations/{experiment}/{policy}"
    paths = {"completions": f"{evaluation}/completions/manifest.json"}
    if not has_users(config, experiment):
        paths["rewards"] = f"{evaluation}/rewards/manifest.json"
    elif policy.split("/")[0] not in config["judge"]["opponents"]:
        paths["judgements"] = f"{evaluation}/judgements/manifest.json"
    if policy != "reference":
        paths["policies"] = f"{run}/policies/{experiment}/{policy}/manifest.json"
    return {f"{stage}:{experiment}/{policy}": paths[stage] for stage in stages if stage in paths}


def policies_behind(config: dict, table: dict, experiment: str) -> list[str]:
    """The policies of every method of an experiment that a table compares."""
    return [policy for method in methods_of(table, experiment) for policy in policies_of(config, method)]


def table_inputs(config: dict, tables: dict[str, dict], name: str) -> dict[str, str]:
    """What a table or figure is made from, by name: `published`, its values in print, and manifests below results/.

    A manifest is named `stage:experiment` or `stage:experiment/policy`, as the table's kind needs them; another table
    that it takes rows or published values from has its own name. `index` is the page of the run.
    """
    if name == "index":
        return page_inputs(config, tables)
    table, run = tables[name], results(config)
    kind = KINDS[table["kind"]]
    inputs = {source: str(PUBLISHED / f"{source}.yaml") for source in sources_of(table)}
    inputs["published"] = str(PUBLISHED / f"{name}.yaml")
    inputs |= {stage: f"{run}/{stage}/manifest.json" for stage in kind.run}
    if table["kind"] == "compute":
        others = {n: t for n, t in tables.items() if t["kind"] != "compute"}
        manifests = [path for path in targets(config, others) if path.startswith(run)]
        inputs |= {path.removeprefix(f"{run}/").removesuffix("/manifest.json"): path for path in manifests}
    for experiment in experiments_of(table):
        methods = [method for method in methods_of(table, experiment) if method != "reference"]
        gated = any(is_gated(config, method) for method in methods)
        stages = [stage for stage in kind.experiments if stage != "gates" or gated]
        inputs |= {f"{stage}:{experiment}": f"{run}/{stage}/{experiment}/manifest.json" for stage in stages}
        for policy in policies_behind(config, table, experiment):
            inputs |= policy_inputs(config, experiment, policy, kind.policies)
    return inputs


def records(config: dict, tables: dict[str, dict], name: str) -> dict[str, str]:
    """The run records that a table of times reads where they are, named after its inputs."""
    if not KINDS[tables[name]["kind"]].records:
        return {}
    inputs = table_inputs(config, tables, name).items()
    manifests = {n: path for n, path in inputs if path.startswith(results(config))}
    return {f"record:{n}": f"{results(config)}/runs/{label(Path(path))}.json" for n, path in manifests.items()}


def page_inputs(config: dict, tables: dict[str, dict]) -> dict[str, str]:
    """What the page of a run is made from, by name: its texts, every table and figure of target
    `all` with its values in print, and the artifacts of their experiments that the page quotes."""
    run = results(config)
    inputs = dict(TEXTS)
    for name, table in tables.items():
        if table.get("target", "all") != "all":
            continue
        inputs |= {f"published:{source}": str(PUBLISHED / f"{source}.yaml") for source in [name, *sources_of(table)]}
        inputs[f"table:{name}"] = printed(config, name)
        for experiment in experiments_of(table):
            inputs[f"preferences:{experiment}"] = f"{run}/preferences/{experiment}/manifest.json"
            for policy in policies_behind(config, table, experiment):
                inputs |= policy_inputs(config, experiment, policy, SAMPLES)
    return inputs


def assets_of(config: dict) -> set[str]:
    """The assets that the experiments draw on."""
    experiments, assets = present(config), set()
    for name, experiment in experiments.items():
        assets |= {"feedback"} if has_users(config, name) else {"reviews", "classifier", "pipeline"}
        assets |= set() if "base" in experiment else {"base"}
    return assets | ({"reviews"} if "base" in assets and config["assets"]["base"]["source"] == "reviews" else set())


def targets(config: dict, tables: dict[str, dict], target: str = "all") -> list[str]:
    """Every table and figure of a target and every artifact behind them.

    What is in Git does not stand in for a missing result, so the artifacts are targets too.
    """
    wanted = {name: table for name, table in tables.items() if table.get("target", "all") == target}
    run = results(config)
    artifacts = {f"{run}/assets/{asset}/manifest.json" for asset in assets_of(config)}
    for name, table in wanted.items():
        artifacts |= {path for path in table_inputs(config, tables, name).values() if path.startswith(run)}
        for experiment in experiments_of(table):
            for method in methods_of(table, experiment):
                stages = ["sft", "preferences", "reference_log_probs"]
                stages += [] if has_users(config, experiment) else ["completions", "rewards"]
                stages += ["bases"] * ("base" in config["experiments"][experiment])
                if has_users(config, experiment):  # opponents are in no table but as those who are compared with
                    policies = policies_of(config, method)
                    stages += [f"evaluations/{experiment}/{policy}/completions" for policy in policies]
                for trained in [method, *initial_methods(config, method)] if method != "reference" else []:
                    stages += ["gates"] * is_gated(config, trained)
                    stages += [f"policies/{experiment}/{policy}" for policy in policies_of(config, trained)]
                artifacts |= {f"{run}/{s if '/' in s else f'{s}/{experiment}'}/manifest.json" for s in stages}
    pages = [printed(config, "index")] if target == "all" else []
    return [printed(config, name) for name in wanted] + pages + sorted(artifacts)


def page_spec(config: dict, tables: dict[str, dict]) -> dict:
    """The page's slice of the configuration, with the settings in which the run differs from the paper's experiment.

    Those are told from both configurations here, so that neither is an input of the page, nor a comment in them.
    """
    paper, ours, theirs = configuration(overlay=PAPER) | {"run": config["run"]}, {}, {}
    for path in targets(config, tables):
        if path.startswith(results(config)):
            ours[path] = job(config, tables, path)
            with contextlib.suppress(KeyError):  # a method or experiment that the paper's configuration lacks
                theirs[path] = job(paper, tables, path)
    return spec(config, "page") | {"differences": differences(ours, theirs)}


def job(config: dict, tables: dict[str, dict], manifest: str) -> tuple[str, dict]:
    """Stage and spec that today's configuration gives an artifact of the run, by the path of its manifest."""
    if manifest.startswith("paper_tables/"):
        name = Path(manifest).name.removesuffix(".manifest.json")
        if name == "index":
            return "page", page_spec(config, tables)
        stage = "figures" if is_figure(tables[name]) else "tables"
        return stage, spec(config, stage, table=name)
    stage, *rest = Path(manifest).parent.relative_to(results(config)).parts
    if stage == "assets":
        stage = asset_stage(config, rest[0])
        return stage, spec(config, stage)
    experiment, policy = rest[0] if rest else "", "/".join(rest[1:])
    if stage == "evaluations":
        policy, _, stage = policy.rpartition("/")
        stage = {"completions": "evaluations", "rewards": "evaluation_rewards", "judgements": "judgements"}[stage]
    if stage == "preferences" and has_users(config, experiment):
        stage = "user_preferences"
    if stage == "bases":
        stage = "base"
    spec_of_stage = spec(config, stage, experiment=experiment, policy=policy)
    return stage.removeprefix("evaluation_"), spec_of_stage

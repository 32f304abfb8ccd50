"""The run as a graph of artifacts: what a table is made from, which artifacts a run has, and what each should be.

The rules of the workflow say how an artifact is made. What the audit and the rules must both know stands here.
"""

from pathlib import Path

from mixdpo.artifact import label
from mixdpo.config import asset_stage, experiments_of, method_of, methods_of, policies_of, spec
from mixdpo.published import sources_of

PUBLISHED = Path("workflow/published")  # relative, as manifests record it
TEXTS = {  # of the page of a run, by input name
    "template": "workflow/report/index.html.j2",
    "decisions": "docs/decisions.md",
    "notes": "docs/replication-notes.md",
    "config": "config.yaml",
    "paper": "config/paper.yaml",
}
SAMPLES = ("completions", "rewards", "policies")
NEEDS = {  # kind of table or figure → stages of its policies, stages of its experiments
    "rewards": (SAMPLES, ()),
    "alignment": (SAMPLES, ()),
    "best_heads": (SAMPLES, ()),
    "gates": (("completions",), ("gates",)),
    "validity": ((), ()),
    "perplexity": ((), ("sft",)),
    "preferences": ((), ("preferences",)),
    "specialisation": (("policies",), ("sft",)),
    "words": (("completions", "policies"), ()),
    "tasks": (("completions", "policies"), ()),
    "confusion": (("completions",), ()),
    "comparisons": (SAMPLES, ()),
    "claims": (SAMPLES, ("sft", "gates")),
    "sensitivity": (SAMPLES, ("sft", "gates")),
    "compute": ((), ()),
}


def results(config: dict) -> str:
    return f"results/{config['run']}"


def printed(config: dict, table: str) -> str:
    """The manifest of a table or figure."""
    return f"paper_tables/{config['run']}/{table}.manifest.json"


def table_inputs(config: dict, tables: dict[str, dict], name: str) -> dict[str, str]:
    """What a table or figure is made from, by name: `published`, its values in print, and manifests below results/.

    A manifest is named `stage:experiment` or `stage:experiment/policy`, as the table's kind needs them; another table
    that it takes rows or published values from has its own name. `index` is the page of the run.
    """
    if name == "index":
        return report_inputs(config, tables)
    table, run = tables[name], results(config)
    of_policies, of_experiments = NEEDS[table["kind"]]
    inputs = {source: str(PUBLISHED / f"{source}.yaml") for source in sources_of(table)}
    inputs["published"] = str(PUBLISHED / f"{name}.yaml")
    if table["kind"] == "validity":
        inputs["validity"] = f"{run}/validity/manifest.json"
    if table["kind"] == "compute":
        others = {n: t for n, t in tables.items() if t["kind"] != "compute"}
        manifests = [path for path in targets(config, others) if path.startswith(run)]
        inputs |= {path.removeprefix(f"{run}/").removesuffix("/manifest.json"): path for path in manifests}
    for experiment in experiments_of(table):
        methods = [method for method in methods_of(table, experiment) if method != "reference"]
        gated = any(method_of(config, method)["weights"] == "gate" for method in methods)
        stages = [stage for stage in of_experiments if stage != "gates" or gated]
        inputs |= {f"{stage}:{experiment}": f"{run}/{stage}/{experiment}/manifest.json" for stage in stages}
        for policy in (p for method in methods_of(table, experiment) for p in policies_of(config, method)):
            evaluation = f"{run}/evaluations/{experiment}/{policy}"
            paths = {stage: f"{evaluation}/{stage}/manifest.json" for stage in ("completions", "rewards")}
            if policy != "reference":
                paths["policies"] = f"{run}/policies/{experiment}/{policy}/manifest.json"
            inputs |= {f"{stage}:{experiment}/{policy}": paths[stage] for stage in of_policies if stage in paths}
    return inputs


def records(config: dict, tables: dict[str, dict], name: str) -> dict[str, str]:
    """The run records that a table of kind `compute` reads where they are, named after its inputs."""
    if tables[name]["kind"] != "compute":
        return {}
    manifests = {n: path for n, path in table_inputs(config, tables, name).items() if n != "published"}
    return {f"record:{n}": f"{results(config)}/runs/{label(Path(path))}.json" for n, path in manifests.items()}


def report_inputs(config: dict, tables: dict[str, dict]) -> dict[str, str]:
    """What the page of a run is made from, by name: its texts, both configurations, every table and figure of target
    `all` with its values in print, and the artifacts of their experiments that the page quotes."""
    run = results(config)
    inputs = TEXTS | {"base": f"{run}/assets/base/manifest.json"}
    for name, table in tables.items():
        if table.get("target", "all") != "all":
            continue
        inputs |= {f"published:{name}": str(PUBLISHED / f"{name}.yaml"), f"table:{name}": printed(config, name)}
        for experiment in experiments_of(table):
            inputs[f"preferences:{experiment}"] = f"{run}/preferences/{experiment}/manifest.json"
            for policy in (p for method in methods_of(table, experiment) for p in policies_of(config, method)):
                evaluation = f"{run}/evaluations/{experiment}/{policy}"
                for stage in ("completions", "rewards"):
                    inputs[f"{stage}:{experiment}/{policy}"] = f"{evaluation}/{stage}/manifest.json"
                if policy != "reference":
                    inputs[f"policies:{experiment}/{policy}"] = f"{run}/policies/{experiment}/{policy}/manifest.json"
    return inputs


def targets(config: dict, tables: dict[str, dict], target: str = "all") -> list[str]:
    """Every table and figure of a target and every artifact behind them.

    What is in Git does not stand in for a missing result, so the artifacts are targets too.
    """
    wanted = {name: table for name, table in tables.items() if table.get("target", "all") == target}
    run, artifacts = results(config), {f"{results(config)}/assets/{asset}/manifest.json" for asset in config["assets"]}
    for name, table in wanted.items():
        artifacts |= {path for path in table_inputs(config, tables, name).values() if path.startswith(run)}
        for experiment in experiments_of(table):
            for method in methods_of(table, experiment):
                stages = ["sft", "completions", "rewards", "preferences", "reference"]
                if method != "reference":
                    stages += ["gates"] * (method_of(config, method)["weights"] == "gate")
                    stages += [f"policies/{experiment}/{policy}" for policy in policies_of(config, method)]
                artifacts |= {f"{run}/{s if '/' in s else f'{s}/{experiment}'}/manifest.json" for s in stages}
    pages = [printed(config, "index")] if target == "all" else []
    return [printed(config, name) for name in wanted] + pages + sorted(artifacts)


def job(config: dict, tables: dict[str, dict], manifest: str) -> tuple[str, dict]:
    """Stage and spec that today's configuration gives an artifact of the run, by the path of its manifest."""
    if manifest.startswith("paper_tables/"):
        name = Path(manifest).name.removesuffix(".manifest.json")
        if name == "index":
            return "report", spec(config, "report")
        stage = "figures" if name.startswith("figure") else "paper"
        return stage, spec(config, stage, table=name)
    stage, *rest = Path(manifest).parent.relative_to(results(config)).parts
    if stage == "assets":
        stage = asset_stage(config, rest[0])
        return stage, spec(config, stage)
    experiment, policy = rest[0] if rest else "", "/".join(rest[1:])
    if stage == "evaluations":
        policy, _, stage = policy.rpartition("/")
        stage = {"completions": "evaluations", "rewards": "evaluation_rewards"}[stage]
    spec_of_stage = spec(config, stage, experiment=experiment, policy=policy)
    return stage.removeprefix("evaluation_"), spec_of_stage

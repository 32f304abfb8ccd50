"""The configuration: read with its overlay, and handed out in slices, one per stage."""

import re
from itertools import chain
from pathlib import Path

from mixdpo.errors import UserError
from mixdpo.fields import merged
from mixdpo.run.kinds import KINDS
from mixdpo.run.layout import TABLE_NAME, policy_of, split_policy
from mixdpo.run.published import resolved
from mixdpo.run.settings import completed
from mixdpo.run.yaml import read, shipped

TARGETS = ("all", "ablations", "sensitivity")
"""Targets of the Snakefile that tables may belong to."""


def configuration(run: str = "", overlay: str = "") -> dict:
    """config.yaml and config/methods/, merged with an overlay as Snakemake merges them, and completed.

    The overlay is the file `overlay`, else the one in config/ that names `run`, else none. Raises `UserError` if
    there is no such run.
    """
    base, overlays = shipped(), [{}, *(read(path) for path in sorted(Path("config").glob("*.yaml")))]
    if overlay:
        if not Path(overlay).is_file():
            raise UserError(f"--configfile: expected a file, found no {overlay}; correct the path")
        overlays = [read(overlay)]
    configs = {str(config.get("run", "embedded")): config for config in (merged(base, changes) for changes in overlays)}
    wanted = run or next(iter(configs))
    if wanted not in configs:
        raise UserError(f"run: expected one of {', '.join(configs)}, found {wanted}; name its file by --configfile")
    return completed(configs[wanted])


def present(config: dict) -> dict[str, dict]:
    """The experiments that are not left out."""
    return {name: experiment for name, experiment in config["experiments"].items() if experiment is not None}


def has_users(config: dict, experiment: str) -> bool:
    """Do the experiment's preferences come from users, and not from rewards?"""
    return "users" in config["experiments"][experiment]


def asset_files(config: dict, asset: str) -> dict[str, str]:
    """Local files that the asset is made from, by input name: a job waits for them, and runs again if they change."""
    section = config["assets"][asset]
    if section["source"] != "local":
        return {}
    if asset != "reviews" and not section["local"]["path"]:
        raise UserError(f"assets.{asset}.local.path: expected a folder, found none; name one or change the source")
    if asset == "reviews":
        return {f"file{i}": entry["path"] for i, entry in enumerate(section["local"]["files"])}
    if asset == "feedback":
        return {"file": section["local"]["path"]}
    known_by = "meta.json" if asset == "pipeline" else "config.json"
    return {"model": f"{section['local']['path']}/{known_by}"}


def own_base_files(config: dict, experiment: str) -> dict[str, str]:
    """Local files that an experiment's own base model is made from."""
    base = config["experiments"][experiment].get("base", {})
    return {"model": f"{base['local']['path']}/config.json"} if base.get("source") == "local" else {}


def reward_model_files(config: dict) -> dict[str, str]:
    """The files of a judge's reward model, by input name."""
    judge = config["judge"]
    if judge["kind"] != "rating" or judge["rating"]["scorer"] != "model":
        return {}
    folder = Path(judge["rating"]["path"])
    weights = sorted(path.name for kind in ("safetensors", "bin") for path in folder.glob(f"*.{kind}"))
    return {f"reward_model/{name}": str(folder / name) for name in ["config.json", *weights]}


def has_rating_classifier(config: dict) -> bool:
    """Are completions for users judged by a classifier that the run trains on ratings?"""
    judge = config["judge"]
    asked = any("users" in experiment for experiment in present(config).values())
    return asked and judge["kind"] == "rating" and judge["rating"]["scorer"] == "classifier"


def asset_stage(config: dict, asset: str) -> str:
    """The stage that makes an asset: the embedded world has its own stages, so that its grammar is no part of other
    runs."""
    return f"embedded_{asset}" if config["assets"][asset]["source"] == "embedded" else asset


def spec(config: dict, stage: str, experiment: str = "", policy: str = "", table: str = "", figure: str = "") -> dict:
    """The slice of the configuration that one job may see. `policy` is `reference` or `METHOD/seedN`."""
    chosen = config["experiments"].get(experiment, {})
    match stage:
        case "reviews" | "embedded_reviews" | "base" | "classifier" | "pipeline" | "embedded_pipeline":
            section = chosen.get("base") or config["assets"][stage.removeprefix("embedded_")]
            return {"source": section["source"], **section[section["source"]]}
        case "feedback" | "embedded_feedback":
            section = config["assets"]["feedback"]
            shared = {key: section[key] for key in ("source", "template", "aspects")}
            return shared | section[section["source"]]
        case "sft":
            return config["sft"] | chosen.get("sft", {}) | {"domains": chosen["domains"]}
        case "completions":
            return config["completions"] | {"domains": chosen["domains"], "split": "train"}
        case "rewards":
            return {"names": chosen["rewards"]}
        case "evaluation_rewards":
            return {"names": [*chosen["rewards"], *chosen.get("other_definitions", {}).values()]}
        case "validity":
            domains = sorted({d for e in present(config).values() if "rewards" in e for d in e["domains"]})
            return config["rewards"]["validity"] | {"domains": domains}
        case "preferences":
            return config["preferences"] | {"styles": chosen["rewards"]}
        case "user_preferences":
            share = config["preferences"]["validation_share"]
            return chosen["users"] | {"template": config["assets"]["feedback"]["template"], "validation_share": share}
        case "reference_log_probs":
            return {}
        case "policies":
            method, seed = split_policy(policy)
            trained = {key: value for key, value in method_of(config, method).items() if key != "top_s"}
            return trained | {"seed": int(seed)}
        case "gates":
            return config["policies"]["gate"] | {"domains": chosen["domains"]}
        case "evaluations" if "users" in chosen:
            asked = {name: chosen["users"][name] for name in ("styles", "users_per_style", "max_prompt_tokens")}
            asked |= {"template": config["assets"]["feedback"]["template"], "per_prompt": 1}
            return sampling(config, experiment, policy) | asked
        case "rating_classifier":
            return {"aspects": config["assets"]["feedback"]["aspects"]}
        case "judgements":
            kind = config["judge"]["kind"]
            return {"judge": {"kind": kind, kind: config["judge"].get(kind, {})}}
        case "evaluations":
            asked = {"prompt_tokens": config["completions"]["prompt_tokens"], "per_prompt": 1, "split": "test"}
            asked |= {"domains": chosen["domains"]}
            return sampling(config, experiment, policy) | asked
        case "tables" | "figures":
            return {"table": table or figure}
        case "page":
            return config["page"] | {"run": config["run"]}
    raise UserError(f"expected a stage, found {stage}")


def method_of(config: dict, method: str) -> dict:
    """A method with all its keys."""
    return config["policies"]["methods"][method]


def sampling(config: dict, experiment: str, policy: str) -> dict:
    """How a policy is sampled from: the experiment's settings, `top_s` (the experts of the largest weights that decode,
    null for all), and the method's own `scales`."""
    section = config["evaluations"] | config["experiments"][experiment].get("evaluations", {})
    method = None if policy == "reference" else split_policy(policy)[0]
    top_s = None if method is None else method_of(config, method)["top_s"]
    return section | {"top_s": top_s, "scales": section["scales"].get(method, [])}


def is_scalable(config: dict, method: str) -> bool:
    """Are all of the method's experts heads on a frozen encoder?"""
    chosen = method_of(config, method)["experts"]
    others = chosen["models"] + chosen["adapters"] + len(chosen["initial"])
    return chosen["heads"] > 0 and not others and chosen["encoder"] == "frozen"


def experts_of(config: dict, method: str) -> int:
    """K, the number of experts of a method."""
    chosen = method_of(config, method)["experts"]
    copies = chosen["heads"] + chosen["models"] + chosen["adapters"]
    given = (expert.partition("/") for expert in chosen["initial"])
    return copies + sum(1 if k else experts_of(config, other) for other, _, k in given)


def initial_methods(config: dict, method: str) -> list[str]:
    """The methods whose experts a method starts from."""
    given = method_of(config, method)["experts"]["initial"]
    return list(dict.fromkeys(expert.partition("/")[0] for expert in given))


def is_gated(config: dict, method: str) -> bool:
    """Does the method start from a gate pretrained on domains?"""
    return method_of(config, method)["weights"].get("start") == "domains"


def policies_of(config: dict, method: str) -> list[str]:
    """The policies of a method, one per training seed; the reference policy has none."""
    return ["reference"] if method == "reference" else [policy_of(method, seed) for seed in config["seeds"]]


def published(folder: Path, config: dict) -> dict[str, dict]:
    """The paper as data: the tables of `folder` by name, without those of experiments that the run leaves out, and
    without the validity of rewards or of the judge if there is none to test. Raises `UserError` if a file's name is no
    table's."""
    paths = sorted(folder.glob("*.yaml"))
    for path in paths:
        if not re.fullmatch(TABLE_NAME, path.stem):
            rule = "a name of a-z, 0-9 and _ that begins with a letter and is not index"
            raise UserError(f"{str(path)!r}: expected {rule}, found {path.stem!r}; rename the file")
    tables = {path.stem: form_of(path) for path in paths}
    tables, absent = {name: resolved(table, tables) for name, table in tables.items()}, left_out(config)
    for table in tables.values():
        if "experiments" in table:
            table["experiments"] = [experiment for experiment in table["experiments"] if experiment not in absent]
    tested = {"validity": not all(has_users(config, experiment) for experiment in present(config))}
    tested |= {"judge_validity": has_rating_classifier(config)}
    tables = {name: table for name, table in tables.items() if tested.get(table["kind"], True)}
    kept = {name: table for name, table in tables.items() if table.get("experiment") not in absent}
    return {name: with_a_policy_for_each_style(config, table) for name, table in kept.items()}


def with_a_policy_for_each_style(config: dict, table: dict) -> dict:
    """The table, where `policies` of a row is {style: policy}; its file has {style} in the place of the style."""
    if not any("policies" in row for row in table.get("rows", [])):
        return table
    styles = styles_of(config, table["experiment"])
    each = [
        {style: row["policies"].format(style=style) for style in styles if "policies" in row} for row in table["rows"]
    ]
    return table | {"rows": [row | {"policies": own} if own else row for row, own in zip(table["rows"], each)]}


def styles_of(config: dict, experiment: str) -> list[str]:
    """The styles of preference of an experiment: those of its users, or its rewards."""
    chosen = config["experiments"][experiment]
    return chosen["users"]["styles"] if "users" in chosen else chosen["rewards"]


def form_of(path: Path) -> dict:
    """A published table as its file has it. Raises `UserError` for one that no function can make."""
    form = read(path)
    if lacking := [key for key in ("kind", "title", "where") if not isinstance(form.get(key), str)]:
        raise UserError(f"{path}: expected the keys kind, title and where, found no text as {lacking[0]}; add it")
    if form["kind"] not in KINDS:
        raise UserError(f"{path}: kind: expected one of {', '.join(KINDS)}, found {form['kind']}; correct it")
    if form.get("target", "all") not in TARGETS:
        raise UserError(f"{path}: target: expected one of {', '.join(TARGETS)}, found {form['target']}; correct it")
    names = [row.get("name", row.get("claim")) for row in form.get("rows", []) if isinstance(row, dict)]
    if len(names) < len(form.get("rows", [])) or None in names:
        raise UserError(f"{path}: rows: expected mappings with a name, or a claim, found one without; add it")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{path}: rows: expected names that differ, found {twice} twice; rename one")
    return form


def left_out(config: dict) -> set[str]:
    """Experiments that the configuration sets to null."""
    return set(config["experiments"]) - set(present(config))


def is_figure(table: dict) -> bool:
    return KINDS[table["kind"]].figure


def experiments_of(table: dict) -> list[str]:
    """The experiments that a table draws on; none for one about the assets."""
    return table.get("experiments", [table["experiment"]] if "experiment" in table else [])


COMPARED = ("policy", "baseline", "opponent", "ceiling")
"""Keys of a row, or of a table, that name a method."""


def methods_of(table: dict, experiment: str) -> list[str]:
    """The methods that a table compares within an experiment: those of its rows, and what it compares them with."""
    rows = [row for row in table.get("rows", []) if row.get("experiment", experiment) == experiment]
    named = [entry[key] for entry in [*rows, table] for key in COMPARED if key in entry]
    each = [row["policies"].values() for row in rows if isinstance(row.get("policies"), dict)]
    return list(dict.fromkeys([*named, *chain(*each), *table.get("opponents", [])]))

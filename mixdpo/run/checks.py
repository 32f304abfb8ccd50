"""Checks of the configuration, and of the published tables against it: every fault is one line."""

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from mixdpo.errors import UserError
from mixdpo.run.config import (
    asset_files,
    experiments_of,
    experts_of,
    initial_methods,
    is_gated,
    is_scalable,
    left_out,
    method_of,
    methods_of,
    present,
    reward_model_files,
    styles_of,
)
from mixdpo.run.judge import Judge
from mixdpo.run.kinds import MEASURES
from mixdpo.run.layout import PUBLISHED

RESERVED = (
    "gate",
    "observe",
    "out",
    "policy",
    "preferences",
    "rating_classifier",
    "reference",
    "reference_log_probs",
    "resume",
    "runtime",
    "spec",
)
"""Names that no method may have: a stage takes policies by the names of their methods, beside arguments of its own."""
JUDGE_KEYS = {field.name for field in fields(Judge)}
"""Keys of the section judge; any other key is the section of a judge of your own."""


def validate(config: dict) -> None:
    """What settings can't check in a complete configuration: sections must fit each other, and files must exist.

    Raises `UserError`, one line for the first fault: the key, what was expected, what was found.
    """
    _check_local_paths(config)
    _check_positions(config)
    for name in config["policies"]["methods"]:
        if name in RESERVED:
            raise UserError(
                f"policies.methods.{name}: expected a name that is no input or argument of a stage "
                f"({', '.join(RESERVED)}), found {name}; rename it"
            )
    for name in sorted(config["judge"].keys() - JUDGE_KEYS):
        if name not in judge_names():
            raise UserError(
                f"judge.{name}: expected the section of a judge ({', '.join(judge_names())}), found {name}; delete it, "
                "or register that judge"
            )
    for name, experiment in present(config).items():
        if "users" in experiment:
            _check_users(config, name)
        else:
            _check_rewards(config, name)
    for key, path in [(f"assets.{a}", p) for a in config["assets"] for p in asset_files(config, a).values()]:
        if not Path(path).is_file():
            raise UserError(f"{key}.local: expected a file, found no {path}; correct the path or the source")


def _check_local_paths(config: dict) -> None:
    """Snakemake and its jobs delete what lies in the folders that runs write."""
    for key, path in local_paths(config):
        for made in "results", "paper_tables":
            if path and Path(path).resolve().is_relative_to(Path(made).resolve()):
                raise UserError(f"{key}: expected a path outside {made}/, which runs write, found {path}; move it away")


def _check_positions(config: dict) -> None:
    """Texts must fit into a base model that is trained here."""
    size, longest = config["assets"]["base"]["reviews"], config["completions"]["prompt_tokens"][1]
    if config["assets"]["base"]["source"] != "reviews":
        return
    for stage in ("completions", "evaluations"):
        needed = longest + config[stage]["max_new_tokens"]
        if needed > size["positions"]:
            raise UserError(
                f"assets.base.reviews.positions: expected at least {needed} (longest prompt + {stage}.max_new_tokens), "
                f"found {size['positions']}; raise it or lower the others"
            )
    if max(size["max_tokens"], config["sft"]["max_tokens"]) > size["positions"]:
        raise UserError(
            f"assets.base.reviews.positions: expected at least max_tokens, found {size['positions']}; raise it"
        )


def _check_rewards(config: dict, name: str) -> None:
    """Rewards must be registered, and domains must have reviews."""
    experiment, reviews = config["experiments"][name], config["assets"]["reviews"]
    others = experiment.get("other_definitions", {})
    for key, rewards in ("rewards", experiment["rewards"]), ("other_definitions", others.values()):
        for reward in rewards:
            if reward not in reward_names():
                known = ", ".join(reward_names())
                raise UserError(f"experiments.{name}.{key}: expected some of {known}, found {reward}; correct it")
    for domain in experiment["domains"]:
        sizes = reviews["embedded"]["sizes"]
        if reviews["source"] == "embedded" and domain not in sizes:
            raise UserError(
                f"experiments.{name}.domains: expected some of {', '.join(sizes)}, found {domain}; "
                "add it to assets.reviews.embedded.sizes"
            )


def local_paths(config: dict) -> Iterator[tuple[str, str | None]]:
    """Keys that name a file or folder of this machine, with what they name, for the sources in use."""
    sections = {f"assets.{asset}": section for asset, section in config["assets"].items()}
    sections |= {f"experiments.{name}.base": e["base"] for name, e in present(config).items() if "base" in e}
    for key, section in sections.items():
        if section["source"] == "local":
            files = section["local"].get("files")
            for i, entry in enumerate(files or []):
                yield f"{key}.local.files.{i}.path", entry["path"]
            if files is None:
                yield f"{key}.local.path", section["local"]["path"]
    if config["judge"]["kind"] == "rating" and config["judge"]["rating"]["scorer"] == "model":
        yield "judge.rating.path", config["judge"]["rating"]["path"]


def _check_users(config: dict, name: str) -> None:
    """Prompts and responses of users must fit into the base model, and opponents must be known."""
    experiment, key = config["experiments"][name], f"experiments.{name}"
    if experiment["domains"] != ["instruction"]:
        raise UserError(
            f"{key}.domains: expected [instruction] beside users, found {experiment['domains']}; correct it"
        )
    users, base, aspects = experiment["users"], config["assets"]["base"], config["assets"]["feedback"]["aspects"]
    if unrated := [style for style in users["styles"] if style not in aspects]:
        raise UserError(
            f"{key}.users.styles: expected some of {', '.join(aspects)}, the assets.feedback.aspects, found "
            f"{unrated[0]}; correct one of them"
        )
    longest = max(users["max_tokens"], {**config["evaluations"], **experiment.get("evaluations", {})}["max_new_tokens"])
    needed, positions = users["max_prompt_tokens"] + longest, base["reviews"]["positions"]
    if "base" not in experiment and base["source"] == "reviews" and needed > positions:
        raise UserError(
            f"{key}.users: expected max_prompt_tokens and the longest response within the {positions} positions of "
            f"assets.base.reviews, found {needed}; lower them"
        )
    judge = config["judge"]
    for opponent in judge["opponents"]:
        if opponent != "reference" and opponent not in config["policies"]["methods"]:
            raise UserError(f"judge.opponents: expected reference or a method, found {opponent}; add it or correct it")
    if judge["kind"] not in judge_names():
        known = ", ".join(judge_names())
        raise UserError(f"judge.kind: expected one of {known}, found {judge['kind']}; correct it")
    embedded = judge["kind"] == "rating" and judge["rating"]["scorer"] == "embedded"
    if embedded and config["assets"]["feedback"]["source"] != "embedded":
        raise UserError(
            "judge.rating.scorer: expected model or classifier, since the texts of assets.feedback have no known "
            "ratings, found embedded; name one of them, or set judge.kind to llm"
        )
    if judge["kind"] == "rating" and judge["rating"]["scorer"] == "model" and not judge["rating"]["path"]:
        raise UserError("judge.rating.path: expected the folder of a reward model, found none; name it")
    for path in reward_model_files(config).values():
        if not Path(path).is_file():
            raise UserError(f"judge.rating.path: expected a folder with a file {path}, found none; correct it")


def check_tables(config: dict, tables: dict[str, dict]) -> None:
    """Raise `UserError` if a published table names an experiment, reward or method that the configuration lacks."""
    for name, table in tables.items():
        where = f"{PUBLISHED}/{name}.yaml"
        for experiment in experiments_of(table):
            if experiment not in present(config):
                found = ", ".join(present(config))
                raise UserError(f"experiments: expected {experiment}, which {where} prints, found {found}; add it")
            printed = [table["reward"]] if "reward" in table else table.get("columns", table.get("rewards", []))
            lacking = [r for r in printed if r not in config["experiments"][experiment].get("rewards", printed)]
            if lacking:
                raise UserError(
                    f"experiments.{experiment}.rewards: expected {lacking[0]}, which {where} prints; add it"
                )
        _check_domains(config, table, where)
        _check_judged(config, table, where)
        for row in table.get("rows", []):
            if "claim" in row:
                if row.get("experiment") not in left_out(config):
                    _check_claim(config, row, where)
            else:
                for policy in [row["policy"]] if "policy" in row else row["policies"].values():
                    _check_row(config, row["name"], policy, row.get("decoding", "token"), where)
        for experiment in experiments_of(table):
            for method in methods_of(table, experiment):
                if method != "reference":
                    _check_experts(config, table, experiment, method, where)
                    _check_scales(config, table, experiment, method, where)
                    _check_styles(config, experiment, method)


def _check_domains(config: dict, table: dict, where: str) -> None:
    """Domains that a table prints are those of its experiment, in its order: expert k stands for the k-th."""
    domains = table.get("domains", list(table["columns"]) if "reward" in table else None)
    found = config["experiments"][table["experiment"]]["domains"] if domains else None
    if domains != found:
        raise UserError(
            f"experiments.{table['experiment']}.domains: expected {', '.join(domains)}, as {where} prints them, found "
            f"{', '.join(found)}; correct one of them"
        )


def _check_judged(config: dict, table: dict, where: str) -> None:
    """Opponents and decodings of win rates are those that are judged."""
    known, rows = config["judge"]["opponents"], table.get("rows", [])
    claimed = [row for row in rows if row.get("measure") == "win_rate" and row["experiment"] not in left_out(config)]
    judged = [(row, [row["opponent"]]) for row in claimed]
    if table["kind"] in ("win_rates", "length_bias"):
        judged += [(row, list(table["opponents"])) for row in rows]
    if table["kind"] in ("new_users", "new_users_curve"):
        judged += [(row, [table["opponent"]]) for row in rows if row["policy"] != table["opponent"]]
    for row, opponents in judged:
        for opponent in opponents:
            if opponent not in known:
                raise UserError(
                    f"judge.opponents: expected {opponent}, which {where} prints, found {', '.join(known)}; add it"
                )
        if row["policy"] in known:
            raise UserError(f"judge.opponents: expected no {row['policy']}, whose win rates {where} prints; delete it")
        if row.get("decoding", "token") not in ("token", "sparse"):
            raise UserError(
                f"{where}: expected the decoding token or sparse for win rates, found {row['decoding']}; correct it"
            )


def _check_row(config: dict, name: str, method: str, decoding: str, where: str, others: tuple[str, ...] = ()) -> None:
    if method != "reference" and method not in config["policies"]["methods"]:
        raise UserError(f"policies.methods: expected {method}, which {where} prints; add it")
    experts = 1 if method == "reference" else experts_of(config, method)
    mixtures = ["token", "sequence", "sparse", *(f"expert{k}" for k in range(experts)), *others]
    known = mixtures if experts > 1 else ["token"]
    if decoding not in known:
        raise UserError(
            f"{where}: {name}: expected a decoding of {method}, which has {experts} experts, from "
            f"{', '.join(known)}; found {decoding}; correct it or policies.methods.{method}"
        )


TESTS = {"greater": (), "less": (), "equal": ("target", "margin"), "none": ()}
"""Direction of a claim → the keys that its row needs; `none` marks a claim that no run tests."""


def _check_claim(config: dict, row: dict, where: str) -> None:
    name, measure = row["claim"], row.get("measure", "reward")
    for key, known, found in ("test", TESTS, row.get("test")), ("measure", MEASURES, measure):
        if found not in known:
            raise UserError(f"{where}: {name}: expected a {key} from {', '.join(known)}; found {found}; correct it")
    if row["test"] == "none":
        return
    for key in ("experiment", *TESTS[row["test"]], *MEASURES[measure]):
        if key not in row:
            raise UserError(f"{where}: {name}: expected the key {key}, found {', '.join(row)}; add it")
    _check_row(config, name, row["policy"], row.get("decoding", "token"), where, ("best", "rest"))
    if "baseline" in row:
        _check_row(config, name, row["baseline"], row.get("baseline_decoding", "token"), where, ("best", "rest"))
    experiment = config["experiments"][row["experiment"]]
    scored = [*experiment.get("rewards", []), *experiment.get("other_definitions", {}).values()]
    rewards = row.get("reward", [])
    for reward in rewards if isinstance(rewards, list) else [rewards]:
        if reward not in scored:
            raise UserError(
                f"{where}: {name}: expected a reward of {row['experiment']} from {', '.join(scored)}; found {reward}; "
                f"correct it or add it to experiments.{row['experiment']}"
            )
    domains = ", ".join(experiment["domains"])
    if row.get("domains", experiment["domains"]) != experiment["domains"]:
        raise UserError(
            f"experiments.{row['experiment']}.domains: expected {', '.join(row['domains'])}, as {where} prints them, "
            f"found {domains}; correct one of them"
        )
    if row.get("domain", experiment["domains"][0]) not in experiment["domains"]:
        raise UserError(f"{where}: {name}: expected a domain from {domains}; found {row['domain']}; correct it")


def _check_experts(config: dict, table: dict, experiment: str, method: str, where: str) -> None:
    if method not in config["policies"]["methods"]:
        raise UserError(f"policies.methods: expected {method}, which {where} prints; add it")
    heads, experts = method_of(config, method)["experts"]["heads"], experts_of(config, method)
    domains = config["experiments"][experiment]["domains"]
    if is_gated(config, method) and len(domains) != experts:
        raise UserError(
            f"policies.methods.{method}: expected as many experts as {experiment} has domains "
            f"({', '.join(domains)}), on which the gate is pretrained, found {experts}; set experts.heads or "
            "experts.models"
        )
    if table["kind"] == "posteriors" and heads < 2:
        raise UserError(
            f"policies.methods.{method}.experts.heads: expected at least 2, since {where} draws their parameters, "
            f"found {heads}; raise it"
        )
    if table["kind"] in ("posteriors", "words", "tasks", "user_map") and not 2 <= experts <= 4:
        raise UserError(
            f"policies.methods.{method}: expected 2 to 4 experts, as many as {where} can draw, found {experts}; "
            "change it"
        )


def _check_scales(config: dict, table: dict, experiment: str, method: str, where: str) -> None:
    """Methods that a table compares at equal KL can be scaled, and if some are, all are: a chord lies below a curve."""
    section = config["evaluations"] | config["experiments"][experiment].get("evaluations", {})
    scales = [name for name, found in section["scales"].items() if found]
    if not scales or table["kind"] not in ("frontier", "frontier_map"):
        return
    if method not in scales:
        raise UserError(
            f"evaluations.scales: expected {method}, which {where} compares at equal KL, found {', '.join(scales)}; "
            "add it"
        )
    if not is_scalable(config, method):
        raise UserError(
            f"evaluations.scales: expected methods whose experts are all heads on a frozen encoder, found {method}; "
            "change its experts, or delete it there"
        )


def _check_styles(config: dict, experiment: str, method: str) -> None:
    """Styles that a method, or one that it takes experts from, is trained on are those of the experiment."""
    known = styles_of(config, experiment)
    for trained in (method, *initial_methods(config, method)):
        for style in method_of(config, trained)["styles"] or ():
            if style not in known:
                raise UserError(
                    f"policies.methods.{trained}.styles: expected some of {', '.join(known)}, the styles of "
                    f"{experiment}, found {style}; correct it"
                )


def reward_names() -> list[str]:
    """Names of the registered rewards."""
    return _decorated("rewards.py", "reward")


def judge_names() -> list[str]:
    """Names of the registered judges, each a class in lower case."""
    return [name.lower() for name in _decorated("judges.py", "judge")]


def _decorated(file: str, decorator: str) -> list[str]:
    """What a decorator registers, read from the source: the workflow does not load torch to check a name."""
    tree = ast.parse((Path(__file__).parents[1] / "stages" / file).read_text())
    named = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [n.name for n in named if any(getattr(d, "id", "") == decorator for d in n.decorator_list)]

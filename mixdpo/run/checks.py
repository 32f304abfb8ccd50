"""Checks of the configuration, and of the published tables against it: every fault is one line."""

import ast
import difflib
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator, ValidationError

from mixdpo.errors import UserError
from mixdpo.run.config import (
    asset_files,
    experiments_of,
    experts_of,
    initial_methods,
    is_gated,
    left_out,
    method_of,
    methods_of,
    present,
    reward_model_files,
)
from mixdpo.run.layout import PUBLISHED

RESERVED = (
    "gate",
    "observe",
    "out",
    "policy",
    "preferences",
    "reference",
    "reference_log_probs",
    "resume",
    "runtime",
    "spec",
)
"""Names that no method may have: a stage takes policies by the names of their methods, beside arguments of its own."""
SCHEMA = Path(__file__).parents[2] / "workflow/schemas/config.schema.yaml"


def validate(config: dict) -> None:
    """Raise `UserError`, one line for the first fault: the key, what was expected, what was found."""
    validator = Draft202012Validator(yaml.safe_load(SCHEMA.read_text()))
    faults = sorted(validator.iter_errors(config), key=lambda e: (e.validator != "additionalProperties", str(e.path)))
    for fault in faults:
        raise UserError(one_line(fault))
    _check_relations(config)


def one_line(fault: ValidationError) -> str:
    key = ".".join(str(part) for part in fault.absolute_path) or "config"
    if fault.validator == "additionalProperties":
        known = sorted(fault.schema.get("properties", {}))
        unknown = next((k for k in fault.instance if k not in known), None)
        near = difflib.get_close_matches(str(unknown), known, 1)
        if near:
            return f"{key}: expected a known key, found {unknown}; did you mean {near[0]}?"
        return f"{key}: expected the keys {', '.join(known)}; found {unknown}; delete it"
    options = fault.validator_value
    expected = {
        "enum": lambda: f"one of {', '.join(map(str, fault.validator_value))}",
        "required": lambda: f"the key {next(k for k in fault.validator_value if k not in fault.instance)}",
        "type": lambda: f"{fault.validator_value}",
        "minimum": lambda: f"a number ≥ {fault.validator_value}",
        "maximum": lambda: f"a number ≤ {fault.validator_value}",
        "exclusiveMinimum": lambda: f"a number > {fault.validator_value}",
        "exclusiveMaximum": lambda: f"a number < {fault.validator_value}",
        "minItems": lambda: f"at least {fault.validator_value} entries",
        "maxItems": lambda: f"at most {fault.validator_value} entries",
        "pattern": lambda: f"text that matches {fault.validator_value}",
        "uniqueItems": lambda: "entries that differ from each other",
        "oneOf": lambda: "either " + ", or ".join(" with ".join(o["required"]) for o in options if "required" in o),
    }.get(fault.validator, lambda: f"{fault.validator} {fault.validator_value}")()
    found = sorted(fault.instance) if isinstance(fault.instance, dict) else fault.instance
    return f"{key}: expected {expected}, found {found!r}; correct it in the configuration"


def _check_relations(config: dict) -> None:
    """What a schema cannot say: keys that must fit each other, and files that must exist."""
    assets, completions = config["assets"], config["completions"]
    shortest, longest = completions["prompt_tokens"]
    if shortest > longest:
        raise UserError(
            f"completions.prompt_tokens: expected [shortest, longest], found [{shortest}, {longest}]; swap them"
        )
    for name in ("base", "classifier"):
        size = assets[name]["reviews"]
        if size["width"] % size["heads"]:
            raise UserError(
                f"assets.{name}.reviews.heads: expected a divisor of width {size['width']}, found {size['heads']}; choose another"
            )
    size = assets["base"]["reviews"]
    for stage in ("completions", "evaluations"):
        needed = longest + config[stage]["max_new_tokens"]
        if assets["base"]["source"] == "reviews" and needed > size["positions"]:
            raise UserError(
                f"assets.base.reviews.positions: expected at least {needed} (longest prompt + {stage}.max_new_tokens), "
                f"found {size['positions']}; raise it or lower the others"
            )
    if (
        assets["base"]["source"] == "reviews"
        and max(size["max_tokens"], config["sft"]["max_tokens"]) > size["positions"]
    ):
        raise UserError(
            f"assets.base.reviews.positions: expected at least max_tokens, found {size['positions']}; raise it"
        )
    for name in config["policies"]["methods"]:
        if name in RESERVED:
            raise UserError(
                f"policies.methods.{name}: expected a name that is no input or argument of a stage ({', '.join(RESERVED)}), "
                f"found {name}; rename it"
            )
        check_method(config, name)
    for name, experiment in present(config).items():
        if "users" in experiment:
            _check_users(config, name)
            continue
        others = experiment.get("other_definitions", {})
        for key, rewards in ("rewards", experiment["rewards"]), ("other_definitions", others.values()):
            for reward in rewards:
                if reward not in reward_names():
                    known = ", ".join(reward_names())
                    raise UserError(f"experiments.{name}.{key}: expected some of {known}, found {reward}; correct it")
        for reward in others:
            if reward not in experiment["rewards"]:
                known = ", ".join(experiment["rewards"])
                raise UserError(
                    f"experiments.{name}.other_definitions: expected keys from {known}, found {reward}; correct it"
                )
        for domain in experiment["domains"]:
            sizes = assets["reviews"]["embedded"]["sizes"]
            if assets["reviews"]["source"] == "embedded" and domain not in sizes:
                found = ", ".join(sizes)
                raise UserError(
                    f"experiments.{name}.domains: expected some of {found}, found {domain}; "
                    "add it to assets.reviews.embedded.sizes"
                )
    for key, path in [(f"assets.{asset}", p) for asset in assets for p in asset_files(config, asset).values()]:
        if not Path(path).is_file():
            raise UserError(f"{key}.local: expected a file, found no {path}; correct the path or the source")


def _check_users(config: dict, name: str) -> None:
    """What users ask and answer must fit into the base model, and opponents and overrides be known."""
    experiment, key = config["experiments"][name], f"experiments.{name}"
    if experiment["domains"] != ["instruction"]:
        raise UserError(
            f"{key}.domains: expected [instruction] beside users, found {experiment['domains']}; correct it"
        )
    users, base = experiment["users"], config["assets"]["base"]
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
            "judge.rating.scorer: expected model, since the texts of assets.feedback have no known ratings, found "
            "embedded; name a reward model, or set judge.kind to llm"
        )
    if judge["kind"] == "rating" and judge["rating"]["scorer"] == "model" and not judge["rating"]["path"]:
        raise UserError("judge.rating.path: expected the folder of a reward model, found none; name it")
    for path in reward_model_files(config).values():
        if not Path(path).is_file():
            raise UserError(f"judge.rating.path: expected a folder with a file {path}, found none; correct it")


def check_method(config: dict, name: str) -> None:
    key, method, methods = f"policies.methods.{name}", method_of(config, name), config["policies"]["methods"]
    copies = sum(method[kind] for kind in ("shared_heads", "independent_models", "adapters"))
    for other in initial_methods(config, name):
        if other not in methods or initial_methods(config, other):
            known = ", ".join(m for m in methods if m != name and not initial_methods(config, m))
            raise UserError(f"{key}.initial_experts: expected methods that start from copies: {known}; found {other}")
    for expert in method["initial_experts"]:
        other, _, k = expert.partition("/")
        if k and int(k) >= experts_of(config, other):
            raise UserError(
                f"{key}.initial_experts: expected an expert of {other} from 0 to {experts_of(config, other) - 1}, found "
                f"{expert}; correct it"
            )
    if method["initial_experts"] and copies:
        raise UserError(f"{key}: expected initial_experts or copies, found both; set shared_heads and the like to 0")
    experts, weights = experts_of(config, name), method["initial_weights"]
    if experts < 1:
        raise UserError(
            f"{key}: expected shared_heads + independent_models + adapters ≥ 1, found 0 experts; raise one of them"
        )
    if method["top_s"] is not None and not 1 <= method["top_s"] <= experts:
        raise UserError(f"{key}.top_s: expected 1 to {experts}, its experts, found {method['top_s']}; correct it")
    if weights is not None and (len(weights) != experts or abs(sum(weights) - 1) > 1e-6):
        raise UserError(
            f"{key}.initial_weights: expected {experts} weights that sum to 1, found {weights} with sum {sum(weights):g}; "
            "correct them"
        )
    if weights is not None and method["weights"] == "gate":
        raise UserError(f"{key}.initial_weights: expected none beside weights: gate, found {weights}; set it to null")
    for where, penalties in [
        (f"{key}.responsibilities", method["responsibilities"]),
        *((f"{key}.phases", phase["responsibilities"]) for phase in method["phases"] if "responsibilities" in phase),
    ]:
        alpha = penalties["entropy"] - penalties["confidence"] + penalties["kl_uniform"] + penalties["kl_w"]
        if alpha <= 0:
            raise UserError(
                f"{where}: expected entropy - confidence + kl_uniform + kl_w > 0, found {alpha:g} from {penalties}; "
                "lower confidence or raise another"
            )
    if method["weights"] == "global":
        for option in ("user_gate", "kl_w_global", "gate_perturbation"):
            if method[option] or any(phase.get(option) for phase in method["phases"]):
                raise UserError(f"{key}.{option}: expected it with weights: gate, found weights: global; change one")
    elif method["user_gate"] and method["pretrained_gate"]:
        raise UserError(f"{key}.pretrained_gate: expected false beside user_gate, found true; a domain is no user")
    if method["gate_perturbation"] and not method["user_gate"]:
        raise UserError(f"{key}.gate_perturbation: expected it with user_gate, found user_gate false; set it to 0")
    ends = [phase["until"] for phase in method["phases"]]
    if ends != sorted(set(ends)):
        raise UserError(f"{key}.phases: expected until to rise, found {ends}; put them in order")
    if not method["learn_experts"] and not method["learn_weights"]:
        raise UserError(f"{key}: expected learn_experts or learn_weights, found both false; set one of them to true")


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
                _check_row(config, row["name"], row["policy"], row.get("decoding", "token"), where)
        for experiment in experiments_of(table):
            for method in methods_of(table, experiment):
                if method != "reference":
                    _check_experts(config, table, experiment, method, where)


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
    """Opponents and decodings of win rates are those that are judged, styles those of the experiment."""
    known, rows = config["judge"]["opponents"], table.get("rows", [])
    claimed = [row for row in rows if row.get("measure") == "win_rate" and row["experiment"] not in left_out(config)]
    judged = [(row, [row["opponent"]]) for row in claimed]
    if table["kind"] in ("win_rates", "length_bias"):
        judged += [(row, list(table["opponents"])) for row in rows]
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
                f"{where}: expected decoding token or sparse of win rates, found {row['decoding']}; correct it"
            )
    if "styles" in table:
        found = config["experiments"][table["experiment"]]["users"]["styles"]
        if set(table["styles"]) != set(found):
            raise UserError(
                f"experiments.{table['experiment']}.users.styles: expected {', '.join(table['styles'])}, as {where} "
                f"prints them, found {', '.join(found)}; correct one of them"
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


MEASURES = {
    "reward": ("policy", "baseline", "reward"),
    "style_recovery": ("policy",),
    "posterior_spread": ("policy",),
    "posterior_by_domain": ("policy", "domains"),
    "weights_by_domain": ("policy", "domains"),
    "heads_told_by_words": ("policy",),
    "heads_told_by_parameters": ("policy", "rows_per_head", "neighbours"),
    "gate_accuracy": ("policy", "domains"),
    "pretrained_gate_accuracy": ("policy", "domains", "split"),
    "win_rate": ("policy", "decoding", "opponent"),
}
"""What a claim can be about → the keys that its row needs. The functions are in `mixdpo/paper/claims.py`."""
TESTS = {"greater": (), "less": (), "equal": ("target", "margin"), "none": ()}
"""Direction of a claim → the keys that its row needs; `none` is a claim that no run here tests."""


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
    chosen, experts = method_of(config, method), experts_of(config, method)
    domains = config["experiments"][experiment]["domains"]
    if is_gated(config, method) and len(domains) != experts:
        raise UserError(
            f"policies.methods.{method}: expected as many experts as {experiment} has domains "
            f"({', '.join(domains)}), on which the gate is pretrained, found {experts}; set shared_heads or "
            "independent_models"
        )
    if table["kind"] == "specialisation" and chosen["shared_heads"] < 2:
        raise UserError(
            f"policies.methods.{method}.shared_heads: expected at least 2, whose parameters {where} draws, found "
            f"{chosen['shared_heads']}; raise it"
        )
    if table["kind"] in ("specialisation", "words", "tasks", "user_map") and not 2 <= experts <= 4:
        raise UserError(
            f"policies.methods.{method}: expected 2 to 4 experts, which {where} can draw, found {experts}; change it"
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

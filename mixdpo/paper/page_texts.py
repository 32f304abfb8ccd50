"""The texts that the page quotes: completions of every policy after drawn prompts, and pairs with responsibilities."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from mixdpo.errors import Corrupt
from mixdpo.paper.page_words import decoded
from mixdpo.paper.scores import head_order, policies_in, triplets_of
from mixdpo.run.config import experiments_of, methods_of

QUOTED_NAMES = ("rewards", "alignment", "win_rates")
"""Kinds of tables whose rows name a policy and its decoding; the page uses these names."""


def methods_and_names(experiment: str, tables: dict[str, dict]) -> tuple[list[str], dict[tuple[str, str], str]]:
    """The methods that the tables compare in an experiment, and what rows call a method and its decoding."""
    names, methods = {}, {}
    for table in tables.values():
        if experiment not in experiments_of(table):
            continue
        methods |= dict.fromkeys(methods_of(table, experiment))
        if table["kind"] in QUOTED_NAMES:
            rows = {(row["policy"], row.get("decoding", "token")): row["name"] for row in table["rows"]}
            opponents = {(method, "token"): name for method, name in table.get("opponents", {}).items()}
            names = rows | opponents | names
    return list(methods), names


def quoted_samples(
    experiment: str, own: dict[str, Path], tables: dict[str, dict], specs: dict[str, dict], prompts: int, rng
) -> dict:
    """Test prompts drawn evenly from the domains, each with every policy's completions (first seed) and rewards.

    `specs` has what each policy was trained with, by the path of its manifest.
    """
    methods, names = methods_and_names(experiment, tables)
    methods = [method for method in methods if policies_in(own, method, "completions")]
    drawn, quoted = None, defaultdict(list)
    for method in methods:
        policy = policies_in(own, method, "completions")[0]
        frame, rewards = completions_of(own, policy)
        if drawn is None:
            drawn = draw(frame, prompts, rng)
        weights = pd.read_parquet(own[f"completions:{policy}"] / "weights.parquet").set_index("prompt_id")
        order = head_order(own, method).get(policy, [0])
        trained = own.get(f"policies:{policy}")
        about = describe(specs[(trained / "manifest.json").as_posix()]) if trained else ""
        for prompt_id, lines in frame[frame["prompt_id"].isin(drawn.index)].groupby("prompt_id"):
            w = [float(weights.loc[prompt_id, f"w{k}"]) for k in order]
            cards = sorted(entries(method, lines, rewards, order, w, names), key=lambda entry: entry["place"])
            quoted[prompt_id].append({"method": method, "about": about, "entries": cards})
    texts = [
        {"text": drawn.loc[i, "prompt"], "domain": drawn.loc[i, "domain"], "methods": quoted[i]} for i in drawn.index
    ]
    return {"experiment": experiment, "prompts": texts}


def completions_of(own: dict[str, Path], policy: str) -> tuple[pd.DataFrame, list[str]]:
    """Test completions of a policy with the rewards that it has, and the names of the rewards."""
    frame, rewards = pd.read_parquet(own[f"completions:{policy}"] / "completions.parquet"), []
    if f"rewards:{policy}" in own:
        scores = pd.read_parquet(own[f"rewards:{policy}"] / "scores.parquet")
        rewards = [name for name in scores if name not in ("prompt_id", "sample", "decoding")]
        frame = frame.merge(scores, on=["prompt_id", "sample", "decoding"], validate="1:1")
    if "style" in frame:  # who asks is what the prompts of users differ in
        frame["domain"] = "for a user who prefers " + frame["style"].str.replace("_", " ")
    return frame, rewards


def entries(
    method: str, lines: pd.DataFrame, rewards: list[str], order: list[int], w: list[float], names: dict
) -> Iterator[dict]:
    """A policy's completions of one prompt, those of scaled experts left out; experts are shown in `order`, `w` are
    their weights in it."""
    shown = {f"expert{k}": f"expert{i}" for i, k in enumerate(order)}
    for line in lines[~lines["decoding"].str.contains("@")].to_dict("records"):
        decoding = shown.get(line["decoding"], line["decoding"])
        expert = int(decoding.removeprefix("expert")) if decoding in shown.values() else None
        largest = len(order) > 1 and expert == int(np.argmax(w))
        yield {
            "name": names.get((method, decoding), decoded(decoding)),
            "samples": f"{method}/{decoding}" + f" {method}/sparse" * largest,
            "text": line["completion"],
            "scores": [(name, line[name]) for name in rewards],
            "weight": w[expert] if expert is not None else None,
            "largest": largest and len(set(w)) > 1,
            "place": -1 if expert is None else expert,
        }


def draw(frame: pd.DataFrame, n: int, rng) -> pd.DataFrame:
    """At most n prompts in the order of their ids, an equal share from every domain and at least one."""
    prompts = frame.drop_duplicates("prompt_id").set_index("prompt_id")[["prompt", "domain"]]
    shares = [part.index.to_numpy() for _, part in prompts.groupby("domain")]
    drawn = [rng.choice(ids, min(len(ids), max(1, n // len(shares))), replace=False) for ids in shares]
    return prompts.loc[np.sort(np.concatenate(drawn))]


def describe(spec: dict) -> str:
    """A method in words, from the spec that it was trained with."""
    given, weights, epochs = spec["experts"], spec["weights"], spec["optimiser"]["epochs"]
    heads, models, adapters, initial = (given[key] for key in ("heads", "models", "adapters", "initial"))
    experts = [f"{heads} head{'s' * (heads > 1)} on a {given['encoder']} encoder"] * (heads > 0)
    experts += [f"{models} model" + "s" * (models > 1)] * (models > 0)
    experts += [f"{adapters} adapters of one model"] * (adapters > 0)
    experts += [f"experts of {', '.join(initial)}"] * bool(initial)
    learned, kind = "learned" if weights["learn"] else "fixed", "gate" if weights["kind"] == "gate" else "weights"
    several = heads + models + adapters > 1 or bool(initial)
    return f"{' and '.join(experts)}{f', {learned} {kind}' * several}, {epochs} epoch{'s' * (epochs > 1)}"


def quoted_pairs(
    experiment: str, own: dict[str, Path], tables: dict[str, dict], preferences: Path, n: int, rng
) -> dict:
    """Validation pairs, what each style prefers, and responsibilities of each policy with several experts (first
    seed)."""
    triplets = pd.read_parquet(preferences / "validation.parquet")
    number = triplets.groupby(["prompt_id", "pair"], sort=False).ngroup()
    q = responsibilities(own, methods_and_names(experiment, tables)[0], triplets, preferences)
    drawn, quoted = np.sort(rng.choice(pairs := number.nunique(), min(n, pairs), replace=False)), []
    for pair in drawn:
        lines = triplets[number == pair]
        first, styles = lines.iloc[0], []
        for line in lines.to_dict("records"):
            is_a = line["chosen"] == first["chosen"]
            scores = [line["chosen_score"], line["rejected_score"]][:: 1 if is_a else -1]
            styles.append({"style": line["style"], "prefers": "A" if is_a else "B", "scores": scores})
        quoted.append(
            {
                "prompt": first["prompt"],
                "domain": first["domain"],
                "texts": {"A": first["chosen"], "B": first["rejected"]},
                "styles": styles,
                "methods": {method: values[lines.index].tolist() for method, values in q.items()},
            }
        )
    return {"experiment": experiment, "pairs": quoted, "experts": max((v.shape[1] for v in q.values()), default=0)}


def responsibilities(
    own: dict[str, Path], methods: list[str], triplets: pd.DataFrame, preferences: Path
) -> dict[str, np.ndarray]:
    """Method with several experts → posterior weights of its first seed, (triplets, experts).

    Rows of the split validation are those of `validation.parquet`. Raises `Corrupt` where they are not.
    """
    q = {}
    for method in methods:
        for policy, order in list(head_order(own, method).items())[:1]:
            if len(order) == 1:
                continue
            table = triplets_of(own[f"policies:{policy}"], "validation")
            if len(table) != len(triplets) or (table["style"] != triplets["style"]).any():
                raise Corrupt(
                    f"{own[f'policies:{policy}']}: expected responsibilities of the {len(triplets)} triplets of "
                    f"{preferences}, found {len(table)} others; delete it and run again"
                )
            q[method] = table[[f"q{k}" for k in order]].to_numpy()
    return q

"""Tables of users whose styles differ: how often a policy wins for them, and which expert the gate sends them to.

Several training seeds are averaged by prompt first. Shares are in [0, 1] in the csv; win rates are printed in percent.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from mixdpo.data.statistics import mean_and_se
from mixdpo.paper.recovery import recovery
from mixdpo.paper.scores import head_order, per_prompt, policies_in
from mixdpo.paper.table import Table
from mixdpo.paper.text import beside, in_print, number, percent, show
from mixdpo.stages.judgements import PAIR, by_length, decoded, pair_scores, win_rate


def judgements_of(artifacts: dict[str, Path], method: str, decoding: str, opponent: str) -> list[pd.DataFrame]:
    """Judgements of a method's completions of one decoding against one opponent: a frame per seed, one
    row per pair and order.
    """
    folders = [artifacts[f"judgements:{policy}"] for policy in policies_in(artifacts, method, "judgements")]
    frames = [pd.read_parquet(folder / "judgements.parquet") for folder in folders]
    return [frame[(frame["decoding"] == decoding) & (frame["opponent"] == opponent)] for frame in frames]


def pooled(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """`pair_scores` of every seed's judgements, averaged over seeds: one row per pair, score and tokens_difference."""
    pairs = pd.concat([pair_scores(frame) for frame in frames]).groupby(PAIR, as_index=False, dropna=False)
    return pairs[["score", "tokens_difference"]].mean()


def contradictions(frames: list[pd.DataFrame]) -> float:
    """Of the pairs with both judgements, the share that the policy wins in one order and loses in the other."""
    scores = pd.concat([frame.groupby(PAIR, dropna=False)["score"].agg(["count", "min", "max"]) for frame in frames])
    both = scores[scores["count"] == 2]
    return float((both["max"] - both["min"] == 1).mean())


def divergence(artifacts: dict[str, Path], method: str, decoding: str) -> tuple[float, float]:
    """KL(π ‖ π_ref) in nats: log π/π_ref of a method's own completions, mean ± SE over test prompts."""
    policies = policies_in(artifacts, method, "completions")
    frames = [decoded(artifacts[f"completions:{policy}"], decoding) for policy in policies]
    ratios = pd.concat([frame["log_prob"] - frame["reference_log_prob"] for frame in frames])
    return mean_and_se(ratios.groupby(level=["prompt_id", "user"]).mean())


def win_rates_table(form: dict, artifacts: dict[str, Path]) -> Table:
    """Win rates of rows (method and decoding) against each of the `opponents`, a tie half a win, beside the published.

    `mean` is over pairs, each the mean of its two orders; `se` is SD/√n over the n pairs. `contradictions` is the share
    of pairs won in one order and lost in the other, `failures` counts judgements that the judge did not give. `kl` and
    `opponent_kl` say how far each side went from the reference (nats).
    """
    table = Table()
    for entry in form["rows"]:
        for opponent, heading in form["opponents"].items():
            method, decoding = entry["policy"], entry["decoding"]
            frames = judgements_of(artifacts, method, decoding, opponent)
            mean, se, n = win_rate(pooled(frames))
            ours = {"row": entry["name"], "column": heading, "mean": mean, "se": se, "n": n}
            kl, kl_se = divergence(artifacts, method, decoding)
            opponent_kl, opponent_kl_se = divergence(artifacts, opponent, "token")
            ours |= {"kl": kl, "kl_se": kl_se, "opponent_kl": opponent_kl, "opponent_kl_se": opponent_kl_se}
            ours |= {"contradictions": contradictions(frames), "seeds": len(frames)}
            ours |= {"judgements": sum(map(len, frames)), "failures": int(sum(f["score"].isna().sum() for f in frames))}
            values = entry.get("published", {}).get(opponent, [])
            lines, published = beside(ours, values), in_print(values, percent)
            row = table.row(entry["name"], experiment=form["experiment"], policy=method, decoding=decoding)
            row.label("Model")
            row.label("Against", heading)
            row.number("Win rate, %", percent(mean, se), lines, published, column=heading)
            row.number("KL(π ‖ π_ref), nats", show(kl, kl_se, 1), lines, column=heading)
            row.number("KL of the opponent, nats", show(opponent_kl, opponent_kl_se, 1), lines, column=heading)
            row.number("Pairs", n)
            shown = percent(ours["contradictions"], np.nan)
            row.number("Won in one order, lost in the other, %", shown, lines, column=heading)
            row.number("Judgements failed", f"{ours['failures']} of {ours['judgements']}")
    return table


def length_bias_table(form: dict, artifacts: dict[str, Path]) -> Table:
    """Win rates (mean ± SE over n pairs) by how much longer the policy's completion is than the opponent's.

    `edges`, in tokens, bound "about as long"; with several seeds the mean difference counts.
    """
    table = Table()
    for entry in form["rows"]:
        for opponent, heading in form["opponents"].items():
            frames = judgements_of(artifacts, entry["policy"], entry["decoding"], opponent)
            about = {"policy": entry["policy"], "decoding": entry["decoding"]}
            row = table.row(entry["name"], experiment=form["experiment"], **about)
            row.label("Model")
            row.label("Against", heading)
            for part in by_length(pooled(frames), form["edges"]).to_dict("records"):
                line = {"row": entry["name"], "column": heading, "length": part["length"].capitalize()}
                line |= {"mean": part["win_rate"], "se": part["se"], "n": part["n"]}
                shown = f"{percent(line['mean'], line['se'])} (n = {line['n']})"
                row.number(f"{line['length']}, %", shown, [line], column=heading)
    return table


def users_of_experts(weights: pd.DataFrame, order: list[int]) -> pd.DataFrame:
    """One row per user: style, the user's style, and q0 to qK−1, mean weights over the user's prompts in `order`."""
    q = {f"q{head}": weights[f"w{k}"] for head, k in enumerate(order)}
    users = weights[["user"]].assign(style=weights["style"], **q)
    return users.groupby(["user", "style"]).mean().reset_index()


def users_table(form: dict, artifacts: dict[str, Path]) -> Table:
    """Does the gate send each style's users to an expert of that style? A user's expert has the largest mean weight.

    `mean` of the users is the share at their style's expert (best matching), its SE √(p(1 − p)/n), beside what shuffled
    styles give: mean and 95 % quantile. A style's `expert` is the one that most of its users go
    to, and `mean` their share, experts of further seeds matched to the first's. The last row is about the preferences.
    """
    table = Table()
    for entry in form["rows"]:
        name, method = entry["name"], entry["policy"]
        row, found = table.row(name, experiment=form["experiment"], policy=method), sent(form, artifacts, method)
        lines = {
            column: {"row": name, "column": column} | numbers
            for column, numbers in {
                "Users at their expert": found["users"],
                "Mean largest weight": found["weight"],
                "Triplets recovered": found["triplets"],
            }.items()
        }
        shown = {column: show(line["mean"], line.get("se", np.nan)) for column, line in lines.items()}
        row.label("Model")
        chance = f"{number(found['users']['chance'])} ({number(found['users']['chance_95'])})"
        for column, line in lines.items():
            row.number(column, shown[column], [line])
            if column == "Users at their expert":
                row.number("by chance (95 % below)", chance)
        for style, heading in form["styles"].items():
            expert, share = found["shares"].loc[style].idxmax(), found["shares"].loc[style].max()
            line = {"row": name, "column": heading, "mean": share, "expert": f"Expert {expert}"}
            row.number(heading, f"Expert {expert} ({number(share, 2)})", [line])
        row.number("n (users, prompts, triplets)", ", ".join(str(line["n"]) for line in lines.values()))
    pairs, disagreeing = pd.read_csv(artifacts[f"preferences:{form['experiment']}"] / "disagreement.csv").iloc[0]
    share = disagreeing / pairs
    se = np.sqrt(share * (1 - share) / pairs)
    row, column = table.row("Preferences", experiment=form["experiment"]), "Pairs on which styles disagree"
    row.label("Model")
    line = {"row": "Preferences", "column": column, "mean": share, "se": se, "n": pairs}
    row.number(column, f"{show(share, se)} (n = {pairs:,})", [line])
    return table


def sent(form: dict, artifacts: dict[str, Path], method: str) -> dict:
    """Over a method's seeds: users at their expert, largest weights and triplets, each with mean and n; and `shares`,
    how each style's users (rows) are divided among the experts (columns)."""
    rng, shares, shuffles = np.random.default_rng(form["seed"]), [], []
    recovered, largest, chosen = [], [], []
    for policy, order in head_order(artifacts, method).items():
        weights = pd.read_parquet(artifacts[f"completions:{policy}"] / "weights.parquet")
        triplets = pd.read_parquet(artifacts[f"policies:{policy}"] / "responsibilities.parquet")
        users = users_of_experts(weights, order)
        shares.append(recovery(users))
        shuffled = (users.assign(style=rng.permutation(users["style"])) for _ in range(form["shuffles"]))
        shuffles.append([recovery(users) for users in shuffled])
        recovered.append(recovery(triplets[["style"]].join(triplets.filter(regex="^q[0-9]+$"))))
        largest.append(weights[["prompt_id"]].assign(w=weights.filter(regex="^w[0-9]+$").max(axis=1)))
        expert = users.filter(regex="^q").to_numpy().argmax(axis=1)
        chosen.append(pd.DataFrame({"style": users["style"], "expert": expert}))
    share, by_chance = np.mean(shares), np.mean(shuffles, axis=0)
    se = np.sqrt(share * (1 - share) / len(users))
    chance = {"chance": np.mean(by_chance), "chance_95": np.quantile(by_chance, 0.95)}
    weight_of = per_prompt(pd.concat(largest), "w")
    weight, weight_se = mean_and_se(weight_of)
    everyone = pd.concat(chosen, ignore_index=True)
    return {
        "users": {"mean": share, "se": se} | chance | {"n": len(users)},
        "weight": {"mean": weight, "se": weight_se, "n": len(weight_of)},
        "triplets": {"mean": np.mean(recovered), "n": len(triplets)},
        "shares": pd.crosstab(everyone["style"], everyone["expert"], normalize="index"),
    }

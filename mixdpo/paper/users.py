"""Tables of users whose styles differ: how often a policy wins for them, and which expert the gate sends them to.

A mean is over training seeds and prompts, and its SE that of `statistics.hierarchical`. Shares are in [0, 1] in the
csv; win rates are printed in percent.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from mixdpo.data.statistics import mean_and_se, share
from mixdpo.paper.recovery import at_their_expert, recovered_by_seed
from mixdpo.paper.scores import by_seed, head_order, policies_in, triplets_of
from mixdpo.paper.table import Table
from mixdpo.paper.text import beside, in_print, interval, number, percent, show
from mixdpo.stages.judgements import PAIR, by_length, decoded, pair_scores


def judgements_of(artifacts: dict[str, Path], method: str, decoding: str, opponent: str) -> list[pd.DataFrame]:
    """Judgements of a method's completions of one decoding against one opponent: a frame per seed, one
    row per pair and order.
    """
    folders = [artifacts[f"judgements:{policy}"] for policy in policies_in(artifacts, method, "judgements")]
    frames = [pd.read_parquet(folder / "judgements.parquet") for folder in folders]
    return [frame[(frame["decoding"] == decoding) & (frame["opponent"] == opponent)] for frame in frames]


def pair_scores_by_seed(frames: list[pd.DataFrame], column: str = "score") -> pd.DataFrame:
    """A column of `pair_scores` of every seed's judgements, (seeds × pairs), NaN where both judgements failed."""
    pairs = pd.concat([pair_scores(frame).assign(seed=seed) for seed, frame in enumerate(frames)])
    pair = pairs.groupby(PAIR, dropna=False).ngroup()
    return pairs.assign(pair=pair).pivot(index="seed", columns="pair", values=column)


def contradictions(frames: list[pd.DataFrame]) -> float:
    """Of the pairs with both judgements, the share that the policy wins in one order and loses in the other."""
    scores = pd.concat([frame.groupby(PAIR, dropna=False)["score"].agg(["count", "min", "max"]) for frame in frames])
    both = scores[scores["count"] == 2]
    return float((both["max"] - both["min"] == 1).mean())


def divergence(artifacts: dict[str, Path], method: str, decoding: str) -> tuple[float, float]:
    """KL(π ‖ π_ref) in nats: log π/π_ref of a method's own completions, mean ± SE over test prompts."""
    policies = policies_in(artifacts, method, "completions")
    frames = {policy: decoded(artifacts[f"completions:{policy}"], decoding) for policy in policies}
    ratios = {policy: frame["log_prob"] - frame["reference_log_prob"] for policy, frame in frames.items()}
    return mean_and_se(pd.DataFrame(ratios).T)


def win_rates_table(form: dict, artifacts: dict[str, Path]) -> Table:
    """Win rates of rows (method and decoding) against each of the `opponents`, a tie half a win, beside the published.

    `mean` is over n pairs, each the mean of its two orders, and over seeds. `contradictions` is the share
    of pairs won in one order and lost in the other, `failures` counts judgements that the judge did not give. `kl` and
    `opponent_kl` say how far each side went from the reference (nats).
    """
    table = Table()
    for entry in form["rows"]:
        for opponent, heading in form["opponents"].items():
            method, decoding = entry["policy"], entry["decoding"]
            frames = judgements_of(artifacts, method, decoding, opponent)
            scores = pair_scores_by_seed(frames)
            (mean, se), n = mean_and_se(scores), scores.shape[1]
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
            scores, tokens = (pair_scores_by_seed(frames, c) for c in ("score", "tokens_difference"))
            for length, chosen in by_length(tokens.mean().to_numpy(), form["edges"]).items():
                line = {"row": entry["name"], "column": heading, "length": length.capitalize()}
                mean, se = mean_and_se(scores.loc[:, chosen])
                line |= {"mean": mean, "se": se, "n": int(chosen.sum())}
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

    `mean` of the users is the share at their style's expert (best matching), with the interval of `statistics.share`,
    beside what shuffled styles give: mean and 95 % quantile.
    Triplets are recovered as `recovery.recovered` says. A style's `expert` is the one that most of its users go to,
    and `mean` their share, experts of further seeds matched to the first's. The last row is about the preferences.
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
        shown = {column: show(line["mean"], line["se"]) for column, line in lines.items()}
        users = lines["Users at their expert"]
        shown["Users at their expert"] = f"{number(users['mean'])} {interval(users['low'], users['high'], '-')}"
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
    rng, right, shuffles, largest, chosen = np.random.default_rng(form["seed"]), [], [], [], []
    for policy, order in head_order(artifacts, method).items():
        weights = pd.read_parquet(artifacts[f"completions:{policy}"] / "weights.parquet")
        users = users_of_experts(weights, order)
        right.append(at_their_expert(users))
        shuffled = (users.assign(style=rng.permutation(users["style"])) for _ in range(form["shuffles"]))
        shuffles.append([at_their_expert(users).mean() for users in shuffled])
        largest.append(weights[["prompt_id"]].assign(w=weights.filter(regex="^w[0-9]+$").max(axis=1), seed=policy))
        expert = users.filter(regex="^q").to_numpy().argmax(axis=1)
        chosen.append(pd.DataFrame({"style": users["style"], "expert": expert}))
    found, by_chance = share(np.stack(right)), np.mean(shuffles, axis=0)
    told = {"mean": found.effect, "se": found.se, "low": found.low, "high": found.high}
    chance = {"chance": np.mean(by_chance), "chance_95": np.quantile(by_chance, 0.95)}
    weight_of = by_seed(pd.concat(largest), "w")
    weight, weight_se = mean_and_se(weight_of)
    triplets, triplets_se = mean_and_se(recovered_by_seed(artifacts, method)[0])
    everyone, n = pd.concat(chosen, ignore_index=True), len(triplets_of(artifacts[f"policies:{policy}"]))
    return {
        "users": told | chance | {"n": len(users)},
        "weight": {"mean": weight, "se": weight_se, "n": weight_of.shape[1]},
        "triplets": {"mean": triplets, "se": triplets_se, "n": n},
        "shares": pd.crosstab(everyone["style"], everyone["expert"], normalize="index"),
    }

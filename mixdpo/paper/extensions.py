"""Tables of what goes beyond the paper's section 4: users whose styles differ, judged in pairs, and ablations.

Several training seeds are averaged by prompt first. Shares are in [0, 1] in the csv and in percent where they are won.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from mixdpo.data.statistics import Effect, mean_and_se, paired
from mixdpo.paper.cells import cell, percent, show
from mixdpo.paper.scores import head_order, per_prompt, policies_in, recovery, samples
from mixdpo.stages.judgements import PAIR, by_length, decoded, pair_scores, win_rate


def judgements_of(artifacts: dict[str, Path], method: str, decoding: str, opponent: str) -> list[pd.DataFrame]:
    """Judgements of a method's completions of one decoding against one opponent: one row a pair and order, a frame a seed."""
    folders = [artifacts[f"judgements:{policy}"] for policy in policies_in(artifacts, method, "judgements")]
    frames = [pd.read_parquet(folder / "judgements.parquet") for folder in folders]
    return [frame[(frame["decoding"] == decoding) & (frame["opponent"] == opponent)] for frame in frames]


def pooled(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """`pair_scores` of every seed's judgements, averaged over seeds: one row a prompt, score and tokens_difference."""
    pairs = pd.concat([pair_scores(frame) for frame in frames]).groupby(PAIR, as_index=False, dropna=False)
    return pairs[["score", "tokens_difference"]].mean()


def contradictions(frames: list[pd.DataFrame]) -> float:
    """Share, of pairs with both judgements, of those that the policy wins in one order and loses in the other."""
    scores = pd.concat([frame.groupby(PAIR, dropna=False)["score"].agg(["count", "min", "max"]) for frame in frames])
    both = scores[scores["count"] == 2]
    return float((both["max"] - both["min"] == 1).mean())


def divergence(artifacts: dict[str, Path], method: str, decoding: str) -> tuple[float, float]:
    """KL(π ‖ π_ref) in nats: log π/π_ref of a method's own completions, mean ± SE over test prompts."""
    policies = policies_in(artifacts, method, "completions")
    frames = [decoded(artifacts[f"completions:{policy}"], decoding) for policy in policies]
    ratios = pd.concat([frame["log_prob"] - frame["reference_log_prob"] for frame in frames])
    return mean_and_se(ratios.groupby(level=["prompt_id", "user"]).mean())


def win_rates_table(table: dict, artifacts: dict[str, Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Win rates of rows (method and decoding) against each of the `opponents`, a tie half a win, beside the published.

    `mean` is over pairs, each the mean of its two orders; `se` is SD/√n over the n pairs. `contradictions` is the share
    of pairs won in one order and lost in the other, `failures` counts judgements that the judge did not give. `kl` and
    `opponent_kl` say how far from the reference each side went for it (nats).
    """
    cells, grid = [], []
    for row in table["rows"]:
        for opponent, heading in table["opponents"].items():
            frames = judgements_of(artifacts, row["policy"], row["decoding"], opponent)
            mean, se, n = win_rate(pooled(frames))
            ours = {"row": row["name"], "column": heading, "mean": mean, "se": se, "n": n}
            kl, kl_se = divergence(artifacts, row["policy"], row["decoding"])
            opponent_kl, opponent_kl_se = divergence(artifacts, opponent, "token")
            ours |= {"kl": kl, "kl_se": kl_se, "opponent_kl": opponent_kl, "opponent_kl_se": opponent_kl_se}
            ours |= {"contradictions": contradictions(frames), "seeds": len(frames)}
            ours |= {"judgements": sum(map(len, frames)), "failures": int(sum(f["score"].isna().sum() for f in frames))}
            printed = row.get("published", {}).get(opponent, [])
            cells += [
                ours | {"published_mean": p["mean"], "published_se": p["se"], "published_where": p["where"]}
                for p in printed or [{"mean": np.nan, "se": np.nan, "where": ""}]
            ]
            grid.append(
                {
                    "Model": row["name"],
                    "Against": heading,
                    "Win rate, %": percent(mean, se),
                    "Win rate, %, published": "; ".join(percent(p["mean"], p["se"]) for p in printed),
                    "KL(π ‖ π_ref), nats": show(kl, kl_se, 1),
                    "The other's": show(opponent_kl, opponent_kl_se, 1),
                    "Pairs": n,
                    "Orders contradict, %": percent(ours["contradictions"], np.nan),
                    "Judgements failed": f"{ours['failures']} of {ours['judgements']}",
                }
            )
    return pd.DataFrame(cells), pd.DataFrame(grid)


def length_bias_table(table: dict, artifacts: dict[str, Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Win rates (mean ± SE over n pairs) by how much longer the policy's completion is than the opponent's.

    `edges`, in tokens, bound "about as long"; of several seeds it is the mean difference.
    """
    cells, grid = [], []
    for row in table["rows"]:
        for opponent, heading in table["opponents"].items():
            frames = judgements_of(artifacts, row["policy"], row["decoding"], opponent)
            line = {"Model": row["name"], "Against": heading}
            for part in by_length(pooled(frames), table["edges"]).to_dict("records"):
                length = part["length"].capitalize()
                share = {"mean": part["win_rate"], "se": part["se"], "n": part["n"]}
                cells.append({"row": row["name"], "column": heading, "length": length} | share)
                line[f"{length}, %"] = percent(part["win_rate"], part["se"]) + f" (n = {part['n']})"
            grid.append(line)
    return pd.DataFrame(cells), pd.DataFrame(grid)


def users_of_experts(weights: pd.DataFrame, order: list[int]) -> pd.DataFrame:
    """One row a user: style, the user's style, and q0 to qK−1, mean weights over the user's prompts in `order`."""
    q = {f"q{head}": weights[f"w{k}"] for head, k in enumerate(order)}
    users = weights[["user"]].assign(style=weights["style"], **q)
    return users.groupby(["user", "style"]).mean().reset_index()


def users_table(table: dict, artifacts: dict[str, Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Does the gate send users of a style to an expert of their own? A user's expert is the one of largest mean weight.

    `mean` of the users is the share at their style's expert, experts matched to styles at best, its SE √(p(1 − p)/n),
    beside what shuffled styles give: mean and 95 % quantile. A style's `head` is the expert that most of its users go
    to, and `mean` their share, experts of further seeds matched to the first's. The last row is of the preferences.
    """
    cells, grid = [], []
    for row in table["rows"]:
        rng, shares, shuffles = np.random.default_rng(table["seed"]), [], []
        recovered, largest, chosen = [], [], []
        for policy, order in head_order(artifacts, row["policy"]).items():
            weights = pd.read_parquet(artifacts[f"completions:{policy}"] / "weights.parquet")
            triplets = pd.read_parquet(artifacts[f"policies:{policy}"] / "responsibilities.parquet")
            users = users_of_experts(weights, order)
            shares.append(recovery(users))
            shuffled = (users.assign(style=rng.permutation(users["style"])) for _ in range(table["shuffles"]))
            shuffles.append([recovery(users) for users in shuffled])
            recovered.append(recovery(triplets[["style"]].join(triplets.filter(regex="^q[0-9]+$"))))
            largest.append(weights[["prompt_id"]].assign(w=weights.filter(regex="^w[0-9]+$").max(axis=1)))
            expert = users.filter(regex="^q").to_numpy().argmax(axis=1)
            chosen.append(pd.DataFrame({"style": users["style"], "expert": expert}))
        share, by_chance = np.mean(shares), np.mean(shuffles, axis=0)
        chance, quantile = np.mean(by_chance), np.quantile(by_chance, 0.95)
        se = np.sqrt(share * (1 - share) / len(users))
        weight, weight_se = mean_and_se(per_prompt(pd.concat(largest), "w"))
        n = {"users": len(users), "prompts": len(weights), "triplets": len(triplets)}
        cells += [
            {"row": row["name"], "column": column} | numbers
            for column, numbers in {
                "Users at their expert": {"mean": share, "se": se, "chance": chance, "chance_95": quantile}
                | {"n": n["users"]},
                "Mean largest weight": {"mean": weight, "se": weight_se, "n": n["prompts"]},
                "Triplets recovered": {"mean": np.mean(recovered), "n": n["triplets"]},
            }.items()
        ]
        line = {
            "Model": row["name"],
            "Users at their expert": show(share, se),
            "by chance (95 % below)": f"{chance:.3f} ({quantile:.3f})",
            "Mean largest weight": show(weight, weight_se),
            "Triplets recovered": f"{np.mean(recovered):.3f}",
        }
        everyone = pd.concat(chosen, ignore_index=True)
        shares_of = pd.crosstab(everyone["style"], everyone["expert"], normalize="index")
        for style, heading in table["styles"].items():
            expert, theirs = shares_of.loc[style].idxmax(), shares_of.loc[style].max()
            cells.append({"row": row["name"], "column": heading, "mean": theirs, "head": f"Expert {expert}"})
            line[heading] = f"Expert {expert} ({theirs:.2f})"
        grid.append(line | {"n (users, prompts, triplets)": ", ".join(map(str, n.values()))})
    pairs, disagreeing = pd.read_csv(artifacts[f"preferences:{table['experiment']}"] / "disagreement.csv").iloc[0]
    share = disagreeing / pairs
    se = np.sqrt(share * (1 - share) / pairs)
    name, column = "Preferences", "Pairs on which styles disagree"
    cells.append({"row": name, "column": column, "mean": share, "se": se, "n": pairs})
    grid.append({"Model": name, column: f"{show(share, se)} (n = {pairs})"})
    return pd.DataFrame(cells), pd.DataFrame(grid).fillna("–")


def entropy(shares: np.ndarray) -> np.ndarray:
    """−Σ_k p_k log p_k in nats of each row of (N, K), with 0 log 0 = 0; returns (N,)."""
    return -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1)


def seconds_per_step(artifacts: dict[str, Path], experiment: str, method: str) -> float:
    """Wall seconds of a method's training jobs over their steps, mean over the seeds with a run record; NaN of none."""
    found = []
    for policy in policies_in(artifacts, method):
        if path := artifacts.get(f"record:policies:{experiment}/{policy}"):
            steps = len(pd.read_csv(artifacts[f"policies:{policy}"] / "curve.csv"))
            found.append(json.loads(path.read_text())["seconds"] / steps)
    return float(np.mean(found)) if found else np.nan


def ablations_table(table: dict, artifacts: dict[str, Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One choice of the method at a time: rewards, entropy of w on test prompts and of q on validation triplets, cost.

    Entropies are in nats, `of log K` their share of the largest. `recovered` is the best-permutation accuracy of
    argmax_k q_k for the style. Seconds a step are the wall seconds of the training job, imports and validation
    included, over its steps.
    """
    cells, grid = [], []
    for row in table["rows"]:
        method, name = row["policy"], row["name"]
        line, frame = {"Model": name}, samples(artifacts, method, row.get("decoding", "token"))
        for reward, heading in table["columns"].items():
            ours = cell(name, reward, frame)
            cells.append(ours)
            line[heading] = show(ours["mean"], ours["se"])
        weights, q, recovered = [], [], []
        for policy in policies_in(artifacts, method):
            w = pd.read_parquet(artifacts[f"completions:{policy}"] / "weights.parquet")
            weights.append(w[["prompt_id"]].assign(entropy=entropy(w.filter(regex="^w[0-9]+$").to_numpy())))
            triplets = pd.read_parquet(artifacts[f"policies:{policy}"] / "responsibilities.parquet")
            shares = triplets.filter(regex="^q[0-9]+$")
            q.append(entropy(shares.to_numpy()))
            recovered.append(recovery(triplets[["style"]].join(shares)))
        for column, values in ("w", per_prompt(pd.concat(weights), "entropy")), ("q", np.mean(q, axis=0)):
            (mean, se), heading = mean_and_se(values), f"Entropy of {column}, nats (of log K)"
            of_log_k = mean / np.log(shares.shape[1])
            cells.append({"row": name, "column": heading, "mean": mean, "se": se, "of_log_k": of_log_k})
            line[heading] = f"{show(mean, se)} ({of_log_k:.2f})"
        seconds = seconds_per_step(artifacts, table["experiment"], method)
        line["Style recovered"] = f"{np.mean(recovered):.3f}"
        line["Seconds a step, with imports"] = "–" if np.isnan(seconds) else f"{seconds:.3f}"
        cells += [
            {"row": name, "column": column, "mean": mean}
            for column, mean in (
                ("Style recovered", np.mean(recovered)),
                ("Seconds a step, with imports", seconds),
            )
        ]
        grid.append(line | {"n (prompts, triplets)": f"{frame['prompt_id'].nunique()}, {len(triplets)}"})
    return pd.DataFrame(cells), pd.DataFrame(grid)


def win_rate_above_half(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Win rate against the row's opponent less 1/2, over pairs: Wilcoxon's p passes over pairs without a winner."""
    scores = pooled(judgements_of(artifacts, row["policy"], row["decoding"], row["opponent"]))["score"]
    return paired(scores, np.full(len(scores), 0.5), seed), 1.0

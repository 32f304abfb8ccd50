"""Methods against their baseline, a verdict for every claim of the paper, and the claims under other settings."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.naive_bayes import MultinomialNB
from sklearn.neighbors import KNeighborsClassifier

from mixdpo.data.statistics import (
    Effect,
    against_published,
    equivalence,
    holm,
    mean_and_se,
    paired,
    proportion,
    unpaired,
)
from mixdpo.paper.extensions import win_rate_above_half
from mixdpo.paper.scores import (
    head_order,
    learned_differences,
    moved_rows,
    per_prompt,
    policies_in,
    recovery,
    samples,
    within,
)

ALPHA = 0.05
CLAIM_COLUMNS = ["claim", "text", "where", "published", "experiment", "test", "effect", "se", "low", "high", "p"]
CLAIM_COLUMNS += ["p_holm", "n", "verdict"]
SIGNS = {"supported": "✓", "not supported": "✗", "undecided": "?"}


def show_p(p: float) -> str:
    return "–" if np.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def show_effect(effect: float, se: float, sign: str = "+") -> str:
    if np.isnan(effect):
        return "–"
    return f"{effect:{sign}z.3f}" + ("" if np.isnan(se) else f" ± {se:.3f}")


def show_interval(low: float, high: float, sign: str = "+") -> str:
    return "–" if np.isnan(low) else f"[{low:{sign}z.3f}, {high:{sign}z.3f}]"


def comparisons_table(table: dict, artifacts: dict[str, Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every row against the baseline over the same prompts, beside the difference that the paper prints.

    One line a row, column and published value. `z` and `z_p` test our difference against the published one, `level_z`
    and `level_p` our mean against the published mean, all with both standard errors; `p_holm` is corrected for the
    `comparisons` of the table.
    """
    reward, lines = table.get("reward"), []
    baselines = {
        column: column_scores(table, artifacts, table["baseline"], "token", column) for column in table["columns"]
    }
    for row in table["rows"]:
        decoding = row.get("decoding", "token")
        for column, heading in table["columns"].items() if row["policy"] != table["baseline"] else ():
            ours, baseline = column_scores(table, artifacts, row["policy"], decoding, column), baselines[column]
            found = paired(ours.loc[baseline.index], baseline, table["seed"])
            mean, se = mean_and_se(ours)
            line = {"row": row["name"], "column": column, "heading": heading, "reward": reward or column}
            lines.append(
                line | {"mean": mean, "mean_se": se} | vars(found) | {"printed": published_cells(table, row, column)}
            )
    cells = pd.DataFrame(lines)
    cells["p_holm"], cells["comparisons"] = holm(cells["p"]), len(cells)
    grid = pd.DataFrame(
        {
            "Model": cells["row"],
            "Score": cells["heading"],
            "Difference": [show_effect(*pair) for pair in zip(cells["effect"], cells["se"])],
            "95 % interval": [show_interval(*pair) for pair in zip(cells["low"], cells["high"])],
            "p (Wilcoxon)": cells["p"].map(show_p),
            f"p (Holm, {len(cells)})": cells["p_holm"].map(show_p),
        }
    )
    printed, rows = [], []
    for line in cells.to_dict("records"):
        values = {}
        for value in line.pop("printed") or [{}]:
            difference, spread, where = (value.get(key, np.nan) for key in ("effect", "se", "where"))
            z, p = against_published(line["effect"], line["se"], difference, spread)
            level_z, level_p = against_published(
                line["mean"], line["mean_se"], value.get("mean", np.nan), value.get("mean_se", np.nan)
            )
            rows.append(
                line
                | {"published": difference, "published_se": spread, "published_where": where, "z": z, "z_p": p}
                | {"level_z": level_z, "level_p": level_p}
            )
            values.setdefault((show_effect(difference, spread), f"{z:+.1f}" if value else "–"), []).append(where)
        several = len(values) > 1
        printed.append(["; ".join(v[i] + (f" ({w[0]})" if several else "") for v, w in values.items()) for i in (0, 1)])
    grid[["Published difference", "z, ours against it"]] = printed
    return pd.DataFrame(rows).drop(columns="heading"), grid.assign(n=cells["n"])


def column_scores(table: dict, artifacts: dict[str, Path], method: str, decoding: str, column: str) -> pd.Series:
    """Scores per prompt of a column: a reward, or the table's one `reward` on the prompts of a domain."""
    frame = samples(artifacts, method, decoding)
    if "reward" in table:
        return per_prompt(frame[frame["domain"] == column], table["reward"])
    return per_prompt(frame, column)


def published_cells(table: dict, row: dict, column: str) -> list[dict]:
    """Published mean of a row with its SE, and its difference to the baseline's: one for every place that prints one."""
    baseline = table["cells"].get((table["experiment"], table["baseline"], "token", column), [])
    return [
        {
            "mean": value["mean"],
            "mean_se": value["se"],
            "effect": value["mean"] - baseline[0]["mean"],
            "se": float(np.hypot(value["se"], baseline[0]["se"])),
            "where": value["where"],
        }
        for value in (row.get("published", {}).get(column, []) if baseline else [])
    ]


def claims_table(table: dict, artifacts: dict[str, Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A line and a verdict for every claim; columns of the csv are CLAIM_COLUMNS.

    `effect` is in the units of its measure, `published` in those of the paper; p is corrected by Holm for all claims
    that are tested.
    """
    cells = judged(table, table["rows"], artifacts)
    grid = pd.DataFrame(
        {
            "Claim": cells["text"],
            "Where": cells["where"],
            "Published": cells["shown_published"],
            "Ours": cells["shown"],
            "95 % interval": [
                show_interval(line["low"], line["high"], sign_of(row))
                for row, line in zip(table["rows"], cells.to_dict("records"))
            ],
            f"p (Holm, {cells['p'].count()})": cells["p_holm"].map(show_p),
            "n": cells["n"].map(lambda n: "–" if np.isnan(n) else f"{n:.0f}"),
            "Verdict": cells["verdict"] + cells["reason"].map(lambda reason: reason and f": {reason}"),
        }
    )
    return cells[CLAIM_COLUMNS].astype({"n": "Int64"}), grid


def sensitivity_table(table: dict, artifacts: dict[str, Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The claims under every setting, corrected by Holm within the setting; a claim that no setting touches is left out."""
    names = [setting["name"] for setting in table["settings"]]
    rows = {name: [row for row in table["rows"] if row["setting"] == name] for name in names}
    cells = pd.concat([judged(table, rows[name], artifacts).assign(setting=name) for name in names if rows[name]])
    touched = cells.groupby("claim", sort=False)["setting"].nunique()
    cells = cells[cells["claim"].isin(touched.index[touched > 1])]
    cells["cell"] = cells["verdict"].map(SIGNS) + cells["effect"].map(" {:+z.3f}".format)
    grid = cells.pivot(index="text", columns="setting", values="cell").reindex(cells["text"].unique())
    grid = grid.reindex(columns=names).fillna("–").rename_axis("Claim").reset_index()
    return cells[["setting", *CLAIM_COLUMNS]], grid


def judged(table: dict, rows: list[dict], artifacts: dict[str, Path]) -> pd.DataFrame:
    """Effect, p, correction and verdict of the claims in `rows`, with what is shown of them."""
    rows, lines = [testable(row, table["experiments"]) for row in rows], []
    for row in rows:
        line = {key: row[key] for key in ("claim", "text", "where", "test")} | {"experiment": row.get("experiment", "")}
        value, se, deviations = published_effect(table, row)
        line |= {
            "published": value,
            "published_sigma": deviations,
            "shown_published": show_claim(row, value, se, deviations),
        }
        if row["test"] == "none":
            line |= dict.fromkeys(("effect", "se", "low", "high", "p", "n", "size", "unit"), np.nan) | {"shown": "–"}
        else:
            measure = row.get("measure", "reward")
            found, unit = MEASURES[measure](row, within(artifacts, row["experiment"]), table["seed"])
            size = value if "published" in row.get("of", row) else deviations * unit
            line |= vars(found) | {"size": row.get("smallest", size), "unit": unit}
            own = found.effect / unit if measure == "reward" else np.nan
            line["shown"] = show_claim(row, found.effect, found.se, own)
            if row["test"] == "equal":
                line["p"] = equivalence(found.effect, found.se, row["target"], row["margin"])
        lines.append(line)
    cells = pd.DataFrame(lines)
    cells["p_holm"] = holm(cells["p"])
    cells[["verdict", "reason"]] = [verdict(row, line) for row, line in zip(rows, cells.to_dict("records"))]
    return cells


def testable(row: dict, experiments: list[str]) -> dict:
    """The row of a claim, or of one that is not tested where the run leaves its experiment out."""
    if row["test"] == "none" or row["experiment"] in experiments:
        return row
    return row | {"test": "none", "reason": f"{row['experiment']} is no part of this run"}


def sign_of(row: dict) -> str:
    """Differences have a sign, a level such as an accuracy has none."""
    return "" if row.get("target") or row["test"] == "none" else "+"


def show_claim(row: dict, effect: float, se: float, deviations: float) -> str:
    """Effect ± SE, and the effect in SDs of the baseline; that of several rewards is in SDs as it stands."""
    shown = show_effect(effect, se, sign_of(row))
    if np.isnan(deviations):
        return shown
    return f"{shown} σ" if isinstance(row["reward"], list) else f"{shown} ({deviations:+z.2f} σ)"


def verdict(row: dict, found: dict) -> tuple[str, str]:
    """The rule of verdicts, and why a verdict is not `supported`.

    A direction is supported if p after Holm is below ALPHA and the interval lies on the claimed side of zero. It is not
    supported if the interval lies on the other side, if it reaches zero and falls short of `size`, the published effect
    carried over in SDs, or if it falls short of the row's `smallest`, the least effect that bears the words. An equality is supported if TOST is significant after Holm, and not supported
    if the interval lies outside the margin. All else is undecided: the data are too few.
    """
    if row["test"] == "none":
        return "not tested", row["reason"]
    if row["test"] == "equal":
        low, high = (row["target"] + side * row["margin"] for side in (-1, 1))
        if found["p_holm"] < ALPHA:
            return "supported", ""
        outside = found["high"] < low or found["low"] > high
        return ("not supported", "outside the margin") if outside else ("undecided", "interval crosses the margin")
    direction = 1 if row["test"] == "greater" else -1
    low, high = sorted((direction * found["low"], direction * found["high"]))
    if high < 0:
        return "not supported", "the opposite"
    if (low <= 0 or "smallest" in row) and high < direction * found["size"]:
        return "not supported", "smaller than claimed"
    if found["p_holm"] < ALPHA and low > 0:
        return "supported", ""
    return "undecided", "not significant after Holm" if low > 0 else "interval too wide"


def published_effect(table: dict, row: dict) -> tuple[float, float, float]:
    """The effect that the paper prints for a claim: itself, its SE, and itself in SDs of the baseline; NaN without.

    It follows from the published cells of policy and baseline; the SD of a cell is SE·√n over the paper's prompts. Of
    several rewards it is the mean in SDs. A claim may print its own (`published`), and choose among places (`cell`).
    """
    row = row.get("of", row)
    if "published" in row:
        return row["published"]["effect"], row["published"].get("se", np.nan), np.nan
    if row.get("measure", "reward") != "reward" or row["test"] == "none":
        return np.nan, np.nan, np.nan
    several, effects = isinstance(row["reward"], list), []
    for reward in row["reward"] if several else [row["reward"]]:
        column = row.get("domain", reward)
        mean, se, _ = published_level(table, row, row["policy"], row.get("decoding", "token"), column)
        base, base_se, sd = published_level(table, row, row["baseline"], row.get("baseline_decoding", "token"), column)
        effects.append(
            (mean - base, np.hypot(se, base_se), sd * np.sqrt(table["published_prompts"][row["experiment"]]))
        )
    effect, se, sd = np.array(effects).T
    deviations = float(np.mean(effect / sd))
    if several:
        return deviations, float(np.hypot.reduce(se / sd) / len(sd)), deviations
    return float(effect[0]), float(se[0]), deviations


def published_level(table: dict, row: dict, method: str, decoding: str, column: str) -> tuple[float, float, float]:
    """A published cell: mean, its SE, and the SE that stands for its spread. `best` and `rest` are over the experts' cells."""
    found = {
        key[2]: next((v for v in values if v["where"] == row.get("cell")), values[0])
        for key, values in table["cells"].items()
        if key[0] == row["experiment"] and key[1] == method and key[3] == column
    }
    if decoding not in ("best", "rest"):
        value = found.get(decoding)
        return (value["mean"], value["se"], value["se"]) if value else (np.nan, np.nan, np.nan)
    experts = sorted((v["mean"], v["se"]) for name, v in found.items() if name.startswith("expert"))
    if not experts:
        return np.nan, np.nan, np.nan
    means, ses = np.array(experts).T
    typical = float(np.median(ses))
    if decoding == "best":
        return means[-1], ses[-1], typical
    return float(means[:-1].mean()), float(np.sqrt(np.sum(ses[:-1] ** 2)) / (len(ses) - 1)), typical


# Measures: a claim's row, artifacts of its experiment, seed → the effect, and its unit.


def reward_difference(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Policy less baseline over the same prompts, in the reward's units; the unit is the SD of the baseline's scores.

    Of several rewards it is the mean of the differences in SDs, and the unit is 1.
    """
    rewards = row["reward"] if isinstance(row["reward"], list) else [row["reward"]]
    scale = prompt_scores(artifacts, row["baseline"], "token", rewards, row.get("domain")).std()
    scale = scale.replace(0.0, 1.0)  # scores that are all alike have no unit
    unit = float(scale.iloc[0]) if len(rewards) == 1 else 1.0
    sides = [
        prompt_scores(artifacts, row[who], row.get(how, "token"), rewards, row.get("domain"), scale).mean(axis=1) * unit
        for who, how in (("policy", "decoding"), ("baseline", "baseline_decoding"))
    ]
    return paired(sides[0].loc[sides[1].index], sides[1], seed), unit


def prompt_scores(
    artifacts: dict[str, Path],
    method: str,
    decoding: str,
    rewards: list[str],
    domain: str | None,
    scale: pd.Series | float = 1.0,
) -> pd.DataFrame:
    """Scores per prompt (prompts × rewards), in `scale`; decodings `best` and `rest` are those of `leading`."""

    def scores(how: str) -> pd.DataFrame:
        frame = samples(artifacts, method, how)
        return per_prompt(frame if domain is None else frame[frame["domain"] == domain], rewards) / scale

    if decoding not in ("best", "rest"):
        return scores(decoding)
    experts = len(next(iter(head_order(artifacts, method).values())))
    heads = [scores(f"expert{k}") for k in range(experts)]
    best, rest = leading(np.stack([head.to_numpy() for head in heads], axis=1))
    return pd.DataFrame(best if decoding == "best" else rest, heads[0].index, rewards)


def leading(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (prompts, K, R) → those of the head that leads in each reward, and the mean of the other heads, (prompts, R).

    Rewards have a head each, by the Hungarian method on the means of the other half of the prompts (even against odd):
    a head chosen on the prompts that it is judged by would lead by chance.
    """
    half = np.arange(len(scores)) % 2
    best, rest = (np.full((len(scores), scores.shape[2]), np.nan) for _ in range(2))
    for side in (0, 1):
        means = scores[half != side].mean(axis=0)
        for head, reward in zip(*linear_sum_assignment(means - means.mean(axis=0), maximize=True)):
            own = scores[half == side, :, reward]
            best[half == side, reward] = own[:, head]
            rest[half == side, reward] = np.delete(own, head, axis=1).mean(axis=1)
    return best, rest


def responsibilities(artifacts: dict[str, Path], method: str) -> list[pd.DataFrame]:
    """style, domain and q0 to qK−1 of the validation triplets, heads in order; a frame a seed."""
    frames = []
    for policy, order in head_order(artifacts, method).items():
        frame = pd.read_parquet(artifacts[f"policies:{policy}"] / "responsibilities.parquet")
        q = frame[[f"q{k}" for k in order]].set_axis([f"q{head}" for head in range(len(order))], axis=1)
        frames.append(frame[["style", "domain"]].join(q))
    return frames


def style_recovery(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Share of triplets whose likeliest expert is that of their style, less its mean when styles are shuffled.

    p is the share of shuffles that recover as much.
    """
    frames, rng = responsibilities(artifacts, row["policy"]), np.random.default_rng(seed)
    share = np.mean([recovery(frame) for frame in frames])
    shuffled = np.array(
        [
            np.mean([recovery(frame.assign(style=rng.permutation(frame["style"]))) for frame in frames])
            for _ in range(row["shuffles"])
        ]
    )
    found = vars(proportion(share, len(frames[0]), float(shuffled.mean())))
    return Effect(**found | {"p": float((1 + np.sum(shuffled >= share)) / (1 + len(shuffled)))}), 1.0


def posterior_spread(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Mean posterior weight of the heaviest head less that of the lightest, over the validation triplets."""
    q = np.mean([frame.filter(regex="^q").to_numpy() for frame in responsibilities(artifacts, row["policy"])], axis=0)
    order = q.mean(axis=0).argsort()
    return paired(q[:, order[-1]], q[:, order[0]], seed), 1.0


def posterior_by_domain(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Mean posterior weight of the first domain's expert: triplets of that domain less all others."""
    policies = policies_in(artifacts, row["policy"])
    frames = [pd.read_parquet(artifacts[f"policies:{policy}"] / "responsibilities.parquet") for policy in policies]
    weight, own = np.mean([frame["q0"] for frame in frames], axis=0), frames[0]["domain"] == row["domains"][0]
    return unpaired(weight[own], weight[~own], seed), 1.0


def prompt_weights(artifacts: dict[str, Path], method: str) -> list[pd.DataFrame]:
    """domain and w0 to wK−1 of the test prompts; a frame a seed."""
    policies = policies_in(artifacts, method, "completions")
    return [pd.read_parquet(artifacts[f"completions:{policy}"] / "weights.parquet") for policy in policies]


def weights_by_domain(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Mean mixture weight of the first domain's expert: test prompts of that domain less all others."""
    frames = prompt_weights(artifacts, row["policy"])
    weight, own = np.mean([frame["w0"] for frame in frames], axis=0), frames[0]["domain"] == row["domains"][0]
    return unpaired(weight[own], weight[~own], seed), 1.0


def gate_accuracy(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Share of test prompts that the gate sends to the expert of their domain; with a baseline, the gain over its gate."""

    def right(method: str) -> np.ndarray:
        frames = prompt_weights(artifacts, method)
        expert = frames[0]["domain"].map({domain: k for k, domain in enumerate(row["domains"])}).to_numpy()
        return np.mean([frame.filter(regex="^w").to_numpy().argmax(axis=1) == expert for frame in frames], axis=0)

    own = right(row["policy"])
    if "baseline" in row:
        return paired(own, right(row["baseline"]), seed), 1.0
    return proportion(own.mean(), len(own)), 1.0


def pretrained_gate_accuracy(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Share of the `split`'s prompts that the pretrained gate sends to the expert of their domain."""
    table = pd.read_csv(artifacts[f"gates:{row['experiment']}"] / "accuracy.csv").set_index("split")
    return proportion(table.loc[row["split"], "accuracy"], int(table.loc[row["split"], "prompts"])), 1.0


def heads_told_by_words(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Share of completions whose head a naive Bayes classifier of words tells, less chance; five folds of prompts."""
    experts = len(next(iter(head_order(artifacts, row["policy"]).values())))
    frames = [samples(artifacts, row["policy"], f"expert{k}").assign(head=k) for k in range(experts)]
    frame = pd.concat(frames, ignore_index=True)
    words = CountVectorizer(binary=True).fit_transform(frame["completion"])
    told = cross_val_predict(MultinomialNB(), words, frame["head"], groups=frame["prompt_id"], cv=GroupKFold(5))
    return proportion((told == frame["head"]).mean(), len(frame), 1 / experts), 1.0


def heads_told_by_parameters(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Share of rows of W_k − W_k(start) whose head their neighbours among other tokens tell, less chance; first seed.

    The rows are those of Figure 1, right, before t-SNE.
    """
    policy, reference = policies_in(artifacts, row["policy"])[0], artifacts[f"sft:{row['experiment']}"]
    differences, _ = learned_differences(artifacts[f"policies:{policy}"], reference)
    tokens, experts = moved_rows(differences, row["rows_per_head"]), len(differences)
    head, token = np.repeat(np.arange(experts), len(tokens)), np.tile(tokens, experts)
    rows, neighbours = differences[:, tokens].reshape(len(head), -1), KNeighborsClassifier(row["neighbours"])
    told = cross_val_predict(neighbours, rows, head, groups=token, cv=GroupKFold(5))
    return proportion((told == head).mean(), len(head), 1 / experts), 1.0


MEASURES: dict[str, Callable] = {
    "reward": reward_difference,
    "style_recovery": style_recovery,
    "posterior_spread": posterior_spread,
    "posterior_by_domain": posterior_by_domain,
    "weights_by_domain": weights_by_domain,
    "heads_told_by_words": heads_told_by_words,
    "heads_told_by_parameters": heads_told_by_parameters,
    "gate_accuracy": gate_accuracy,
    "pretrained_gate_accuracy": pretrained_gate_accuracy,
    "win_rate": win_rate_above_half,
}
"""What a claim is about → its measure; `config.MEASURES` says which keys of the row each needs."""

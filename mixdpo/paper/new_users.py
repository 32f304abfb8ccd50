"""Users unseen in training, known from a few comparisons: their weights are the posterior over the experts."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from mixdpo.data.posterior import posterior
from mixdpo.data.statistics import by_cluster
from mixdpo.paper.fair_trial import as_line
from mixdpo.paper.held_out import comparisons, right, weights_of
from mixdpo.paper.recovery import margins_of
from mixdpo.paper.scores import policies_in
from mixdpo.paper.table import Table
from mixdpo.paper.text import interval, number, percent, show
from mixdpo.stages.judgements import pair_scores

UNSEEN, SEEN, WINS = "unseen prompts", "seen prompts", "win rate"
HEADINGS = {UNSEEN: "Accuracy, unseen prompts", SEEN: "Accuracy, seen prompts", WINS: "Win rate, %"}


def new_users_table(form: dict, artifacts: dict[str, Path]) -> Table:
    """For each method, unseen users by m, the number of their comparisons that are known, and seen users.

    Accuracy is the share of comparisons with P > 1/2, on test prompts and on prompts of the training instructions: of
    unseen users their comparisons that were not drawn, of seen users those of validation. The win rate against
    `opponent` is that of an expert drawn from the weights of a user of the prompt's style, a tie half a win. Draws are
    averaged first. `less seen` is unseen less seen users on the same test prompts.
    """
    table = Table()
    for entry in form["rows"]:
        found = by_known(form, artifacts, entry)
        for users, values in found.items():
            row = table.row(entry["name"], experiment=form["experiment"])
            row.label("Model")
            row.label("Users", users)
            for column, heading in HEADINGS.items():
                line = {"row": entry["name"], "users": users, "column": column}
                line |= as_line(values.get(column, np.nan), shares=True)
                shown = percent if column == WINS else show
                row.number(heading, shown(line["mean"], line["se"]), [line], column=column)
            if users != "seen":
                difference = np.asarray(values[UNSEEN]) - np.asarray(found["seen"][UNSEEN])
                line = {"row": entry["name"], "users": users, "column": "less seen"} | as_line(difference)
                text = f"{number(line['mean'], sign='+')} {interval(line['low'], line['high'])}"
                row.number("Unseen prompts, less seen users [95 %]", text, [line], column="less seen")
            row.number("n (seeds, users)", f"{len(values[UNSEEN])}, {values['users']}")
    return table


def by_known(form: dict, artifacts: dict[str, Path], entry: dict) -> dict[str, dict]:
    """`unseen, m = M` for each M of `comparisons`, and `seen` → values (seeds, prompts) of each column, and users."""
    splits = [comparisons(entry, artifacts, split) for split in ("validation", "test", "support")]
    scores = expert_scores(artifacts, entry["policy"], form["opponent"])
    found: dict = defaultdict(lambda: defaultdict(list))
    for seed, (validation, test, support) in enumerate(zip(*splits, strict=True)):
        known = seen_users(validation, test)
        prior = np.average(list(known["by user"].values()), axis=0)
        groups = unseen_users(support, test, prior, form) | {"seen": known}
        prompts = sorted(test["prompt"].unique())
        for users, group in groups.items():
            found[users]["users"] = len(group["by user"])
            found[users][UNSEEN].append(shares(group[UNSEEN], prompts))
            found[users][SEEN].append(shares(group[SEEN]))
            if scores:
                found[users][WINS].append(wins(scores[seed], group["by user"], group["styles"]))
    return found


def shares(frame: pd.DataFrame, prompts: list | None = None) -> np.ndarray:
    """Values by prompt whose mean is that of all comparisons; NaN where there are none."""
    return by_cluster(frame["value"], frame["prompt"], prompts) if len(frame) else np.full(len(prompts or [0]), np.nan)


def seen_users(validation: pd.DataFrame, test: pd.DataFrame) -> dict:
    """Comparisons of seen users (`prompt`, `value`: right or not) under their own weights, and these by user."""
    parts = {SEEN: validation, UNSEEN: test[test["seen"]]}
    rows = pd.concat(parts.values(), ignore_index=True)
    weights = pd.DataFrame(weights_of(rows)).groupby(rows["user"]).mean()
    found = {n: f[["prompt"]].assign(value=right(weights_of(f), margins_of(f))) for n, f in parts.items()}
    return found | {"by user": dict(zip(weights.index, weights.to_numpy())), "styles": styles_of(rows)}


def styles_of(rows: pd.DataFrame) -> dict[str, str]:
    return rows.drop_duplicates("user").set_index("user")["style"].to_dict()


def unseen_users(support: pd.DataFrame, test: pd.DataFrame, prior: np.ndarray, form: dict) -> dict[str, dict]:
    """`unseen, m = M` → what `seen_users` gives, of the unseen users under their posterior after M comparisons.

    Users have `draws` orders of their comparisons, the first M of which are known, so that a larger M adds to a smaller
    one. Values and weights are means over the draws. Users with fewer comparisons than the largest M are left out.
    """
    rng, most = np.random.default_rng(form["seed"]), max(form["comparisons"])
    found = {m: {UNSEEN: [], SEEN: [], "by user": {}, "styles": styles_of(support)} for m in form["comparisons"]}
    for user, own in support.groupby("user"):
        later, margins = test[test["user"] == user], margins_of(own)
        orders = np.argsort(rng.random((form["draws"], len(own))), axis=1)
        for m in form["comparisons"] if len(own) >= most else []:
            weights = posterior(prior, margins[orders[:, :m]])  # (draws, K)
            hits = {UNSEEN: right(weights[:, None], margins_of(later)), SEEN: right(weights[:, None], margins)}
            np.put_along_axis(hits[SEEN], orders[:, :m], np.nan, axis=1)
            frames = {UNSEEN: later[["prompt"]], SEEN: own[["prompt"]]}
            for name, frame in frames.items():
                kept = ~np.isnan(hits[name]).all(axis=0)
                found[m][name].append(frame[kept].assign(value=np.nanmean(hits[name][:, kept], axis=0)))
            found[m]["by user"][user] = weights.mean(axis=0)
    nobody = pd.DataFrame({"prompt": [], "value": []})
    return {
        f"unseen, m = {m}": one | {name: pd.concat([nobody, *one[name]]) for name in (UNSEEN, SEEN)}
        for m, one in found.items()
    }


def expert_scores(artifacts: dict[str, Path], method: str, opponent: str) -> list[pd.DataFrame]:
    """Scores of each expert's completions against the opponent's, by prompt: style, and 0 to K − 1; a frame a seed."""
    found = []
    for policy in policies_in(artifacts, method, "judgements"):
        frame = pd.read_parquet(artifacts[f"judgements:{policy}"] / "judgements.parquet")
        own = frame["decoding"].str.fullmatch(r"expert\d+") & (frame["opponent"] == opponent)
        pairs = pair_scores(frame[own])
        pairs["decoding"] = pairs["decoding"].str.removeprefix("expert").astype(int)
        found.append(pairs.pivot(index=["prompt_id", "style"], columns="decoding", values="score").reset_index("style"))
    return found


def wins(scores: pd.DataFrame, weights: dict[str, np.ndarray], styles: dict[str, str]) -> np.ndarray:
    """By prompt: the mean score under the mean weights of the users of the prompt's style; NaN where one is unknown."""
    by_style = pd.DataFrame(weights).T.groupby(styles).mean()
    each = scores.drop(columns="style")
    return (by_style.reindex(index=scores["style"], columns=each.columns).to_numpy() * each.to_numpy()).sum(axis=1)

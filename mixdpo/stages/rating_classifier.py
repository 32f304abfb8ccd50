"""A judge learned from ratings: for each aspect, a logistic regression on the words of a response and its instruction.

It is trained on the ratings of training instructions; how well it orders rated responses to test instructions is
written beside it.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from mixdpo.data.feedback import read_feedback
from mixdpo.errors import UserError
from mixdpo.method.runtime import Runtime

FILE = "classifier.safetensors"
FEATURES = 2**18
STRENGTHS = (1.0, 3.0, 10.0)
"""Inverse strengths of the ℓ2 penalty; the one of the best AUC by cross-validation over instructions is taken."""


def marks(text: tuple[str, str]) -> list[str]:
    """What is counted in an (instruction, response): the response's n-grams of one to three words, each of its words
    with the one or two words that the instruction begins with, its length, and its overlap with the instruction."""
    asked, said = (re.findall(r"\w+|[^\w\s]", part.lower()) for part in text)
    words = sorted({*said})
    grams = [" ".join(said[i : i + n]) for n in (1, 2, 3) for i in range(len(said) - n + 1)]
    crossed = [f"{' '.join(asked[:n])}|{word}" for n in (1, 2) for word in words]
    overlap = int(5 * len({*asked} & {*said}) / max(1, len(words)))
    return [*grams, *crossed, f"length|{min(len(said), 30)}", f"overlap|{overlap}"]


def counted(texts: Sequence[tuple[str, str]]) -> csr_array:
    """(N, `FEATURES`): 1 where a text has a mark. Marks are hashed, so no vocabulary is kept."""
    how = {"analyzer": marks, "alternate_sign": False, "norm": None, "binary": True}
    return HashingVectorizer(n_features=FEATURES, **how).transform(texts)


def scores(texts: Sequence[tuple[str, str]], styles: Sequence[str], folder: Path) -> dict[str, np.ndarray]:
    """For each style the log-odds (N,) that the classifiers of `folder` give (instruction, response) pairs."""
    kept = load_file(folder / FILE)
    inputs = TfidfTransformer()
    inputs.idf_ = kept["idf"]
    x = inputs.transform(counted(texts))
    return {style: x @ kept[f"{style}.weight"] + kept[f"{style}.bias"] for style in styles}


def rating_classifier(out: Path, spec: dict, *, runtime: Runtime, resume: Path, feedback: Path) -> None:
    """Write `classifier.safetensors` (idf (F,); of each aspect weight (F,) and bias (1,)) and `validity.csv`.

    A response counts as high in an aspect if its rating is above the mean of the training ratings.
    """
    train, test = (read_feedback(feedback, split) for split in ("train", "test"))
    x = counted(pairs_of(train))
    inputs = TfidfTransformer().fit(x)
    kept, there = {"idf": inputs.idf_}, np.unique(x.indices)  # fitting takes time for every column
    x = inputs.transform(x)[:, there]
    for aspect in spec["aspects"]:
        high = (train[aspect] > train[aspect].mean()).to_numpy()
        if not high.any():
            raise UserError(
                f"{feedback}: expected training ratings of {aspect} that differ, found {train[aspect].iloc[0]:g} in "
                f"all {len(train)}; set judge.rating.scorer to model, or correct assets.feedback"
            )
        model = best(x, high, train["prompt_id"])
        weight = np.zeros(FEATURES)
        weight[there] = model.coef_[0]
        kept |= {f"{aspect}.weight": weight, f"{aspect}.bias": model.intercept_}
    save_file(kept, out / FILE)
    given = scores(pairs_of(test), spec["aspects"], out)
    rows = [row for aspect in spec["aspects"] for row in validity(test, aspect, given[aspect], train[aspect].mean())]
    pd.DataFrame(rows).to_csv(out / "validity.csv", index=False)


def pairs_of(frame: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(frame["instruction"], frame["response"], strict=True))


def best(x: csr_array, high: np.ndarray, instructions: pd.Series) -> LogisticRegression:
    """The regression with the best of `STRENGTHS`, judged on instructions that it was not trained on."""
    folds = GroupKFold(min(5, instructions.nunique()))
    models = [LogisticRegression(C=strength, solver="liblinear", random_state=0) for strength in STRENGTHS]
    how = {"groups": instructions, "cv": folds, "method": "decision_function"}
    found = [roc_auc_score(high, cross_val_predict(model, x, high, **how)) for model in models]
    return models[int(np.argmax(found))].fit(x, high)


def validity(test: pd.DataFrame, aspect: str, given: np.ndarray, middle: float) -> list[dict]:
    """AUC of high against low responses, and the share of a question's pairs, ties left out, that are ordered rightly:
    aspect, measure, value, se, n (responses or pairs) and instructions.

    `se` is the jackknife's over instructions, because the responses to one are alike.
    """
    frame = pd.DataFrame({"prompt": test["prompt_id"], "rating": test[aspect], "score": given})
    pairs = frame.merge(frame, on="prompt", suffixes=("", "_lower")).query("rating > rating_lower")
    right = np.where(pairs["score"] == pairs["score_lower"], 0.5, pairs["score"] > pairs["score_lower"])

    def auc(rows: pd.DataFrame) -> float:
        high = rows["rating"] > middle
        return float(roc_auc_score(high, rows["score"])) if 0 < high.sum() < len(high) else float("nan")

    def share(rows: pd.DataFrame) -> float:
        return float(rows["right"].mean())

    measured = ("AUC", frame, auc), ("pairs ordered rightly", pairs.assign(right=right), share)
    return [
        {"aspect": aspect, "measure": name, "value": measure(rows), "se": jackknife(rows, measure), "n": len(rows)}
        | {"instructions": rows["prompt"].nunique()}
        for name, rows, measure in measured
    ]


def jackknife(rows: pd.DataFrame, measure: Callable[[pd.DataFrame], float]) -> float:
    """Standard error of a measure over the prompts of `rows`: each is left out once."""
    prompts = rows["prompt"].unique()
    without = np.array([measure(rows[rows["prompt"] != prompt]) for prompt in prompts])
    return float(np.sqrt((len(prompts) - 1) * without.var())) if len(prompts) > 1 else float("nan")

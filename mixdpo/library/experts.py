"""The table of a policy's experts: which preferences each is responsible for, and how often it is right."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.special import expit

from mixdpo.data.statistics import mean_and_se
from mixdpo.method.policy import Policy
from mixdpo.method.runtime import Runtime

CAPTION = """**Experts on n validation triplets** (mean ± SE; q: an expert's responsibility for a triplet; accuracy:
share of triplets whose chosen completion gains more over the reference, under that expert, than the rejected one)"""


@torch.no_grad()
def expert_tables(out: Path, spec: dict, *, runtime: Runtime, resume: Path, policy: Path, preferences: Path) -> None:
    """Write `experts.csv`, the table of `expert_table`, and `experts.md`, the same as it is read."""
    frame = pd.read_parquet(preferences / "validation.parquet")
    if spec["styles"] is not None:
        frame = frame[frame["style"].isin(spec["styles"])]
    users = frame["user"].tolist() if "user" in frame else None
    log_w = Policy.from_pretrained(policy / "model", runtime).log_weights(frame["prompt_ids"].tolist(), users)
    table = expert_table(pd.read_parquet(policy / "responsibilities.parquet"), log_w.exp().cpu().numpy())
    table.to_csv(out / "experts.csv", index=False)
    texts = [
        f"{mean:.3f}" if np.isnan(se) else f"{mean:.3f} ± {se:.3f}"  # a single triplet has no SE
        for mean, se in table[["mean", "se"]].to_numpy()
    ]
    cells = table.assign(cell=texts)
    cells = cells.pivot(index=[table.columns[0], "n"], columns="column", values="cell")[list(table["column"].unique())]
    text = cells.reset_index().to_markdown(index=False, disable_numparse=True)
    (out / "experts.md").write_text(f"{CAPTION}\n\n{text}\n")


def expert_table(found: pd.DataFrame, weights: np.ndarray) -> pd.DataFrame:
    """Numbers about the experts on validation triplets: style (or user, or preferences), column, mean, se, n.

    `found` is responsibilities.parquet, `weights`, (N, K), are the mixture weights of its rows. Columns: q0 to qK−1,
    mean responsibilities; accuracy0 to accuracyK−1, shares of margin_k > 0; accuracy of the mixture, the share of Σ_k
    w_k sigmoid(margin_k) > 1/2. Without styles or users there is one row, `all`.
    """
    label = next((column for column in ("style", "user") if column in found), "preferences")
    rows = found[label] if label in found else pd.Series("all", index=found.index)
    experts = range(weights.shape[1])
    margins = found[[f"margin{k}" for k in experts]].to_numpy()
    values = {f"q{k}": found[f"q{k}"].to_numpy() for k in experts}
    values |= {f"accuracy{k}": margins[:, k] > 0 for k in experts}
    values["accuracy of the mixture"] = (weights * expit(margins)).sum(axis=1) > 0.5
    table = []
    for row in sorted(rows.unique()):
        here = (rows == row).to_numpy()
        for column, value in values.items():
            mean, se = mean_and_se(value[here])
            table.append({label: row, "column": column, "mean": mean, "se": se, "n": int(here.sum())})
    return pd.DataFrame(table)

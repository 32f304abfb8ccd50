"""What does EM do to heads that were each taught one style?

Needs the results of `make`. Trains Mix-DPO Case 1 of the embedded run three ways: (a) EM from the default
perturbation; (b) head k on the triplets of style k alone; (c) EM from there, for as many epochs. For each it prints,
on the validation triplets, −log P of (5), the share of triplets whose style argmax q recovers (experts matched to
styles), and for every style the accuracy of the head that orders most of its pairs right.

With one seed and the default 3 epochs the heads of (b) learn little of their styles, so (c) does not tell whether EM
would keep specialists. Before drawing a conclusion, teach them longer (`--epochs`) and look at their accuracy.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from tabulate import tabulate

from mixdpo.method.fit import fit, training_batches
from mixdpo.method.initial import build
from mixdpo.method.language import TokenBatch
from mixdpo.method.losses import expert_loss
from mixdpo.method.objective import PreferenceObjective
from mixdpo.method.runtime import Runtime
from mixdpo.method.settings import Experts, Method, Optimiser
from mixdpo.method.triplets import Triplets

STYLES = ["sentiment", "informativeness", "grammar"]


def train(objective: PreferenceObjective, data: Triplets, loss, after_step) -> None:
    optimiser, how = objective.method.optimiser, {"seed": 0, "runtime": objective.runtime, "after_step": after_step}
    groups = training_batches(data.group_lengths, epochs=optimiser.epochs, batch_size=optimiser.batch_size, seed=0)
    objective.prepare(data, [data.rows(g) for g in groups])
    with tempfile.TemporaryDirectory() as resume:
        fit(objective, len(groups), objective.parts, loss, optimiser=optimiser, resume=Path(resume), **how)


def taught(objective: PreferenceObjective, data: Triplets):
    """The expert losses (11) with q one-hot at the style of each triplet."""
    expert = torch.tensor(data.labels["style"].map({style: k for k, style in enumerate(STYLES)}).to_numpy())

    def loss(part: dict):
        batch = TokenBatch(*(part[name] for name in ("tokens", "places", "targets", "rows")))
        reference = objective.reference[part["triplet"]]
        log_ratio = objective.log_probs(batch, part["chosen"], part["rejected"]) - reference[:, None]
        q = torch.nn.functional.one_hot(expert[part["triplet"]], len(STYLES)).float()
        losses = expert_loss(log_ratio, q, torch.zeros_like(log_ratio), objective.method.beta).sum(dim=1)
        return (losses * part["share"]).sum(), {}

    return loss


@torch.no_grad()
def measure(name: str, objective: PreferenceObjective, data: Triplets) -> dict:
    figures, q = objective.evaluate(data)
    counts = pd.crosstab(q.filter(regex="^q").to_numpy().argmax(axis=1), q["style"]).reindex(range(3), fill_value=0)
    experts, styles = linear_sum_assignment(-counts.to_numpy())
    texts, (chosen, rejected) = data.texts_of(np.arange(len(data.chosen)))
    with objective.runtime.autocast():
        log_probs = objective.log_probs(data.tokens(texts, "cpu"), torch.tensor(chosen), torch.tensor(rejected))
    log_ratio = log_probs - torch.tensor(data.reference)[:, None]
    right = pd.DataFrame((log_ratio[..., 0] > log_ratio[..., 1]).numpy()).groupby(data.labels["style"]).mean()
    best = {f"{style}, best head": right.loc[style].max() for style in STYLES}
    recovered = counts.to_numpy()[experts, styles].sum() / len(q)
    return {"experts": name, "nll": figures["nll"], "kl": figures["kl"], "style recovered": recovered} | best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/embedded"))
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    runtime, folder = Runtime.choose("cpu", "auto", 1), arguments.results
    method = Method(Experts(heads=3), optimiser=Optimiser(epochs=arguments.epochs))  # mix_case1
    data = {
        split: Triplets(
            *(
                pd.read_parquet(folder / f"{stage}/multi_reward/{split}.parquet")
                for stage in ("preferences", "reference_log_probs")
            )
        )
        for split in ("train", "validation")
    }

    def fresh() -> PreferenceObjective:
        policy = build(method, folder / "sft/multi_reward/model", runtime, seed=0)
        return PreferenceObjective(policy, method, runtime)

    def em(objective: PreferenceObjective) -> None:
        train(objective, data["train"], objective.loss, objective.after_step)

    objective, lines = fresh(), []
    em(objective)
    lines.append(measure("EM from perturbed copies", objective, data["validation"]))
    objective = fresh()
    train(objective, data["train"], taught(objective, data["train"]), lambda: None)
    lines.append(measure("taught by style", objective, data["validation"]))
    em(objective)
    lines.append(measure("EM from those taught by style", objective, data["validation"]))
    print(tabulate(lines, headers="keys", tablefmt="github", floatfmt=".3f"))


if __name__ == "__main__":
    main()

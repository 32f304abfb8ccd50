"""Kinds of tables, figures and claims, each registered once.

Importing this imports none of the code that makes them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

SE = "± SE for new seeds and prompts (SD/√n over prompts with one seed)"
"""Of a mean over training seeds and test prompts: `statistics.hierarchical`."""
SAMPLES = ("completions", "rewards", "policies")


def within(artifacts: dict[str, Path], experiment: str | None) -> dict[str, Path]:
    """The artifacts of one experiment, its policies named `stage:policy`; all of them if it is None."""
    if experiment is None:
        return artifacts
    parts = {name: name.partition(":") for name in artifacts}
    own = {name: rest.removeprefix(f"{experiment}/") for name, (_, _, rest) in parts.items()}
    return {f"{parts[name][0]}:{rest}": artifacts[name] for name, rest in own.items()}


@dataclass(frozen=True)
class Kind:
    """What makes a kind of table or figure: `function` of `module`, from its published form and its artifacts.

    It reads what the stages in `policies` made for each of its policies, those in `experiments` for each experiment and
    those in `run` for the run, with their run records if `records`. `statistic` says what its numbers are.
    """

    module: str
    function: str
    policies: tuple[str, ...] = ()
    experiments: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    records: bool = False
    statistic: str = ""
    figure: bool = False

    def load(self) -> Callable:
        return getattr(import_module(self.module), self.function)

    def make(self, form: dict, artifacts: dict[str, Path]) -> Any:
        """A `Table`, or a figure and the frame of what it draws. `artifacts` are named as in `graph.table_inputs`."""
        return self.load()(form, within(artifacts, form.get("experiment")))


KINDS = {
    "rewards": Kind(
        "mixdpo.paper.rewards",
        "rewards_table",
        policies=SAMPLES,
        statistic=f"mean over training seeds and test prompts {SE}",
    ),
    "alignment": Kind(
        "mixdpo.paper.rewards",
        "alignment_table",
        policies=SAMPLES,
        statistic=f"mean difference to the reference on the same prompts {SE}",
    ),
    "best_experts": Kind(
        "mixdpo.paper.rewards",
        "best_experts_table",
        policies=SAMPLES,
        statistic=f"mean difference to the baseline on the same prompts {SE}; shares of test triplets",
    ),
    "comparisons": Kind(
        "mixdpo.paper.comparisons",
        "comparisons_table",
        policies=SAMPLES,
        statistic=f"mean difference to the baseline on the same prompts {SE}; p likewise (one seed: Wilcoxon)",
    ),
    "claims": Kind(
        "mixdpo.paper.claims",
        "claims_table",
        policies=(*SAMPLES, "judgements"),
        experiments=("sft", "gates"),
        statistic="effect ± SE and 95 % interval for new seeds and prompts; p Holm-corrected over what is judged",
    ),
    "sensitivity": Kind(
        "mixdpo.paper.claims",
        "sensitivity_table",
        policies=SAMPLES,
        experiments=("sft", "gates"),
        statistic="effect of a claim under a setting; verdicts corrected by Holm within the setting",
    ),
    "ablations": Kind(
        "mixdpo.paper.ablations",
        "ablations_table",
        policies=SAMPLES,
        records=True,
        statistic=f"mean {SE}; entropies over test prompts or test triplets",
    ),
    "win_rates": Kind(
        "mixdpo.paper.users",
        "win_rates_table",
        policies=("judgements", "completions"),
        statistic=f"mean over pairs {SE}, each the mean of its two orders, a tie half a win; KL over test prompts",
    ),
    "length_bias": Kind(
        "mixdpo.paper.users",
        "length_bias_table",
        policies=("judgements",),
        statistic=f"mean over the pairs of that length {SE}, a tie half a win",
    ),
    "users": Kind(
        "mixdpo.paper.users",
        "users_table",
        policies=("completions", "policies"),
        experiments=("preferences",),
        statistic=f"share of users [95 % interval], or mean {SE}",
    ),
    "gates": Kind(
        "mixdpo.paper.runs",
        "gates_table",
        policies=("completions",),
        experiments=("gates",),
        statistic=f"share of prompts {SE}",
    ),
    "validity": Kind(
        "mixdpo.paper.runs",
        "validity_table",
        run=("validity",),
        statistic="area under the ROC curve, or share of pairs ordered rightly",
    ),
    "judge_validity": Kind(
        "mixdpo.paper.runs",
        "judge_validity_table",
        run=("rating_classifier",),
        statistic="area under the ROC curve, or share of pairs ordered rightly, ± jackknife SE over instructions",
    ),
    "perplexity": Kind(
        "mixdpo.paper.runs",
        "perplexity_table",
        experiments=("sft",),
        statistic="exp of the mean negative log-likelihood per token",
    ),
    "preferences": Kind(
        "mixdpo.paper.runs",
        "preferences_table",
        experiments=("preferences",),
        statistic="counts (each test pair has two users of a style); shares of the pairs that neither style ties",
    ),
    "compute": Kind(
        "mixdpo.paper.runs",
        "compute_table",
        records=True,
        statistic="sums over jobs, and the largest resident set of one",
    ),
    "fair_trial": Kind(
        "mixdpo.paper.fair_trial",
        "fair_trial_table",
        policies=SAMPLES,
        statistic=f"mean over training seeds and test prompts {SE}, intervals likewise",
    ),
    "frontier": Kind(
        "mixdpo.paper.frontier",
        "frontier_table",
        policies=SAMPLES,
        statistic=f"mean over training seeds and test prompts {SE}, intervals likewise",
    ),
    "held_out": Kind(
        "mixdpo.paper.held_out",
        "held_out_table",
        policies=("policies",),
        statistic=f"share of the comparisons with P > 1/2 {SE}",
    ),
    "new_users": Kind(
        "mixdpo.paper.new_users",
        "new_users_table",
        policies=("policies", "judgements"),
        statistic=f"mean {SE}, averaged over draws of the comparisons first",
    ),
    "posteriors": Kind("mixdpo.paper.figures.posteriors", "posteriors", ("policies",), ("sft",), figure=True),
    "words": Kind("mixdpo.paper.figures.words", "words", ("completions", "policies"), figure=True),
    "tasks": Kind("mixdpo.paper.figures.tasks", "tasks", ("completions", "policies"), figure=True),
    "confusion": Kind("mixdpo.paper.figures.confusion", "confusion", ("completions",), figure=True),
    "user_map": Kind("mixdpo.paper.figures.users", "user_map", ("policies",), figure=True),
    "annotators": Kind("mixdpo.paper.figures.annotators", "annotators", SAMPLES, figure=True),
    "frontier_map": Kind("mixdpo.paper.figures.frontier", "frontier_map", SAMPLES, figure=True),
    "new_users_curve": Kind(
        "mixdpo.paper.figures.new_users", "new_users_curve", ("policies", "judgements"), figure=True
    ),
    "forest": Kind("mixdpo.paper.figures.forest", "forest", (*SAMPLES, "judgements"), ("sft", "gates"), figure=True),
}
"""Name in the published form → kind."""

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
"""What a claim can be about → the keys that its row needs. Its function in `mixdpo.paper.measures` has that name."""

EXPERIMENTS = {"multi_reward": "movie reviews, three rewards", "multi_task": "movies and books", "multi_user": "users"}


def in_words(name: str) -> str:
    """An experiment, style, reward or stage as it is printed."""
    return EXPERIMENTS.get(name, name.replace("_", " "))

"""Triplets that share their expert: incremental EM, the bound, and what a policy knows of its users."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import changed, minibatch, spec_of, steps_of

from mixdpo.data.posterior import posterior
from mixdpo.errors import UserError
from mixdpo.method.fit import fit
from mixdpo.method.initial import build
from mixdpo.method.language import load_language_model
from mixdpo.method.losses import elbo, log_bradley_terry, mixture_weights, responsibilities
from mixdpo.method.objective import PreferenceObjective
from mixdpo.method.policy import Policy
from mixdpo.method.settings import Method
from mixdpo.method.triplets import Triplets
from mixdpo.method.units import Units
from mixdpo.method.weights import GlobalWeights
from mixdpo.stages.policies import policies

# Incremental EM on free rewards: 30 prompts of 3 responses, 24 annotators of three styles, 6 comparisons each.


class FreeRewards:
    """Rewards (K, P, R) that nothing ties from prompt to prompt, and annotators whose comparisons are drawn from three
    true ones."""

    def __init__(self, experts: int = 3, prompts: int = 30, annotators: int = 24, each: int = 6):
        generator = torch.Generator().manual_seed(0)
        true = 3 * torch.randn(3, prompts, 3, generator=generator)
        self.annotator = torch.arange(annotators).repeat_interleave(each)
        self.prompt = torch.randint(prompts, (len(self.annotator),), generator=generator)
        first = torch.randint(3, self.prompt.shape, generator=generator)
        second = (first + torch.randint(1, 3, self.prompt.shape, generator=generator)) % 3
        self.style = self.annotator % 3
        margin = true[self.style, self.prompt, first] - true[self.style, self.prompt, second]
        won = torch.rand(margin.shape, generator=generator) < margin.sigmoid()
        self.chosen, self.rejected = torch.where(won, first, second), torch.where(won, second, first)
        self.rewards = 0.1 * torch.randn(experts, prompts, 3, generator=generator)
        self.log_w = torch.full((experts,), -np.log(experts))
        self.units = Units(self.annotator.tolist(), [str(i) for i in range(annotators)], experts)

    def utility(self, rewards: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """log σ_k (B, K) of these triplets."""
        chosen, rejected = (rewards[:, self.prompt[rows], side[rows]] for side in (self.chosen, self.rejected))
        return torch.nn.functional.logsigmoid(chosen - rejected).T

    def bound(self) -> float:
        """Theorem 1's bound over all annotators, at the kept posteriors and today's rewards and weights."""
        every = torch.arange(len(self.annotator))
        fit = (self.units.q[self.annotator] * self.utility(self.rewards, every)).sum()
        q = self.units.q[:-1]
        return (fit - (torch.xlogy(q, q) - q * self.log_w).sum()).item()

    def em(self, rows: torch.Tensor) -> list[float]:
        """One step on these triplets: E-step, M-step of rewards and weights; the bound after each."""
        sums, _ = self.units.see(rows, self.utility(self.rewards, rows))
        self.units.keep(rows, responsibilities(self.log_w, sums))
        bounds = [self.bound()]
        for _ in range(3):  # gradient steps of the expert losses, small enough to go up
            rewards = self.rewards.clone().requires_grad_()
            q = self.units.q[self.annotator[rows]]
            (gradient,) = torch.autograd.grad(-(q * self.utility(rewards, rows)).sum(), rewards)
            self.rewards = self.rewards - 0.3 * gradient
        bounds.append(self.bound())
        self.units.see(rows, self.utility(self.rewards, rows))
        self.log_w = mixture_weights(self.units.mean_q()[None])
        return [*bounds, self.bound()]

    def recovered(self) -> float:
        counts = pd.crosstab(self.units.q[:-1].argmax(dim=1).numpy(), np.arange(len(self.units.names)) % 3)
        return counts.max(axis=0).sum() / len(self.units.names)


def test_the_bound_never_falls_and_incremental_em_ends_where_full_batch_em_does():
    """Minibatches of 12 prompts cut across annotators; each annotator's other comparisons count as last seen."""
    ends = {}
    for batch in (12, 30):
        world = FreeRewards()
        world.em(torch.arange(len(world.annotator)))  # all seen once
        bounds = [world.bound()]
        for step in range(400):
            prompts = torch.randperm(30, generator=torch.Generator().manual_seed(step))[:batch]
            bounds += world.em(torch.isin(world.prompt, prompts).nonzero()[:, 0])
        assert np.diff(bounds).min() > -1e-4
        ends[batch] = bounds[-1]
    assert ends[12] == pytest.approx(ends[30], rel=0.1) and ends[30] > bounds[0] / 2


def test_one_step_of_full_batch_em_by_hand():
    """Two comparisons of one annotator: σ = (3/4, 1/2) and (1/4, 1/2), so q ∝ (3/16, 1/4) under w = 1/2."""
    units = Units([0, 0], ["ann"], 2)
    utility = torch.tensor([[0.75, 0.5], [0.25, 0.5]]).log()
    first, count = units.see(torch.tensor([0]), utility[:1])
    torch.testing.assert_close(first, utility[:1])  # the other is not seen yet, and adds nothing
    sums, count = units.see(torch.tensor([1, 2]), utility[[1, 0]])  # the last row is filler
    assert count.tolist() == [2, 1] and sums[1].tolist() == [0, 0]
    q = responsibilities(torch.full((2,), 0.5).log(), sums[:1])
    torch.testing.assert_close(q, torch.tensor([[3 / 7, 4 / 7]]))
    units.keep(torch.tensor([1]), q)
    torch.testing.assert_close(units.mean_q(), q[0])


def test_the_divergence_of_a_unit_is_paid_once():
    """Σ over a unit's triplets of the bound is log Σ_k w_k ∏ σ_k at the posterior."""
    r, log_w = torch.randn(5, 3, 2), torch.tensor([0.5, 0.3, 0.2]).log()
    together = log_bradley_terry(r).sum(dim=0)
    q = responsibilities(log_w, together).expand(5, -1)
    bound = elbo(log_w.expand(5, -1), r, q, count=5.0).sum()
    torch.testing.assert_close(bound, (log_w + together).logsumexp(dim=0))
    assert elbo(torch.tensor([[0.0, -torch.inf]]), r[:1, :2], torch.tensor([[1.0, 0.0]])).isfinite().all()


# In training


@pytest.fixture
def annotated(preferences_folder) -> Triplets:
    """30 triplets of 10 prompts; users are two of each style, annotators have several styles."""
    frame = pd.read_parquet(preferences_folder / "preferences/train.parquet")
    frame["user"] = [f"{style}-{i % 2}" for i, style in enumerate(frame["style"])]
    frame["annotator_5"] = [f"annotator-{i % 5}" for i in range(len(frame))]
    return Triplets(frame, pd.read_parquet(preferences_folder / "reference_log_probs/train.parquet"))


def trained(method: Method, model, triplets: Triplets, runtime, resume) -> PreferenceObjective:
    objective = PreferenceObjective(build(method, model, runtime, seed=0), method, runtime)
    objective.policy.beta = method.beta
    objective.prepare(triplets, steps_of(method, triplets))
    how = {"optimiser": method.optimiser, "seed": 0, "runtime": runtime, "resume": resume}
    fit(objective, len(objective.batches), objective.parts, objective.loss, **how, after_step=objective.after_step)
    return objective


@pytest.mark.parametrize("unit", ["prompt", "user", "annotator_5"])
@pytest.mark.parametrize("experts", [{"heads": 3}, {"models": 2}, {"adapters": 2}], ids=str)
def test_a_unit_has_one_posterior_of_all_its_triplets(unit, experts, model_folder, annotated, method, runtime):
    """All triplets in one minibatch: q is w ∏ σ over the unit, alike for its triplets, and the bound is log P of the
    units over triplets."""
    method = changed(
        method, experts=experts | {"perturbation": 0.5}, posterior={"unit": unit}, reward_update="implicit"
    )
    objective = PreferenceObjective(build(method, model_folder, runtime, seed=0), method, runtime)
    _, shown = minibatch(objective, annotated, np.arange(30))
    _, single = objective.evaluate(annotated)
    utility = torch.tensor(single.filter(regex="^margin").to_numpy()).sigmoid().log()
    number, names = annotated.units(unit)
    log_w = -np.log(utility.shape[1])
    total = torch.zeros(len(names), utility.shape[1]).index_add(0, torch.from_numpy(number), utility)
    torch.testing.assert_close(objective.posteriors(), (total + log_w).softmax(dim=1), rtol=1e-3, atol=1e-5)
    assert shown["elbo"] == pytest.approx((total + log_w).logsumexp(dim=1).sum().item() / 30, rel=1e-3)
    if unit == "prompt":  # of each style, since there are users: of each user
        assert len(names) == 30
    table = objective.unit_table()
    assert table["n"].sum() == 30 and set(table["unit"]) == set(names)
    assert (table["style"] != "").all() == (unit != "annotator_5")


def test_minibatches_renew_what_is_kept_and_the_weights_follow_all_units(
    model_folder, annotated, method, runtime, tmp_path
):
    method = changed(method, posterior={"unit": "user"}, optimiser={"learning_rate": 1e-12, "epochs": 1})
    objective = trained(method, model_folder, annotated, runtime, tmp_path)
    _, single = objective.evaluate(annotated)
    utility = torch.tensor(single.filter(regex="^margin").to_numpy()).sigmoid().log()
    assert (objective.units.utility[:-1] != 0).all()
    torch.testing.assert_close(objective.units.utility[:-1].mean(), utility.mean(), rtol=0.05, atol=0)
    torch.testing.assert_close(objective.policy.weights.log_w.exp(), objective.units.mean_q(), rtol=1e-4, atol=1e-4)


def test_taught_experts_learn_from_their_style_alone(model_folder, annotated, method, runtime, tmp_path):
    styles = ["grammar", "sentiment"]
    method = changed(method, experts={"heads": 2}, posterior={"taught": styles}, optimiser={"epochs": 8})
    rows = {style: np.flatnonzero(annotated.labels["style"] == style) for style in annotated.labels["style"].unique()}
    objective = PreferenceObjective(build(method, model_folder, runtime, seed=0), method, runtime)
    value, _ = minibatch(objective, annotated, rows["informativeness"])
    assert value.item() == 0  # nobody's style
    tables = trained(method, model_folder, annotated, runtime, tmp_path).evaluate(annotated)[1]
    margin = tables.groupby("style")[["margin0", "margin1"]].mean()
    for k, style in enumerate(styles):
        assert margin.loc[style].idxmax() == f"margin{k}"
    with pytest.raises(UserError, match=r"posterior.taught: expected 2 styles, one for each expert, found 1"):
        changed(method, posterior={"taught": ["grammar"]})


def test_annealing_weighs_comparisons_less_at_first(model_folder, annotated, method, runtime):
    posterior = {"unit": "user", "annealing": 10.0}
    method = changed(method, experts={"heads": 2, "perturbation": 0.5}, posterior=posterior, reward_update="implicit")
    objective = PreferenceObjective(build(method, model_folder, runtime, seed=0), method, runtime)
    objective.prepare(annotated, [np.arange(30)] * 4)
    utility, log_w = torch.randn(30, 2), torch.full((30, 2), 0.5).log()
    found = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        q, _ = objective.e_step(log_w, utility, method.posterior, progress, torch.arange(30))
        found.append((q[:, 0] / q[:, 1]).log())
    for q, annealing in zip(found, (10.0, 10.0**0.5, 1.0, 1.0), strict=True):
        torch.testing.assert_close(q * annealing, found[-1], rtol=1e-4, atol=1e-5)


def test_a_policy_keeps_its_users_and_adapts_to_new_ones(model_folder, annotated, method, runtime, tmp_path):
    method = changed(method, experts={"heads": 2, "perturbation": 0.5}, posterior={"unit": "user"})
    objective = trained(method, model_folder, annotated, runtime, tmp_path)
    objective.keep_posteriors()
    objective.policy.save_pretrained(tmp_path / "model")
    policy, prompts = Policy.from_pretrained(tmp_path / "model", runtime), [[1, 2, 3]] * 2
    users = objective.units.names
    assert policy.users == set(users) and policy.beta == method.beta
    known = policy.log_weights(prompts, users[:2])
    torch.testing.assert_close(known.exp(), objective.posteriors()[:2], rtol=1e-4, atol=1e-6)
    prior = policy.log_weights(prompts[:1], ["nobody"])[0].exp()
    torch.testing.assert_close(prior, policy.weights.log_w.exp())
    torch.testing.assert_close(policy.adapt("new", [], torch.zeros(0, 2, 2)), prior)
    ratio = torch.tensor([[[10.0, 0.0], [0.0, 10.0]]])  # expert 0 agrees by 10 nats, expert 1 disagrees
    sigma = torch.tensor([1.0, -1.0]).sigmoid()
    found = policy.adapt("new", [[1, 2, 3]], ratio * (1 / (10 * policy.beta)))
    torch.testing.assert_close(found, prior * sigma / (prior * sigma).sum())
    torch.testing.assert_close(policy.log_weights(prompts[:1], ["new"])[0].exp(), found)
    assert len(policy.generate(prompts, users=["new", "nobody"], runtime=runtime, seed=0, max_new_tokens=2)) == 2


@pytest.mark.parametrize("comparisons", [0, 1, 7])
def test_a_policy_adapts_as_the_tables_say(model_folder, runtime, comparisons):
    """`posterior`, by which tables tell of new users, is what `adapt` gives them, of a prior that is not even."""
    rng = np.random.default_rng(comparisons)
    prior, log_ratio = rng.dirichlet(np.ones(4)), rng.normal(0, 4, (comparisons, 4, 2))
    model = load_language_model(model_folder, runtime)
    policy = Policy.from_language_model(model, shared_heads=4, weights=GlobalWeights(4, prior.tolist()))
    policy.beta = 0.3
    found = policy.adapt("new", [[1, 2, 3]] * comparisons, torch.tensor(log_ratio, dtype=torch.float32))
    margins = policy.beta * (log_ratio[..., 0] - log_ratio[..., 1])
    assert found.tolist() == pytest.approx(posterior(prior, margins), rel=1e-5)


# Which triplets, and how they are shown


def test_minibatches_keep_a_prompt_together(annotated, preferences_folder):
    """Two pairs of a prompt come together where they fit; one prompt of more pairs than fit is divided."""
    frame = pd.read_parquet(preferences_folder / "preferences/train.parquet")
    more = frame.assign(rejected_ids=[[*ids, 7] for ids in frame["rejected_ids"]], pair="1-2")
    both = pd.concat([frame.assign(pair="0-1"), more], ignore_index=True)
    known = pd.DataFrame({"chosen": 0.0, "rejected": 0.0}, index=both.index)
    triplets = Triplets(both, known)
    for batch in triplets.minibatches(epochs=2, batch_size=8, seed=0):
        assert len(np.unique(triplets.pair[batch])) <= 8
        for prompt in np.unique(triplets.prompt[batch]):
            assert set(np.flatnonzero(triplets.prompt == prompt)) <= set(batch)
    sizes = [len(np.unique(triplets.pair[b])) for b in triplets.minibatches(epochs=1, batch_size=1, seed=0)]
    assert sizes == [1] * len(triplets.groups)


def test_pairs_may_be_left_out(preferences_folder):
    frame = pd.read_parquet(preferences_folder / "preferences/train.parquet").iloc[:6]
    frame["pair"] = ["0-1", "0-2", "2-3", "4-5", "1-2", "3-4"]
    known = pd.DataFrame({"chosen": 0.0, "rejected": 0.0}, index=frame.index)
    sizes = {pairs: len(Triplets(frame, known, pairs=pairs).chosen) for pairs in ("all", "disjoint", "two")}
    assert sizes == {"all": 6, "disjoint": 3, "two": 1}
    with pytest.raises(UserError, match=r"^pairs: expected preferences with a column pair, found none"):
        Triplets(frame.drop(columns="pair"), known, pairs="two")


@pytest.fixture
def user_folder(preferences_folder, tmp_path):
    """The preferences with a user of each style, and a split `support` of one whom training does not see."""
    for stage in ("preferences", "reference_log_probs"):
        (tmp_path / stage).mkdir()
    for split, source in {"train": "train", "validation": "validation", "support": "validation"}.items():
        frame = pd.read_parquet(preferences_folder / f"preferences/{source}.parquet")
        frame["user"] = "stranger" if split == "support" else frame["style"] + "-user"
        frame.to_parquet(tmp_path / f"preferences/{split}.parquet")
        known = pd.read_parquet(preferences_folder / f"reference_log_probs/{source}.parquet")
        known.to_parquet(tmp_path / f"reference_log_probs/{split}.parquet")
    return tmp_path


def stage(method, folder, model_folder, runtime, out):
    for path in (folder / out, folder / f"{out}.resume"):
        path.mkdir()
    inputs = {name: folder / name for name in ("preferences", "reference_log_probs")}
    how = {"runtime": runtime, "resume": folder / f"{out}.resume", "reference": model_folder.parent}
    policies(folder / out, spec_of(method), **how, **inputs)
    return folder / out


def test_dpo_that_is_told_the_user(user_folder, model_folder, method, runtime):
    """The name stands before the prompt in training and in use; a stranger has none. At the start π is π_ref."""
    method = changed(method, experts={"models": 1}, user_in_prompt=True, optimiser={"epochs": 1})
    out = stage(method, user_folder, model_folder, runtime, "told")
    curve = pd.read_csv(out / "curve.csv")
    assert curve["kl"].iloc[0] == pytest.approx(0, abs=1e-4)
    policy = Policy.from_pretrained(out / "model", runtime)
    assert policy.users == {"grammar-user", "sentiment-user", "informativeness-user"}
    with_name, without = policy.named([[5, 6]] * 2, ["grammar-user", "stranger"])
    assert with_name[-2:] == [5, 6] and len(with_name) > 4 and without == [5, 6]
    assert policy.named([[5, 6]], None) == [[5, 6]]
    rows = pd.read_parquet(out / "responsibilities.parquet")
    assert rows.groupby("split").size().to_dict() == {"support": 12, "validation": 12}


def test_the_best_of_several_starts_is_kept(user_folder, model_folder, method, runtime):
    """By the least validation −log P, which the stage's own files tell."""
    found = {}
    for restarts in (1, 3):
        changes = {"experts": {"heads": 3, "perturbation": 1.0}, "restarts": restarts}
        out = stage(changed(method, **changes), user_folder, model_folder, runtime, f"r{restarts}")
        found[restarts] = json.loads((out / "validation.json").read_text())["after"]["nll"]
    assert found[3] < found[1]

"""Preference optimisation: Algorithm 1 for any number of experts. Baseline DPO is the case of one."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoTokenizer

from mixdpo.errors import UserError
from mixdpo.language import TokenBatch, hidden_states, load_language_model
from mixdpo.losses import (
    elbo,
    expert_loss,
    gate_loss,
    log_bradley_terry,
    log_mbt_likelihood,
    mixture_weights,
    responsibilities,
    reward_update,
)
from mixdpo.models import Gate, GlobalWeights, Policy
from mixdpo.runtime import Runtime
from mixdpo.training import fit, training_batches


def policies(
    out: Path,
    spec: dict,
    *,
    runtime: Runtime,
    resume: Path,
    policy: Path,
    preferences: Path,
    reference: Path,
    gate: Path | None = None,
) -> None:
    """Write `model/`, `curve.csv` (one row a step), `validation.json` (before and after) and `responsibilities.parquet`.

    `responsibilities.parquet` has one row per validation triplet after training: style, domain, q0 to qK−1.
    """
    train = Triplets(preferences / "train.parquet", reference / "train.parquet")
    validation = Triplets(preferences / "validation.parquet", reference / "validation.parquet")
    objective = PreferenceObjective(build(spec, policy / "model", gate, runtime), spec, runtime)
    objective.prepare(train)
    before, _ = objective.evaluate(validation)
    curve = fit(
        objective,
        [train.rows(groups) for groups in training_batches(train.group_lengths, spec)],
        lambda rows: objective.loss(train, rows),
        spec=spec,
        runtime=runtime,
        resume=resume,
        learning_rates=lambda name: spec["gate_learning_rate" if ".weights." in name else "learning_rate"],
        after_step=objective.after_step,
    )
    after, q = objective.evaluate(validation)
    curve.to_csv(out / "curve.csv", index=False)
    q.to_parquet(out / "responsibilities.parquet", index=False)
    result = {"triplets": len(validation.chosen), "before": before, "after": after}
    (out / "validation.json").write_text(json.dumps(result, indent=2))
    objective.policy.save_pretrained(out / "model")
    AutoTokenizer.from_pretrained(policy / "model").save_pretrained(out / "model")


def build(spec: dict, model: Path, gate: Path | None, runtime: Runtime) -> Policy:
    """The policy of `spec` with every expert a perturbed copy of `model`, and what is frozen frozen.

    One expert starts as the exact copy: there is no tie to break. `gate` is the folder of a pretrained gate.
    """
    experts = spec["shared_heads"] + spec["independent_models"]
    language_model = load_language_model(model, runtime)
    if spec["weights"] == "gate":
        weights = pretrained_gate(gate, language_model, experts)
        weights.linear.requires_grad_(spec["learn_weights"])
    else:
        if spec["initial_weights"] is not None and len(spec["initial_weights"]) != experts:
            raise UserError(
                f"initial_weights: expected {experts}, one an expert, found {spec['initial_weights']}; mend it"
            )
        weights = GlobalWeights(experts, spec["initial_weights"])
    policy = Policy.from_language_model(
        language_model,
        shared_heads=spec["shared_heads"],
        independent_models=spec["independent_models"],
        weights=weights,
    )
    if experts > 1:
        policy.perturb(spec["perturbation"], spec["seed"])
    for part in (policy.encoder, policy.heads, policy.independent):
        if part is not None:
            part.requires_grad_(spec["learn_experts"] and not (part is policy.encoder and spec["encoder"] == "frozen"))
    return policy.eval()


def pretrained_gate(folder: Path, language_model: nn.Module, experts: int) -> Gate:
    """The gate of the gates stage over the encoder of `language_model`."""
    tensors = load_file(folder / "gate.safetensors")
    found, width = tensors["weight"].shape
    if (found, width) != (experts, language_model.config.hidden_size):
        raise UserError(
            f"{folder}/gate.safetensors: expected a gate for {experts} experts over {language_model.config.hidden_size} "
            f"features, found one for {found} over {width}; set as many experts as the experiment has domains"
        )
    gate = Gate(language_model.base_model, experts).to(language_model.device)
    gate.linear.load_state_dict(tensors)
    return gate


class Triplets:
    """N preference triplets as token ids. A text that several triplets share is kept, and computed, once."""

    def __init__(self, preferences: Path, reference: Path):
        frame = pd.read_parquet(preferences)
        number: dict[tuple, int] = {}
        prompts = [tuple(ids) for ids in frame["prompt_ids"]]
        self.chosen, self.rejected = (
            np.array(
                [number.setdefault((p, tuple(c)), len(number)) for p, c in zip(prompts, frame[column], strict=True)]
            )
            for column in ("chosen_ids", "rejected_ids")
        )
        self.texts = list(number)  # (prompt, completion)
        self.prompts = sorted(set(prompts))
        place = {prompt: i for i, prompt in enumerate(self.prompts)}
        self.prompt = np.array([place[p] for p in prompts])  # (N,) row of self.prompts
        self.reference = pd.read_parquet(reference)[["chosen", "rejected"]].to_numpy(np.float32)  # (N, 2)
        self.labels = frame[[c for c in ("style", "domain") if c in frame]]
        pairs = np.sort(np.stack([self.chosen, self.rejected], axis=1), axis=1)
        _, group = np.unique(pairs, axis=0, return_inverse=True)
        order = np.argsort(group, kind="stable")
        self.groups = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)  # triplets of one pair
        self.group_lengths = [
            max(self.length(self.chosen[g[0]]), self.length(self.rejected[g[0]])) for g in self.groups
        ]

    def length(self, text: int) -> int:
        prompt, completion = self.texts[text]
        return len(prompt) + len(completion)

    def rows(self, groups: np.ndarray) -> np.ndarray:
        """The triplets of these pairs: every style's view of a pair is in one minibatch."""
        return np.concatenate([self.groups[i] for i in groups])

    def tokens(self, texts: np.ndarray, device: str) -> TokenBatch:
        return TokenBatch.of([self.texts[i][0] for i in texts], [self.texts[i][1] for i in texts], device)

    def batches(self, batch_size: int) -> list[np.ndarray]:
        """All triplets once, `batch_size` pairs at a time, pairs of similar length together."""
        order = np.argsort(self.group_lengths, kind="stable")
        return [self.rows(order[i : i + batch_size]) for i in range(0, len(order), batch_size)]


class PreferenceObjective(nn.Module):
    """One minibatch of Algorithm 1: E-step, expert losses (11), M-step on the weights, and what the curve shows.

    Algorithm 1 computes the responsibilities a second time, after the policy's step and before that of the weights.
    One step moves them little, so both M-steps share one E-step, and a minibatch one forward pass.
    """

    def __init__(self, policy: Policy, spec: dict, runtime: Runtime):
        super().__init__()
        self.policy, self.spec, self.runtime = policy, spec, runtime
        self.hidden: dict[int, Tensor] = {}  # text → states of a frozen encoder
        self.q: Tensor | None = None  # of the last minibatch

    def prepare(self, triplets: Triplets) -> None:
        """Before training: what the weights see of each prompt, room for rewards, and a frozen encoder's states."""
        experts, device = self.policy.experts, self.runtime.device
        self.features = self.policy.weights.features(triplets.prompts)
        if self.spec["reward_update"] == "partition":
            self.register_buffer("rewards", torch.full((len(triplets.chosen), experts, 2), torch.nan, device=device))
        frozen = self.spec["encoder"] == "frozen" or not self.spec["learn_experts"]
        if frozen and self.policy.heads and not self.policy.independent:
            self.hidden = self.states(triplets)

    @torch.no_grad()
    def states(self, triplets: Triplets) -> dict[int, Tensor]:
        """The encoder's states at the completion positions of every text, (completion, d) each, kept in bf16 or fp32."""
        order, states = np.argsort([triplets.length(i) for i in range(len(triplets.texts))], kind="stable"), {}
        kept = torch.bfloat16 if self.runtime.precision == "bf16" else torch.float32
        for texts in tqdm(np.array_split(order, -(-len(order) // 64)), mininterval=2, unit="batch"):
            batch = triplets.tokens(texts, self.runtime.device)
            with self.runtime.autocast():
                hidden = hidden_states(self.policy.encoder, batch).to(kept)
            states |= zip(texts.tolist(), hidden.split(batch.mask.sum(dim=1).tolist()), strict=True)
        return states

    def log_probs(self, triplets: Triplets, rows: np.ndarray, hidden: dict[int, Tensor]) -> Tensor:
        """log π_k(y | x) of the triplets, (B, K, 2); each text of the minibatch goes through the policy once."""
        texts, where = np.unique(np.stack([triplets.chosen[rows], triplets.rejected[rows]]), return_inverse=True)
        hidden = torch.cat([hidden[i] for i in texts.tolist()]) if hidden else None
        log_probs = self.policy.log_probs(triplets.tokens(texts, self.runtime.device), hidden)  # (texts, K)
        return log_probs[torch.from_numpy(where.reshape(2, -1)).to(log_probs.device)].permute(1, 2, 0)

    def loss(self, triplets: Triplets, rows: np.ndarray) -> tuple[Tensor, dict[str, float]]:
        """The scalar to minimise and the curve's figures: `figures`, and the weights and responsibilities."""
        log_probs = self.log_probs(triplets, rows, self.hidden)
        log_w = self.policy.weights(self.features[triplets.prompt[rows]])  # (B, K)
        previous = self.rewards[rows] if self.spec["reward_update"] == "partition" else None
        value, q, r, shown = self.em_step(log_probs, triplets.reference[rows], log_w, previous)
        if previous is not None:
            self.rewards[rows] = r
        self.q = q
        if log_w.requires_grad:
            value = value + gate_loss(log_w, q).mean()
        for k in range(self.policy.experts):
            shown[f"w{k}"] = log_w[:, k].exp().mean().item()
            for column in triplets.labels:
                labels = triplets.labels[column].to_numpy()[rows]
                shown |= {f"q{k} {label}": q[labels == label, k].mean().item() for label in np.unique(labels)}
        return value, shown

    def em_step(
        self, log_probs: Tensor, reference: np.ndarray, log_w: Tensor, previous: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, float]]:
        """E-step and expert losses: the loss, q (B, K), r (B, K, 2) and figures.

        accuracy: share of triplets with P(y⁺ ≻ y⁻) > 1/2 under (5), whose mean negative logarithm is nll. elbo: mean
        of Theorem 1's bound at q, −nll at its posterior and less at Lemma 6's. margin and kl are means over experts of
        β (log_ratio⁺ − log_ratio⁻) and of −log_ratio: both completions were sampled from the reference, so kl estimates
        KL(π_ref ‖ π_k) over untied pairs, in nats.
        """
        beta = self.spec["beta"]
        reference = torch.from_numpy(reference).to(log_probs.device)[:, None]  # (B, 1, 2)
        log_ratio = log_probs - reference
        with torch.no_grad():
            prior, ratio = log_w.detach(), log_ratio.detach()
            if previous is not None:
                previous = torch.where(previous.isnan(), beta * ratio, previous)
            r, log_q_r = reward_update(self.spec["reward_update"], ratio, reference, prior, beta, previous)
            q = responsibilities(prior, log_bradley_terry(r), **self.spec["responsibilities"])
            log_likelihood = log_mbt_likelihood(prior, r)
        loss = expert_loss(log_ratio, q, log_q_r, beta).sum(dim=1).mean()
        return (
            loss,
            q,
            r,
            {
                "nll": -log_likelihood.mean().item(),
                "elbo": elbo(prior, r, q).mean().item(),
                "accuracy": (log_likelihood > np.log(0.5)).float().mean().item(),
                "margin": beta * (ratio[..., 0] - ratio[..., 1]).mean().item(),
                "kl": -ratio.mean().item(),
            },
        )

    def after_step(self) -> None:
        """The weights' M-step in closed form; a gate has moved with the optimiser."""
        if isinstance(self.policy.weights, GlobalWeights) and self.spec["learn_weights"]:
            with torch.no_grad():
                self.policy.weights.log_w.copy_(mixture_weights(self.q))

    @torch.no_grad()
    def evaluate(self, triplets: Triplets) -> tuple[dict[str, float], pd.DataFrame]:
        """The curve's figures as means over all triplets, and their labels with the responsibilities q0 to qK−1."""
        features, q, shown = self.policy.weights.features(triplets.prompts), [], []
        batches = triplets.batches(self.spec["batch_size"])
        for rows in batches:
            with self.runtime.autocast():
                log_probs = self.log_probs(triplets, rows, {})
            log_w = self.policy.weights(features[triplets.prompt[rows]])
            loss, part, _, figures = self.em_step(log_probs, triplets.reference[rows], log_w, None)
            q.append(part.cpu().numpy())
            shown.append({"loss": loss.item(), **figures})
        weights = [len(rows) for rows in batches]
        means = {name: float(np.average([row[name] for row in shown], weights=weights)) for name in shown[0]}
        q = pd.DataFrame(np.concatenate(q), index=np.concatenate(batches)).add_prefix("q").sort_index()
        return means, triplets.labels.join(q)

"""Algorithm 1 on preference triplets, for any number of experts. Baseline DPO is the case of one."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mixdpo.errors import UserError
from mixdpo.method.language import TokenBatch, hidden_states
from mixdpo.method.losses import (
    elbo,
    expert_loss,
    gate_loss,
    kl_to_uniform,
    log_bradley_terry,
    log_mbt_likelihood,
    mixture_weights,
    relaxed_loss,
    responsibilities,
    reward_update,
)
from mixdpo.method.policy import Policy
from mixdpo.method.runtime import Runtime
from mixdpo.method.settings import Method
from mixdpo.method.weights import GlobalWeights


class Triplets:
    """N preference triplets as token ids. A text that several triplets share is stored and computed once."""

    def __init__(self, frame: pd.DataFrame, known: pd.DataFrame, styles: Sequence[str] | None = None):
        """`frame` has prompt_ids, chosen_ids, rejected_ids and, where known, style, domain and user; `known` has, row
        by row, log π_ref of both completions: chosen, rejected. `styles` are those to keep, all unless given."""
        if styles is not None and "style" not in frame:
            raise UserError(f"preferences: expected a column style for styles {styles}, found none; set styles to null")
        if styles is not None:
            kept = frame["style"].isin(styles).to_numpy()
            frame, known = frame[kept].reset_index(drop=True), known[kept]
        if frame.empty:
            raise UserError(f"preferences: expected some of {styles or 'any style'}, found none; correct styles")
        number: dict[tuple, int] = {}
        prompts = [tuple(ids) for ids in frame["prompt_ids"]]
        self.chosen, self.rejected = (
            np.array(
                [number.setdefault((p, tuple(c)), len(number)) for p, c in zip(prompts, frame[column], strict=True)]
            )
            for column in ("chosen_ids", "rejected_ids")
        )
        self.texts = list(number)  # (prompt, completion)
        contexts = list(zip(prompts, frame["user"] if "user" in frame else [""] * len(frame), strict=True))
        self.contexts = sorted(set(contexts))  # (prompt, user), all that the weights see
        place = {context: i for i, context in enumerate(self.contexts)}
        self.context = np.array([place[c] for c in contexts])  # (N,) row of self.contexts
        self.reference = known[["chosen", "rejected"]].to_numpy(np.float32)  # (N, 2)
        self.labels = frame[[c for c in ("style", "domain", "user") if c in frame]]
        pairs = np.sort(np.stack([self.chosen, self.rejected], axis=1), axis=1)
        _, self.pair = np.unique(pairs, axis=0, return_inverse=True)  # (N,) number of the pair
        order = np.argsort(self.pair, kind="stable")
        self.groups = np.split(order, np.flatnonzero(np.diff(self.pair[order])) + 1)  # triplets of one pair
        self.group_lengths = [
            max(self.length(self.chosen[g[0]]), self.length(self.rejected[g[0]])) for g in self.groups
        ]

    def length(self, text: int) -> int:
        prompt, completion = self.texts[text]
        return len(prompt) + len(completion)

    def rows(self, groups: np.ndarray) -> np.ndarray:
        """The triplets of these pairs: all styles of a pair are in one minibatch."""
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

    def __init__(self, policy: Policy, method: Method, runtime: Runtime):
        super().__init__()
        self.policy, self.method, self.runtime = policy, method, runtime
        self.hidden: dict[int, Tensor] = {}  # text → states of a frozen encoder
        self.q: Tensor | None = None  # of the last minibatch
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def prepare(self, triplets: Triplets, steps: int) -> None:
        """Prepare `steps` of training: features for the weights, room for rewards, states of a frozen encoder."""
        experts, how, device = self.policy.experts, self.method.experts, self.runtime.device
        self.steps, self.features = steps, self.context_features(triplets)
        if self.method.reward_update == "partition":
            self.register_buffer("rewards", torch.full((len(triplets.chosen), experts, 2), torch.nan, device=device))
        if (how.encoder == "frozen" or not how.learn) and experts == len(self.policy.heads):
            self.hidden = self.states(triplets)

    def context_features(self, triplets: Triplets) -> Tensor:
        """What the weights see of each context."""
        prompts, users = zip(*triplets.contexts, strict=True)
        return self.policy.weights.features(prompts, users)

    @torch.no_grad()
    def states(self, triplets: Triplets) -> dict[int, Tensor]:
        """The encoder's states at the completion positions of each text, (completion, d), kept in bf16 or fp32."""
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
        """The scalar to minimise, and the figures of the curve: those of `em_step`, weights and responsibilities.

        With `accumulate` parts, each goes through the policy by itself: gradients accumulate, and activations are freed
        after each part.
        """
        pairs = triplets.pair[rows]
        parts = np.array_split(pd.unique(pairs), min(self.method.optimiser.accumulate, len(np.unique(pairs))))
        parts = [rows[np.isin(pairs, part)] for part in parts]
        done = [self.part_loss(triplets, part, len(part) / len(rows)) for part in parts]
        values, q, log_w, shown = zip(*done, strict=True)
        self.q, log_w, rows = torch.cat(q), torch.cat(log_w), np.concatenate(parts)
        shown = {name: sum(part[name] for part in shown) for name in shown[0]}
        labels = triplets.labels.iloc[rows]
        for k in range(self.policy.experts):
            shown[f"w{k}"] = log_w[:, k].exp().mean().item()
            for column in labels.columns.drop("user", errors="ignore"):
                values_of = labels[column].to_numpy()
                shown |= {f"q{k} {v}": self.q[values_of == v, k].mean().item() for v in np.unique(values_of)}
        return sum(values), shown

    def part_loss(
        self, triplets: Triplets, rows: np.ndarray, share: float
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, float]]:
        """One part, a `share` of the minibatch: its part of the loss, q and log w (B, K), and its part of the figures.

        Unless the part is the whole minibatch, backward() is called here, and the loss has no graph.
        """
        log_probs = self.log_probs(triplets, rows, self.hidden)
        log_w = self.policy.weights(self.features[triplets.context[rows]])  # (B, K)
        previous = self.rewards[rows] if self.method.reward_update == "partition" else None
        method = self.method.at(self.step.item() / self.steps)
        value, q, r, shown = self.em_step(log_probs, triplets.reference[rows], log_w, previous, method)
        if previous is not None:
            self.rewards[rows] = r
        value = value * share
        if share < 1 and value.requires_grad:
            with torch.autocast(self.runtime.device, enabled=False):
                value.backward()
            value = value.detach()
        return value, q, log_w.detach(), {name: figure * share for name, figure in shown.items()}

    def em_step(
        self, log_probs: Tensor, reference: np.ndarray, log_w: Tensor, previous: Tensor | None, method: Method
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, float]]:
        """E-step and the losses of experts and gate, or their relaxation: the loss, q (B, K), r (B, K, 2) and figures.

        accuracy: share of triplets with P(y⁺ ≻ y⁻) > 1/2 under (5), whose mean negative logarithm is nll. elbo: mean
        of Theorem 1's bound at q, −nll at its posterior and less at Lemma 6's. margin and kl are means over experts
        of β (log_ratio⁺ − log_ratio⁻) and of −log_ratio: where both completions were sampled from the reference, kl
        estimates KL(π_ref ‖ π_k) over untied pairs, in nats.
        """
        beta, posterior = method.beta, method.posterior
        reference = torch.from_numpy(reference).to(log_probs.device)[:, None]  # (B, 1, 2)
        log_ratio = log_probs - reference
        with torch.no_grad():
            prior, ratio = log_w.detach(), log_ratio.detach()
            if previous is not None:
                previous = torch.where(previous.isnan(), beta * ratio, previous)
            r, log_q_r = reward_update(method.reward_update, ratio, reference, prior, beta, previous)
            q = responsibilities(
                prior,
                log_bradley_terry(r),
                entropy=posterior.entropy,
                confidence=posterior.confidence,
                kl_uniform=posterior.kl_uniform,
                kl_w=posterior.kl_w,
            )
            log_likelihood = log_mbt_likelihood(prior, r)
        if posterior.relaxation is None:
            loss = expert_loss(log_ratio, q, log_q_r, beta).sum(dim=1)
            if log_w.requires_grad:
                loss = loss + gate_loss(log_w, q)
        else:
            relaxation = posterior.relaxation
            start, end = relaxation.temperature
            temperature = start * (end / start) ** (self.step.item() / self.steps)
            utility = log_bradley_terry(beta * log_ratio + log_q_r)
            how = {"logits": relaxation.logits, "samples": relaxation.samples, "temperature": temperature}
            loss, q = relaxed_loss(log_w, utility, **how)
        if log_w.requires_grad and method.weights.kl_uniform:  # only a gate gets a gradient
            loss = loss + method.weights.kl_uniform * kl_to_uniform(log_w)
        return (
            loss.mean(),
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
        """The weights' M-step in closed form. A gate has already been updated by the optimiser."""
        self.step += 1
        if isinstance(self.policy.weights, GlobalWeights) and self.method.weights.learn:
            with torch.no_grad():
                self.policy.weights.log_w.copy_(mixture_weights(self.q))

    @torch.no_grad()
    def evaluate(self, triplets: Triplets) -> tuple[dict[str, float], pd.DataFrame]:
        """The figures of the curve as means over all triplets, and a row for each triplet: labels, q0 … , margin0 … .

        These use the E-step and losses of Algorithm 1 with the method's own settings, without phases or relaxation.
        """
        features, columns, shown = self.context_features(triplets), [], []
        method = replace(self.method, posterior=replace(self.method.posterior, relaxation=None))
        batches = triplets.batches(method.optimiser.batch_size)
        for rows in batches:
            with self.runtime.autocast():
                log_probs = self.log_probs(triplets, rows, {})
            log_w = self.policy.weights(features[triplets.context[rows]])
            loss, q, _, figures = self.em_step(log_probs, triplets.reference[rows], log_w, None, method)
            ratio = log_probs - torch.from_numpy(triplets.reference[rows]).to(log_probs.device)[:, None]
            columns.append(torch.cat([q, method.beta * (ratio[..., 0] - ratio[..., 1])], dim=1).cpu().numpy())
            shown.append({"loss": loss.item(), **figures})
        weights = [len(rows) for rows in batches]
        means = {name: float(np.average([row[name] for row in shown], weights=weights)) for name in shown[0]}
        names = [f"{name}{k}" for name in ("q", "margin") for k in range(self.policy.experts)]
        table = pd.DataFrame(np.concatenate(columns), index=np.concatenate(batches), columns=names).sort_index()
        return means, triplets.labels.join(table)

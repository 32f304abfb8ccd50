"""Algorithm 1 on preference triplets, for any number of experts. Baseline DPO is the case of one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from mixdpo.errors import UserError
from mixdpo.method.fit import buckets
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

    def tokens(self, texts: np.ndarray, device: str, shape: tuple[int, int, int] | None = None) -> TokenBatch:
        return TokenBatch.of([self.texts[i][0] for i in texts], [self.texts[i][1] for i in texts], device, shape)

    def texts_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The texts of these triplets, each once, and which of them are chosen and rejected: (2, B)."""
        texts, where = np.unique(np.stack([self.chosen[rows], self.rejected[rows]]), return_inverse=True)
        return texts, where.reshape(2, -1)

    def places(self, text: int) -> int:
        """Tokens of a text that are to be predicted."""
        prompt, completion = self.texts[text]
        return len(completion) - (not prompt)

    def shape(self, rows: np.ndarray) -> tuple[int, int, int, int]:
        """Of these triplets: their texts N, the tokens T of the longest, the places M to predict, and B."""
        texts, _ = self.texts_of(rows)
        return len(texts), max(map(self.length, texts)), sum(map(self.places, texts)), len(rows)

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
        self.methods = [method.at(share) for share in (0.0, *(phase.until for phase in method.phases))]  # by phase

    def prepare(self, triplets: Triplets, batches: Sequence[np.ndarray], fixed: bool | None = None) -> None:
        """Prepare training on `batches`, rows of `triplets`, one per step: move the tensors that steps look up to the
        device.

        Their last row is filler. With `fixed`, by default on CUDA, parts are padded to one of a few shapes.
        """
        experts, how, device = self.policy.experts, self.method.experts, self.runtime.device
        self.triplets, self.batches = triplets, [self.divided(triplets, rows) for rows in batches]
        self.features = F.pad(self.context_features(triplets), (0, 0, 0, 1))
        self.reference = F.pad(torch.tensor(triplets.reference), (0, 0, 0, 1)).to(device)
        self.context = torch.from_numpy(np.append(triplets.context, len(triplets.contexts))).to(device)
        self.mean_q = torch.zeros(experts, device=device)
        columns = triplets.labels.drop(columns="user", errors="ignore").items()
        labels = {str(v): column == v for _, column in columns for v in sorted(column.unique())}
        self.label_names = list(labels)
        self.labels = np.array([*labels.values()], np.float32).reshape(len(labels), len(triplets.chosen)).T
        self.shapes = None
        if device == "cuda" if fixed is None else fixed:
            shapes = iter(buckets([triplets.shape(part) for parts in self.batches for part in parts]))
            self.shapes = [[next(shapes) for _ in parts] for parts in self.batches]
        if self.method.reward_update == "partition":
            rewards = torch.full((len(triplets.chosen) + 1, experts, 2), torch.nan, device=device)
            rewards[-1] = 0
            self.register_buffer("rewards", rewards)
        frozen = (how.encoder == "frozen" or not how.learn) and experts == len(self.policy.heads)
        self.states = self.encode_places() if frozen else None

    def context_features(self, triplets: Triplets) -> Tensor:
        """What the weights see of each context."""
        prompts, users = zip(*triplets.contexts, strict=True)
        return self.policy.weights.features(prompts, users)

    @torch.no_grad()
    def encode_places(self) -> Tensor:
        """The frozen encoder's states at the places of each text, texts in order: (places + 1, d), bf16 or fp32."""
        triplets, order = self.triplets, np.argsort([len(p) + len(c) for p, c in self.triplets.texts], kind="stable")
        self.starts = np.cumsum([0, *map(triplets.places, range(len(triplets.texts)))])  # of each text, then of filler
        kept = torch.bfloat16 if self.runtime.precision == "bf16" else torch.float32
        states = torch.zeros(
            self.starts[-1] + 1, self.policy.config.hidden_size, dtype=kept, device=self.runtime.device
        )
        for texts in tqdm(np.array_split(order, -(-len(order) // 64)), mininterval=2, unit="batch"):
            batch = triplets.tokens(texts, self.runtime.device)
            with self.runtime.autocast():
                hidden = hidden_states(self.policy.encoder, batch).to(kept)
            where = self.state_rows(texts)
            states[torch.from_numpy(where).to(states.device)] = hidden[: len(where)]
        return states

    def state_rows(self, texts: np.ndarray) -> np.ndarray:
        """The rows of the kept states that belong to these texts."""
        return np.concatenate([np.arange(self.starts[i], self.starts[i + 1]) for i in texts])

    def divided(self, triplets: Triplets, rows: np.ndarray) -> list[np.ndarray]:
        """The parts of a minibatch, `accumulate` at most, each of whole pairs."""
        pairs = triplets.pair[rows]
        parts = np.array_split(pd.unique(pairs), min(self.method.optimiser.accumulate, len(np.unique(pairs))))
        return [rows[np.isin(pairs, part)] for part in parts]

    def parts(self, step: int) -> list[dict]:
        """The parts of a step's minibatch, as `loss` takes them, on the CPU."""
        parts, progress = self.batches[step], step / len(self.batches)
        counts = self.labels[np.concatenate(parts)].sum(axis=0)
        ended = sum(progress >= phase.until for phase in self.method.phases)
        how = {"phase": ended, "progress": torch.tensor(progress)}
        shapes = self.shapes[step] if self.shapes else [None] * len(parts)
        return [how | self.part(part, sum(map(len, parts)), counts, s) for part, s in zip(parts, shapes, strict=True)]

    def part(self, rows: np.ndarray, whole: int, counts: np.ndarray, shape: tuple | None) -> dict:
        """A part of a minibatch of `whole` triplets, of which `counts` have each label, as tensors.

        share (B,) is what a triplet counts for, 1/whole, or 0 for filler; label_share (B, L) the same among triplets of
        a label, NaN if the minibatch has none.
        """
        texts, sides = self.triplets.texts_of(rows)
        batch = self.triplets.tokens(texts, "cpu", shape and shape[:3])
        filler = (shape[3] if shape else len(rows)) - len(rows)
        with np.errstate(invalid="ignore"):
            label_share = self.labels[rows] / counts
        columns = {
            "chosen": np.pad(sides[0], (0, filler)),
            "rejected": np.pad(sides[1], (0, filler)),
            "triplet": np.pad(rows, (0, filler), constant_values=len(self.triplets.chosen)),
            "share": np.pad(np.full(len(rows), 1 / whole, np.float32), (0, filler)),
            "label_share": np.pad(label_share, ((0, filler), (0, 0))),
        }
        if self.states is not None:
            where = self.state_rows(texts)
            columns["states"] = np.pad(where, (0, len(batch.places) - len(where)), constant_values=self.starts[-1])
        return vars(batch) | {name: torch.from_numpy(column) for name, column in columns.items()}

    def log_probs(self, batch: TokenBatch, chosen: Tensor, rejected: Tensor, hidden: Tensor | None = None) -> Tensor:
        """log π_k(y | x) of triplets, whose texts are in `batch` once: (B, K, 2)."""
        values = self.policy.log_probs(batch, hidden)  # (texts, K)
        return torch.stack([values[chosen], values[rejected]], dim=-1)

    def loss(self, part: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """What a part of a minibatch adds to the scalar to minimise, and to the figures of the curve: those of
        `em_step`, weights and responsibilities. It keeps what the M-step and `partition` need, the mean of q and the
        rewards."""
        batch = TokenBatch(*(part[name] for name in ("tokens", "places", "targets", "rows")))
        hidden = None if self.states is None else self.states[part["states"]]
        log_probs = self.log_probs(batch, part["chosen"], part["rejected"], hidden)
        triplet, share = part["triplet"], part["share"]
        log_w = self.policy.weights(self.features[self.context[triplet]])  # (B, K)
        previous = self.rewards[triplet] if self.method.reward_update == "partition" else None
        method, progress = self.methods[part["phase"]], part["progress"]
        how = {"method": method, "progress": progress, "share": share}
        value, q, r, shown = self.em_step(log_probs, self.reference[triplet], log_w, previous, **how)
        with torch.no_grad():
            if previous is not None:
                self.rewards[triplet] = r
            self.mean_q += share @ q
            w, by_label = share @ log_w.exp(), part["label_share"].T @ q  # (K,), (labels, K)
        for k in range(self.policy.experts):
            shown[f"w{k}"] = w[k]
            shown |= {f"q{k} {name}": by_label[i, k] for i, name in enumerate(self.label_names)}
        return value, shown

    def em_step(
        self,
        log_probs: Tensor,
        reference: Tensor,
        log_w: Tensor,
        previous: Tensor | None,
        *,
        method: Method,
        progress: Tensor | float,
        share: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """E-step and the losses of experts and gate, or their relaxation: the loss, q (B, K), r (B, K, 2) and figures.

        Loss and figures are sums over triplets, each times its `share` (B,): means where shares are 1/B. `progress` is
        the share of the steps that are done.

        nll: mean of −log P(y⁺ ≻ y⁻) under (5). accuracy: share of triplets with P > 1/2. elbo: mean of Theorem 1's
        bound at q; it equals −nll at the exact posterior, and is less at Lemma 6's. margin and kl are means over the
        experts of β (log_ratio⁺ − log_ratio⁻) and of −log_ratio. Where both completions were sampled from the
        reference, kl estimates KL(π_ref ‖ π_k) over untied pairs, in nats.
        """
        beta, posterior = method.beta, method.posterior
        reference = reference[:, None]  # (B, 1, 2)
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
            utility = log_bradley_terry(beta * log_ratio + log_q_r)
            how = {"logits": relaxation.logits, "samples": relaxation.samples}
            loss, q = relaxed_loss(log_w, utility, **how, temperature=start * (end / start) ** progress)
        if log_w.requires_grad and method.weights.kl_uniform:  # only a gate gets a gradient
            loss = loss + method.weights.kl_uniform * kl_to_uniform(log_w)
        shown = {
            "nll": -log_likelihood,
            "elbo": elbo(prior, r, q),
            "accuracy": (log_likelihood > math.log(0.5)).float(),
            "margin": beta * (ratio[..., 0] - ratio[..., 1]).mean(dim=1),
            "kl": -ratio.mean(dim=(1, 2)),
        }
        return (loss * share).sum(), q, r, {name: (figure * share).sum() for name, figure in shown.items()}

    def after_step(self) -> None:
        """The weights' M-step in closed form. A gate has already been updated by the optimiser."""
        if isinstance(self.policy.weights, GlobalWeights) and self.method.weights.learn:
            with torch.no_grad():
                self.policy.weights.log_w.copy_(mixture_weights(self.mean_q[None]))
        self.mean_q.zero_()

    @torch.no_grad()
    def evaluate(self, triplets: Triplets) -> tuple[dict[str, float], pd.DataFrame]:
        """The figures of the curve as means over all triplets, and a row for each triplet: labels, q0 … , margin0 … .

        These use the E-step and losses of Algorithm 1 with the method's own settings, without phases or relaxation.
        """
        features, columns, shown, device = self.context_features(triplets), [], [], self.runtime.device
        method = replace(self.method, posterior=replace(self.method.posterior, relaxation=None))
        batches = triplets.batches(method.optimiser.batch_size)
        for rows in batches:
            texts, sides = triplets.texts_of(rows)
            with self.runtime.autocast():
                log_probs = self.log_probs(triplets.tokens(texts, device), *torch.from_numpy(sides).to(device))
            log_w = self.policy.weights(features[torch.from_numpy(triplets.context[rows]).to(device)])
            reference = torch.from_numpy(triplets.reference[rows]).to(device)
            how = {"method": method, "progress": 0.0, "share": torch.full((len(rows),), 1 / len(rows), device=device)}
            loss, q, _, figures = self.em_step(log_probs, reference, log_w, None, **how)
            ratio = log_probs - reference[:, None]
            columns.append(torch.cat([q, method.beta * (ratio[..., 0] - ratio[..., 1])], dim=1).cpu().numpy())
            shown.append({name: figure.item() for name, figure in {"loss": loss, **figures}.items()})
        weights = [len(rows) for rows in batches]
        means = {name: float(np.average([row[name] for row in shown], weights=weights)) for name in shown[0]}
        names = [f"{name}{k}" for name in ("q", "margin") for k in range(self.policy.experts)]
        table = pd.DataFrame(np.concatenate(columns), index=np.concatenate(batches), columns=names).sort_index()
        return means, triplets.labels.join(table)

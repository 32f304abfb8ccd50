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
from mixdpo.method.settings import Method, Posterior
from mixdpo.method.triplets import Triplets
from mixdpo.method.units import Units
from mixdpo.method.weights import GlobalWeights


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
        self.prepare_units(triplets)
        columns = triplets.labels[[name for name in ("style", "domain") if name in triplets.labels]].items()
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

    def prepare_units(self, triplets: Triplets) -> None:
        """Prepare what triplets that share their expert have in common, and the experts that are taught."""
        posterior, experts, device = self.method.posterior, self.policy.experts, self.runtime.device
        self.units = self.taught = None
        if posterior.unit != "triplet":
            self.units = Units(*triplets.units(posterior.unit), experts, device)
        if posterior.taught:
            expert = {style: k for k, style in enumerate(posterior.taught)}
            of_triplet = [expert.get(style, experts) for style in triplets.labels["style"]]
            self.taught = torch.tensor([*of_triplet, experts], device=device)

    @torch.no_grad()
    def posteriors(self) -> Tensor:
        """q of each unit after training, (U, K): Theorem 1's under global weights, under a gate the last of
        training."""
        if isinstance(self.policy.weights, GlobalWeights):
            return responsibilities(self.policy.weights.log_w, self.units.sums()[:-1])
        return self.units.q[:-1]

    def unit_table(self) -> pd.DataFrame:
        """Each unit of training: its name, style ("" if it has several), n triplets, l0 …, Σ log σ_k as last seen, and
        q0 …, its posterior."""
        unit, styles = self.units.unit[:-1].cpu().numpy(), pd.Series("", index=range(len(self.triplets.chosen)))
        styles = self.triplets.labels.get("style", styles)
        style = styles.groupby(unit).agg(lambda column: column.iloc[0] if column.nunique() == 1 else "")
        frame = pd.DataFrame({"unit": self.units.names, "style": style.to_numpy(), "n": np.bincount(unit)})
        columns = {"l": self.units.sums()[:-1], "q": self.posteriors()}
        return frame.join([pd.DataFrame(t.cpu().numpy()).add_prefix(name) for name, t in columns.items()])

    def keep_posteriors(self) -> None:
        """After training under global weights: give the policy what it learned about each user, if users are units."""
        if self.method.posterior.unit == "user" and isinstance(self.policy.weights, GlobalWeights):
            log_q = self.posteriors().log().clamp_min(-30.0)
            self.policy.posteriors = dict(zip(self.units.names, log_q, strict=True))

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
        how = {"method": method, "progress": progress, "share": share, "triplet": triplet}
        value, q, r, shown = self.em_step(log_probs, self.reference[triplet], log_w, previous, **how)
        with torch.no_grad():
            if previous is not None:
                self.rewards[triplet] = r
            if self.units is None:
                self.mean_q += share @ q
            else:
                self.units.keep(triplet, q)
                self.mean_q.copy_(self.units.mean_q())
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
        triplet: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """E-step and the losses of experts and gate, or their relaxation: the loss, q (B, K), r (B, K, 2) and figures.

        Loss and figures are sums over triplets, each times its `share` (B,): means where shares are 1/B. `progress` is
        the share of the steps that are done. `triplet` (B,) are rows of the training triplets; without them each
        triplet is a unit of its own, and nothing is taught.

        nll: mean of −log P(y⁺ ≻ y⁻) under (5). accuracy: share of triplets with P > 1/2. elbo: mean of Theorem 1's
        bound at q; it equals −nll at the exact posterior of single triplets, and is less at Lemma 6's. margin and kl
        are means over the experts of β (log_ratio⁺ − log_ratio⁻) and of −log_ratio. Where both completions were sampled
        from the reference, kl estimates KL(π_ref ‖ π_k) over untied pairs, in nats.
        """
        beta, posterior = method.beta, method.posterior
        reference = reference[:, None]  # (B, 1, 2)
        log_ratio = log_probs - reference
        with torch.no_grad():
            prior, ratio = log_w.detach(), log_ratio.detach()
            if previous is not None:
                previous = torch.where(previous.isnan(), beta * ratio, previous)
            r, log_q_r = reward_update(method.reward_update, ratio, reference, prior, beta, previous)
            q, count = self.e_step(prior, log_bradley_terry(r), posterior, progress, triplet)
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
            "elbo": elbo(prior, r, q, count),
            "accuracy": (log_likelihood > math.log(0.5)).float(),
            "margin": beta * (ratio[..., 0] - ratio[..., 1]).mean(dim=1),
            "kl": -ratio.mean(dim=(1, 2)),
        }
        return (loss * share).sum(), q, r, {name: (figure * share).sum() for name, figure in shown.items()}

    def e_step(
        self, log_w: Tensor, utility: Tensor, posterior: Posterior, progress: Tensor | float, triplet: Tensor | None
    ) -> tuple[Tensor, Tensor | float]:
        """q (B, K) of triplets with utility log σ_k (B, K), and how many triplets have the expert of each in common."""
        count = 1.0
        if triplet is not None and self.units is not None:
            utility, count = self.units.see(triplet, utility)
        if triplet is not None and self.taught is not None:
            return F.one_hot(self.taught[triplet], self.policy.experts + 1)[:, :-1].to(utility.dtype), count
        annealing = posterior.annealing ** (1 - 2 * torch.as_tensor(progress)).clamp_min(0)
        weights = {name: getattr(posterior, name) for name in ("entropy", "confidence", "kl_uniform", "kl_w")}
        return responsibilities(log_w, utility, **weights, annealing=annealing), count

    def after_step(self) -> None:
        """The weights' M-step in closed form. A gate has already been updated by the optimiser."""
        if isinstance(self.policy.weights, GlobalWeights) and self.method.weights.learn:
            with torch.no_grad():
                self.policy.weights.log_w.copy_(mixture_weights(self.mean_q[None]))
        self.mean_q.zero_()

    @torch.no_grad()
    def evaluate(self, triplets: Triplets) -> tuple[dict[str, float], pd.DataFrame]:
        """The figures of the curve as means over all triplets, and a row for each triplet.

        A row has the triplet's labels, the numbers of its `prompt` and `pair`, `chosen_first`, whether the chosen
        completion is the pair's first, `log_p`, log P(y⁺ ≻ y⁻) under (5), and q, w and margin, β (log_ratio⁺ −
        log_ratio⁻), of each expert. These use the E-step and losses of Algorithm 1 for single triplets, with the
        method's own settings, without phases or relaxation.
        """
        prompts, users = zip(*triplets.contexts, strict=True)
        weights, device, tables, shown = self.policy.log_weights(prompts, users), self.runtime.device, [], []
        method = replace(self.method, posterior=replace(self.method.posterior, relaxation=None))
        batches = triplets.batches(method.optimiser.batch_size)
        for rows in batches:
            texts, sides = triplets.texts_of(rows)
            with self.runtime.autocast():
                log_probs = self.log_probs(triplets.tokens(texts, device), *torch.from_numpy(sides).to(device))
            log_w = weights[torch.from_numpy(triplets.context[rows]).to(device)]
            reference = torch.from_numpy(triplets.reference[rows]).to(device)
            how = {"method": method, "progress": 1.0, "share": torch.full((len(rows),), 1 / len(rows), device=device)}
            loss, q, r, figures = self.em_step(log_probs, reference, log_w, None, **how)
            ratio = log_probs - reference[:, None]
            margin = method.beta * (ratio[..., 0] - ratio[..., 1])
            columns = log_mbt_likelihood(log_w, r)[:, None], q, log_w.exp(), margin
            tables.append(torch.cat(columns, dim=1).cpu().numpy())
            shown.append({name: figure.item() for name, figure in {"loss": loss, **figures}.items()})
        sizes = [len(rows) for rows in batches]
        means = {name: float(np.average([row[name] for row in shown], weights=sizes)) for name in shown[0]}
        names = ["log_p", *(f"{name}{k}" for name in ("q", "w", "margin") for k in range(self.policy.experts))]
        table = pd.DataFrame(np.concatenate(tables), index=np.concatenate(batches), columns=names).sort_index()
        numbers = {"prompt": triplets.prompt, "pair": triplets.pair, "chosen_first": triplets.first}
        return means, triplets.labels.assign(**numbers).join(table)

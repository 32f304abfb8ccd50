"""Preference optimisation: Algorithm 1, of which baseline DPO is the case of one expert."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import AutoTokenizer

from mixdpo.language import TokenBatch, load_language_model, sequence_log_probs
from mixdpo.losses import expert_loss, log_reward_posterior, responsibilities
from mixdpo.runtime import Runtime
from mixdpo.training import fit, training_batches


def policies(
    out: Path, spec: dict, *, runtime: Runtime, resume: Path, policy: Path, preferences: Path, reference: Path
) -> None:
    """Write `model/`, `curve.csv` (one row a step) and `validation.json` (before and after training)."""
    model = load_language_model(policy / "model", runtime)
    objective = PreferenceObjective(model, spec["beta"], runtime)
    train = Triplets(preferences / "train.parquet", reference / "train.parquet")
    validation = Triplets(preferences / "validation.parquet", reference / "validation.parquet")
    before = objective.evaluate(validation, spec["batch_size"])
    curve = fit(
        model,
        training_batches(train.lengths, spec),
        lambda rows: objective.loss(train, rows),
        spec=spec,
        runtime=runtime,
        resume=resume,
    )
    after = objective.evaluate(validation, spec["batch_size"])
    curve.to_csv(out / "curve.csv", index=False)
    result = {"triplets": len(validation.lengths), "before": before, "after": after}
    (out / "validation.json").write_text(json.dumps(result, indent=2))
    model.save_pretrained(out / "model")
    AutoTokenizer.from_pretrained(policy / "model").save_pretrained(out / "model")


class Triplets:
    """Preference triplets as token ids, with the reference log-probabilities of both completions."""

    def __init__(self, preferences: Path, reference: Path):
        frame = pd.read_parquet(preferences)
        self.prompts, self.chosen, self.rejected = (
            frame[column].tolist() for column in ("prompt_ids", "chosen_ids", "rejected_ids")
        )
        self.reference = pd.read_parquet(reference)[["chosen", "rejected"]].to_numpy()  # (N, 2)
        self.lengths = [len(p) + max(len(c), len(r)) for p, c, r in zip(self.prompts, self.chosen, self.rejected)]

    def batch(self, rows: np.ndarray, device: str) -> tuple[TokenBatch, Tensor]:
        """Tokens of 2B sequences, chosen first, and the reference log-probabilities (B, 2)."""
        completions = [self.chosen[i] for i in rows] + [self.rejected[i] for i in rows]
        tokens = TokenBatch.of([self.prompts[i] for i in rows] * 2, completions, device)
        return tokens, torch.from_numpy(self.reference[rows]).float().to(device)


class PreferenceObjective:
    """The expert losses (11) of a policy with K = 1 experts, and what its training curve shows."""

    def __init__(self, model, beta: float, runtime: Runtime):
        self.model, self.beta, self.runtime = model, beta, runtime

    def loss(self, triplets: Triplets, rows: np.ndarray) -> tuple[Tensor, dict[str, float]]:
        """E-step and expert losses of one minibatch: the scalar to minimise and the curve's figures.

        accuracy and margin are those of the implicit rewards β·log_ratio. kl is the mean of −log_ratio: both
        completions were sampled from the reference, so it estimates KL(π_ref ‖ π) over untied pairs, in nats.
        """
        tokens, reference = triplets.batch(rows, self.runtime.device)
        log_probs = sequence_log_probs(self.model, tokens).view(2, -1).T  # (B, 2)
        log_ratio = (log_probs - reference).unsqueeze(1)  # (B, 1, 2)
        r = self.beta * log_ratio.detach()
        log_w = torch.zeros(r.shape[:2], device=r.device)  # (B, 1): one expert has all the weight
        q, log_q_r = responsibilities(log_w, r), log_reward_posterior(log_w, r)
        loss = expert_loss(log_ratio, q, log_q_r, self.beta).sum(dim=1).mean()
        margin = r[..., 0] - r[..., 1]
        return loss, {
            "accuracy": (margin > 0).float().mean().item(),
            "margin": margin.mean().item(),
            "kl": -log_ratio.detach().mean().item(),
        }

    @torch.no_grad()
    def evaluate(self, triplets: Triplets, batch_size: int) -> dict[str, float]:
        """The curve's figures as means over all triplets."""
        order = np.argsort(triplets.lengths, kind="stable")
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        rows = []
        for batch in batches:
            with self.runtime.autocast():
                loss, figures = self.loss(triplets, batch)
            rows.append({"loss": loss.item(), **figures})
        weights = [len(batch) for batch in batches]
        return {name: float(np.average([row[name] for row in rows], weights=weights)) for name in rows[0]}

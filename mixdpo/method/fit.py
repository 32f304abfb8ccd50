"""One training loop for every model: batches, precision, schedule, curve, and a resume that gives the same bytes."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mixdpo.errors import UserError
from mixdpo.method.runtime import Runtime
from mixdpo.method.settings import Optimiser
from mixdpo.provenance import durable

SAVING_SHARE = 0.03  # of the training time may go into resume state


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Indices of every batch of one epoch; sequences of similar length share a batch, to waste little padding.

    A pure function of its arguments, so that a resumed run sees the same batches. Rows are shuffled, sorted by
    length within windows of 20 batches, cut into batches, and the batches shuffled.
    """
    rng = np.random.default_rng([seed, epoch])
    order, lengths = rng.permutation(len(lengths)), np.asarray(lengths)
    window = 20 * batch_size
    windows = [order[i : i + window] for i in range(0, len(order), window)]
    order = np.concatenate([w[np.argsort(lengths[w], kind="stable")] for w in windows])
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def learning_rate_factor(step: int, steps: int, warmup: float, schedule: str) -> float:
    """Share of the peak learning rate at `step` of `steps`: linear warm-up, then constant, linear or cosine."""
    warm = max(1, round(warmup * steps))
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[schedule]


def training_batches(lengths: Sequence[int], *, epochs: int, batch_size: int, seed: int) -> list[np.ndarray]:
    """The batches of all epochs."""
    return [batch for epoch in range(epochs) for batch in epoch_batches(lengths, batch_size, seed, epoch)]


def optimiser_of(spec: Mapping[str, Any]) -> Optimiser:
    """The optimiser of a stage whose settings lie flat in its spec, epochs and seed left to the stage."""
    names = ("batch_size", "learning_rate", "warmup", "schedule", "weight_decay", "max_grad_norm")
    return Optimiser(**{name: spec[name] for name in names})


def adamw_of(model: nn.Module, optimiser: Optimiser, peak: Callable[[str], float]) -> torch.optim.AdamW:
    """AdamW with a group of parameters for each peak of the learning rate, which `peak` gives by name."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    rates = sorted({peak(name) for name, _ in trained})
    groups = [{"params": [p for name, p in trained if peak(name) == rate], "peak": rate} for rate in rates]
    return torch.optim.AdamW(groups, weight_decay=optimiser.weight_decay, fused=True)


def fit(
    model: nn.Module,
    batches: Sequence[np.ndarray],
    loss: Callable[[np.ndarray], tuple[Tensor, dict[str, float]]],
    *,
    optimiser: Optimiser,
    seed: int,
    runtime: Runtime,
    resume: Path,
    learning_rates: Callable[[str], float] | None = None,
    after_step: Callable[[], None] = lambda: None,
    observe: Callable[[dict[str, float]], None] = lambda row: None,
) -> pd.DataFrame:
    """Train `model` in place, one optimiser step a batch, and return its curve, one row per step.

    `loss` maps a batch, indices of rows, to a scalar and to what the curve shows beside it; if the scalar has no
    grad_fn, `loss` has already called backward(). `after_step` is called when the optimiser has moved, and `observe`
    with the row of the curve, again after a kill for steps since the last save. `learning_rates` may give each
    parameter, by name, a peak of its own in place of the optimiser's. Parameters that require no gradient, or get none,
    stay as they are. State goes to `resume` as often as SAVING_SHARE allows; killed at any moment, the next call
    continues from there and ends with the same weights. Raises `UserError` when the loss is not finite.
    """
    adamw = adamw_of(model, optimiser, learning_rates or (lambda name: optimiser.learning_rate))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    state_file, first, rows = resume / "training.pt", 0, []
    if state_file.exists():
        state = torch.load(state_file, map_location=runtime.device, weights_only=True)
        model.load_state_dict(state["model"])
        adamw.load_state_dict(state["optimizer"])
        first, rows = state["step"], state["rows"]
    saved_at, cost = time.monotonic(), 0.0
    progress = tqdm(range(first, len(batches)), initial=first, total=len(batches), mininterval=2, unit="step")
    for step in progress:
        torch.manual_seed(seed * 1_000_003 + step)
        factor = learning_rate_factor(step, len(batches), optimiser.warmup, optimiser.schedule)
        for group in adamw.param_groups:
            group["lr"] = group["peak"] * factor
        with runtime.autocast():
            value, shown = loss(batches[step])
        if value.requires_grad:
            value.backward()
        norm = nn.utils.clip_grad_norm_(trained, optimiser.max_grad_norm)
        if not torch.isfinite(value + norm):
            raise UserError(
                f"training step {step}: expected a finite loss, found {value.item()} (gradient norm {norm.item()}); "
                "lower learning_rate or set runtime.precision to fp32"
            )
        adamw.step()
        adamw.zero_grad(set_to_none=True)
        after_step()
        rows.append({"step": step, "loss": value.item(), **shown, "gradient_norm": norm.item(), "rate": factor})
        observe(rows[-1])
        progress.set_postfix(loss=f"{rows[-1]['loss']:.4f}", refresh=False)
        if time.monotonic() - saved_at > cost / SAVING_SHARE:
            started = time.monotonic()
            state = {"model": model.state_dict(), "optimizer": adamw.state_dict(), "step": step + 1, "rows": rows}
            durable.write(state_file, lambda path, state=state: torch.save(state, path))
            saved_at, cost = time.monotonic(), time.monotonic() - started
    return pd.DataFrame(rows)

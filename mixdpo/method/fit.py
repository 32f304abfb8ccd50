"""One training loop for every model: batches, precision, schedule, curve, and a resume that gives the same bytes."""

import contextlib
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
from mixdpo.method.capture import Captured, compiled
from mixdpo.method.runtime import Runtime
from mixdpo.method.settings import Optimiser
from mixdpo.provenance import durable

SAVING_SHARE = 0.03  # largest share of the training time that is spent saving the resume state
FETCHED = 16  # steps whose figures are fetched from the device together
COMPILED = 2000  # steps on CUDA that repay the time of compiling layers


def epoch_batches(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int, sizes: Sequence[int] | None = None
) -> list[np.ndarray]:
    """Indices of every batch of one epoch; sequences of similar length share a batch, so little padding is wasted.

    A batch holds at most `batch_size`, what each index counts for being its `sizes`, 1 unless given. A pure function of
    its arguments, so that a resumed run sees the same batches. Rows are shuffled, sorted by length within windows of
    about 20 batches, packed in that order, and the batches shuffled.
    """
    rng = np.random.default_rng([seed, epoch])
    order, lengths = rng.permutation(len(lengths)), np.asarray(lengths)
    sizes = np.ones(len(lengths), int) if sizes is None else np.asarray(sizes)
    window = max(1, round(20 * batch_size / sizes.mean()))
    windows = [order[i : i + window] for i in range(0, len(order), window)]
    order = np.concatenate([w[np.argsort(lengths[w], kind="stable")] for w in windows])
    batches = packed(order, sizes, batch_size)
    return [batches[i] for i in rng.permutation(len(batches))]


def packed(order: Sequence[int], sizes: Sequence[int], batch_size: int) -> list[np.ndarray]:
    """The indices in `order`, cut into batches whose `sizes` add up to at most `batch_size`."""
    batches, room = [], 0
    for i in order:
        if sizes[i] > room:
            batches.append([])
            room = batch_size
        batches[-1].append(i)
        room -= sizes[i]
    return [np.array(batch) for batch in batches]


def learning_rate_factor(step: int, steps: int, warmup: float, schedule: str) -> float:
    """Share of the peak learning rate at `step` of `steps`: linear warm-up, then constant, linear or cosine."""
    warm = max(1, round(warmup * steps))
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[schedule]


def training_batches(
    lengths: Sequence[int], *, epochs: int, batch_size: int, seed: int, sizes: Sequence[int] | None = None
) -> list[np.ndarray]:
    """The batches of all epochs."""
    return [batch for epoch in range(epochs) for batch in epoch_batches(lengths, batch_size, seed, epoch, sizes)]


def optimiser_of(spec: Mapping[str, Any]) -> Optimiser:
    """The optimiser of a stage whose spec has the settings beside its other keys; epochs and seed are the stage's."""
    names = ("batch_size", "learning_rate", "warmup", "schedule", "weight_decay", "max_grad_norm")
    return Optimiser(**{name: spec[name] for name in names})


def adamw_of(
    model: nn.Module, optimiser: Optimiser, peak: Callable[[str], float], device: str = "cpu"
) -> torch.optim.AdamW:
    """AdamW with a group of parameters for each peak of the learning rate, which `peak` gives by name.

    On CUDA it can be captured: its rates are tensors, whose values `set_rates` changes in place.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    rates = sorted({peak(name) for name, _ in trained})
    groups = [{"params": [p for name, p in trained if peak(name) == rate], "peak": rate} for rate in rates]
    cuda = device == "cuda"
    for group in groups if cuda else []:
        group["lr"] = torch.tensor(group["peak"], device=device)
    return torch.optim.AdamW(groups, weight_decay=optimiser.weight_decay, fused=True, capturable=cuda)


def set_rates(adamw: torch.optim.AdamW, factor: float) -> None:
    """Set every learning rate to `factor` of its peak."""
    for group in adamw.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(group["peak"] * factor)
        else:
            group["lr"] = group["peak"] * factor


def buckets(shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Shapes (N, T, …) rounded up so that a few serve all steps, and a CUDA graph can be replayed for each.

    T is rounded up to a multiple of 16, but not above the longest, since a model has so many positions and no more; the
    other numbers are the largest among the shapes of that T.
    """
    shapes = np.array(shapes)
    shapes[:, 1] = np.minimum(shapes[:, 1] + -shapes[:, 1] % 16, shapes[:, 1].max())
    room = {t: shapes[shapes[:, 1] == t].max(axis=0) for t in np.unique(shapes[:, 1])}
    return [tuple(room[t].tolist()) for t in shapes[:, 1]]


Part = Mapping[str, Any]
"""What the loss of a step, or of a part of it, is computed from: tensors by name, and plain values that change how."""
Loss = Callable[[Part], tuple[Tensor, dict[str, Tensor]]]


class Step:
    """One step of AdamW on a model: the loss and gradients of every part, clipping, the update, `after_step`."""

    def __init__(
        self,
        model: nn.Module,
        adamw: torch.optim.AdamW,
        loss: Loss,
        max_grad_norm: float,
        runtime: Runtime,
        after_step: Callable[[], None],
    ):
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.adamw, self.loss, self.after_step = adamw, loss, after_step
        self.max_grad_norm, self.runtime = max_grad_norm, runtime
        self.names: list[str] = []

    def __call__(self, parts: Sequence[Part]) -> Tensor:
        """The figures that `names` names, on the device: loss, what the loss gives beside it, gradient norm."""
        total: dict[str, Tensor] = {}
        for part in parts:
            with self.runtime.autocast():
                value, shown = self.loss(part)
            if value.requires_grad:
                value.backward()
            for name, figure in {"loss": value, **shown}.items():
                total[name] = total[name] + figure.detach() if name in total else figure.detach()
        total["gradient_norm"] = nn.utils.clip_grad_norm_(self.trained, self.max_grad_norm)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        self.after_step()
        self.names = list(total)
        return torch.stack([figure.float() for figure in total.values()])


class Replayed:
    """A `Step` on CUDA: for each kind of parts, one graph, which is replayed on parts copied to where it was captured.

    A kind is the shapes of the tensors and the values beside them. A step that cannot be captured runs from Python.
    """

    def __init__(self, step: Step):
        self.step, self.pool = step, torch.cuda.graph_pool_handle() if torch.cuda.is_available() else None
        self.kinds: dict[str, tuple[list[dict], Captured]] = {}

    def __call__(self, parts: Sequence[Part]) -> Tensor:
        kind = repr([{n: tuple(v.shape) if isinstance(v, Tensor) else v for n, v in part.items()} for part in parts])
        if kind not in self.kinds:
            held = [on_device(part, self.step.runtime.device) for part in parts]
            self.kinds[kind] = held, Captured(lambda: self.step(held), pool=self.pool)
        held, captured = self.kinds[kind]
        for to, part in zip(held, parts, strict=True):
            for name, value in part.items():
                if isinstance(value, Tensor):
                    to[name].copy_(value, non_blocking=True)
        return captured().clone()  # the next replay of any graph writes over it


def on_device(part: Part, device: str) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in part.items()}


def fit(
    model: nn.Module,
    steps: int,
    parts: Callable[[int], Sequence[Part]],
    loss: Loss,
    *,
    optimiser: Optimiser,
    seed: int,
    runtime: Runtime,
    resume: Path,
    until: int | None = None,
    learning_rates: Callable[[str], float] | None = None,
    after_step: Callable[[], None] = lambda: None,
    observe: Callable[[dict[str, float]], None] = lambda row: None,
) -> pd.DataFrame:
    """Train `model` in place for `steps` steps of the optimiser, and return its curve, one row per step.

    `parts` maps a step to its parts, on the CPU; `loss` maps a part, on the device, to a scalar and to further figures
    for the curve. Gradients and figures add up over the parts, and activations are freed after each. `loss` and
    `after_step`, which is called after every update, ask the device for no value. `observe` gets every row of the
    curve; after a kill, rows since the last save are observed again. `learning_rates` may give each parameter, by name,
    its own peak. Parameters that require no gradient, or get none, stay as they are. State is saved in `resume` as
    often as SAVING_SHARE allows. After a kill at any moment, the next call continues from there and ends with the same
    weights. Raises `UserError` when the loss is not finite.
    """
    adamw = adamw_of(model, optimiser, learning_rates or (lambda name: optimiser.learning_rate), runtime.device)
    state_file, first, curve = resume / "training.pt", 0, Curve(observe)
    if state_file.exists():
        state = torch.load(state_file, map_location=runtime.device, weights_only=True)
        model.load_state_dict(state["model"])
        adamw.load_state_dict(state["optimizer"])
        first, curve.rows = state["step"], state["rows"]
    step = Step(model, adamw, loss, optimiser.max_grad_norm, runtime, after_step)
    cuda, saved_at, cost = runtime.device == "cuda", time.monotonic(), 0.0
    run = Replayed(step) if cuda else step
    until = steps if until is None else until
    progress = tqdm(range(first, until), initial=first, total=steps, mininterval=2, unit="step")
    with compiled(model) if cuda and steps >= COMPILED else contextlib.nullcontext():
        for number in progress:
            torch.manual_seed(seed * 1_000_003 + number)
            factor = learning_rate_factor(number, steps, optimiser.warmup, optimiser.schedule)
            set_rates(adamw, factor)
            curve.add(number, run(parts(number)), step.names, factor)
            saving = time.monotonic() - saved_at > cost / SAVING_SHARE or number + 1 == until < steps
            if saving or len(curve.waiting) == FETCHED or number + 1 == steps:
                curve.fetch()
                progress.set_postfix(loss=f"{curve.rows[-1]['loss']:.4f}", refresh=False)
            if saving:
                started = time.monotonic()
                state = {"model": model.state_dict(), "optimizer": adamw.state_dict()}
                state |= {"step": number + 1, "rows": curve.rows}
                durable.write(state_file, lambda path, state=state: torch.save(state, path))
                saved_at, cost = time.monotonic(), time.monotonic() - started
    return pd.DataFrame(curve.rows)


class Curve:
    """The rows of a training's curve. Their figures wait on the device, so that no step waits for the one before."""

    def __init__(self, observe: Callable[[dict[str, float]], None]):
        self.rows: list[dict[str, float]] = []
        self.waiting: list[tuple[int, Tensor, Sequence[str], float]] = []
        self.observe = observe

    def add(self, step: int, figures: Tensor, names: Sequence[str], rate: float) -> None:
        self.waiting.append((step, figures, names, rate))

    def fetch(self) -> None:
        """Make rows of the figures that wait, without those that are NaN because a step had nothing to show.

        Raises `UserError` for the first loss or gradient that is not finite.
        """
        for step, figures, names, rate in self.waiting:
            shown = dict(zip(names, figures.tolist(), strict=True))
            if not math.isfinite(shown["loss"] + shown["gradient_norm"]):
                raise UserError(
                    f"training step {step}: expected a finite loss, found {shown['loss']} (gradient norm "
                    f"{shown['gradient_norm']}); lower learning_rate or set runtime.precision to fp32"
                )
            known = {name: figure for name, figure in shown.items() if not math.isnan(figure)}
            self.rows.append({"step": step, **known, "rate": rate})
            self.observe(self.rows[-1])
        self.waiting = []

"""A step of preference training: the package's own and TRL's. See README.md."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from measure import COMPLETION, PROMPT, SIZES, random_language_model

from mixdpo.method.fit import Replayed, Step, adamw_of
from mixdpo.method.initial import build
from mixdpo.method.objective import PreferenceObjective
from mixdpo.method.runtime import Runtime
from mixdpo.method.settings import Experts, Method, Optimiser
from mixdpo.method.triplets import Triplets

VARIANTS = {
    "DPO": Method(Experts(models=1)),
    "Case 1, K = 3": Method(Experts(heads=3)),
    "Case 1, K = 3, in two parts": Method(Experts(heads=3), optimiser=Optimiser(accumulate=2)),
    "Case 1, K = 3, frozen encoder": Method(Experts(heads=3, encoder="frozen")),
    "Case 2, K = 3": Method(Experts(models=3)),
}
MINIBATCHES = 4
"""Different ones, which steps take in turn."""


def random_pairs(size: str, pairs: int, styles: int) -> tuple[pd.DataFrame, Triplets]:
    """Pairs that `styles` styles label each; styles prefer one or the other completion at random."""
    rng, end = np.random.default_rng(0), SIZES[size]["vocab_size"] - 1
    rows = []
    for _ in range(pairs):
        prompt = rng.integers(end, size=PROMPT).tolist()
        both = [[*rng.integers(end, size=COMPLETION - 1).tolist(), end] for _ in range(2)]
        for style in range(styles):
            first = int(rng.integers(2))
            rows.append([prompt, both[first], both[1 - first], f"style {style}"])
    frame = pd.DataFrame(rows, columns=["prompt_ids", "chosen_ids", "rejected_ids", "style"])
    reference = -COMPLETION * np.log(end) + rng.normal(size=(len(frame), 2))  # what a random model gives, about
    return frame, Triplets(frame, pd.DataFrame(reference, columns=["chosen", "rejected"]))


def prepared(variant: str, model: Path, triplets: Triplets, batch: int, runtime: Runtime) -> PreferenceObjective:
    """The objective of a method, with minibatches of `batch` pairs."""
    method = VARIANTS[variant]
    objective = PreferenceObjective(build(method, model, runtime, seed=0), method, runtime)
    pairs = np.arange(len(triplets.groups)).reshape(-1, batch)
    objective.prepare(triplets, [triplets.rows(part) for part in pairs])
    return objective


def repeated_step(objective: PreferenceObjective) -> Callable[[], object]:
    """One step of `fit` from the tokens of a minibatch, without its schedule, progress bar and resume file."""
    given, runtime = objective.method.optimiser, objective.runtime
    adamw = adamw_of(objective, given, lambda name: given.learning_rate, runtime.device)
    step = Step(objective, adamw, objective.loss, given.max_grad_norm, runtime, objective.after_step)
    run = Replayed(step) if runtime.device == "cuda" else step
    numbers = itertools.cycle(range(len(objective.batches)))
    return lambda: run(objective.parts(next(numbers)))


def our_step(variant: str, model: Path, triplets: Triplets, batch: int, runtime: Runtime) -> Callable[[], object]:
    return repeated_step(prepared(variant, model, triplets, batch, runtime))


def ours(folder: Path, variant: str, size: str, batch: int, precision: str) -> Callable[[], object]:
    """Our step as its users run it: the runtime asks for deterministic algorithms and sets glibc."""
    runtime = Runtime.choose("cpu", precision, torch.get_num_threads())
    model = random_language_model(size, folder / "model")
    return our_step(variant, model, random_pairs(size, MINIBATCHES * batch, 1)[1], batch, runtime)


def trl(folder: Path, attention: str, size: str, batch: int, precision: str) -> Callable[[], None]:
    """TRL's step as its users run it."""
    model, (frame, _) = random_language_model(size, folder / "model"), random_pairs(size, MINIBATCHES * batch, 1)
    return trl_step(attention, model, frame, batch, precision)


def trl_step(
    attention: str, model: Path, frame: pd.DataFrame, batch: int, precision: str, device: str = "cpu"
) -> Callable[[], None]:
    """One step of TRL's trainer: its `training_step` on a batch it has collated, clipping, its optimiser.

    Reference log-probabilities computed before, no gradient checkpointing, no logging, no deterministic algorithms.
    The rest of its loop (data loader, schedule, callbacks) is left out, in its favour.
    """
    import trl
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation=attention)
    end = network.config.eos_token_id
    words = Tokenizer(models.WordLevel({**{str(i): i for i in range(end)}, "</s>": end}, unk_token="</s>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", pad_token="</s>")
    text = {c: [" ".join(map(str, ids)) for ids in frame[f"{c}_ids"]] for c in ("prompt", "chosen", "rejected")}
    data = {name: [row.replace(f" {end}", "</s>") for row in rows] for name, rows in text.items()}
    data |= {name: [" " + row for row in data[name]] for name in ("chosen", "rejected")}
    dpo = VARIANTS["DPO"]
    config = trl.DPOConfig(
        str(model.parent / "trl"),
        beta=dpo.beta,
        learning_rate=dpo.optimiser.learning_rate,
        max_grad_norm=dpo.optimiser.max_grad_norm,
        per_device_train_batch_size=batch,
        use_cpu=device == "cpu",
        bf16=precision == "bf16",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        gradient_checkpointing=False,
        precompute_ref_log_probs=True,
    )
    trainer = trl.DPOTrainer(network, args=config, train_dataset=Dataset.from_dict(data), processing_class=tokenizer)
    trainer.current_gradient_accumulation_steps = 1
    trainer.create_optimizer()
    network, optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    inputs = list(trainer.get_train_dataloader())
    assert inputs[0]["input_ids"].shape == (2 * batch, PROMPT + COMPLETION)
    batches = itertools.cycle(inputs)

    def step() -> None:
        trainer.training_step(network, dict(next(batches)))
        trainer.accelerator.clip_grad_norm_(network.parameters(), dpo.optimiser.max_grad_norm)
        optimizer.step()
        network.zero_grad()

    return step

"""Speed and memory of a preference-training step, TRL's DPO included. See README.md."""

import argparse
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from measure import (
    COMPLETION,
    PROMPT,
    SIZES,
    interleave,
    options,
    print_machine,
    print_rows,
    print_table,
    random_language_model,
)
from torch import nn

import mixdpo.method.runtime
from mixdpo.method.initial import build
from mixdpo.method.objective import PreferenceObjective, Triplets
from mixdpo.method.runtime import Runtime
from mixdpo.method.settings import Experts, Method, Optimiser

VARIANTS = {
    "DPO": Method(Experts(models=1)),
    "Case 1, K = 3": Method(Experts(heads=3)),
    "Case 1, K = 3, in two parts": Method(Experts(heads=3), optimiser=Optimiser(accumulate=2)),
    "Case 1, K = 3, frozen encoder": Method(Experts(heads=3, encoder="frozen")),
    "Case 2, K = 3": Method(Experts(models=3)),
}
STATES_EACH_STEP = ", states computed in every step"
BLOCKS = {  # of our own variants: what a table compares, each with row one
    "b": ["DPO", "Case 1, K = 3", "Case 1, K = 3, in two parts"],
    "c": ["Case 1, K = 3", f"Case 1, K = 3, frozen encoder{STATES_EACH_STEP}", "Case 1, K = 3, frozen encoder"],
    "d": ["DPO", "Case 2, K = 3"],
}


def random_pairs(size: str, pairs: int, styles: int, folder: Path) -> tuple[pd.DataFrame, Triplets]:
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
    frame.to_parquet(folder / "preferences.parquet")
    reference = -COMPLETION * np.log(end) + rng.normal(size=(len(frame), 2))  # what a random model gives, about
    pd.DataFrame(reference, columns=["chosen", "rejected"]).to_parquet(folder / "reference_log_probs.parquet")
    return frame, Triplets(
        *(pd.read_parquet(folder / f"{name}.parquet") for name in ("preferences", "reference_log_probs"))
    )


def our_step(variant: str, model: Path, triplets: Triplets, batch: int, runtime: Runtime) -> Callable:
    """One step of `training.fit` without its progress bar and resume file."""
    method = VARIANTS[variant.removesuffix(STATES_EACH_STEP)]
    objective = PreferenceObjective(build(method, model, runtime, seed=0), method, runtime)
    objective.prepare(triplets, 9)
    if variant.endswith(STATES_EACH_STEP):
        objective.hidden = {}
    parameters = [p for p in objective.parameters() if p.requires_grad]
    given = method.optimiser
    adamw = torch.optim.AdamW(parameters, lr=given.learning_rate, weight_decay=given.weight_decay, fused=True)
    batches = itertools.cycle(triplets.rows(part) for part in np.arange(len(triplets.groups)).reshape(-1, batch))

    def step() -> None:
        torch.use_deterministic_algorithms(True)
        with runtime.autocast():
            loss, _ = objective.loss(triplets, next(batches))
        if loss.requires_grad:
            loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, given.max_grad_norm)
        assert torch.isfinite(loss + norm)
        adamw.step()
        adamw.zero_grad(set_to_none=True)
        objective.after_step()

    return step


def trl_step(attention: str, model: Path, frame: pd.DataFrame, batch: int, precision: str) -> Callable:
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
        use_cpu=True,
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
        torch.use_deterministic_algorithms(False)
        trainer.training_step(network, dict(next(batches)))
        trainer.accelerator.clip_grad_norm_(network.parameters(), dpo.optimiser.max_grad_norm)
        optimizer.step()
        network.zero_grad()

    return step


def dpo(given: argparse.Namespace, model: Path) -> None:
    """a: a DPO step, ours and TRL's, all precisions in one table. Row one is the faster fp32 peer."""
    frame, triplets = random_pairs(given.size, 8 * given.batch, 1, model.parent)
    steps = {}
    for precision in given.precisions:
        runtime = Runtime("cpu", precision, given.threads)
        steps[f"ours, {precision}"] = our_step("DPO", model, triplets, given.batch, runtime)
        for attention in ("sdpa", "eager"):
            steps[f"TRL, {precision}, {attention}"] = trl_step(attention, model, frame, given.batch, precision)
    times = interleave(steps, given)
    first = min((n for n in times if f"TRL, {given.precisions[0]}" in n), key=lambda name: np.median(times[name]))
    times = {name: times[name] for name in [first, *sorted(times.keys() - {first})]}
    print_table("a. DPO", times, given.batch, "pairs")


def ours(block: str, given: argparse.Namespace, model: Path) -> None:
    """b, c, d: our variants beside the block's first, a table for each precision."""
    _, triplets = random_pairs(given.size, 8 * given.batch, 1, model.parent)
    title = "b. By FLOPs the ratio is {:.2f}, {:.2f} as computed".format(*flops(given.size)) if block == "b" else block
    for precision in given.precisions:
        runtime = Runtime("cpu", precision, given.threads)
        steps = {name: our_step(name, model, triplets, given.batch, runtime) for name in BLOCKS[block]}
        times = interleave(steps, given)
        print_table(f"{title}, {precision}", times, given.batch, "pairs", cost=block == "b")


def flops(size: str, experts: int = 3) -> tuple[float, float]:
    """A Case 1 step over a DPO step: by parameters, and as computed.

    Parameters: (encoder + K · head) / (encoder + head). As computed: the encoder sees whole sequences, the heads
    completions only.
    """
    shape = SIZES[size]
    encoder, head = 12 * shape["n_layer"] * shape["n_embd"] ** 2, shape["vocab_size"] * shape["n_embd"]
    body, output = encoder * (PROMPT + COMPLETION), head * COMPLETION
    return (encoder + experts * head) / (encoder + head), (body + experts * output) / (body + output)


def sharing(given: argparse.Namespace, model: Path) -> None:
    """e: as many triplets, as three styles' labels of each pair or of pairs with texts of their own."""
    for precision in given.precisions:
        runtime, steps = Runtime("cpu", precision, given.threads), {}
        for name, styles in (("texts of their own", 1), ("three labels a pair", 3)):
            batch = 3 * given.batch // styles
            _, triplets = random_pairs(given.size, 8 * batch, styles, model.parent)
            steps[name] = our_step("Case 1, K = 3", model, triplets, batch, runtime)
        times = interleave(steps, given)
        print_table(f"e. Case 1, K = 3, {precision}", times, 3 * given.batch, "triplets")


def memory(given: argparse.Namespace) -> None:
    """b: peak resident memory of eight steps, each variant in a process of its own."""
    for precision in given.precisions:
        rows, first = [], None
        for variant in ("DPO", "Case 1, K = 3", "Case 1, K = 3, in two parts", "Case 2, K = 3"):
            command = [sys.executable, __file__, "--measure", variant, "--size", given.size, "--precisions", precision]
            command += ["--batch", str(given.batch), "--threads", str(given.threads)]
            figures = np.array(subprocess.check_output(command, text=True).split(), dtype=float)
            first = figures if first is None else first
            rows.append([variant, *(f"{f:.0f} ({f / one:.2f})" for f, one in zip(figures, first, strict=True))])
        headers = ["variant", "MiB, model and steps (× DPO)", "MiB, steps alone (× DPO)"]
        print_rows(f"b. Peak memory, {precision}", rows, headers)


def measure_memory(given: argparse.Namespace, model: Path) -> None:
    """Print how far the peak lies above what the process held before it built the model, and before its first step."""

    def mebibytes(field: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024

    _, triplets = random_pairs(given.size, 8 * given.batch, 1, model.parent)
    empty = mebibytes("VmRSS")
    runtime = Runtime("cpu", given.precisions[0], given.threads)
    step, built = our_step(given.measure, model, triplets, given.batch, runtime), mebibytes("VmRSS")
    for _ in range(8):
        step()
    print(mebibytes("VmHWM") - empty, mebibytes("VmHWM") - built)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--batch", type=int, default=16, help="pairs")
    parser.add_argument("--blocks", nargs="+", choices=list("abcde"), default=list("abcde"))
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # a variant, in a process of its own
    parser.add_argument("--default-allocator", action="store_true", help="without our setting: freed memory returned")
    given = parser.parse_args()
    if given.default_allocator:
        mixdpo.method.runtime.keep_freed_memory = lambda: None
    Runtime.choose("cpu", given.precisions[0], given.threads)
    with tempfile.TemporaryDirectory() as folder:
        model = random_language_model(given.size, Path(folder) / "model")
        if given.measure:
            return measure_memory(given, model)
        print_machine(given)
        for block in given.blocks:
            if block in BLOCKS:
                ours(block, given, model)
            else:
                {"a": dpo, "e": sharing}[block](given, model)
            if block == "b":
                memory(given)


if __name__ == "__main__":
    main()

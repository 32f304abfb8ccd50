"""The work that is measured: shapes of models, random weights, random pairs, and how many FLOPs it takes."""

from pathlib import Path

SIZES = {  # GPT-2 shapes
    "tiny": {"n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 50},
    "embedded": {"n_layer": 2, "n_embd": 128, "n_head": 4, "vocab_size": 2000},
    "small": {"n_layer": 4, "n_embd": 256, "n_head": 4, "vocab_size": 8000},
    "full": {"n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257},
}
PROMPT, COMPLETION = 8, 48  # tokens


def random_language_model(size: str, folder: Path) -> Path:
    """A folder with random weights of this shape; the last token of the vocabulary is end-of-text."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    end = SIZES[size]["vocab_size"] - 1
    config = GPT2Config(**SIZES[size], n_positions=128, bos_token_id=end, eos_token_id=end)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def parameters(size: str) -> tuple[int, int]:
    """Weights of the linear layers of the encoder, and of one output layer."""
    shape = SIZES[size]
    return 12 * shape["n_layer"] * shape["n_embd"] ** 2, shape["vocab_size"] * shape["n_embd"]


def step_flops(size: str, pairs: int, *, heads: int = 1, models: int = 1, frozen: bool = False) -> float:
    """FLOPs of the linear layers in one step: the encoder sees whole texts, output layers only completions.

    A product forward and two backward; a frozen encoder, whose states are known, leaves two of the output layers.
    """
    encoder, head = parameters(size)
    body, output = 2 * pairs * encoder * (PROMPT + COMPLETION), 2 * pairs * heads * head * COMPLETION
    return 2 * 2 * output if frozen else models * 2 * 3 * (body + output)


def sampling_flops(size: str, batch: int) -> float:
    """FLOPs of the linear layers in `batch` completions. A mixture by token needs the same: one expert for each."""
    encoder, head = parameters(size)
    return 2 * batch * (encoder * (PROMPT + COMPLETION - 1) + head * COMPLETION)

"""The model that training starts from: a local folder, a name on the hub, or one in memory with its tokenizer."""

import hashlib
import json
import os
import re
import tempfile
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from mixdpo.errors import UserError
from mixdpo.method.language import load_language_model
from mixdpo.method.policy import Policy
from mixdpo.method.runtime import Runtime
from mixdpo.provenance.artifact import sha256
from mixdpo.stages.assets import hub

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]
"""A model in memory, and its tokenizer."""


def is_loaded(model: Path | str | Loaded) -> bool:
    """Whether the model is in memory, and not a path or a name."""
    return not isinstance(model, str | Path)


def source_of(model: Path | str | Loaded, out: Path) -> dict:
    """What the reference is made from, as its manifest in `out` records it: source local, hub or memory.

    A local path is relative to `out`. A name on the hub stands for the commit that it named when `out` was made, else
    for the newest. Raises `UserError`.
    """
    if is_loaded(model):
        return {"source": "memory", "sha256": digest(*pair(model))}
    if Path(model, "adapter_config.json").is_file():
        raise UserError(
            f"model: expected a whole model, found the PEFT adapter {model}; merge it: {merging(Path(model))}"
        )
    if Path(model).is_dir():
        return {"source": "local", "path": from_folder(out, model).as_posix()}
    if found := re.fullmatch(r"([\w.-]+(?:/[\w.-]+)?)(?:@([0-9a-f]{40}))?", str(model)):
        repository, commit = found.groups()
        commit = commit or recorded_commit(out, repository) or fetched(repository, None).name
        return {"source": "hub", "repository": repository, "revision": commit}
    raise UserError(f"model: expected a folder, NAME or NAME@COMMIT of the hub, found {model}; correct the path")


def pair(model: Loaded) -> Loaded:
    """`model`, if it is a whole language model of transformers with a tokenizer."""
    kinds = (PreTrainedModel, PreTrainedTokenizerBase)
    if isinstance(model, tuple | list) and len(model) == 2 and all(map(isinstance, model, kinds)):
        return tuple(model)
    found = ", ".join(type(part).__name__ for part in (model if isinstance(model, tuple | list) else [model]))
    raise UserError(
        f"model: expected a path, a name on the hub, or (model, tokenizer) of transformers, found {found}; give the "
        "tokenizer with the model, and merge adapters by merge_and_unload()"
    )


def digest(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of the weights, the configuration and the files of the tokenizer."""
    total = hashlib.sha256(model.config.to_json_string().encode())
    for name, tensor in sorted(model.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            total.update(f"{file.name} {sha256(file)}".encode())
    return total.hexdigest()


def recorded_commit(out: Path, repository: str) -> str | None:
    """The commit that `repository` stood for when `out` was made from it."""
    try:
        spec = json.loads((out / "reference/manifest.json").read_text())["spec"]
    except (OSError, ValueError, KeyError):
        return None
    return spec.get("revision") if spec.get("repository") == repository else None


def fetched(repository: str, commit: str | None) -> Path:
    """The folder of a commit in the hub's cache; its name is the commit."""
    try:
        return hub.snapshot(repository, commit)
    except Exception as error:  # the hub's errors share no base class: offline, not found, refused
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"model: expected a folder, or a name on the hub, found no folder {repository}, and the hub says: "
            f"{reason}; "
            "correct the path, or name a local copy"
        ) from error


def merging(adapter: Path) -> str:
    """The command that merges a PEFT adapter into its model, in a folder beside the adapter."""
    base = json.loads((adapter / "adapter_config.json").read_text()).get("base_model_name_or_path", "MODEL")
    tokenizer, merged = adapter if (adapter / "tokenizer_config.json").is_file() else base, f"{adapter}-merged"
    return (
        'python -c "from peft import AutoPeftModelForCausalLM as M; from transformers import AutoTokenizer as T; '
        f"M.from_pretrained('{adapter}').merge_and_unload().save_pretrained('{merged}'); "
        f"T.from_pretrained('{tokenizer}').save_pretrained('{merged}')\", then type --model {merged}"
    )


def from_folder(out: Path, path: Path | str) -> Path:
    """`path` as it is seen from `out`, so that both can move together."""
    return Path(os.path.relpath(os.path.realpath(path), os.path.realpath(out)))


def reference(out: Path, spec: dict, *, runtime: Runtime, resume: Path, model: Path | str | Loaded) -> None:
    """Write `model/`, a causal language model with its tokenizer: saved from memory, or a link to the copy on disk.

    Raises `UserError` for a model that cannot be trained.
    """
    if spec["source"] == "memory":
        for part in pair(model):
            part.save_pretrained(out / "model")
    else:
        folder = Path(model) if spec["source"] == "local" else fetched(spec["repository"], spec["revision"])
        (out / "model").symlink_to(folder.resolve(), target_is_directory=True)
    try:
        tokenizer = AutoTokenizer.from_pretrained(out / "model")
        loaded = load_language_model(out / "model", runtime)
    except Exception as error:  # each library raises its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"model: expected a causal language model with its tokenizer, found: {reason}") from error
    if tokenizer.eos_token_id is None:
        raise UserError("model: expected a tokenizer with an eos token, found none; set eos_token in its files")
    check_tokenizer("model", tokenizer, loaded)
    check_logits(loaded)


def check_tokenizer(key: str, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | Policy) -> None:
    """Raise `UserError` if it has under half the tokens of the embedding: transformers invents one that is missing."""
    rows = model.config.get_text_config().vocab_size
    if len(tokenizer) < rows / 2:
        raise UserError(
            f"{key}: expected a tokenizer of about {rows} tokens, the rows of the embedding, found {len(tokenizer)}; "
            "copy the files of the model's tokenizer into its folder"
        )


@torch.no_grad()
def check_logits(model: PreTrainedModel) -> None:
    """Raise `UserError` unless logits are an output layer applied to the last states, as heads and losses assume."""
    tokens = torch.arange(1, 5, device=model.device)[None]
    expected = model.get_output_embeddings()(model.base_model(input_ids=tokens).last_hidden_state)
    found = model(input_ids=tokens).logits
    if found.shape != expected.shape or not found.allclose(expected, rtol=1e-3, atol=1e-3):
        kind = type(model).__name__
        raise UserError(
            f"model: expected logits that are an output layer of the last states, found others in {kind}; "
            "choose another"
        )

"""Text from a trained policy, and its experts as ordinary models.

A `Policy` deals in token ids. A `TextPolicy` adds the tokenizer, and deals in text.
"""

import logging
import os
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from mixdpo.data.preferences import read_preferences
from mixdpo.errors import UserError
from mixdpo.library.reference import check_tokenizer
from mixdpo.library.triplets import add_ids, positions_of
from mixdpo.method.language import load_language_model
from mixdpo.method.policy import Policy
from mixdpo.method.runtime import Runtime
from mixdpo.stages.reference_log_probs import each_text, log_probs, texts_of

log = logging.getLogger("mixdpo")

CARD = """---
library_name: transformers
tags: [dpo, preference-optimization]
---

# Expert {k} of {count}

One expert of a policy that was trained by Mix- and MoE-DPO (arXiv 2510.08256), as a language model by itself:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")
tokens = model.generate(**tokenizer("A prompt", return_tensors="pt"), max_new_tokens=48)
print(tokenizer.decode(tokens[0], skip_special_tokens=True))
```

The whole policy draws its tokens from {count} experts by their weights; this model is one expert, without weights.
"""


class TextPolicy:
    """A policy and its tokenizer, from the folder of a policy, or a folder that `train` wrote. Loaded when first
    used."""

    def __init__(
        self, folder: Path | str, *, device: str = "auto", precision: str = "auto", threads: int | None = None
    ):
        self.folder = policy_folder(Path(folder))
        self._how = device, precision, threads or os.cpu_count()

    @cached_property
    def runtime(self) -> Runtime:
        return Runtime.choose(*self._how)

    @cached_property
    def policy(self) -> Policy:
        """The policy that deals in token ids. A text ends as completions did in training: with the tokenizer's end."""
        policy = Policy.from_pretrained(self.folder, self.runtime)
        check_tokenizer("policy", self.tokenizer, policy)
        policy.config.eos_token_id = self.tokenizer.eos_token_id
        return policy

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return AutoTokenizer.from_pretrained(self.folder)

    def generate(
        self,
        prompts: str | Sequence[str],
        users: str | Sequence[str] | None = None,
        *,
        expert: int | None = None,
        mixture: str = "token",
        top_s: int | None = None,
        n: int = 1,
        max_new_tokens: int = 48,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> list[str]:
        """Continuations of the prompts, which they do not repeat: `n` of the first prompt, then `n` of the second, ….

        `users` has one user for each prompt, if the gate sees users. expert, mixture and top_s are those of
        `Policy.generate`. The draws depend on `seed` and on every other argument. Raises `UserError`.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        users = [users] if isinstance(users, str) else users if users is None else list(users)
        for name, value in {"n": n, "max_new_tokens": max_new_tokens, "temperature": temperature}.items():
            if not value > 0:
                raise UserError(f"{name}: expected a number > 0, found {value}; raise it")
        if not -(2**63) <= seed < 2**64:
            raise UserError(f"seed: expected a number of 64 bits, found {seed}; choose another")
        self.check_users(prompts, users)
        if not prompts:
            return []
        ids = self.prompt_ids(prompts, max_new_tokens)
        how = {"runtime": self.runtime, "seed": seed, "max_new_tokens": max_new_tokens, "temperature": temperature}
        how |= {"expert": expert, "mixture": mixture, "top_s": top_s}
        how["users"] = None if users is None else [user for user in users for _ in range(n)]
        completions = self.policy.generate([row for row in ids for _ in range(n)], **how)
        return self.tokenizer.batch_decode(completions, skip_special_tokens=True)

    def check_users(self, prompts: Sequence[str], users: Sequence[str] | None) -> None:
        """Raise `UserError` unless there is a user for each prompt, or none at all; say which users are not known."""
        if users is not None and len(users) != len(prompts):
            raise UserError(f"users: expected {len(prompts)}, one for each prompt, found {len(users)}; name as many")
        known = self.policy.users
        if users and not known:
            raise UserError(
                f"users: expected none, since the weights of {self.folder} know no users, found {users[0]}; drop them, "
                "or give comparisons of theirs to adapt"
            )
        for user in dict.fromkeys(users or []):
            if user not in known:
                log.warning(
                    "user: %s is none of the %d that the policy knows, and gets the prior; to change that give "
                    "comparisons of theirs",
                    user,
                    len(known),
                )

    @torch.no_grad()
    def adapt(
        self, user: str, preferences: Path | str | pd.DataFrame | Any, reference: Path | str | None = None
    ) -> np.ndarray:
        """Learn a user's weights from a few comparisons of theirs, without training, and return them: (K,).

        `preferences` are as those of `train`, with prompt, chosen, rejected. The weights are the posterior over
        experts, w ∏ σ_k, the prior w being that of a user who is not known. From then on this object knows the user;
        the policy's folder stays as it is. `reference` is the folder of the model that training started from; `train`
        keeps it beside the policy. Raises `UserError`.
        """
        model, frame = self.reference_model(reference), read_preferences(preferences)
        add_ids(frame, self.tokenizer, "preferences")
        sides = []
        for side in ("chosen", "rejected"):
            texts = texts_of(frame["prompt_ids"], frame[f"{side}_ids"])
            own = each_text(self.policy.log_probs, texts, self.runtime)  # text → (K,)
            known = torch.from_numpy(log_probs(model, texts, self.runtime))
            sides.append(torch.stack([own[text] for text in texts]) - known[:, None])
        log_ratio = torch.stack(sides, dim=-1).float().to(self.runtime.device)
        return self.policy.adapt(user, frame["prompt_ids"].tolist(), log_ratio).cpu().numpy()

    def reference_model(self, folder: Path | str | None) -> PreTrainedModel:
        """The model that training started from."""
        beside = self.folder.parent.parent / "reference/model"
        folder = beside if folder is None else Path(folder)
        if not (folder / "config.json").is_file():
            raise UserError(
                f"reference: expected the model that training started from, found none in {folder}; name its folder"
            )
        if self.policy.beta is None:
            raise UserError(f"{self.folder}: expected a policy that was trained here, found another; name one")
        return load_language_model(folder, self.runtime)

    def prompt_ids(self, prompts: Sequence[str], max_new_tokens: int) -> list[list[int]]:
        """Token ids of each prompt. Raises `UserError` for one without tokens, or too long to continue."""
        limit, rows = positions_of(self.policy.config), []
        for prompt in prompts:
            if not isinstance(prompt, str) or not prompt:
                found = "none" if prompt == "" else type(prompt).__name__
                raise UserError(f"prompt: expected text, found {found}; type some")
            rows.append(self.tokenizer(prompt)["input_ids"])
            if not rows[-1]:
                raise UserError(f"prompt: expected text with tokens, found none in {prompt!r}; type other text")
            if len(rows[-1]) >= limit:
                raise UserError(
                    f"prompt: expected fewer tokens than the model's {limit:g} positions, found {len(rows[-1])}; "
                    "shorten it"
                )
            if len(rows[-1]) + max_new_tokens > limit:
                raise UserError(
                    f"max_new_tokens: expected at most {limit - len(rows[-1]):g}, the model's {limit:g} positions less "
                    f"the prompt's {len(rows[-1])}, found {max_new_tokens}; lower it"
                )
        return rows

    def export(self, out: Path | str, expert: int | None = None) -> list[Path]:
        """Write one expert to `out` as a model of transformers, or all to `out`/expert0, …; return the folders.

        A folder has the model (adapters merged), its tokenizer, a generation config that samples until the end token
        used in training, and a card. All appear at once or not at all. Raises `UserError`.
        """
        if not str(out):
            raise UserError("out: expected a folder, found an empty name; name one")
        out, count = Path(out), self.policy.experts
        if expert is not None and not 0 <= expert < count:
            raise UserError(f"expert: expected 0 to {count - 1}, found {expert}; choose one of those")
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise UserError(f"out: expected a new or an empty folder, found {out}; name another, or delete it")
        names = {expert: "."} if expert is not None else {k: f"expert{k}" for k in range(count)}
        place = Path(os.path.realpath(out))  # where a link leads to
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            raise UserError(f"out: expected a folder below folders, found {out}, below a file; name another") from None
        with tempfile.TemporaryDirectory(prefix=f"{place.name}.", dir=place.parent) as temporary:
            staging = Path(temporary, "models")
            for k, name in names.items():
                self.write_expert(k, staging / name)
            staging.replace(place)  # which is not there, or empty
        return [out / name for name in names.values()]

    def write_expert(self, k: int, folder: Path) -> None:
        """Write expert k, its tokenizer, generation config and card into `folder`."""
        model, tokens = self.policy.expert(k), self.tokenizer
        model.config.eos_token_id = tokens.eos_token_id
        pad = tokens.eos_token_id if tokens.pad_token_id is None else tokens.pad_token_id
        ids = {"bos_token_id": tokens.bos_token_id, "eos_token_id": tokens.eos_token_id, "pad_token_id": pad}
        model.generation_config = GenerationConfig(do_sample=True, top_k=0, **ids)
        model.save_pretrained(folder)
        tokens.save_pretrained(folder)
        (folder / "README.md").write_text(CARD.format(k=k, count=self.policy.experts))


def generate(
    policy: Path | str,
    prompts: str | Sequence[str],
    users: str | Sequence[str] | None = None,
    *,
    comparisons: Path | str | pd.DataFrame | Any = None,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    **how,
) -> list[str]:
    """Text from the policy in a folder; `how` are the other arguments of `TextPolicy.generate`.

    With `comparisons` of the one user that is named, the policy first adapts to that user (`TextPolicy.adapt`).
    """
    policy = TextPolicy(policy, device=device, precision=precision, threads=threads)
    if comparisons is not None:
        if not isinstance(users, str):
            raise UserError("comparisons: expected one user whose they are, found none; name the user")
        policy.adapt(users, comparisons)
    return policy.generate(prompts, users, **how)


def export(policy: Path | str, out: Path | str, expert: int | None = None) -> list[Path]:
    """An expert of the policy in a folder, or all of them, as models of transformers: see `TextPolicy.export`."""
    return TextPolicy(policy, device="cpu", precision="fp32").export(out, expert)


def policy_folder(path: Path) -> Path:
    """The folder of the model: `path` itself, or the folder below it where `train` puts the model."""
    for folder in (path, path / "model", path / "policy/model"):
        if (folder / "policy.json").is_file() or (folder / "config.json").is_file():
            return folder
    raise UserError(
        f"{path}: expected the folder of a policy, found none; name the --out of train, or a model's folder"
    )

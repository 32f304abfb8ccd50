"""Policies: K experts on a shared encoder, of their own, or both, mixed by global weights or by a gate.

N = sequences or prompts, K = experts, T = tokens, M = predicted positions of a batch, d = hidden size, V = vocabulary.
"""

import copy
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, DynamicCache, PreTrainedModel

from mixdpo.errors import UserError
from mixdpo.language import TokenBatch, fuse_gelu, head_log_probs, hidden_states, load_language_model
from mixdpo.runtime import Runtime
from mixdpo.sampling import draw, sample


class GlobalWeights(nn.Module):
    """Mix-DPO: the same mixture weights for every prompt, learned in closed form and not by a gradient."""

    kind = "global"

    def __init__(self, experts: int, weights: Sequence[float] | None = None):
        super().__init__()
        self.log_w = nn.Parameter(torch.tensor(weights or [1 / experts] * experts).log().clamp_min(-30.0))

    def features(self, prompts: Sequence[Sequence[int]], batch_size: int = 64) -> Tensor:
        """What the weights see of each prompt: nothing, (N, 0)."""
        return torch.zeros(len(prompts), 0, device=self.log_w.device)

    def forward(self, features: Tensor) -> Tensor:
        return self.log_w.detach().expand(len(features), -1)


class Gate(nn.Module):
    """MoE-DPO: w(x) = softmax(Wx + b), x the mean of the frozen reference encoder's states over the prompt."""

    kind = "gate"

    def __init__(self, encoder: PreTrainedModel, experts: int):
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.linear = nn.Linear(encoder.config.hidden_size, experts)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    @torch.no_grad()
    def features(self, prompts: Sequence[Sequence[int]], batch_size: int = 64) -> Tensor:
        """Mean final hidden state of each prompt, (N, d); prompts of one length share a batch, so nothing is padded."""
        features = torch.zeros(len(prompts), self.linear.in_features, device=self.linear.weight.device)
        for rows in rows_by(len(p) for p in prompts):
            for part in torch.tensor(rows).split(batch_size):
                tokens = torch.tensor(np.stack([prompts[i] for i in part.tolist()]), device=features.device)
                features[part] = self.encoder(input_ids=tokens).last_hidden_state.float().mean(dim=1)
        return features

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return self.linear(features).log_softmax(dim=-1)


def rows_by(keys) -> list[list[int]]:
    """Row numbers grouped by equal key, groups in the order of the keys."""
    groups = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    return [groups[key] for key in sorted(groups)]


class Policy(nn.Module):
    """The mixture policy (1). Experts are numbered heads first, then independent models.

    Case 1 is a shared encoder with K untied output layers (`heads`), Case 2 K independent models, a hybrid
    (section B.3) has both. One independent model is an ordinary language model, as baseline DPO and the reference.
    """

    def __init__(
        self,
        encoder: PreTrainedModel | None,
        heads: Sequence[nn.Linear],
        independent: Sequence[PreTrainedModel],
        weights: GlobalWeights | Gate,
    ):
        super().__init__()
        self.encoder, self.weights = encoder, weights
        self.heads, self.independent = nn.ModuleList(heads), nn.ModuleList(independent)
        fuse_gelu(self)

    @classmethod
    def from_language_model(
        cls, model: PreTrainedModel, *, shared_heads: int = 0, independent_models: int = 0, weights=None
    ) -> "Policy":
        """K = shared_heads + independent_models exact copies of `model`; weights 1/K unless given."""
        experts = shared_heads + independent_models
        if experts < 1:
            raise UserError("shared_heads + independent_models: expected at least 1 expert, found 0; raise one of them")
        heads = [_untied_head(model) for _ in range(shared_heads)]
        encoder = copy.deepcopy(model.base_model) if shared_heads else None
        independent = [copy.deepcopy(model) for _ in range(independent_models)]
        weights = GlobalWeights(experts) if weights is None else weights
        return cls(encoder, heads, independent, weights.to(model.device))

    @property
    def experts(self) -> int:
        return len(self.heads) + len(self.independent)

    @property
    def config(self):
        """The language model's configuration; every part has the same vocabulary and end-of-text."""
        return (self.encoder if self.encoder is not None else self.independent[0]).config

    def output_layers(self) -> list[nn.Linear]:
        """The output layer (V, d) of each expert."""
        return [*self.heads, *(model.get_output_embeddings() for model in self.independent)]

    @torch.no_grad()
    def perturb(self, scale: float, seed: int) -> None:
        """Add noise to every output matrix, `scale` times its root mean square: copies would stay copies for ever."""
        generator = torch.Generator().manual_seed(seed)
        for layer in self.output_layers():
            noise = torch.randn(layer.weight.shape, generator=generator).to(layer.weight)
            layer.weight.add_(noise, alpha=scale * layer.weight.square().mean().sqrt().item())

    def expert_log_probs(
        self, batch: TokenBatch, hidden: Tensor | None = None, experts: Sequence[int] | None = None
    ) -> Tensor:
        """log π_k(y_t | x, y_<t) at the masked positions in row order: (M, K), fp32; one encoder pass for all heads.

        `hidden` (M, d) stands in for that pass when the encoder is frozen and its states are known. Only `experts` are
        run, all K unless given.
        """
        targets, layers, columns = batch.tokens[:, 1:][batch.mask], self.output_layers(), []
        for k in range(self.experts) if experts is None else experts:
            if k >= len(self.heads):
                states = hidden_states(self.independent[k - len(self.heads)].base_model, batch)
            else:
                states = hidden = hidden_states(self.encoder, batch) if hidden is None else hidden
            columns.append(head_log_probs(states, layers[k], targets))
        return torch.stack(columns, dim=-1)

    def log_probs(self, batch: TokenBatch, hidden: Tensor | None = None) -> Tensor:
        """log π_k(y | x) of whole completions: (N, K)."""
        values, rows = self.expert_log_probs(batch, hidden), batch.mask.nonzero()[:, 0]
        return values.new_zeros(len(batch.mask), self.experts).index_add(0, rows, values)

    def token_log_probs(self, batch: TokenBatch, experts: Sequence[int] | None = None) -> Tensor:
        """log π_k(y_t | x, y_<t) of `experts`, all K unless given, 0 where nothing is predicted: (N, K, T − 1)."""
        values = self.expert_log_probs(batch, experts=experts)
        grid = values.new_zeros(*batch.mask.shape, values.shape[-1])
        grid[batch.mask] = values
        return grid.transpose(1, 2)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        runtime: Runtime,
        seed: int,
        expert: int | None = None,
        mixture: str = "token",
        top_s: int | None = None,
        **how,
    ) -> list[list[int]]:
        """One completion, as token ids, for each prompt of token ids. `how` goes to `sampling.sample`.

        expert=k: from π_k. mixture="sequence": draws k from w(x), then a completion from π_k, which is exactly (1).
        mixture="token": draws every token from Σ_k w_k(x) π_k(y_t | x, y_<t). top_s keeps the S experts of the
        largest weights and divides by their sum (appendix G). Only the experts that a prompt needs are run for it.
        The draws depend on `seed` and the prompts of this call, nothing else.
        """
        generator = torch.Generator(runtime.device).manual_seed(seed)
        log_w = self.routing(prompts, generator, expert, mixture, top_s)
        completions: list = [None] * len(prompts)
        active = log_w.isfinite().tolist()
        for rows in rows_by((len(prompt), flags) for prompt, flags in zip(prompts, map(tuple, active), strict=True)):
            experts = [k for k, flag in enumerate(active[rows[0]]) if flag]
            tokens = torch.tensor([prompts[i] for i in rows], device=log_w.device)
            decoder = Decoder(self, experts, log_w[rows][:, experts], runtime)
            drawn = sample(decoder, tokens, self.config.eos_token_id, generator, **how)
            for row, completion in zip(rows, drawn, strict=True):
                completions[row] = completion
        return completions

    @torch.no_grad()
    def routing(
        self,
        prompts: Sequence[Sequence[int]],
        generator: torch.Generator,
        expert: int | None = None,
        mixture: str = "token",
        top_s: int | None = None,
    ) -> Tensor:
        """log weights (N, K) of the experts that decode each prompt, −∞ for those that do not take part."""
        if expert is not None and not 0 <= expert < self.experts:
            raise UserError(f"expert: expected 0 to {self.experts - 1}, found {expert}; choose one of those")
        if top_s is not None and not 1 <= top_s <= self.experts:
            raise UserError(f"top_s: expected 1 to {self.experts}, found {top_s}; choose one of those")
        if mixture not in ("token", "sequence"):
            raise UserError(f"mixture: expected token or sequence, found {mixture}; choose one of those")
        log_w = self.weights(self.weights.features(prompts))
        if top_s is not None:
            kept = log_w.topk(top_s)
            log_w = torch.full_like(log_w, -torch.inf).scatter(1, kept.indices, kept.values).log_softmax(dim=-1)
        chosen = draw(log_w, generator) if mixture == "sequence" else None
        if expert is not None:
            chosen = torch.full((len(prompts),), expert, device=log_w.device)
        if chosen is not None:
            log_w = torch.full_like(log_w, -torch.inf).scatter(1, chosen[:, None], 0.0)
        return log_w

    def save_pretrained(self, folder: Path) -> None:
        """Write `policy.json`, the models in the library's own format, and `mixture.safetensors` (heads and weights)."""
        folder.mkdir(parents=True, exist_ok=True)
        shape = {"shared_heads": len(self.heads), "independent_models": len(self.independent)}
        (folder / "policy.json").write_text(json.dumps(shape | {"weights": self.weights.kind}, indent=2))
        tensors = {f"heads.{k}": head.weight for k, head in enumerate(self.heads)}
        if self.encoder is not None:
            self.encoder.save_pretrained(folder / "encoder")
        for i, model in enumerate(self.independent):
            model.save_pretrained(folder / f"independent{i}")
        if isinstance(self.weights, Gate):
            self.weights.encoder.save_pretrained(folder / "gate_encoder")
            tensors |= {"gate.weight": self.weights.linear.weight, "gate.bias": self.weights.linear.bias}
        else:
            tensors |= {"log_w": self.weights.log_w}
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, folder / "mixture.safetensors")

    @classmethod
    def from_pretrained(cls, folder: Path, runtime: Runtime) -> "Policy":
        """Read what `save_pretrained` wrote, or any causal language model of transformers as the one expert.

        Raises `UserError` when the parts do not fit each other.
        """
        if not (folder / "policy.json").exists():
            return cls.from_language_model(load_language_model(folder, runtime), independent_models=1)
        shape, tensors = json.loads((folder / "policy.json").read_text()), load_file(folder / "mixture.safetensors")
        parts = [f"independent{i}" for i in range(shape["independent_models"])]
        parts += ["encoder"] * bool(shape["shared_heads"]) + ["gate_encoder"] * (shape["weights"] == "gate")
        for part in parts:
            if not (folder / part).is_dir():
                raise UserError(
                    f"{folder}/{part}: expected a model, as policy.json says, found none; load a whole policy"
                )
        options = {"dtype": torch.float32, "attn_implementation": runtime.attention}
        experts, heads, encoder = shape["shared_heads"] + shape["independent_models"], [], None
        if shape["shared_heads"]:
            encoder = AutoModel.from_pretrained(folder / "encoder", **options)
            for k in range(shape["shared_heads"]):
                head = nn.Linear(encoder.config.hidden_size, encoder.config.vocab_size, bias=False)
                heads.append(_filled(head, tensors, {"weight": f"heads.{k}"}, folder))
        independent = [
            AutoModelForCausalLM.from_pretrained(folder / f"independent{i}", **options)
            for i in range(shape["independent_models"])
        ]
        if shape["weights"] == "gate":
            weights = Gate(AutoModel.from_pretrained(folder / "gate_encoder", **options), experts)
            _filled(weights.linear, tensors, {"weight": "gate.weight", "bias": "gate.bias"}, folder)
        else:
            weights = _filled(GlobalWeights(experts), tensors, {"log_w": "log_w"}, folder)
        return cls(encoder, heads, independent, weights).to(runtime.device).eval()


def mixture_log_probs(token_log_probs: Tensor, log_w: Tensor, mixture: str) -> Tensor:
    """log π(y | x) of the mixture (1); token_log_probs (N, K, T), 0 where nothing is predicted, log_w (N, K) → (N,).

    `sequence`: an expert is drawn once, π = Σ_k w_k π_k(y | x). `token`: Σ_t log Σ_k w_k π_k(y_t | x, y_<t).
    """
    if mixture == "sequence":
        return torch.logsumexp(log_w + token_log_probs.sum(dim=-1), dim=-1)
    return torch.logsumexp(log_w.unsqueeze(-1) + token_log_probs, dim=1).sum(dim=-1)


def _untied_head(model: PreTrainedModel) -> nn.Linear:
    """A copy of the model's output layer with parameters of its own: GPT-2 ties it to the input embedding."""
    layer = model.get_output_embeddings()
    if getattr(layer, "bias", None) is not None:
        raise UserError("shared_heads: expected an output layer without bias, found one; use independent_models")
    head = nn.Linear(layer.in_features, layer.out_features, bias=False, device=layer.weight.device)
    head.weight.data.copy_(layer.weight)
    return head


def _filled(module: nn.Module, tensors: dict[str, Tensor], names: dict[str, str], folder: Path) -> nn.Module:
    """Copy the named tensors into the parameters of `module`."""
    for parameter, name in names.items():
        expected, found = getattr(module, parameter), tensors.get(name)
        if found is None or found.shape != expected.shape:
            shape = "none" if found is None else tuple(found.shape)
            raise UserError(
                f"{folder}/mixture.safetensors: expected {name} of shape {tuple(expected.shape)}, as policy.json and the "
                f"models beside it say, found {shape}; load the policy that these files were saved with"
            )
        expected.data.copy_(found)
    return module


class Decoder:
    """Next-token logits of some experts' token-level mixture, with one key-value cache per model that runs."""

    def __init__(self, policy: Policy, experts: Sequence[int], log_w: Tensor, runtime: Runtime):
        """`log_w` (N, S) are the log weights of the S `experts`, one row a prompt."""
        self.policy, self.log_w, self.runtime = policy, log_w, runtime
        shared = len(policy.heads)
        self.heads = [policy.heads[k] for k in experts if k < shared]
        self.independent = [policy.independent[k - shared] for k in experts if k >= shared]
        self.caches: dict[int, DynamicCache] = {}

    def last_hidden(self, encoder: PreTrainedModel, tokens: Tensor) -> Tensor:
        cache = self.caches.setdefault(id(encoder), DynamicCache(config=encoder.config))
        return encoder(input_ids=tokens, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens not yet seen (N, T) → log Σ_k w_k π_k(· | x, y_<t), (N, V), fp32."""
        with self.runtime.autocast():
            logits = []
            if self.heads:
                hidden = self.last_hidden(self.policy.encoder, tokens)
                logits += [head(hidden).float() for head in self.heads]
            for model in self.independent:
                logits.append(model.get_output_embeddings()(self.last_hidden(model.base_model, tokens)).float())
        if len(logits) == 1:
            return logits[0]
        mixed = torch.zeros_like(logits[0])
        for w, part in zip(self.log_w.exp().T, logits, strict=True):
            mixed += w[:, None] * part.softmax(dim=-1)
        return mixed.log()

"""Policies: K experts (heads on a shared encoder, whole models, or adapters), mixed by global weights or by a gate.

N = sequences or prompts, K = experts, T = tokens, M = places of a batch (`TokenBatch`), d = hidden size,
V = vocabulary, U = users.
"""

import copy
import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mixdpo.errors import UserError
from mixdpo.method.decoding import Decoder, decoding_mode, draw, sample
from mixdpo.method.language import TokenBatch, fuse_gelu, head_log_probs, hidden_states, load_language_model
from mixdpo.method.runtime import Runtime
from mixdpo.method.weights import GateWeights, GlobalWeights, rows_by

SPREAD = 16
"""Prompts whose lengths in tokens differ by less may be continued side by side."""


class Policy(nn.Module):
    """The mixture policy (1). Experts are numbered heads first, then independent models, then adapters.

    Case 1 is a shared encoder with K untied output layers (`heads`), Case 2 K independent models, a hybrid
    (section B.3) has several kinds. Adapters are low-rank updates (LoRA) of one frozen model, for models too large for
    K copies. One independent model is an ordinary language model, as baseline DPO and the reference.
    """

    def __init__(
        self,
        encoder: PreTrainedModel | None,
        heads: Sequence[nn.Linear],
        independent: Sequence[PreTrainedModel],
        weights: GlobalWeights | GateWeights,
        adapted: PeftModel | None = None,
    ):
        super().__init__()
        self.encoder, self.weights, self.adapted = encoder, weights, adapted
        self.heads, self.independent = nn.ModuleList(heads), nn.ModuleList(independent)
        self.beta: float | None = None  # β of the training, by which comparisons are weighed
        self.posteriors: dict[str, Tensor] = {}  # user → log posterior (K,) over experts, in place of the weights
        self.names: dict[str, list[int]] = {}  # user → token ids of a prompt's beginning; "" → those without a name
        fuse_gelu(self)

    @classmethod
    def from_language_model(
        cls,
        model: PreTrainedModel,
        *,
        shared_heads: int = 0,
        independent_models: int = 0,
        adapters: int = 0,
        rank: int = 8,
        weights=None,
    ) -> "Policy":
        """K = shared_heads + independent_models + adapters exact copies of `model`; weights 1/K unless given."""
        experts = shared_heads + independent_models + adapters
        if experts < 1:
            raise UserError("heads + models + adapters: expected at least 1 expert, found 0; raise one of them")
        heads = [_untied_head(model) for _ in range(shared_heads)]
        encoder = copy.deepcopy(model.base_model) if shared_heads else None
        independent = [copy.deepcopy(model) for _ in range(independent_models)]
        adapted = _adapted(copy.deepcopy(model), adapters, rank) if adapters else None
        weights = GlobalWeights(experts) if weights is None else weights
        return cls(encoder, heads, independent, weights.to(model.device), adapted)

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters, one an expert."""
        return [] if self.adapted is None else list(self.adapted.peft_config)

    @property
    def experts(self) -> int:
        return len(self.heads) + len(self.independent) + len(self.adapters)

    @property
    def config(self):
        """The language model's configuration. All parts have the same vocabulary and end-of-text."""
        parts = [self.encoder, *self.independent, self.adapted]
        return next(part for part in parts if part is not None).config

    @property
    def ends(self) -> list[int]:
        """The tokens that end a text. Chat models have several."""
        ends = self.config.eos_token_id
        return [ends] if isinstance(ends, int) else list(ends or [])

    @property
    def users(self) -> set[str]:
        """Users that the policy knows: by its gate, by their posteriors, or by name in the prompt."""
        return {*getattr(self.weights, "users", {}), *self.posteriors, *self.names} - {""}

    def output_layer(self, k: int) -> nn.Linear:
        """The output layer (V, d) of expert k. Adapters share that of their model."""
        if k < len(self.heads):
            return self.heads[k]
        return self.language_model(k).get_output_embeddings()

    def language_model(self, k: int) -> PreTrainedModel:
        """The model that runs as expert k, for k from the number of heads on; an adapter is switched on."""
        i = k - len(self.heads)
        if i < len(self.independent):
            return self.independent[i]
        # Switching turns off the gradients of the other adapters, which their own forward passes need.
        wanted = [(p, p.requires_grad) for p in self.adapter_parameters()]
        self.adapted.set_adapter(self.adapters[i - len(self.independent)])
        for parameter, value in wanted:
            parameter.requires_grad_(value)
        return self.adapted.get_base_model()

    def adapter_parameters(self) -> list[nn.Parameter]:
        """The low-rank matrices of all adapters."""
        named = [] if self.adapted is None else self.adapted.named_parameters()
        return [parameter for name, parameter in named if ".lora_" in name]

    def expert_parameters(self, encoder: bool = True) -> list[nn.Parameter]:
        """The parameters that learn with the experts, without those of a frozen shared encoder."""
        shared = [] if self.encoder is None or not encoder else self.encoder.parameters()
        return [*shared, *self.heads.parameters(), *self.independent.parameters(), *self.adapter_parameters()]

    @torch.no_grad()
    def expert(self, k: int) -> PreTrainedModel:
        """Expert k as a language model of its own: a copy that any tool for causal language models can use."""
        if k >= len(self.heads) + len(self.independent):
            self.language_model(k)
            return copy.deepcopy(self.adapted).merge_and_unload()
        if k >= len(self.heads):
            return copy.deepcopy(self.independent[k - len(self.heads)])
        config = copy.deepcopy(self.encoder.config)
        config.tie_word_embeddings = False
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(self.heads[k].weight.device).eval()
        fuse_gelu(model)
        model.base_model.load_state_dict(self.encoder.state_dict())
        model.get_output_embeddings().weight.copy_(self.heads[k].weight)
        return model

    @torch.no_grad()
    def perturb(self, scale: float, seed: int) -> None:
        """Add noise of `scale` times its root mean square to every output matrix. Exact copies would stay copies.

        An adapter gets the noise in its low-rank updates, of that size relative to the matrix that each updates.
        """
        generator = torch.Generator().manual_seed(seed)
        for k in range(len(self.heads) + len(self.independent)):
            layer = self.output_layer(k)
            noise = torch.randn(layer.weight.shape, generator=generator).to(layer.weight)
            layer.weight.add_(noise, alpha=scale * _rms(layer.weight))
        for name in self.adapters:
            for layer in (module for module in self.adapted.modules() if name in getattr(module, "lora_A", {})):
                a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
                a.copy_(torch.randn(a.shape, generator=generator) * a.shape[1] ** -0.5)
                b.copy_(torch.randn(b.shape, generator=generator))
                b.mul_(scale * _rms(layer.base_layer.weight) / (_rms(b @ a) * layer.scaling[name]))

    def expert_log_probs(
        self, batch: TokenBatch, hidden: Tensor | None = None, experts: Sequence[int] | None = None
    ) -> Tensor:
        """log π_k(y_t | x, y_<t) at the places of the batch: (M, K), fp32; one encoder pass for all heads.

        `hidden` (M, d) replaces that pass when the encoder is frozen and its states are known. Only `experts` are
        run, all K unless given.
        """
        columns = []
        for k in range(self.experts) if experts is None else experts:
            if k >= len(self.heads):
                model = self.language_model(k)
                states, layer = hidden_states(model.base_model, batch), model.get_output_embeddings()
            else:
                states = hidden = hidden_states(self.encoder, batch) if hidden is None else hidden
                layer = self.heads[k]
            columns.append(head_log_probs(states, layer, batch.targets))
        return torch.stack(columns, dim=-1)

    def log_probs(self, batch: TokenBatch, hidden: Tensor | None = None) -> Tensor:
        """log π_k(y | x) of whole completions: (N, K)."""
        return batch.sums(self.expert_log_probs(batch, hidden))

    def token_log_probs(self, batch: TokenBatch, experts: Sequence[int] | None = None) -> Tensor:
        """log π_k(y_t | x, y_<t) of `experts`, all K unless given, 0 where nothing is predicted: (N, K, T − 1)."""
        return batch.grid(self.expert_log_probs(batch, experts=experts)).transpose(1, 2)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        runtime: Runtime,
        seed: int,
        users: Sequence[str] | None = None,
        expert: int | None = None,
        mixture: str = "token",
        top_s: int | None = None,
        max_new_tokens: int,
        **how,
    ) -> list[list[int]]:
        """One completion, as token ids, for each prompt (token ids) and, if the gate knows users, its user.

        `how` goes to `mixdpo.method.decoding.sample`.

        expert=k: from π_k. mixture="sequence": draws k from w(x), then a completion from π_k, which is exactly (1).
        mixture="token": draws every token from Σ_k w_k(x) π_k(y_t | x, y_<t). top_s keeps the S experts of the
        largest weights and divides by their sum (appendix G). Only the experts that a prompt needs are run for it.
        The draws depend only on `seed` and the prompts of this call, not on the device.
        """
        generator = torch.Generator().manual_seed(seed)
        log_w, prompts = self.routing(prompts, generator, expert, mixture, top_s, users), self.named(prompts, users)
        uniform = torch.rand(len(prompts), max_new_tokens, 2, generator=generator).to(log_w.device)
        completions: list = [None] * len(prompts)
        active, lengths = log_w.isfinite().tolist(), [len(prompt) for prompt in prompts]
        for rows in rows_by((tuple(flags), n // SPREAD) for flags, n in zip(active, lengths, strict=True)):
            experts, length = [k for k, flag in enumerate(active[rows[0]]) if flag], max(lengths[i] for i in rows)
            decoder = Decoder(self, experts, log_w[rows][:, experts], runtime, length + max_new_tokens)
            with decoding_mode(decoder.modules(), runtime):
                drawn = sample(decoder, [prompts[i] for i in rows], self.ends, uniform[rows], **how)
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
        users: Sequence[str] | None = None,
    ) -> Tensor:
        """log weights (N, K) of the experts that decode each prompt, −∞ for those that do not take part."""
        if expert is not None and not 0 <= expert < self.experts:
            raise UserError(f"expert: expected 0 to {self.experts - 1}, found {expert}; choose one of those")
        if top_s is not None and not 1 <= top_s <= self.experts:
            raise UserError(f"top_s: expected 1 to {self.experts}, found {top_s}; choose one of those")
        if mixture not in ("token", "sequence"):
            raise UserError(f"mixture: expected token or sequence, found {mixture}; choose one of those")
        log_w = self.log_weights(prompts, users) if expert is None else self.uniform(len(prompts))
        if top_s is not None:
            kept = log_w.topk(top_s)
            log_w = torch.full_like(log_w, -torch.inf).scatter(1, kept.indices, kept.values).log_softmax(dim=-1)
        chosen = None
        if mixture == "sequence":
            chosen = draw(log_w.exp(), torch.rand(len(prompts), generator=generator).to(log_w.device))
        if expert is not None:
            chosen = torch.full((len(prompts),), expert, device=log_w.device)
        if chosen is not None:
            log_w = torch.full_like(log_w, -torch.inf).scatter(1, chosen[:, None], 0.0)
        return log_w

    @torch.no_grad()
    def log_weights(self, prompts: Sequence[Sequence[int]], users: Sequence[str] | None = None) -> Tensor:
        """log w_k(x, u): (N, K). Of a user in `posteriors`, that; of one that nobody knows, the prior: the global
        weights, or the mean of what the gate gives the users it knows."""
        features = self.weights.features(prompts, users)
        log_w, users = self.weights(features).clone(), users or [""] * len(prompts)
        known = getattr(self.weights, "users", {})
        strangers = [row for row, user in enumerate(users) if user not in known] if known else []
        if strangers:
            log_w[strangers] = self.weights.of_anyone(features[strangers])
        for row, user in enumerate(users):
            if user in self.posteriors:
                log_w[row] = self.posteriors[user].to(log_w)
        return log_w

    @torch.no_grad()
    def adapt(self, user: str, prompts: Sequence[Sequence[int]], log_ratio: Tensor) -> Tensor:
        """Give a user the posterior over experts after n comparisons of theirs, w ∏ σ_k, without training: (K,).

        `prompts` are those of the comparisons, `log_ratio` (n, K, 2) is log π_k − log π_ref of chosen and rejected. The
        prior w is what a user gets who is not known, in the mean over the prompts; with no comparison it stays.
        """
        self.posteriors.pop(user, None)
        prior = self.log_weights(prompts or [[self.ends[0]]], None).logsumexp(dim=0).log_softmax(dim=0)
        margin = self.beta * (log_ratio[..., 0] - log_ratio[..., 1])  # (n, K)
        self.posteriors[user] = (prior + F.logsigmoid(margin).sum(dim=0)).log_softmax(dim=0)
        return self.posteriors[user].exp()

    def named(self, prompts: Sequence[Sequence[int]], users: Sequence[str] | None = None) -> list[Sequence[int]]:
        """The prompts as the experts see them: with the user's name before them, where the policy was trained so."""
        return with_names(prompts, users, self.names) if self.names and users else list(prompts)

    def uniform(self, n: int) -> Tensor:
        """log 1/K for n prompts: (n, K)."""
        device = next(self.parameters()).device
        return torch.zeros(n, self.experts, device=device).log_softmax(dim=-1)

    def save_pretrained(self, folder: Path) -> None:
        """Write `policy.json`, the models in transformers' format, and `mixture.safetensors` (heads and weights)."""
        folder.mkdir(parents=True, exist_ok=True)
        shape = {
            "shared_heads": len(self.heads),
            "independent_models": len(self.independent),
            "adapters": self.adapters,
        }
        shape |= {"weights": self.weights.kind, "users": list(getattr(self.weights, "users", []))}
        shape |= {"posteriors": list(self.posteriors), "names": self.names, "beta": self.beta}
        (folder / "policy.json").write_text(json.dumps(shape, indent=2))
        tensors = {f"heads.{k}": head.weight for k, head in enumerate(self.heads)}
        if self.encoder is not None:
            self.encoder.save_pretrained(folder / "encoder")
        for i, model in enumerate(self.independent):
            model.save_pretrained(folder / f"independent{i}")
        if self.adapted is not None:
            state = self.adapted.get_base_model().state_dict()
            plain = {n.replace(".base_layer", ""): t.clone() for n, t in state.items() if ".lora_" not in n}
            self.adapted.get_base_model().save_pretrained(folder / "adapted", state_dict=plain)
            self.adapted.save_pretrained(folder / "adapters")
            (folder / "adapters/README.md").unlink()  # an empty form
            for file in folder.glob("adapters/*/adapter_config.json"):
                config = json.loads(file.read_text())
                config["base_model_name_or_path"] = "adapted"  # as seen from the policy's folder, and not from here
                config["target_modules"].sort()  # peft writes a set, in an order that differs between processes
                file.write_text(json.dumps(config, indent=2, sort_keys=True))
        if isinstance(self.weights, GateWeights):
            self.weights.encoder.save_pretrained(folder / "gate_encoder")
            tensors |= {"gate.weight": self.weights.linear.weight, "gate.bias": self.weights.linear.bias}
        else:
            tensors |= {"log_w": self.weights.log_w}
        if self.posteriors:
            tensors["posteriors"] = torch.stack([*self.posteriors.values()])
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
        parts += ["adapted"] * bool(shape["adapters"]) + [f"adapters/{name}" for name in shape["adapters"]]
        for part in parts:
            if not (folder / part).is_dir():
                raise UserError(
                    f"{folder}/{part}: expected a model, as policy.json says, found none; load a whole policy"
                )
        options = {"dtype": torch.float32, "attn_implementation": runtime.attention}
        experts = shape["shared_heads"] + shape["independent_models"] + len(shape["adapters"])
        heads, encoder, adapted = [], None, None
        if shape["shared_heads"]:
            encoder = AutoModel.from_pretrained(folder / "encoder", **options)
            for k in range(shape["shared_heads"]):
                head = nn.Linear(encoder.config.hidden_size, encoder.config.vocab_size, bias=False)
                heads.append(_filled(head, tensors, {"weight": f"heads.{k}"}, folder))
        independent = [
            AutoModelForCausalLM.from_pretrained(folder / f"independent{i}", **options)
            for i in range(shape["independent_models"])
        ]
        for name in shape["adapters"]:
            if adapted is None:
                model = AutoModelForCausalLM.from_pretrained(folder / "adapted", **options)
                adapted = PeftModel.from_pretrained(model, folder / "adapters" / name, adapter_name=name)
            else:
                adapted.load_adapter(folder / "adapters" / name, adapter_name=name)
        if shape["weights"] == "gate":
            weights = GateWeights(
                AutoModel.from_pretrained(folder / "gate_encoder", **options), experts, shape["users"]
            )
            _filled(weights.linear, tensors, {"weight": "gate.weight", "bias": "gate.bias"}, folder)
        else:
            weights = _filled(GlobalWeights(experts), tensors, {"log_w": "log_w"}, folder)
        policy = cls(encoder, heads, independent, weights, adapted).to(runtime.device).eval()
        policy.names, policy.beta = shape["names"], shape["beta"]
        if shape["posteriors"]:
            found = tensors.get("posteriors", torch.empty(0))
            if found.shape != (len(shape["posteriors"]), experts):
                raise misfit(folder, "posteriors", (len(shape["posteriors"]), experts), found)
            policy.posteriors = dict(zip(shape["posteriors"], found, strict=True))
        return policy


def _untied_head(model: PreTrainedModel) -> nn.Linear:
    """A copy of the model's output layer with parameters of its own: GPT-2 ties it to the input embedding."""
    layer = model.get_output_embeddings()
    if getattr(layer, "bias", None) is not None:
        raise UserError("experts.heads: expected an output layer without bias, found one; use models or adapters")
    head = nn.Linear(layer.in_features, layer.out_features, bias=False, device=layer.weight.device)
    head.weight.data.copy_(layer.weight)
    return head


def _adapted(model: PreTrainedModel, adapters: int, rank: int) -> PeftModel:
    """`model` with low-rank updates of every linear layer but the last. They are zero at first."""
    transposed = any(isinstance(module, Conv1D) for module in model.modules())  # GPT-2's linear layers
    how = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", fan_in_fan_out=transposed)
    adapted = get_peft_model(model, how, adapter_name="expert0")
    for i in range(1, adapters):
        adapted.add_adapter(f"expert{i}", how)
    return adapted


def _rms(weight: Tensor) -> float:
    return weight.square().mean().sqrt().item()


def _filled(module: nn.Module, tensors: dict[str, Tensor], names: dict[str, str], folder: Path) -> nn.Module:
    """Copy the named tensors into the parameters of `module`."""
    for parameter, name in names.items():
        expected, found = getattr(module, parameter), tensors.get(name)
        if found is None or found.shape != expected.shape:
            raise misfit(folder, name, tuple(expected.shape), found)
        expected.data.copy_(found)
    return module


def misfit(folder: Path, name: str, expected: tuple[int, ...], found: Tensor | None) -> UserError:
    """The fault of a tensor that is not of the shape that the rest of the policy says."""
    shape = "none" if found is None or not found.numel() else tuple(found.shape)
    return UserError(
        f"{folder}/mixture.safetensors: expected {name} of shape {expected}, as policy.json and the models beside it "
        f"say, found {shape}; load the policy that these files were saved with"
    )


def with_names(
    prompts: Sequence[Sequence[int]], users: Sequence[str], names: dict[str, list[int]]
) -> list[Sequence[int]]:
    """Prompts, token ids, that begin with the name of their user; those of a user without a name stay as they are."""
    begin = len(names[""])
    return [
        [*names[user], *prompt[begin:]] if user in names else prompt
        for prompt, user in zip(prompts, users, strict=True)
    ]

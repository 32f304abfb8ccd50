"""The policy that training starts from: perturbed copies of the reference, or experts trained before."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mixdpo.errors import UserError
from mixdpo.method.language import load_language_model
from mixdpo.method.policy import Policy
from mixdpo.method.runtime import Runtime
from mixdpo.method.settings import Gate, Method, Weights
from mixdpo.method.weights import GateWeights, GlobalWeights


def build(
    method: Method,
    model: Path,
    runtime: Runtime,
    *,
    seed: int,
    gate: dict[str, Tensor] | None = None,
    experts: Sequence[nn.Module] = (),
    users: Sequence[str] = (),
) -> Policy:
    """The policy of a method, what is frozen frozen: of trained `experts`, or of perturbed copies of `model`.

    A single expert is not perturbed. `gate` is what a gate pretrained on domains has learned, weight (K, d) and bias
    (K,); without it a gate starts at 1/K, for `users` if there are any, with noise on the logits of each user. `seed`
    draws all noise.
    """
    language_model, how = load_language_model(model, runtime), method.experts
    count = len(experts) or how.copies
    if fault := method.fault(count):
        raise UserError(fault)
    weights = initial_weights(method.weights, language_model, count, seed, gate, users)
    if experts:
        policy = Policy(None, [], experts, weights.to(language_model.device))
    else:
        copies = {"shared_heads": how.heads, "independent_models": how.models, "adapters": how.adapters}
        policy = Policy.from_language_model(language_model, **copies, rank=how.adapter_rank, weights=weights)
        if count > 1:
            policy.perturb(how.perturbation, seed)
    learned = policy.expert_parameters(encoder=how.encoder == "trained") if how.learn else []
    for parameter in policy.expert_parameters():
        parameter.requires_grad_(False)
    for parameter in learned:
        parameter.requires_grad_(True)
    return policy.eval()


def initial_weights(
    settings: Weights | Gate,
    language_model: nn.Module,
    experts: int,
    seed: int,
    gate: dict[str, Tensor] | None,
    users: Sequence[str],
) -> GlobalWeights | GateWeights:
    """The mixture weights at the start; see `build`."""
    if isinstance(settings, Weights):
        return GlobalWeights(experts, settings.initial)
    if gate:
        weights = pretrained_gate(gate, language_model, experts)
    else:
        weights = GateWeights(language_model.base_model, experts, users)
    if users:
        noise = torch.randn(experts, len(users), generator=torch.Generator().manual_seed(seed))
        width = language_model.config.hidden_size
        weights.linear.weight.data[:, width:] = noise * settings.perturbation / width**0.5
    weights.linear.requires_grad_(settings.learn)
    return weights


def pretrained_gate(tensors: dict[str, Tensor], language_model: nn.Module, experts: int) -> GateWeights:
    """The gate of the gates stage over the encoder of `language_model`."""
    found, width = tensors["weight"].shape
    if (found, width) != (experts, language_model.config.hidden_size):
        raise UserError(
            f"gate: expected one for {experts} experts over {language_model.config.hidden_size} "
            f"features, found one for {found} over {width}; set as many experts as the experiment has domains"
        )
    gate = GateWeights(language_model.base_model, experts).to(language_model.device)
    gate.linear.load_state_dict(tensors)
    return gate

"""The policy that training starts from: perturbed copies of the reference, or experts trained before."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mixdpo.errors import UserError
from mixdpo.method.language import load_language_model
from mixdpo.method.policy import Policy
from mixdpo.method.runtime import Runtime
from mixdpo.method.weights import Gate, GlobalWeights


def build(
    spec: dict,
    model: Path,
    runtime: Runtime,
    *,
    gate: dict[str, Tensor] | None = None,
    experts: Sequence[nn.Module] = (),
    users: Sequence[str] = (),
) -> Policy:
    """The policy of `spec`, what is frozen frozen: of trained `experts`, or of perturbed copies of `model`.

    One copy starts exact: there is no tie to break. `gate` is what a gate pretrained on domains has learned, weight (K, d)
    and bias (K,); without it a gate starts at 1/K, for `users` if there are any, off by noise of `gate_perturbation` in
    its logits of each user.
    """
    language_model = load_language_model(model, runtime)
    copies = {name: spec[name] for name in ("shared_heads", "independent_models", "adapters")}
    count = len(experts) or sum(copies.values())
    if spec["weights"] == "gate":
        weights = (
            pretrained_gate(gate, language_model, count) if gate else Gate(language_model.base_model, count, users)
        )
        if users:
            noise = torch.randn(count, len(users), generator=torch.Generator().manual_seed(spec["seed"]))
            width = language_model.config.hidden_size
            weights.linear.weight.data[:, width:] = noise * spec["gate_perturbation"] / width**0.5
        weights.linear.requires_grad_(spec["learn_weights"])
    else:
        if spec["initial_weights"] is not None and len(spec["initial_weights"]) != count:
            raise UserError(
                f"initial_weights: expected {count}, one an expert, found {spec['initial_weights']}; mend it"
            )
        weights = GlobalWeights(count, spec["initial_weights"])
    if experts:
        policy = Policy(None, [], experts, weights.to(language_model.device))
    else:
        policy = Policy.from_language_model(language_model, **copies, rank=spec["adapter_rank"], weights=weights)
        if count > 1:
            policy.perturb(spec["perturbation"], spec["seed"])
    learned = policy.expert_parameters(encoder=spec["encoder"] == "trained") if spec["learn_experts"] else []
    for parameter in policy.expert_parameters():
        parameter.requires_grad_(False)
    for parameter in learned:
        parameter.requires_grad_(True)
    return policy.eval()


def pretrained_gate(tensors: dict[str, Tensor], language_model: nn.Module, experts: int) -> Gate:
    """The gate of the gates stage over the encoder of `language_model`."""
    found, width = tensors["weight"].shape
    if (found, width) != (experts, language_model.config.hidden_size):
        raise UserError(
            f"gate: expected one for {experts} experts over {language_model.config.hidden_size} "
            f"features, found one for {found} over {width}; set as many experts as the experiment has domains"
        )
    gate = Gate(language_model.base_model, experts).to(language_model.device)
    gate.linear.load_state_dict(tensors)
    return gate

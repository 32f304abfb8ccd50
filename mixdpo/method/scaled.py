"""Experts between a policy and its reference."""

import copy

import torch
from transformers import PreTrainedModel

from mixdpo.errors import UserError
from mixdpo.method.policy import Policy


@torch.no_grad()
def scaled(policy: Policy, scale: float, reference: PreTrainedModel) -> Policy:
    """The policy whose experts are ∝ π_k^λ π_ref^(1−λ) for each token, λ being `scale`; 1 is the policy itself.

    On a frozen encoder that is the output matrix W_ref + λ (W_k − W_ref). Raises `UserError` where an expert is no head
    on the encoder of `reference`.
    """
    own, known = {} if policy.encoder is None else policy.encoder.state_dict(), reference.base_model.state_dict()
    frozen = own.keys() == known.keys() and all(torch.equal(own[name], known[name]) for name in known)
    if len(policy.heads) < policy.experts or not frozen:
        raise UserError(
            "evaluations.scales: expected experts that are heads on the reference's encoder, frozen, found others; set "
            "experts.heads and encoder: frozen, or delete evaluations.scales"
        )
    start, heads = reference.get_output_embeddings().weight, copy.deepcopy(policy.heads)
    for head in heads:
        head.weight.lerp_(start, 1 - scale)
    between = Policy(policy.encoder, heads, [], policy.weights).eval()
    between.beta, between.posteriors, between.names = policy.beta, policy.posteriors, policy.names
    return between

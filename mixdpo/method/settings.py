"""A method in typed settings: which experts under which weights, how the E-step is done, and how it is optimised.

`Method(Experts(heads=4), Gate(sees="user"), beta=0.1)` is a method, and so is the mapping of a configuration:
`Method.of({"experts": {"heads": 4}, "weights": {"kind": "gate", "sees": "user"}})`. What does not go together is
refused. Equations and sections are those of the paper.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Strict, Tag, model_validator

from mixdpo.fields import (
    TAG,
    Count,
    Flag,
    Names,
    Natural,
    NonNegative,
    Number,
    Positive,
    Section,
    Share,
    adapter,
    brief,
    checked,
    settings,
)

Unit = Annotated[str, Strict(), Field(pattern="^(triplet|prompt|user|annotator_[0-9]+)$")]
Expert = Annotated[str, Strict(), Field(pattern="^[a-z][a-z0-9_]*(/[0-9]+)?$")]


@settings
class Experts(Section):
    """The K experts π_k: perturbed copies of the reference model, or experts that other methods trained."""

    heads: Natural = 0
    """Experts that are output layers on one shared encoder: Case 1, appendix B.1."""
    models: Natural = 0
    """Experts that are whole models: Case 2, appendix B.2. Together with heads, a hybrid: appendix B.3."""
    adapters: Natural = 0
    """Experts that are low-rank updates (LoRA) of one frozen model. Ours."""
    adapter_rank: Count = 8
    """Rank of the low-rank updates. Ours."""
    initial: tuple[Expert, ...] = ()
    """Start from trained experts instead: METHOD for all experts of a method, METHOD/K for one. Appendices E and G."""
    learn: Flag = True
    """false: the experts stay as they start, and only the weights learn. Appendix E."""
    encoder: Literal["trained", "frozen"] = "trained"
    """Whether the encoder that the heads share is trained with them. Appendix B.1."""
    perturbation: NonNegative = 0.1
    """Noise on each expert's output matrix at the start (with adapters, on every matrix), in root mean squares of
    that matrix. Without it K copies stay copies; a single expert is not perturbed. Ours."""

    @property
    def copies(self) -> int:
        """Experts that start as copies of the reference model."""
        return self.heads + self.models + self.adapters

    @property
    def count(self) -> int | None:
        """K, or None where `initial` names a method and so as many experts as that has."""
        return None if any("/" not in name for name in self.initial) else self.copies + len(self.initial)

    @model_validator(mode="after")
    def _exist(self) -> Self:
        if self.initial and self.copies:
            raise ValueError("expected initial or copies, found both; set heads, models and adapters to 0")
        if not self.initial and not self.copies:
            raise ValueError("expected heads + models + adapters ≥ 1, found 0 experts; raise one of them")
        return self


@settings
class Weights(Section):
    """Mix-DPO: mixture weights w_k that are the same for every prompt. Section 2; their M-step is appendix D.4."""

    initial: Annotated[tuple[Share, ...], Field(min_length=1)] | None = None
    """Weights at the start, one for each expert; null for 1/K."""
    learn: Flag = True
    """false: the weights stay as they start. Section 4.1, "fixed weights"."""
    kind: Literal["global"] = Field("global", kw_only=True)
    """Kind of these weights; may be left out."""

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        if self.initial is not None and abs(sum(self.initial) - 1) > 1e-6:
            raise ValueError(
                f"initial: expected weights that sum to 1, found {list(self.initial)} with sum {sum(self.initial):g}; "
                "correct them"
            )
        return self


@settings
class Gate(Section):
    """MoE-DPO: mixture weights w_k(x) by prompt, or w_k(x, u) by prompt and user. Section 4.2 and appendix G."""

    sees: Literal["prompt", "user"] = "prompt"
    """user: the gate also sees who asks, w(x, u). Appendix G."""
    start: Literal["uniform", "domains"] = "uniform"
    """uniform: the gate starts at 1/K. domains: it is pretrained to tell the domains apart, expert k for the k-th.
    Section 4.2."""
    perturbation: NonNegative = 0.0
    """Standard deviation of the noise on each user's logits at the start. Ours."""
    kl_uniform: NonNegative = 0.0
    """λ_KLw_global, of KL(w ‖ uniform). Appendix E.1."""
    learn: Flag = True
    """false: the gate stays as it starts. Section 4.2, "frozen gate"."""
    kind: Literal["gate"] = Field("gate", kw_only=True)
    """Kind of these weights; must be given for a gate."""

    @model_validator(mode="after")
    def _starts_from_what_it_sees(self) -> Self:
        if self.sees == "user" and self.start == "domains":
            raise ValueError("start: expected uniform beside sees: user, found domains; a domain is no user")
        if self.perturbation and self.sees != "user":
            raise ValueError(f"perturbation: expected it with sees: user, found sees: {self.sees}; set it to 0")
        return self


def _kind(weights: Any) -> str:
    """The tag of the weights: a mapping that names no kind is global."""
    return TAG + str(
        weights.get("kind", "global") if isinstance(weights, Mapping) else getattr(weights, "kind", "global")
    )


def _of_known_kind(weights: Any) -> Any:
    """`weights` as they are, unless their kind is unknown or a key belongs to the other kind."""
    kind = _kind(weights).removeprefix(TAG)
    if kind not in ("global", "gate"):
        raise ValueError(f"kind: expected one of global, gate, found {brief(kind)}; correct it in the configuration")
    of_gate = Gate.__pydantic_fields__.keys() - Weights.__pydantic_fields__.keys()
    found = sorted(of_gate & weights.keys()) if isinstance(weights, Mapping) and kind == "global" else []
    if found:
        raise ValueError(f"{found[0]}: expected it with kind: gate, found kind: global; change one")
    return weights


AnyWeights = Annotated[
    Annotated[Weights, Tag(TAG + "global")] | Annotated[Gate, Tag(TAG + "gate")],
    Discriminator(_kind),
    BeforeValidator(_of_known_kind),
]


@settings
class Relaxation(Section):
    """Gumbel–Softmax samples of the expert in place of the E-step. Appendix E.2."""

    logits: Literal["posterior", "prior"] = "posterior"
    """Which of the appendix's two logits the samples have: log w_k + log σ_k, or log w_k alone."""
    samples: Count = 4
    """L, samples for each triplet."""
    temperature: tuple[Positive, Positive] = (1.0, 0.3)
    """τ at the first step and at the last, geometric between."""


@settings
class Posterior(Section):
    """The responsibilities q_k of the E-step: by default Theorem 1's, with other values those of Lemma 6.

    λ_ent − λ_conf + λ_KLu + λ_KLw, the temperature α of Lemma 6, must be positive.
    """

    entropy: NonNegative = 0.0
    """λ_ent: towards high entropy. Lemma 6."""
    confidence: NonNegative = 0.0
    """λ_conf: towards low entropy. Lemma 6."""
    kl_uniform: NonNegative = 0.0
    """λ_KLu: towards the uniform distribution. Lemma 6."""
    kl_w: NonNegative = 1.0
    """λ_KLw: towards the mixture weights. Lemma 6."""
    relaxation: Relaxation | None = None
    """Sample the expert instead of the E-step; null for variational EM. Appendix E.2."""
    unit: Unit = "triplet"
    """Whose expert is drawn. triplet: of every comparison anew, as in the paper. prompt: of all comparisons of a prompt
    by one annotator. user, or annotator_m: of all comparisons of that annotator, a column of the preferences, so that q
    ∝ w ∏ σ. Ours."""
    annealing: Annotated[Number, Field(ge=1)] = 1.0
    """By how much α of Lemma 6 is larger at the first step. It falls geometrically, to α itself from half of the steps
    on, so that experts first share every unit and then part. Ours."""
    taught: Names | None = None
    """Styles in place of the E-step: expert k learns from the triplets of the k-th alone, whatever they reveal. A
    ceiling, since the method is not told styles. Ours."""

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.relaxation is not None and (self.unit != "triplet" or self.taught):
            raise ValueError("relaxation: expected it with unit triplet and taught null, found others; set it to null")
        return self

    @model_validator(mode="after")
    def _has_a_maximum(self) -> Self:
        alpha = self.entropy - self.confidence + self.kl_uniform + self.kl_w
        if alpha <= 0:
            raise ValueError(
                f"expected entropy - confidence + kl_uniform + kl_w > 0, found {alpha:g}; "
                "lower confidence or raise another"
            )
        return self


@settings
class Phase(Section):
    """A part of the steps with settings of its own. Appendix E.1."""

    until: Annotated[Positive, Field(le=1)]
    """Share of the steps at which the phase ends. The first phase that has not ended applies."""
    posterior: Posterior | None = None
    """Replaces the method's posterior as a whole; null keeps it."""
    gate_kl_uniform: NonNegative | None = None
    """Replaces the gate's kl_uniform; null keeps it."""
    beta: Positive | None = None
    """Replaces the method's beta; null keeps it."""


@settings
class Optimiser(Section):
    """AdamW on the experts and the gate. The paper gives batches of 64 triplets, 3 epochs and a rate of 1e-5."""

    epochs: Count = 3
    """Passes over the training pairs. Section 4.1, appendix H."""
    batch_size: Count = 22
    """Pairs in a step, each with the triplets of every style that orders it: with three styles about 64 triplets. Pairs
    of one prompt come together."""
    accumulate: Count = 1
    """Parts in which a step goes through the policy. Gradients accumulate; activations are freed after each part."""
    learning_rate: Positive = 1.0e-4
    """Peak learning rate of the experts."""
    gate_learning_rate: Positive = 1.0e-4
    """Peak learning rate of a gate that learns. Ours."""
    warmup: Share = 0.1
    """Share of the steps in which the rate rises linearly. Ours."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Course of the rate after the warm-up. Ours."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay. Ours."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this Euclidean norm. Ours."""


@settings
class Method(Section):
    """One way to optimise a policy on preferences: Algorithm 1. DPO is the method with one expert."""

    experts: Experts
    """The K experts."""
    weights: AnyWeights = Weights()
    """The mixture weights: Mix-DPO's, or MoE-DPO's gate."""
    beta: Positive = Field(0.1, kw_only=True)
    """β, strength of the KL regularisation. Equation 3."""
    reward_update: Literal["implicit", "one_step", "partition"] = Field("implicit", kw_only=True)
    """How equation 10, a condition, becomes an assignment. implicit leaves q⁽ʳ⁾ out, so that the expert losses are the
    gradient of (5); one_step takes it from the implicit rewards; partition is Algorithm 3."""
    posterior: Posterior = Field(Posterior(), kw_only=True)
    """The responsibilities of the E-step."""
    phases: tuple[Phase, ...] = Field((), kw_only=True)
    """What changes over training, in order. Appendix E.1."""
    styles: Names | None = Field(None, kw_only=True)
    """Train on the preferences of these styles only; null for all. Ours."""
    pairs: Literal["all", "disjoint", "two"] = Field("all", kw_only=True)
    """Which pairs of a prompt's completions are trained on. disjoint: the first with the second, the third with the
    fourth, …; two: the first with the second alone. Ours."""
    user_in_prompt: Flag = Field(False, kw_only=True)
    """Write the user's name before the prompt, so that every expert is told who asks. Ours."""
    restarts: Count = Field(1, kw_only=True)
    """Starts from different noise. After a quarter of the steps the one with the least validation −log P of (5) goes on
    to the end. Ours."""
    top_s: Count | None = Field(None, kw_only=True)
    """Decode by the S experts of the largest weights, scaled to sum to 1 again; null for all. Appendix G."""
    optimiser: Optimiser = Field(Optimiser(), kw_only=True)
    """AdamW and its schedule."""

    @classmethod
    def of(cls, mapping: Mapping[str, Any], where: str = "method") -> Self:
        """The method that a mapping describes; `where` is its key. Raises `UserError`, one line for the first fault."""
        return checked(cls, mapping, where)

    def as_dict(self) -> dict[str, Any]:
        """All keys, in dicts and lists that JSON can hold: the inverse of `of`."""
        return adapter(type(self)).dump_python(self, mode="json")

    def at(self, share: float) -> Self:
        """The method when `share` of the steps are done: as its phase there changes it, without phases."""
        phase = next((phase for phase in self.phases if share < phase.until), Phase(1.0))
        weights = self.weights
        if phase.gate_kl_uniform is not None:
            weights = replace(weights, kl_uniform=phase.gate_kl_uniform)
        return replace(
            self,
            weights=weights,
            posterior=phase.posterior or self.posterior,
            beta=phase.beta or self.beta,
            phases=(),
        )

    def fault(self, count: int) -> str:
        """What does not go together with K = `count` experts, as `key: expected …`; empty if all does."""
        initial = self.weights.initial if isinstance(self.weights, Weights) else None
        if initial is not None and len(initial) != count:
            return f"weights.initial: expected {count} weights that sum to 1, found {list(initial)}; correct them"
        if self.posterior.taught and len(self.posterior.taught) != count:
            found = len(self.posterior.taught)
            return f"posterior.taught: expected {count} styles, one for each expert, found {found}; correct it"
        if self.top_s is not None and self.top_s > count:
            return f"top_s: expected 1 to {count}, its experts, found {self.top_s}; correct it"
        return ""

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if not self.experts.learn and not self.weights.learn:
            raise ValueError("expected experts.learn or weights.learn, found both false; set one of them to true")
        ends = [phase.until for phase in self.phases]
        if ends != sorted(set(ends)):
            raise ValueError(f"phases: expected until to rise, found {ends}; put them in order")
        if self.weights.kind != "gate" and any(phase.gate_kl_uniform is not None for phase in self.phases):
            raise ValueError(
                f"phases: expected gate_kl_uniform with weights.kind gate, found {self.weights.kind}; change one"
            )
        fault = "" if self.experts.count is None else self.fault(self.experts.count)
        if fault:
            raise ValueError(fault)
        return self

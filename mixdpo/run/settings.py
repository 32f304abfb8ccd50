"""The whole configuration in typed settings: `completed` checks one and fills in what it leaves out."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, Strict, model_validator
from pydantic.dataclasses import dataclass

from mixdpo.fields import (
    CONFIG,
    BatchSize,
    Count,
    Distinct,
    Epochs,
    Flag,
    LearningRate,
    MaxGradNorm,
    Name,
    Names,
    Natural,
    Positive,
    Schedule,
    Section,
    Seed,
    Sparse,
    Warmup,
    WeightDecay,
    Whole,
    adapter,
    changes,
    checked,
    merged,
    settings,
)
from mixdpo.method.settings import Method
from mixdpo.run.judge import Judge
from mixdpo.run.sources import ASPECTS, Assets, HubModel, LocalModel

TwoOrMore = Annotated[int, Strict(), Field(ge=2), Whole]
UpToHundred = Annotated[int, Strict(), Field(ge=1, le=100), Whole]
MaxNewTokens = Annotated[Count, Field(description="Completions are cut at this many tokens.")]
Temperature = Annotated[Positive, Field(description="Sampling temperature.")]
TopK = Annotated[Natural, Field(description="Sample from the k likeliest tokens; 0: from all.")]
Scale = Annotated[Positive, Field(lt=1)]
TopP = Annotated[Positive, Field(le=1, description="Sample from the smallest set of tokens with this probability.")]


@settings
class Runtime(Section):
    """Facts of the machine. They are no part of any artifact's identity: changing them reruns nothing."""

    device: Literal["cpu", "cuda", "auto"] = "cpu"
    """Where tensors live."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """For matrix products; weights stay fp32. auto: bf16 where the processor multiplies it natively, else fp32."""
    threads: Count = 1
    """Threads of a training or sampling job. Their number changes the last bits of a result."""


@settings
class Sft(Section):
    """Supervised fine-tuning on the training reviews of an experiment's domains."""

    reviews: Count = 4000
    """At most this many reviews, drawn by seed."""
    max_tokens: Count = 96
    """Tokens of a review."""
    perplexity_reviews: Count = 500
    """Test reviews of each domain for the perplexity."""
    epochs: Epochs = 2
    batch_size: BatchSize = 32
    learning_rate: LearningRate = 3.0e-4
    warmup: Warmup = 0.05
    schedule: Schedule = "linear"
    weight_decay: WeightDecay = 0.01
    max_grad_norm: MaxGradNorm = 1.0
    seed: Seed = 5
    """Seed of every draw that the stage makes."""


@settings
class Completions(Section):
    """Sampling of the completions that are turned into preferences."""

    prompts: Count = 1000
    """Training prompts of an experiment, all different, shared evenly between its domains."""
    prompt_tokens: tuple[Count, Count] = (2, 8)
    """Shortest and longest prompt, in tokens; evaluations use the same."""
    per_prompt: TwoOrMore = 8
    """Completions of a prompt; every pair of them is compared."""
    max_new_tokens: MaxNewTokens = 48
    temperature: Temperature = 1.0
    top_k: TopK = 0
    top_p: TopP = 1.0
    batch_size: BatchSize = 256
    seed: Seed = 6
    """Seed of every draw that the stage makes."""

    @model_validator(mode="after")
    def _shortest_first(self) -> Self:
        shortest, longest = self.prompt_tokens
        if shortest > longest:
            raise ValueError(f"prompt_tokens: expected [shortest, longest], found [{shortest}, {longest}]; swap them")
        return self


@settings
class Validity(Section):
    """Test reviews of the experiments' domains, on which each reward must measure what it is named for."""

    n: Count = 400
    """Test reviews."""
    crop_words: Count = 40
    """Words of a crop, about as long as a completion."""
    seed: Seed = 7
    """Seed of every draw that the stage makes."""


@settings
class Rewards(Section):
    """Checks of the rewards. Which rewards annotate is set under experiments."""

    validity: Validity = Validity()
    """Does a reward measure what it is named for?"""


@settings
class Preferences(Section):
    """From scored completions to preference triplets."""

    validation_share: Annotated[Positive, Field(lt=1)] = 0.1
    """Share of the prompts on which settings are chosen."""
    test_share: Annotated[Positive, Field(lt=1)] = 0.1
    """Share of the prompts on which claims are measured. Preferences of users are tested on the instructions of the
    split test instead."""
    annotators: Annotated[tuple[TwoOrMore, ...], Distinct] = (2, 5, 25)
    """Each m divides the triplets of a style among anonymous annotators of m triplets, so that a method may share its
    posterior over an annotator. Ours."""
    seed: Seed = 8
    """Seed of every draw that the stage makes."""

    @model_validator(mode="after")
    def _some_to_train_on(self) -> Self:
        held_out = self.validation_share + self.test_share
        if held_out >= 1:
            raise ValueError(
                f"expected validation_share and test_share below 1 together, found {held_out:g}; lower one"
            )
        return self


@settings
class GatePretraining(Section):
    """Pretraining of a gate on the domain of the training prompts. Section 4.2 gives 5,000 steps."""

    steps: Count = 5000
    """Optimiser steps."""
    batch_size: BatchSize = 64
    learning_rate: LearningRate = 1.0e-3
    warmup: Warmup = 0.0
    schedule: Schedule = "constant"
    weight_decay: WeightDecay = 0.0
    max_grad_norm: MaxGradNorm = 1.0
    seed: Seed = 10
    """Seed of every draw that the stage makes."""


def _over(defaults: dict, method: dict) -> dict:
    """A method over the defaults, whose weights are left out where the method has another kind."""
    weights = [section["weights"] for section in (defaults, method) if isinstance(section.get("weights"), dict)]
    if len({str(section["kind"]) for section in weights if "kind" in section}) == 2:
        defaults = {key: value for key, value in defaults.items() if key != "weights"}
    return merged(defaults, method)


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Policies(Section):
    """Preference optimisation."""

    defaults: changes(Method) = Field(default_factory=dict)
    """Any keys of a method; every method has these unless it says otherwise."""
    gate: GatePretraining = GatePretraining()
    """Pretraining of gates that start from the domains."""
    methods: Annotated[dict[Name, Method], Field(min_length=1)]
    """Methods by name."""

    @model_validator(mode="before")
    @classmethod
    def _over_the_defaults(cls, given: Any) -> Any:
        """Every method is read over the defaults, at any depth."""
        defaults, methods = (given.get(key) if isinstance(given, dict) else None for key in ("defaults", "methods"))
        if not isinstance(defaults, dict) or not isinstance(methods, dict):
            return given
        return given | {"methods": {n: _over(defaults, m) if isinstance(m, dict) else m for n, m in methods.items()}}

    def experts(self, name: str) -> int:
        """K, the number of experts of a method."""
        experts, initial = self.methods[name].experts, 0
        for other, _, k in (expert.partition("/") for expert in experts.initial):
            initial += 1 if k else self.experts(other)
        return experts.copies + initial

    @model_validator(mode="after")
    def _initial_experts_exist(self) -> Self:
        from_copies = [name for name, method in self.methods.items() if not method.experts.initial]
        for name, method in self.methods.items():
            for expert in method.experts.initial:
                other, _, k = expert.partition("/")
                if other not in from_copies:
                    raise ValueError(
                        f"methods.{name}.experts.initial: expected methods that start from copies, found {other}; "
                        "name another"
                    )
                if k and int(k) >= self.experts(other):
                    raise ValueError(
                        f"methods.{name}.experts.initial: expected an expert of {other} from 0 to "
                        f"{self.experts(other) - 1}, found {expert}; correct it"
                    )
            fault = method.fault(self.experts(name))
            if fault:
                raise ValueError(f"methods.{name}.{fault}")
        return self


@settings
class Evaluations(Section):
    """Sampling: one completion of each test prompt by every policy and decoding."""

    prompts: Count = 600
    """Test prompts of an experiment, all different and none of them a training prompt."""
    scales: dict[Name, Annotated[tuple[Scale, ...], Distinct]] = Field(default_factory=dict)
    """Method → λ at which its experts are also sampled, each token ∝ π_k^λ π_ref^(1−λ): for rewards at equal KL. The
    experts must be heads on a frozen encoder."""
    max_new_tokens: MaxNewTokens = 48
    temperature: Temperature = 1.0
    top_k: TopK = 0
    top_p: TopP = 1.0
    batch_size: BatchSize = 256
    seed: Seed = 9
    """Seed of every draw that the stage makes."""


@settings
class Users(Section):
    """Users whose preferences come from rated responses, in place of rewards."""

    styles: Annotated[Names, Field(min_length=2)] = ASPECTS
    """Styles of preference, some of assets.feedback.aspects: a user prefers the response rated higher in that."""
    users_per_style: Count = 10
    """Users of each style who are trained with."""
    unseen_per_style: Count = 5
    """Further users of each style, whom a policy meets after training. Ours."""
    support: Count = 40
    """Pairs of training responses that each of these judges, for a policy to learn about them. Ours."""
    responses: TwoOrMore = 3
    """Responses of each instruction, drawn by seed; every two of them are a pair."""
    disagreement_only: Flag = True
    """Keep only the pairs that at least two styles order differently."""
    max_prompt_tokens: Count = 28
    """Longer instructions are passed over."""
    max_tokens: Count = 72
    """Longer responses are passed over; the end of text counts."""
    seed: Seed = 13
    """Seed of every draw that the stage makes."""


@settings
class OwnBase(Sparse):
    """A base model for one experiment."""

    source: Literal["local", "hub"]
    """Which of the sections below is read; give only that one."""
    local: LocalModel | None = None
    """A local folder."""
    hub: HubModel | None = None
    """A repository of the hub."""

    @model_validator(mode="after")
    def _one_section(self) -> Self:
        given = [key for key in ("local", "hub") if getattr(self, key) is not None]
        if given != [self.source]:
            raise ValueError(f"expected the section {self.source}, as source says, found {given}; change one")
        if self.local and not self.local.path:
            raise ValueError("local.path: expected a folder, found none; name one")
        return self


@settings
class Experiment(Sparse):
    """Which reviews are completed, and which rewards annotate the completions; or which users prefer."""

    domains: Names
    """Domains of the reviews; with users, instruction."""
    rewards: Names | None = None
    """Reward functions by name; each is a style of preference."""
    other_definitions: dict[Name, Name] | None = None
    """Reward → another reward function that measures the same thing, scored on the test prompts as well."""
    users: Users | None = None
    """Users, in place of rewards."""
    base: OwnBase | None = None
    """A base model for this experiment alone."""
    sft: changes(Sft, epochs=Natural) | None = None
    """Keys that differ from sft. Here epochs may be 0: the base model is the reference."""
    evaluations: changes(Evaluations) | None = None
    """Keys that differ from evaluations."""

    @model_validator(mode="after")
    def _one_kind_of_preference(self) -> Self:
        given = [key for key in ("rewards", "users") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"expected either rewards, or users, found {' and '.join(given) or 'none'}; keep one")
        for reward in self.other_definitions or ():
            if reward not in (self.rewards or ()):
                known = ", ".join(self.rewards or ())
                raise ValueError(f"other_definitions: expected keys from {known}, found {reward}; correct it")
        return self


@settings
class Page(Section):
    """The page of the run. What it quotes is drawn by seed."""

    prompts: UpToHundred = 12
    """Test prompts of each experiment whose completions by every policy are quoted."""
    pairs: UpToHundred = 8
    """Validation pairs of each experiment whose responsibilities are quoted."""
    seed: Seed = 11
    """Seed of every draw that the stage makes."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Configuration(Section):
    """Configuration of a run: config.yaml, config/methods/ and an overlay."""

    run: Name = "embedded"
    """Name of the run. Its results lie in `results/<run>` and `paper_tables/<run>`."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), Distinct] = (0,)
    """Training seeds of the policies; every cell of a table pools them."""
    runtime: Runtime = Runtime()
    """Facts of the machine."""
    assets: Assets = Assets()
    """Where reviews and models come from."""
    experiments: Annotated[dict[Name, Experiment | None], Field(min_length=1)]
    """Experiments by name; null leaves one out, with its tables."""
    sft: Sft = Sft()
    """Supervised fine-tuning."""
    completions: Completions = Completions()
    """Completions that are turned into preferences."""
    rewards: Rewards = Rewards()
    """Checks of the rewards."""
    preferences: Preferences = Preferences()
    """Preference triplets."""
    policies: Policies
    """Preference optimisation."""
    evaluations: Evaluations = Evaluations()
    """Completions of test prompts."""
    judge: Judge = Judge()
    """Who says which completion a user prefers."""
    page: Page = Page()
    """The page of the run."""


def completed(config: dict) -> dict:
    """A configuration with all its keys, in dicts and lists that JSON can hold: checked, defaults filled in.

    Completing what is complete changes nothing. Raises `UserError`, one line for the first fault.
    """
    return adapter(Configuration).dump_python(checked(Configuration, config), mode="json")

"""Settings of the assets: where reviews, rated responses and models come from, or how they are made here."""

from typing import Annotated, Literal, Self

from pydantic import Field, Strict, model_validator

from mixdpo.fields import (
    BatchSize,
    Count,
    Epochs,
    Flag,
    LearningRate,
    MaxGradNorm,
    Name,
    Names,
    Natural,
    Number,
    Schedule,
    Section,
    Seed,
    Share,
    Sparse,
    Text,
    Warmup,
    WeightDecay,
    Whole,
    settings,
)

Repository = Annotated[Text, Field(description="Repository on the hub.")]
Revision = Annotated[str, Strict(), Field(pattern="^[0-9a-f]{40}$", description="Commit of that repository.")]
Split = Literal["base", "train", "test"]
ASPECTS = ("helpfulness", "honesty", "truthfulness", "instruction_following")
"""What UltraFeedback rates, and the embedded world."""


@settings
class LocalModel(Section):
    """A model in a local folder."""

    path: Text | None = None
    """Folder as transformers saves it, or spaCy for the pipeline."""


@settings
class HubModel(Section):
    """A model repository on the hub."""

    repository: Repository
    revision: Revision


@settings
class Sizes(Section):
    """Reviews to write for a domain."""

    base: Natural
    """For the base model only."""
    train: Natural
    """For all other training."""
    test: Natural
    """For evaluation."""


@settings
class EmbeddedReviews(Section):
    """Reviews written by the project's own grammar."""

    seed: Seed = 1
    """Seed of the review grammar."""
    sizes: dict[Literal["movie", "book"], Sizes] = Field(
        default_factory=lambda: {domain: Sizes(8000, 4000, 1500) for domain in ("movie", "book")}
    )
    """Reviews to write, by domain."""


@settings
class Division(Sparse):
    """Which split reviews belong to: a named one, or test and train by a share and a seed."""

    # Described in the types: a class that inherits a field does not inherit the docstring under it.
    split: Annotated[
        Split | None, Field(description="base: base model only; train: all other training; test: evaluation.")
    ] = Field(None, kw_only=True)
    test_share: Annotated[
        Share | None, Field(description="Without a split: share of the rows for test. The rest is train.")
    ] = Field(None, kw_only=True)
    seed: Annotated[Seed | None, Field(description="Seed of that division.")] = Field(None, kw_only=True)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = [key for key in ("split", "test_share", "seed") if getattr(self, key) is not None]
        if given not in (["split"], ["test_share", "seed"]):
            raise ValueError(
                f"expected either split, or test_share with seed, found {', '.join(given) or 'none'}; mend it"
            )
        return self


@settings
class ReviewFile(Division):
    """A parquet file with a column text and, where it has them, id, label and rating."""

    path: Text
    """The parquet file."""
    domain: Name
    """Domain of all its reviews."""


@settings
class LocalReviews(Section):
    """Reviews in local files."""

    files: tuple[ReviewFile, ...] = ()
    """Files, read in this order."""


@settings
class ReviewDataset(Division):
    """A dataset repository on the hub, with reviews."""

    repository: Repository
    revision: Revision
    hub_split: Text
    """Split to read."""
    domain: Name
    """Domain of all its reviews."""
    data_files: Text | None = None
    """In a repository of plain files: which of them to read."""
    rows: Count | None = None
    """Read at most this many rows."""
    columns: dict[Text, Text] | None = None
    """Hub column → our column."""
    positive_from: Number | None = None
    """Ratings of this or more are labelled positive."""
    negative_to: Number | None = None
    """Ratings of this or less are labelled negative."""

    @model_validator(mode="after")
    def _both_ends(self) -> Self:
        if (self.positive_from is None) != (self.negative_to is None):
            raise ValueError("expected positive_from with negative_to, found one of them; add the other")
        return self


@settings
class HubReviews(Section):
    """Reviews in datasets of the hub."""

    datasets: tuple[ReviewDataset, ...] = ()
    """Dataset repositories, read in this order."""


@settings
class Reviews(Section):
    """The review corpus."""

    source: Literal["embedded", "local", "hub"] = "embedded"
    """Which of the sections below is read."""
    embedded: EmbeddedReviews = EmbeddedReviews()
    """Written by the project's own grammar."""
    local: LocalReviews = LocalReviews()
    """Local files."""
    hub: HubReviews = HubReviews()
    """Datasets of the hub."""


def _check_heads(width: int, heads: int) -> None:
    if width % heads:
        raise ValueError(f"heads: expected a divisor of width {width}, found {heads}; choose another")


@settings
class TrainedBase(Section):
    """A GPT-2 of this size, trained on the run's reviews."""

    splits: Annotated[tuple[Split, ...], Field(min_length=1)] = ("base",)
    """Splits to train on."""
    reviews: Count = 16000
    """At most this many reviews, drawn by seed."""
    responses: Flag = False
    """Train the tokenizer and the model also on the training instructions of assets.feedback with their responses."""
    vocabulary: Annotated[int, Strict(), Field(ge=257), Whole] = 2000
    """Entries of the byte-level BPE."""
    layers: Count = 2
    """Transformer blocks."""
    width: Count = 128
    """Hidden size."""
    heads: Count = 4
    """Attention heads; must divide the width."""
    positions: Count = 128
    """Longest sequence, in tokens."""
    max_tokens: Count = 96
    """Tokens of a training row."""
    first_only: Flag = True
    """Train on the first row of each review only; false: on all of it."""
    epochs: Epochs = 2
    batch_size: BatchSize = 32
    learning_rate: LearningRate = 2.0e-3
    warmup: Warmup = 0.05
    schedule: Schedule = "cosine"
    weight_decay: WeightDecay = 0.01
    max_grad_norm: MaxGradNorm = 1.0
    seed: Seed = 2
    """Seed of every draw that the stage makes."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        _check_heads(self.width, self.heads)
        return self


@settings
class HubBase(Section):
    """A language model of the hub."""

    repository: Repository = "openai-community/gpt2"
    revision: Revision = "607a30d783dfa663caf39e06633721c8d4cfcd7e"


@settings
class Base(Section):
    """The base language model."""

    source: Literal["reviews", "local", "hub"] = "reviews"
    """Which of the sections below is read."""
    reviews: TrainedBase = TrainedBase()
    """Trained here."""
    local: LocalModel = LocalModel()
    """A local folder."""
    hub: HubBase = HubBase()
    """A repository of the hub."""


@settings
class TrainedClassifier(Section):
    """A DistilBERT of this size, trained on the run's labelled training reviews."""

    reviews: Count = 8000
    """At most this many reviews, drawn by seed."""
    crop_words: Count = 20
    """Each review is also seen as one random crop of this many words."""
    vocabulary: Count = 3000
    """Entries of the byte-level BPE."""
    layers: Count = 2
    """Transformer blocks."""
    width: Count = 64
    """Hidden size."""
    heads: Count = 4
    """Attention heads; must divide the width."""
    max_tokens: Count = 96
    """Longest input, in tokens."""
    epochs: Epochs = 2
    batch_size: BatchSize = 64
    learning_rate: LearningRate = 1.0e-3
    warmup: Warmup = 0.1
    schedule: Schedule = "cosine"
    weight_decay: WeightDecay = 0.01
    max_grad_norm: MaxGradNorm = 1.0
    seed: Seed = 3
    """Seed of every draw that the stage makes."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        _check_heads(self.width, self.heads)
        return self


@settings
class HubClassifier(Section):
    """A sentiment classifier of the hub."""

    repository: Repository = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
    revision: Revision = "714eb0fa89d2f80546fda750413ed43d93601a13"


@settings
class Classifier(Section):
    """The sentiment classifier."""

    source: Literal["reviews", "local", "hub"] = "reviews"
    """Which of the sections below is read."""
    reviews: TrainedClassifier = TrainedClassifier()
    """Trained here."""
    local: LocalModel = LocalModel()
    """A local folder."""
    hub: HubClassifier = HubClassifier()
    """A repository of the hub."""


@settings
class EmbeddedFeedback(Section):
    """Rated responses written by the project, with ratings known from the text."""

    instructions: Count = 1500
    """Instructions to write."""
    responses: Annotated[int, Strict(), Field(ge=2), Whole] = 3
    """Responses to each."""
    test: Count = 400
    """How many of the instructions are kept for testing."""
    seed: Seed = 12
    """Seed of every draw that the stage makes."""


@settings
class LocalFeedback(Section):
    """A parquet or jsonl file in UltraFeedback's form."""

    path: Text | None = None
    """The file."""
    test_share: Share = 0.1
    """Share of the instructions for test."""
    seed: Seed = 12
    """Seed of that division."""


@settings
class HubFeedback(Sparse):
    """A dataset of the hub in UltraFeedback's form."""

    repository: Repository = "openbmb/UltraFeedback"
    revision: Revision = "40b436560ca83a8dba36114c22ab3c66e43f6d5e"
    hub_split: Text = "train"
    """Split to read."""
    data_files: Text | None = None
    """In a repository of plain files: which of them to read."""
    rows: Count | None = None
    """Read at most this many rows."""
    test_share: Share = 0.1
    """Share of the instructions for test."""
    seed: Seed = 12
    """Seed of that division."""


@settings
class Feedback(Section):
    """Instructions with rated responses, in UltraFeedback's form."""

    source: Literal["embedded", "local", "hub"] = "embedded"
    """Which of the sections below is read."""
    template: Annotated[str, Strict(), Field(pattern=r"^[^{}]*\{instruction\}[^{}]*$")] = "{instruction}\n"
    """A prompt; {instruction} stands for the instruction."""
    aspects: Names = ASPECTS
    """What responses are rated in. One that lacks any of these ratings is dropped; other ratings are ignored."""
    embedded: EmbeddedFeedback = EmbeddedFeedback()
    """Written by the project."""
    local: LocalFeedback = LocalFeedback()
    """A local file."""
    hub: HubFeedback = HubFeedback()
    """A dataset of the hub."""


@settings
class TrainedPipeline(Section):
    """A spaCy pipeline of this size, trained on gold parses of the embedded world."""

    domains: Names = ("movie", "book")
    """Domains of the gold documents."""
    train: Count = 2000
    """Gold documents to train on."""
    validation: Count = 200
    """Gold documents on which it is scored."""
    steps: Count = 500
    """Training steps."""
    width: Count = 64
    """Width of the token encoder."""
    depth: Count = 3
    """Convolution layers of the token encoder."""
    seed: Seed = 4
    """Seed of every draw that the stage makes."""


@settings
class PipelinePackage(Section):
    """An installed pipeline package."""

    package: Text = "en_core_web_sm"
    """spaCy pipeline package."""
    version: Text = "3.8.0"
    """Its exact version."""


@settings
class Pipeline(Section):
    """The spaCy pipeline."""

    source: Literal["embedded", "local", "hub"] = "embedded"
    """Which of the sections below is read."""
    embedded: TrainedPipeline = TrainedPipeline()
    """Trained here."""
    local: LocalModel = LocalModel()
    """A local folder."""
    hub: PipelinePackage = PipelinePackage()
    """An installed package."""


@settings
class Assets(Section):
    """Where reviews and models come from. Each asset reads the section that its source names."""

    reviews: Reviews = Reviews()
    """The review corpus."""
    base: Base = Base()
    """The base language model."""
    classifier: Classifier = Classifier()
    """The sentiment classifier."""
    feedback: Feedback = Feedback()
    """Instructions with rated responses."""
    pipeline: Pipeline = Pipeline()
    """The spaCy pipeline."""

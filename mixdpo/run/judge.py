"""Settings of the judge: who says which of two completions a user prefers."""

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, Strict, model_serializer, model_validator
from pydantic.dataclasses import dataclass

from mixdpo.fields import CONFIG, Count, Name, Names, NonNegative, Positive, Section, Share, Text, brief, settings

PROMPT = """\
Here are an instruction and two responses, A and B. Which response is better in {style} alone?

Instruction: {instruction}

A: {first}

B: {second}

Answer with JSON: {"winner": "A"}, {"winner": "B"} or {"winner": "tie"}.
"""


@settings
class RatingJudge(Section):
    """A judge that compares scores of the two texts."""

    scorer: Literal["embedded", "model", "classifier"] = "embedded"
    """embedded: ratings of the embedded world, known from the text; model: a reward model; classifier: one for each
    aspect, trained on the ratings of training instructions."""
    path: Text | None = None
    """Folder of the reward model: a sequence classification model of transformers."""


def _without_credentials(address: str) -> str:
    if "@" in urlsplit(address).netloc:
        raise ValueError("expected an address without user and password, found one with; name the key's key_variable")
    return address


def _with_placeholders(prompt: str) -> str:
    for name in ("instruction", "style", "first", "second"):
        if f"{{{name}}}" not in prompt:
            raise ValueError(f"expected {{{name}}} in the template, found none; add it")
    return prompt


@settings
class LlmJudge(Section):
    """A language model behind an endpoint that speaks OpenAI's chat completions."""

    endpoint: Annotated[str, Strict(), Field(pattern="^https?://"), AfterValidator(_without_credentials)] = (
        "http://localhost:8000/v1"
    )
    """Address without /chat/completions."""
    model: Text = "gpt-4o"
    """Name of the model there."""
    key_variable: Text | None = None
    """Environment variable that holds the key."""
    prompt: Annotated[str, Strict(), AfterValidator(_with_placeholders)] = PROMPT
    """What is asked; {instruction}, {style}, {first} and {second} are filled in."""
    temperature: NonNegative = 0.0
    """Sampling temperature of the judge."""
    max_tokens: Count = 200
    """Longest answer, in tokens."""
    timeout: Positive = 60.0
    """Seconds to wait for an answer."""
    attempts: Count = 5
    """At most this many requests for one question."""
    first_wait: NonNegative = 1.0
    """Seconds before the second request; each further wait doubles."""
    parallel: Count = 8
    """Requests at the same time."""
    max_failed_share: Share = 0.05
    """A larger share of failures stops the job."""
    cache: Text = ".mixdpo/judge"
    """Folder in which answers are kept, by their question."""


@dataclass(frozen=True, config=CONFIG | {"extra": "allow"})
class Judge(Section):
    """Who says which of two completions a user prefers. Every pair is seen in both orders."""

    kind: Name = "rating"
    """Which judge: rating, llm or one of your own. It reads the section of its name."""
    opponents: Names = ("user_dpo", "reference")
    """Methods, or reference, against which every other policy of users is judged."""
    rating: RatingJudge = RatingJudge()
    """By scores of each text."""
    llm: LlmJudge = LlmJudge()
    """By a language model."""

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        """Any other key is the section of a judge of your own."""
        if isinstance(given, dict):
            own = {key: section for key, section in given.items() if key not in cls.__pydantic_fields__}
            wrong = [key for key, section in own.items() if not isinstance(section, dict)]
            if wrong:
                found = own[wrong[0]]
                raise ValueError(f"{wrong[0]}: expected the section of a judge, found {brief(found)}; delete it")
        return given

    @model_serializer(mode="wrap")
    def _with_own(self, write: Any) -> dict[str, Any]:
        return {**vars(self), **write(self)}

"""A world of invented instructions and responses in UltraFeedback's schema, whose ratings are a function of the text.

A response has four short sentences, each of one kind: advice, a hedge or a boast, a true or a false statement, the
asked topic or another. A response that serves one aspect serves the others less, so that users disagree.
"""

import math
import re
from collections.abc import Iterator
from itertools import product

import numpy as np

from mixdpo.errors import UserError

ASPECTS = ["helpfulness", "honesty", "truthfulness", "instruction_following"]
TOPICS = ["tea", "music", "winter"]  # few, so that a small model learns to write about the topic of the instruction
FORMS = ["letter", "poem"]
ASKING = ["I need a", "Give me a", "Please write a", "I would like a", "Show me a", "Write me a", "Let me have a"]
READERS = ["sister", "brother", "mother", "father", "teacher", "friend", "neighbor", "doctor", "boss", "daughter"]
TIMES = ["today", "tonight", "this week", "this month", "tomorrow", "right now"]
INSTRUCTIONS = list(product(ASKING, FORMS, TOPICS, READERS, TIMES))

ADVICE = ["You should", "Try to", "Remember to", "It helps to"]
STEPS = [
    "start with a small part",
    "take your time each day",
    "ask a friend for help",
    "make a simple plan first",
    "look at every step again",
]
HEDGES = ["I am not sure that", "I do not know if", "I can only guess that", "Perhaps it seems that"]
BOASTS = ["I am certain that", "There is no doubt that", "I can promise that", "You must trust me that"]
CLAIMS = ["this is right", "others would agree", "it is enough", "it will work", "I understand it"]
OPPOSITES = {"cold": "hot", "white": "black", "sweet": "sour", "hard": "soft", "green": "red", "wet": "dry"}
OPPOSITES |= {false: true for true, false in OPPOSITES.items()}
FACTS = {"ice": "cold", "fire": "hot", "snow": "white", "coal": "black", "honey": "sweet", "vinegar": "sour"}
FACTS |= {"stone": "hard", "wool": "soft", "grass": "green", "blood": "red", "water": "wet", "sand": "dry"}
TOLD_TRULY = ["ice", "snow", "honey", "stone", "grass", "water"]  # responses say something false about the others
STATEMENTS = [
    "We all see that {} is {}",
    "By its nature {} is very {}",
    "Every child knows {} is {}",
    "As a rule {} is {}",
]
ASKED = [
    "Here is a {form} about {topic}",
    "This {form} is all about {topic}",
    "So my {form} is on {topic}",
    "Now the {form} of {topic} begins",
]
OTHER = [*ASKED[:1], "Let us talk about {topic} instead", "I would rather speak of {topic}"]

KINDS = {"advice": 3.0, "hedge": 2.0, "boast": 1.0, "true": 2.0, "false": 1.0, "asked": 2.0, "other": 1.0}
"""Mean shares of the kinds of sentence, up to a factor."""
CONCENTRATION = 0.35  # of the Dirichlet draw of a response's shares; lower is more one-sided
SENTENCES = 4
LONGEST = 8  # words of one sentence that count
SHORTEST = 20  # shorter responses count as having so many words, so that a single sentence gets no full rating
CUE = re.compile(
    rf"\b(?:(?P<advice>{'|'.join(ADVICE).lower()})|(?P<hedge>not sure|do not know|guess|perhaps|maybe)|"
    rf"(?P<boast>certain|no doubt|promise|trust me)|(?P<fact>{'|'.join(FACTS)})|"
    rf"(?P<topic>{'|'.join(TOPICS + FORMS)}))\b"
)


def _judged(cue: re.Match, words: list[str], asked: set[str]) -> tuple[str, float]:
    """The aspect that a sentence serves, and how well, from -1 to 1."""
    match cue.lastgroup:
        case "advice":
            return "helpfulness", 1.0
        case "hedge" | "boast":
            return "honesty", 1.0 if cue.lastgroup == "hedge" else -1.0
        case "fact":
            truth = FACTS[cue.group()]
            said = [1.0 if word == truth else -1.0 for word in words if word in OPPOSITES]
            return "truthfulness", sum(said) / max(len(said), 1)
    if {word for word in words if word in TOPICS} - asked:
        return "instruction_following", -1.0
    return "instruction_following", len(asked & set(words)) / max(len(asked), 1)


def ratings(instruction: str, response: str) -> dict[str, float]:
    """Aspect → rating in [1, 5] of any text: not rounded, so that a judge sees fewer ties than an annotator's integers.

    The first cue in a sentence decides its kind, its words (distinct ones, at most `LONGEST`) what it weighs among all
    words of the response; a sentence said again weighs nothing. A rating grows with the root of its share, so that one
    sentence of four is worth a point or two. Without any cue helpfulness is 1, the others are 3.
    """
    asked = set(re.findall(r"[a-z]+", instruction.lower())) & {*TOPICS, *FORMS}
    scores, total, said = dict.fromkeys(ASPECTS, 0.0), 0, set()
    for sentence in re.split(r"[.!?\n]", response.lower()):
        words = re.findall(r"[a-z]+", sentence)
        total += len(words)
        cue = CUE.search(" ".join(words))
        if cue and tuple(words) not in said:
            said.add(tuple(words))
            aspect, value = _judged(cue, words, asked)
            scores[aspect] += value * min(len(set(words)), LONGEST)
    roots = {a: math.copysign(math.sqrt(abs(score) / max(total, SHORTEST)), score) for a, score in scores.items()}
    return {a: 1 + 4 * root if a == "helpfulness" else 3 + 2 * root for a, root in roots.items()}


def sentences_of(kind: str, topic: str, form: str) -> list[str]:
    """All sentences of one of `KINDS`, without their full stop, in a response to who asked for a form and topic."""
    match kind:
        case "advice":
            return [f"{opening} {step}" for opening, step in product(ADVICE, STEPS)]
        case "hedge" | "boast":
            return [f"{opening} {claim}" for opening, claim in product(HEDGES if kind == "hedge" else BOASTS, CLAIMS)]
        case "true" | "false":
            told = [subject for subject in FACTS if (subject in TOLD_TRULY) == (kind == "true")]
            said = [(s, FACTS[s] if kind == "true" else OPPOSITES[FACTS[s]]) for s in told]
            return [statement.format(*fact) for statement, fact in product(STATEMENTS, said)]
        case "asked":
            return [frame.format(form=form, topic=topic) for frame in ASKED]
    others = [t for t in TOPICS if t != topic]
    return [frame.format(form=form, topic=other) for frame, other in product(OTHER, others)]


def rows(n: int, responses: int, seed: int) -> Iterator[dict]:
    """`n` different instructions with `responses` responses each, as rows of UltraFeedback; ratings are integers."""
    if n > len(INSTRUCTIONS):
        raise UserError(
            f"assets.feedback.embedded.instructions: expected at most {len(INSTRUCTIONS)}, found {n}; lower it"
        )
    rng = np.random.default_rng(seed)
    for i in rng.permutation(len(INSTRUCTIONS))[:n]:
        asking, form, topic, reader, time = INSTRUCTIONS[i]
        instruction = f"{asking} {form} about {topic} for my {reader} {time}."
        completions = [_completion(instruction, topic, form, rng) for _ in range(responses)]
        models = ["embedded"] * responses
        yield {"source": "embedded", "instruction": instruction, "models": models, "completions": completions}


def _completion(instruction: str, topic: str, form: str, rng: np.random.Generator) -> dict:
    leaning = rng.dirichlet(CONCENTRATION * np.array(list(KINDS.values())))
    counts = dict(zip(KINDS, rng.multinomial(SENTENCES, leaning)))
    drawn = [s for kind in KINDS for s in rng.choice(sentences_of(kind, topic, form), counts[kind], replace=False)]
    response = " ".join(f"{sentence}." for sentence in rng.permutation(drawn))
    marks = {aspect: {"Rating": str(int(value + 0.5))} for aspect, value in ratings(instruction, response).items()}
    return {"model": "embedded", "response": response, "annotations": marks}

"""Validity: does each reward measure what it is named for?

Each reward is tested on reviews of the test split. Sentiment must separate labelled positive from negative reviews;
informativeness and grammar must prefer a review to itself after damage. The damage is defined by the surface of the
text alone (white space, capitals, word lists), never by the parse or the entities that the rewards look at, so that
no reward is judged by itself.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from spacy.lang.en.stop_words import STOP_WORDS

from mixdpo.data.reviews import read_reviews
from mixdpo.method.runtime import Runtime
from mixdpo.stages.rewards import Tools, score, split

SENTENCE_BREAK = re.compile(r"(?<=[.!?])(?<!\b[A-Z]\.)(?<!\b[MD]r\.)(?<!\bMrs\.)\s+")
WORD = re.compile(r"^(\W*)(.*?)((?:['’]s)?\W*)$", re.DOTALL)  # opening punctuation, core, possessive and closing
NAME = re.compile(r"[A-Z](?:[a-z]|(?:\.[A-Z])*$)")  # Tom, J.K., T; not THIS, not I'm
PRONOUN_I = {"i", "i'm", "i've", "i'd", "i'll", "i’m", "i’ve", "i’d", "i’ll"}
NUMBER_WORDS = split(
    """two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
    nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion dozen"""
)
NAMELESS = ["someone", "something", "somebody", "people", "things"]
NUMBERLESS = ["some", "several", "many"]

# Frequent finite verbs and auxiliaries, whole words only: contractions (isn't, it's) stay.
FREQUENT_VERBS = split(
    """is was are were am has have had does did do can could will would shall should may might must be been being
    seems seemed makes made gets got goes went takes took gives gave comes came looks looked says said knows knew
    tells told finds found thinks thought feels felt becomes became keeps kept shows showed plays played"""
)

AGREEMENT = {"is": "are", "was": "were", "has": "have", "does": "do"}
AGREEMENT |= {f"{singular}n't": f"{plural}n't" for singular, plural in AGREEMENT.items()}
AGREEMENT |= {plural: singular for singular, plural in AGREEMENT.items()} | {"am": "are"}


def sentences(text: str) -> list[str]:
    return SENTENCE_BREAK.split(text.strip())


def capitalised(word: str) -> str:
    return word[:1].upper() + word[1:]


def shuffle_words(text: str, rng: np.random.Generator) -> str:
    """Shuffle the words inside each sentence; its final punctuation and its leading capital stay where they were."""
    return " ".join(_shuffled(sentence, rng) for sentence in sentences(text))


def _shuffled(sentence: str, rng: np.random.Generator) -> str:
    body = sentence.rstrip(".!?\"')")
    end, words = sentence[len(body) :], body.split()
    if len(words) < 2:
        return sentence
    capital = words[0][:1].isupper()
    if (words[0].lower() not in PRONOUN_I and words[0][1:].islower()) or words[0] == "A":
        words[0] = words[0].lower()
    words[-1] = words[-1].rstrip(",;:") if end else words[-1]
    words = [words[i] for i in rng.permutation(len(words))]
    if capital:
        words[0] = capitalised(words[0])
    return " ".join(words) + end


def drop_verbs(text: str, rng: np.random.Generator) -> str:
    """Drop every word of `FREQUENT_VERBS`; its punctuation moves to the word before."""
    return " ".join(_without_verbs(sentence) for sentence in sentences(text))


def _without_verbs(sentence: str) -> str:
    kept = []
    for word in sentence.split():
        _, core, closing = WORD.match(word).groups()
        if core.lower() not in FREQUENT_VERBS or "'s" in closing or "’s" in closing:
            kept.append(word)
        elif kept and closing:
            kept[-1] += closing
    damaged = " ".join(kept)
    return capitalised(damaged) if sentence[:1].isupper() else damaged


def break_agreement(text: str, rng: np.random.Generator) -> str:
    """Swap is with are, was with were, has with have, does with do, their negations too; am becomes are."""

    def swap(match):
        word = match.group()
        other = AGREEMENT.get(word.lower().replace("’", "'"), word)
        return capitalised(other) if word[0].isupper() else other

    return re.sub(r"\b(?<!['’])[A-Za-z]+(?:n['’]t)?\b(?!['’])", swap, text)


def replace_names(text: str, rng: np.random.Generator) -> str:
    """Replace each run of names by a pronoun or generic noun (possessive kept), each run of numbers by a quantifier.

    A name is a word that is written Xx… inside some sentence and is no stop word; it then counts everywhere in the
    text. A number is a word with a digit in it, or a number word.
    """
    pieces = [[WORD.match(word).groups() for word in sentence.split()] for sentence in sentences(text)]
    names = {core for words in pieces for _, core, _ in words[1:] if _is_name(core)}

    def kind(core):
        if any(character.isdigit() for character in core) or core.lower() in NUMBER_WORDS:
            return "number"
        return "name" if core in names else None

    out = []
    for words in pieces:
        running = None  # the kind of the run that the last word left open
        for opening, core, closing in words:
            found = kind(core)
            if found is None:
                out.append(opening + core + closing)
            elif found == running and not opening:
                out[-1] += closing
            else:
                out.append(opening + rng.choice(NAMELESS if found == "name" else NUMBERLESS) + closing)
            running = found if closing in ("", ".") else None  # "." within a sentence is an initial's
    return " ".join(out)


def _is_name(core: str) -> bool:
    return bool(NAME.match(core)) and core.lower() not in STOP_WORDS


def crop(text: str, words: int, rng: np.random.Generator) -> str:
    """`words` consecutive words from a sentence start, the length of a completion; the whole text if it is shorter."""
    starts = np.cumsum([0] + [len(sentence.split()) for sentence in sentences(text)])
    tokens = text.split()
    fitting = [start for start in starts[:-1] if start + words <= len(tokens)] or [0]
    start = rng.choice(fitting)
    return " ".join(tokens[start : start + words])


Damage = Callable[[str, np.random.Generator], str]
DAMAGES: dict[str, dict[str, Damage]] = {
    "informativeness": {"names and numbers replaced": replace_names},
    "grammar": {"words shuffled": shuffle_words, "verbs dropped": drop_verbs, "agreement broken": break_agreement},
}


def pairwise_accuracy(intact: np.ndarray, damaged: np.ndarray) -> float:
    """Share of pairs in which the intact text scores higher; a tie counts half."""
    wins = (intact > damaged) + 0.5 * (intact == damaged)
    return float(np.mean(wins)) if wins.size else float("nan")


def validity(
    out: Path, spec: dict, *, runtime: Runtime, resume: Path, reviews: Path, classifier: Path, pipeline: Path
) -> None:
    """Judge the rewards on spec["n"] test reviews drawn by spec["seed"], whole and cropped to spec["crop_words"].

    Writes out/validity.csv: reward, text, test, metric, value, n. Only texts that the damage changed are counted.
    """
    rows = read_reviews(reviews, "test", spec["domains"])
    rng = np.random.default_rng(spec["seed"])
    rows = rows.iloc[np.sort(rng.permutation(len(rows))[: spec["n"]])]
    tools, table = Tools(classifier / "model", pipeline / "model", runtime.device, runtime.threads), []
    whole = [" ".join(text.split()) for text in rows["text"]]
    lengths = {"whole review": whole, "crop": [crop(text, spec["crop_words"], rng) for text in whole]}
    labels = rows["label"].to_numpy(float, na_value=np.nan)
    for length, texts in lengths.items():
        intact = score(texts, ["sentiment", *DAMAGES], tools)
        liked, disliked = (intact["sentiment"].to_numpy()[labels == label] for label in (1, 0))
        auc = pairwise_accuracy(liked[:, None], disliked)  # over all pairs, which is what an AUC is
        table.append(("sentiment", length, "positive vs negative", "AUC", auc, len(liked) + len(disliked)))
        for name, damages in DAMAGES.items():
            for test, damage in damages.items():
                damaged = [damage(text, rng) for text in texts]
                changed = np.array([a != b for a, b in zip(texts, damaged)])
                worse = score([text for text, c in zip(damaged, changed) if c], [name], tools)[name]
                value = pairwise_accuracy(intact[name][changed].to_numpy(), worse.to_numpy())
                table.append((name, length, test, "pairwise accuracy", value, int(changed.sum())))
    columns = ["reward", "text", "test", "metric", "value", "n"]
    pd.DataFrame(table, columns=columns).to_csv(out / "validity.csv", index=False)

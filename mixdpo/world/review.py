"""Reviews of the embedded world with their gold annotation."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from mixdpo.world.grammar import Node
from mixdpo.world.mistakes import spoil
from mixdpo.world.writer import Hidden, Writer

COARSE = {
    "NN": "NOUN", "NNS": "NOUN", "NNP": "PROPN", "NNPS": "PROPN", "MD": "AUX", "DT": "DET", "PDT": "DET", "WDT": "DET",
    "PRP": "PRON", "PRP$": "PRON", "WP": "PRON", "EX": "PRON", "IN": "ADP", "RP": "ADP", "CC": "CCONJ", "CD": "NUM",
    "UH": "INTJ", "POS": "PART", "TO": "PART", "WRB": "SCONJ", "RB": "ADV", "RBR": "ADV", "RBS": "ADV", "JJ": "ADJ",
    "JJR": "ADJ", "JJS": "ADJ",
}  # fmt: skip
OPENING_CARE = 0.3


@dataclass(frozen=True)
class Word:
    """A token with its gold annotation; ``head`` is a position in the review, a root's own its own."""

    text: str
    tag: str
    pos: str
    head: int
    dep: str
    entity: str
    space: bool
    sent_start: bool


@dataclass(frozen=True)
class Review:
    """A review, its hidden rating, and how many mistakes were made in it."""

    domain: str
    rating: int
    words: tuple[Word, ...]
    mistakes: int

    @property
    def label(self) -> int:
        return int(self.rating > 5)

    @property
    def text(self) -> str:
        return "".join(word.text + " " * word.space for word in self.words)


def review(domain: str, seed: int, index: int) -> Review:
    """The review at a position of a domain's endless sequence."""
    return _review(domain, seed, index, careful=False)


def without_mistakes(domain: str, seed: int, index: int) -> Review:
    """The same review as its author meant it."""
    return _review(domain, seed, index, careful=True)


def reviews(domain: str, n: int, seed: int) -> Iterator[Review]:
    """The first reviews of a domain's sequence."""
    return (review(domain, seed, index) for index in range(n))


def _review(domain: str, seed: int, index: int, careful: bool) -> Review:
    name = f"{domain}/{seed}/{index}"
    random, slips = Random(name), Random(f"{name}/mistakes")
    hidden = Hidden.draw(random)
    sentences, mistakes = [], 0
    for words in Writer(random, domain, hidden).sentences():
        rate = hidden.carelessness * (1 if sentences else OPENING_CARE)
        while not careful and slips.random() < rate:
            mistakes += spoil(words, slips)
            rate /= 3
        sentences.append(words)
    return Review(domain, hidden.rating, _words(sentences), mistakes)


def _words(sentences: list[list[Node]]) -> tuple[Word, ...]:
    nodes = [node for sentence in sentences for node in sentence]
    position = {node: place for place, node in enumerate(nodes)}
    starts = {sentence[0] for sentence in sentences}
    return tuple(
        Word(
            text=node.text[0].upper() + node.text[1:] if node in starts else node.text,
            tag=node.tag,
            pos=coarse(node),
            head=position[node.head],
            dep=node.dep,
            entity=node.entity,
            space=following is not None and not joins(node, following),
            sent_start=node in starts,
        )
        for node, following in zip(nodes, [*nodes[1:], None])
    )


def joins(node: Node, following: Node) -> bool:
    """Whether no space stands between two words."""
    return (
        following.tag in (",", ".", "HYPH")
        or following.text in (":", "n't")
        or following.text[0] == "'"
        or (node.tag == "HYPH")
    )


def coarse(node: Node) -> str:
    """The UPOS tag of a word, by its tag, its label and, for auxiliaries, its lemma."""
    if node.tag[0] == "V":
        return "AUX" if node.dep in ("aux", "auxpass") or node.lemma in ("be", "'be", "'have") else "VERB"
    if node.tag in (",", ".", ":", "HYPH"):
        return "PUNCT"
    if node.tag == "IN":
        return "SCONJ" if node.dep == "mark" else "ADP"
    if node.dep == "neg":
        return "PART"
    if node.tag in ("DT", "WDT") and node.dep != "det":
        return "PRON"
    return COARSE[node.tag]

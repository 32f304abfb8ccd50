"""Names of people, places, companies and works, and the trees of such phrases."""

from dataclasses import dataclass
from random import Random

from mixdpo.world import lexicon
from mixdpo.world.grammar import Node, mark_entity

FIRST_NAMES = [(name, False) for name in lexicon.MALE_NAMES] + [(name, True) for name in lexicon.FEMALE_NAMES]


@dataclass(eq=False)
class Person:
    """Somebody in a work or behind it."""

    first: str
    female: bool
    last: str
    noun: str
    named: bool = False
    introduced: bool = False
    described: bool = False


def person_words(random: Random) -> list[str]:
    last = random.choice(lexicon.SURNAME_STARTS) + random.choice(lexicon.SURNAME_ENDS)
    return [random.choice(FIRST_NAMES)[0], last]


def place_words(random: Random) -> list[str]:
    if random.random() < 0.5:
        return [random.choice(lexicon.REAL_PLACES)]
    return [random.choice(lexicon.PLACE_STARTS), random.choice(lexicon.PLACE_ENDS)]


def company_words(random: Random, domain: str) -> list[str]:
    return [random.choice(lexicon.PLACE_STARTS), random.choice(lexicon.COMPANY_ENDS[domain])]


def title_words(random: Random) -> list[str]:
    modifier, noun = random.choice(lexicon.TITLE_MODIFIERS), random.choice(lexicon.TITLE_NOUNS)
    form = random.random()
    if form < 0.5:
        return ["The", modifier, noun]
    if form < 0.65:
        return [modifier, noun]
    if form < 0.85:
        start = random.choice(list(lexicon.TITLE_STARTS))
        return [start, lexicon.TITLE_STARTS[start], *place_words(random)]
    return ["The", noun, "of", *place_words(random)]


def with_determiner(determiner: str, *nodes: Node) -> Node:
    *modifiers, noun = nodes
    noun.attach([Node(determiner, "DT"), *modifiers], [])
    return noun


def proper_name(words: list[str], label: str) -> Node:
    """A name as one entity; its first preposition, if it has one, opens a prepositional phrase."""
    preposition = next((place for place, word in enumerate(words) if word.islower()), len(words))
    *modifiers, noun = words[:preposition]
    head = Node(noun, "NNP")
    head.attach([Node(word, "DT" if word == "The" else "NNP") for word in modifiers], [])
    if preposition < len(words):
        phrase = Node(words[preposition], "IN")
        phrase.attach([], [proper_name(words[preposition + 1 :], label)])
        head.attach([], [phrase])
    return mark_entity(head, label)

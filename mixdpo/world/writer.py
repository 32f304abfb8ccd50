"""The writer of the embedded world: the hidden variables and facts of a review, and the choice of its sentences."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from random import Random

from mixdpo.world import lexicon, sentences
from mixdpo.world.grammar import Node, Phrase, mark_entity, parse, sentence
from mixdpo.world.names import (
    FIRST_NAMES,
    Person,
    company_words,
    person_words,
    place_words,
    proper_name,
    title_words,
    with_determiner,
)

DOMAINS = ("movie", "book")
RATINGS = (1, 2, 3, 4, 7, 8, 9, 10)
# The share of approving sentences by rating; the opening shows less of it, the verdict agrees.
LIKED_SHARE = {1: 0.03, 2: 0.06, 3: 0.1, 4: 0.15, 7: 0.85, 8: 0.9, 9: 0.94, 10: 0.97}
OPENING_SHARE = 0.7
OPENING_CONCRETENESS = 0.4
MIN_TARGET, MAX_TARGET = 36, 58
MAX_BODY, MAX_LENGTH = 62, 72
PRONOUN_SHARE = 0.45
DESCRIBED_SHARE = 0.55
FIT_SHARE = 0.7
WORK_NOUN_SHARE = 0.6
MARKED = re.compile(r"(?:([mb#~+>-]+): )?(.*?)(?: ([!?]))?\s*$")


@dataclass(frozen=True, eq=False)
class Pattern:
    """A parsed pattern and what its marks say."""

    marks: str
    phrase: Phrase
    end: str

    def fits(self, domain: str, liked: bool) -> bool:
        return {"movie": "b", "book": "m"}[domain] not in self.marks and "+-"[liked] not in self.marks

    @cached_property
    def kind(self) -> str:
        """The mark that its weight depends on."""
        return "#" if "#" in self.marks else "~" if "~" in self.marks else ""


def _weights(concreteness: float) -> dict[str, float]:
    """The weights of the kinds of patterns."""
    return {"": 0.7, "#": 6 * concreteness**2.5, "~": 1.5 * (1 - concreteness) ** 2}


def _patterns(text: str) -> dict[tuple[str, bool], list[Pattern]]:
    parsed = []
    for line in text.strip().splitlines():
        marks, pattern, end = MARKED.match(line).groups(default="")
        parsed.append(Pattern(marks, parse(pattern), end or "."))
    return {
        (domain, liked): [pattern for pattern in parsed if pattern.fits(domain, liked)]
        for domain in DOMAINS
        for liked in (False, True)
    }


SENTENCES = {move: _patterns(text) for move, text in sentences.SENTENCES.items()}
PHRASES = {name: _patterns(text) for name, text in sentences.PHRASES.items()}
OPINIONS = {name: (tag, (bad.split(), good.split())) for name, (tag, good, bad) in lexicon.OPINIONS.items()}
CLASSES = {name: (tag, words.split()) for name, (tag, words) in lexicon.CLASSES.items()}
ASPECTS = {
    domain: [(noun, (bad.split(), good.split())) for noun, good, bad in lexicon.ASPECTS[domain] + lexicon.ASPECTS[""]]
    for domain in DOMAINS
}
YEARS = (1920, 2019)
# The moves between the opening and the verdict: their weights at the start and at the end.
MOVES = {
    "plot": (6.0, 0.6),
    "facts": (0.6, 0.4),
    "people": (1.2, 1.6),
    "opinion": (1.4, 4.0),
    "personal": (0.3, 1.6),
    "comparison": (0.3, 1.1),
}


@dataclass(frozen=True)
class Hidden:
    """What the sentences of a review depend on; the three are independent of each other."""

    rating: int
    concreteness: float
    carelessness: float

    @classmethod
    def draw(cls, random: Random) -> "Hidden":
        return cls(random.choice(RATINGS), random.betavariate(0.75, 0.75), random.random() ** 2.2)


class Writer:
    """Writes the sentences of one review; the slots of patterns are its methods and the classes of the lexicon."""

    def __init__(self, random: Random, domain: str, hidden: Hidden):
        self.random, self.domain, self.hidden = random, domain, hidden
        self.concreteness, self.liked = OPENING_CONCRETENESS, True
        self.used: set = set()
        # Whom a pronoun can mean: who was mentioned last in this sentence or, if nobody was, in the one before.
        self.recent: Person | None = None
        self.earlier: Person | None = None
        firsts = random.sample(FIRST_NAMES, 3)
        lasts = [start + random.choice(lexicon.SURNAME_ENDS) for start in random.sample(lexicon.SURNAME_STARTS, 4)]
        self.maker = Person(*firsts[0], lasts[0], self._word("maker_noun").text)
        self.hero = Person(*firsts[1], lasts[1], self._word("job").text)
        self.friend = Person(*firsts[2], lasts[2], self._word("companion").text)
        # An actor plays the hero.
        female = self.hero.female
        first = random.choice(lexicon.FEMALE_NAMES if female else lexicon.MALE_NAMES)
        self.actor = Person(first, female, lasts[3], "actress" if female else "actor")
        self.town, self.town_mentioned = self._word("town_kind").text, False
        self.place_words = place_words(random)
        self.title_words, self.work_mentioned = title_words(random), False
        self.work_year = random.randint(*YEARS)
        self.story_year = random.randint(1880, 1980)
        self.aspect = ASPECTS[domain][0]

    def sentences(self) -> Iterator[list[Node]]:
        """The sentences in order, each as its words."""
        target = self.random.randint(MIN_TARGET, MAX_TARGET)
        words = self._sentence("opening")
        length = len(words)
        self.concreteness = self.hidden.concreteness
        while length < target:
            yield words
            progress = length / target
            weights = [start + progress * (end - start) for start, end in MOVES.values()]
            words = self._sentence(self.random.choices(list(MOVES), weights)[0])
            if length + len(words) > MAX_BODY:
                self.recent = None
                break
            length += len(words)
        else:
            yield words
        verdict = self._sentence("verdict")
        while length + len(verdict) > MAX_LENGTH:
            verdict = self._sentence("verdict")
        yield verdict

    def _sentence(self, move: str) -> list[Node]:
        share = LIKED_SHARE[self.hidden.rating]
        if move == "opening":
            share = 0.5 + OPENING_SHARE * (share - 0.5)
        elif move == "verdict":
            share = round(share)
        self.liked = self.random.random() < share
        self.earlier, self.recent = self.recent, None
        pattern = self._pattern(SENTENCES[move])
        self.used.add(pattern)
        return sentence(pattern.phrase.build(self), pattern.end)

    def _pattern(self, patterns: dict[tuple[str, bool], list[Pattern]]) -> Pattern:
        fitting = patterns[self.domain, self.liked]
        weights = _weights(self.concreteness)
        pattern_weights = [weights[pattern.kind] for pattern in fitting]
        while True:
            (pattern,) = self.random.choices(fitting, pattern_weights)
            if pattern not in self.used and (self.hero.introduced or ">" not in pattern.marks):
                return pattern

    # Slots

    def fill(self, name: str, flip: bool = False) -> Node:
        """What stands in a slot; ``flip`` turns its opinion round."""
        if method := getattr(self, f"slot_{name}", None):
            return method()
        if name == "fit" and self.random.random() < FIT_SHARE:
            return Node(self._unused(self.aspect[1][self.liked != flip]), "JJ")
        name = "adj" if name == "fit" else name
        if name in OPINIONS:
            tag, words = OPINIONS[name]
            return Node(self._unused(words[self.liked != flip]), tag)
        if name in PHRASES:
            return self._pattern(PHRASES[name]).phrase.build(self)
        return self._word(name)

    def _word(self, name: str) -> Node:
        tag, words = CLASSES.get(name) or CLASSES[f"{self.domain}.{name}"]
        return Node(self.random.choice(words), tag)

    def _unused(self, words: list[str]) -> str:
        """A word that the review does not hold yet, if a few trials find one."""
        for _ in range(4):
            word = self.random.choice(words)
            if word not in self.used:
                break
        self.used.add(word)
        return word

    def _concrete(self) -> bool:
        return self.random.random() < self.concreteness

    # Opinions and numbers

    def slot_aspect(self) -> Node:
        while (aspect := self.random.choice(ASPECTS[self.domain]))[0] in self.used:
            pass
        self.used.add(aspect[0])
        self.aspect = aspect
        return Node(aspect[0], lexicon.TAG_OF[aspect[0]])

    def slot_detail(self) -> Node:
        """An aspect that a part of the work has too."""
        while (aspect := self.slot_aspect()).text in lexicon.OF_THE_WHOLE:
            self.used.discard(aspect.text)
        return aspect

    def slot_aspect_of(self) -> Node:
        owner = self.slot_makers()
        aspect = self.slot_aspect()
        aspect.attach([owner], [])
        return aspect

    def slot_points(self) -> Node:
        return Node(str(self.hidden.rating), "CD")

    def slot_few(self) -> Node:
        return Node(self.random.choice(("two", "three", "four", "five", "six", "ten")), "CD")

    def slot_num(self) -> Node:
        return Node(str(self.random.randint(10, 90)), "CD")

    def slot_big(self) -> Node:
        return Node(str(self.random.randint(110, 600)), "CD")

    def slot_plain_year(self) -> Node:
        return Node(str(self.random.randint(*YEARS)), "CD")

    def slot_year(self) -> Node:
        return mark_entity(self.slot_plain_year(), "DATE")

    def slot_plain_work_year(self) -> Node:
        return Node(str(self.work_year), "CD")

    def slot_work_year(self) -> Node:
        return mark_entity(self.slot_plain_work_year(), "DATE")

    def slot_story_year(self) -> Node:
        """A year in the story, which moves forward."""
        self.story_year += self.random.randint(1, 9)
        return mark_entity(Node(str(self.story_year), "CD"), "DATE")

    def slot_decade(self) -> Node:
        return Node(f"{self.random.randrange(1920, 2020, 10)}s", "NNS")

    # The work

    def slot_work(self) -> Node:
        if self.work_mentioned and self.random.random() < PRONOUN_SHARE:
            return Node("it", "PRP")
        if self._concrete():
            return self.slot_title()
        self.work_mentioned = True
        return with_determiner(self.random.choice(("the", "this")), self._word("work_noun"))

    def slot_thing(self) -> Node:
        """The work, in words that fit a first mention and seldom tell what it is."""
        if self._concrete():
            return self.slot_title()
        self.work_mentioned = True
        noun = self._word("work_noun") if self.random.random() < WORK_NOUN_SHARE else Node("one", "NN")
        return with_determiner("this", noun)

    def slot_title(self) -> Node:
        self.work_mentioned = True
        return proper_name(self.title_words, "WORK_OF_ART")

    def slot_other(self) -> Node:
        """Another work."""
        if self._concrete():
            return proper_name(title_words(self.random), "WORK_OF_ART")
        return self.fill("other_unnamed")

    def slot_other_title(self) -> Node:
        return proper_name(title_words(self.random), "WORK_OF_ART")

    def slot_studio(self) -> Node:
        return proper_name(company_words(self.random, self.domain), "ORG")

    # Places

    def slot_place(self) -> Node:
        """Where the story is set."""
        if self._concrete():
            return proper_name(self.place_words, "GPE")
        if self.town_mentioned:
            return with_determiner("the", Node(self.town, "NN"))
        self.town_mentioned = True
        trait = Node(self.random.choice(("small", "quiet", "strange", "remote", "little")), "JJ")
        return with_determiner("a", trait, Node(self.town, "NN"))

    def slot_elsewhere(self) -> Node:
        if self._concrete():
            return self.slot_abroad()
        return self.fill("elsewhere_unnamed")

    def slot_abroad(self) -> Node:
        return proper_name(place_words(self.random), "GPE")

    # People

    def slot_guest(self) -> Node:
        """Somebody named once."""
        return proper_name(person_words(self.random), "PERSON")

    def _pronoun(self, person: Person, male: str, female: str, tag: str) -> Node:
        self.recent = person
        return Node(female if person.female else male, tag)

    def _is_pronoun(self, person: Person) -> bool:
        return (self.recent or self.earlier) is person and self.random.random() < PRONOUN_SHARE

    def _named(self, person: Person) -> Node:
        """A person's name: in full the first time."""
        words = [person.first, person.last]
        if person.named:
            words = [person.last if person in (self.maker, self.actor) else person.first]
        self.recent, person.named, person.introduced = person, True, True
        return proper_name(words, "PERSON")

    def _behind(self, person: Person) -> Node:
        """A person behind the work, by name or by what they do."""
        if self._concrete():
            return self._named(person)
        self.recent = person
        modifiers = [Node("lead", "NN")] if person is self.actor else []
        return with_determiner("the", *modifiers, Node(person.noun, "NN"))

    def _inside(self, person: Person, describe: bool) -> Node:
        """A person in the story: described at the first mention, and named from then on or never."""
        if person.introduced:
            if person.named and (not person.described or self._concrete() or self._concrete()):
                return self._named(person)
            self.recent = person
            return with_determiner("the", Node(person.noun, "NN"))
        if self._concrete():
            named = self._named(person)
            person.described = describe and self.random.random() < DESCRIBED_SHARE
            if person.described:
                named.attach([], [Node(",", ","), self._description(person), Node(",", ",")])
            return named
        self.recent, person.introduced = person, True
        return self._description(person)

    def _description(self, person: Person) -> Node:
        if person is self.hero:
            return self.fill("hero_description")
        return with_determiner("a", self._word("trait"), Node(person.noun, "NN"))

    def slot_hero(self) -> Node:
        return self.slot_he() if self._is_pronoun(self.hero) else self._inside(self.hero, describe=True)

    def slot_friend(self) -> Node:
        return self.slot_she() if self._is_pronoun(self.friend) else self._inside(self.friend, describe=True)

    def slot_lead(self) -> Node:
        """The hero as reviews judge them."""
        if self._is_pronoun(self.hero):
            return self.slot_he()
        if (self.hero.named or not self.hero.introduced) and self._concrete():
            return self._named(self.hero)
        self.recent = self.earlier = None
        return self.fill("lead_unnamed")

    def slot_full_friend(self) -> Node:
        return self._inside(self.friend, describe=False)

    def slot_hero_noun(self) -> Node:
        return Node("heroine" if self.hero.female else "hero", "NN")

    def slot_hero_job(self) -> Node:
        return Node(self.hero.noun, "NN")

    def slot_he(self) -> Node:
        if not self.hero.introduced:
            return self._inside(self.hero, describe=True)
        return self._pronoun(self.hero, "he", "she", "PRP")

    slot_him = slot_he

    def slot_his(self) -> Node:
        return self._pronoun(self.hero, "his", "her", "PRP$")

    def slot_she(self) -> Node:
        return self._pronoun(self.friend, "he", "she", "PRP")

    def slot_maker(self) -> Node:
        return self._pronoun(self.maker, "he", "she", "PRP") if self._is_pronoun(self.maker) else self.slot_full_maker()

    def slot_full_maker(self) -> Node:
        return self._behind(self.maker)

    def slot_makers(self) -> Node:
        if self._is_pronoun(self.maker):
            return self._pronoun(self.maker, "his", "her", "PRP$")
        owner = self._behind(self.maker)
        owner.dep = "poss"
        owner.attach([], [Node("'s", "POS")])
        return owner

    def slot_actor(self) -> Node:
        return self._pronoun(self.actor, "he", "she", "PRP") if self._is_pronoun(self.actor) else self.slot_full_actor()

    def slot_full_actor(self) -> Node:
        return self._behind(self.actor)

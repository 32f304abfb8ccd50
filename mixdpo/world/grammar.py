"""The mechanism of the embedded world: patterns that build dependency trees, and the steps from a tree to a sentence.

A pattern is a line of text; its elements stand in sentence order, separated by spaces:

    word  word/TAG     a word, with its tag from the lexicon or given; verbs are given by lemma: ``walk/VBG``
    walk!              a verb in the present tense that agrees with its subject
    <slot>  <verb!>    what the writer puts there, a verb in the given form; ``<~slot>`` of the opposite polarity
    (...)              a phrase
    in(...)            a prepositional phrase
    {a|b}              one of several phrases
    @DATE(...)         a phrase that is an entity

In front of an element, ``%`` makes it optional, ``dep=`` states its label and ``*`` makes it the head of its phrase.
Without a star the head is the last verb, or else the last word that can be one; most labels follow from the tags.
"""

import itertools
import re
from dataclasses import dataclass, field

from mixdpo.world.lexicon import DOUBLING, IRREGULAR, PRESENT, TAG_OF

TOKEN = re.compile(r"\s*([%*(){}|]|[a-z]+=|@[A-Z_]+|<[^>]+>|[^\s(){}|%*<=]+)")
OPTIONAL_SHARE = 0.4
COPULAS = {"be", "'be", "become", "remain"}
NOUN_TAGS = {"NN", "NNS", "NNP", "PRP", "DT", "CD", "WP", "WDT"}
NEVER_HEAD = {",", ":", "HYPH", "CC", "POS", "TO", "RP"}
BEFORE_NOUN = {
    "DT": "det",
    "PRP$": "poss",
    "JJ": "amod",
    "JJR": "amod",
    "JJS": "amod",
    "CD": "nummod",
    "NN": "compound",
    "NNP": "compound",
    "WDT": "det",
    "PDT": "predet",
}
BY_TAG = {
    "CC": "cc",
    ",": "punct",
    ":": "punct",
    "HYPH": "punct",
    "POS": "case",
    "RP": "prt",
    "EX": "expl",
    "RB": "advmod",
    "RBR": "advmod",
    "WRB": "advmod",
    "UH": "intj",
}
OBJECT_FORMS = {"I": "me", "he": "him", "she": "her"}


@dataclass(eq=False, slots=True)
class Node:
    """A word of a tree with its dependents on both sides; verbs hold their lemma until ``inflect``."""

    text: str
    tag: str
    dep: str = ""
    head: "Node | None" = None
    entity: str = "O"
    lemma: str = ""
    changed: bool = False
    before: list["Node"] = field(default_factory=list)
    after: list["Node"] = field(default_factory=list)

    def in_order(self) -> list["Node"]:
        nodes: list[Node] = []
        for child in self.before:
            nodes += child.in_order()
        nodes.append(self)
        for child in self.after:
            nodes += child.in_order()
        return nodes

    def child(self, *deps: str) -> "Node | None":
        return next((node for node in self.before + self.after if node.dep in deps), None)

    def attach(self, before: list["Node"], after: list["Node"]) -> None:
        """Take dependents outside those it has, labelling the ones that carry no label."""
        for side, nodes in (("before", before), ("after", after)):
            for node in nodes:
                node.head = self
                node.dep = node.dep or default_dep(node, self, side)
        self.before = before + self.before
        self.after = self.after + after


def mark_entity(node: Node, label: str) -> Node:
    """Make the phrase under a node one entity."""
    for position, part in enumerate(node.in_order()):
        part.entity = f"{'I' if position else 'B'}-{label}"
    return node


def default_dep(node: Node, head: Node, side: str) -> str:
    """The label that a dependent's tag and place imply."""
    tag, verbal = node.tag, head.tag[0] in "V!M"
    if node.text in ("n't", "not"):
        return "neg"
    if tag in BY_TAG:
        return BY_TAG[tag]
    if tag == "IN":
        if node.after or side == "after":
            return "prep"
        return "mark"
    if head.tag == "IN":
        return "pcomp" if tag[0] in "V!" else "pobj"
    if tag[0] in "V!M" or tag == "TO":
        return "aux" if side == "before" else "xcomp"
    if not verbal:
        return BEFORE_NOUN[tag] if side == "before" else "nummod" if tag == "CD" else "appos"
    if tag in NOUN_TAGS:
        return "nsubj" if side == "before" else "attr" if head.lemma in COPULAS else "dobj"
    if tag.startswith("JJ"):
        return "acomp"
    raise ValueError(f"no default label for {node.text}/{tag} under {head.text}/{head.tag}")


class Word:
    """A literal word of a pattern."""

    def __init__(self, text: str):
        self.text, _, tag = text.removesuffix("!").partition("/")
        self.tag = "!" if text.endswith("!") else tag or TAG_OF[self.text]
        self.verbal = self.tag[0] in "V!"
        self.can_head = self.tag not in NEVER_HEAD and self.text not in ("n't", "not")

    def build(self, writer) -> Node:
        return Node(self.text, self.tag, lemma=self.text if self.tag[0] in "V!" else "")


class Slot:
    """A place that the writer fills."""

    def __init__(self, text: str):
        name, self.form = re.fullmatch(r"<(.*?)(!|/[A-Z]+)?>", text).groups()
        self.flip, self.name = name.startswith("~"), name.removeprefix("~")
        self.verbal, self.can_head = bool(self.form), True

    def build(self, writer) -> Node:
        node = writer.fill(self.name, self.flip)
        if self.form:
            node.tag, node.lemma = self.form.removeprefix("/"), node.text
        return node


class Choice:
    """One of several phrases."""

    def __init__(self, options: list):
        self.options = options
        self.verbal = all(option.items[option.head][0].verbal for option in options)
        self.can_head = options[0].can_head

    def build(self, writer) -> Node:
        return writer.random.choice(self.options).build(writer)


class Phrase:
    """A head with dependents; each item is (element, label, optional)."""

    def __init__(self, items: list, head: int, entity: str = ""):
        self.items, self.head, self.entity = items, head, entity
        self.verbal = False
        first = items[head][0]
        self.can_head = first.tag != "IN" if isinstance(first, Word) else first.can_head

    def build(self, writer) -> Node:
        before: list[Node] = []
        after: list[Node] = []
        for position, (element, dep, optional) in enumerate(self.items):
            if optional and writer.random.random() > OPTIONAL_SHARE:
                continue
            node = element.build(writer)
            node.dep = dep or node.dep
            if position == self.head:
                head = node
            else:
                (before if position < self.head else after).append(node)
        head.attach(before, after)
        return mark_entity(head, self.entity) if self.entity else head


def parse(pattern: str) -> Phrase:
    """The phrase that a pattern describes."""
    tokens = TOKEN.findall(pattern)
    # A preposition is one where its bracket follows without a space.
    glued = {match.end() for match in TOKEN.finditer(pattern)}
    starts = [match.start(1) for match in TOKEN.finditer(pattern)]
    phrase, rest = _phrase(tokens, starts, glued, 0)
    if rest != len(tokens):
        raise ValueError(f"unbalanced pattern: {pattern}")
    return phrase


def _phrase(tokens: list[str], starts: list[int], ends: set[int], at: int, entity: str = "") -> tuple[Phrase, int]:
    items, starred = [], None
    while at < len(tokens) and tokens[at] not in (")", "}", "|"):
        optional = tokens[at] == "%"
        at += optional
        dep = tokens[at][:-1] if tokens[at].endswith("=") else ""
        at += bool(dep)
        if tokens[at] == "*":
            starred, at = len(items), at + 1
        element, at = _element(tokens, starts, ends, at)
        items.append((element, dep, optional))
    return Phrase(items, _head(items) if starred is None else starred, entity), at


def _element(tokens: list[str], starts: list[int], ends: set[int], at: int):
    token = tokens[at]
    if token == "{":
        options = []
        while tokens[at] != "}":
            option, at = _phrase(tokens, starts, ends, at + 1)
            options.append(option)
        return Choice(options), at + 1
    if token == "(" or token[0] == "@":
        phrase, at = _phrase(tokens, starts, ends, at + 1 + (token != "("), token[1:])
        return phrase, at + 1
    if token[0] == "<":
        return Slot(token), at + 1
    if at + 1 < len(tokens) and tokens[at + 1] == "(" and starts[at + 1] in ends:
        inner, after = _phrase(tokens, starts, ends, at + 2)
        return Phrase([(Word(f"{token}/IN"), "", False), (inner, "", False)], 0), after + 1
    return Word(token), at + 1


def _head(items: list) -> int:
    free = [(position, element) for position, (element, dep, optional) in enumerate(items) if not dep and not optional]
    verbs = [position for position, element in free if element.verbal]
    heads = [position for position, element in free if element.can_head]
    return (verbs or heads or [0])[-1]


def conjugate(lemma: str, tag: str) -> str:
    """A verb in the form that a tag names."""
    if lemma in IRREGULAR and tag in ("VBD", "VBN"):
        return IRREGULAR[lemma][tag == "VBN"]
    stem = lemma + lemma[-1] if lemma in DOUBLING else lemma
    consonant_y = lemma.endswith("y") and lemma[-2] not in "aeiou"
    if tag == "VBZ":
        if consonant_y:
            return lemma[:-1] + "ies"
        return lemma + ("es" if lemma.endswith(("s", "sh", "ch", "x", "o")) else "s")
    if tag == "VBG":
        return (lemma[:-1] if lemma.endswith("e") and lemma not in ("be", "see") else stem) + "ing"
    if tag in ("VBD", "VBN"):
        return lemma[:-1] + "ied" if consonant_y else stem + ("d" if lemma.endswith("e") else "ed")
    return lemma


def number_of(node: Node, with_conjuncts: bool = True) -> str:
    """``first`` for I, or ``singular`` or ``plural``."""
    if node.text in ("who", "that", "which") and node.tag in ("WP", "WDT") and node.head.dep == "relcl":
        return number_of(node.head.head)
    if node.text == "I":
        return "first"
    plural = node.tag == "NNS" or node.text == "you" or (with_conjuncts and node.child("conj") and node.tag[0] in "NP")
    return "plural" if plural else "singular"


def subject_number(verb: Node) -> str:
    """The number that a finite verb agrees with; after "there" that of the first thing there is."""
    clause = verb.head if verb.dep in ("aux", "auxpass") else verb
    while not (subject := clause.child("nsubj", "nsubjpass", "expl", "csubj")):
        if clause.head is clause:
            raise ValueError(f"no subject for {verb.text}")
        clause = clause.head
    if subject.dep == "expl":
        return number_of(clause.child("attr", "nsubj"), with_conjuncts=False)
    return number_of(subject)


def inflect(root: Node) -> None:
    """Put verbs, pronouns and articles of a sentence into their forms."""
    nodes = root.in_order()
    for node in nodes:
        if node.text in OBJECT_FORMS and node.tag == "PRP" and node.dep in ("dobj", "pobj", "dative"):
            node.text = OBJECT_FORMS[node.text]
        elif node.tag == "!" or (node.lemma == "be" and node.tag == "VBD"):
            number = subject_number(node)
            if node.tag == "VBD":
                node.text = "were" if number == "plural" else "was"
            else:
                node.tag = "VBZ" if number == "singular" else "VBP"
                node.text = PRESENT[node.lemma][number] if node.lemma in PRESENT else conjugate(node.lemma, node.tag)
        elif node.tag[0] == "V":
            node.text = conjugate(node.lemma, node.tag)


def starts_with_vowel_sound(word: str) -> bool:
    return word.startswith(("honest", "hour")) or (word[0] in "aeiou" and not word.startswith("one"))


def sentence(root: Node, mark: str) -> list[Node]:
    """The words of a sentence with its final mark, inflected; a comma before another mark goes."""
    root.dep, root.head = "ROOT", root
    root.attach([], [Node(mark, ".", "punct")])
    inflect(root)
    nodes = root.in_order()
    kept = [
        node
        for node, following in itertools.pairwise(nodes)
        if node.text != "," or following.tag not in (",", ".", ":")
    ]
    kept.append(nodes[-1])
    for node, following in itertools.pairwise(kept):
        if node.text == "a" and node.tag == "DT" and starts_with_vowel_sound(following.text):
            node.text = "an"
    return kept

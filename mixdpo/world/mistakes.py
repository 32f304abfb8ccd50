"""The mistake channel: slips of a careless author, with annotation that stays sensible.

A slip takes a sentence, the list of its words in order, and changes it in place; it returns whether there was a place
for it. Words of names and words beside clitics and hyphens stay as they are, and no word is hit twice.
"""

from random import Random

from mixdpo.world.grammar import Node, conjugate

AGREEMENT = {
    "is": "are", "are": "is", "am": "is", "was": "were", "were": "was", "has": "have", "have": "has", "does": "do",
    "do": "does",
}  # fmt: skip
WRONG_DETERMINERS = {"a": "an", "an": "a", "this": "these", "these": "this", "the": "a", "every": "all", "some": "a"}
PREPOSITIONS = ("in", "on", "at", "of", "for", "to", "with")
REPEATED_TAGS = ("DT", "IN", "PRP", "PRP$", "TO", "CC", "MD", "RB")
DROPPED_DEPS = ("det", "aux", "auxpass")
SWAPPED_DEPS = ("det", "amod", "advmod", "aux", "auxpass", "poss", "nummod", "compound", "pobj", "acomp")
# The dependents that may take a root's place, best first.
SUCCESSORS = ("acomp", "attr", "xcomp", "ccomp", "dobj", "prep", "advmod", "nsubj", "nsubjpass", "agent", "conj")


def spoil(sentence: list[Node], random: Random) -> bool:
    """Make one mistake in a sentence, unless there is no place for any."""
    return any(slip(sentence, random) for slip in random.sample(SLIPS, len(SLIPS)))


def _free(sentence: list[Node]) -> list[int]:
    """The positions of the words that may change."""

    def fixed(node: Node) -> bool:
        return "'" in node.text or node.tag == "HYPH"

    return [
        place
        for place, node in enumerate(sentence[:-1])
        if node.tag[0].isalpha() and node.entity == "O" and not node.changed
        if not any(fixed(neighbor) for neighbor in sentence[max(place - 1, 0) : place + 2])
    ]


def _remove(sentence: list[Node], node: Node, heir: Node) -> None:
    """Take a word out; its heir gets its dependents and, where it depended on it, its place in the tree."""
    sentence.remove(node)
    if heir.head is node:
        heir.head, heir.dep = (heir if node.head is node else node.head), node.dep
    for other in sentence:
        if other.head is node:
            other.head = heir


def agreement(sentence: list[Node], random: Random) -> bool:
    """A verb in the wrong number: the actors was, he walk."""
    verbs = [sentence[place] for place in _free(sentence)]
    verbs = [node for node in verbs if node.tag in ("VBZ", "VBP") or node.text in ("was", "were")]
    if not verbs:
        return False
    verb = random.choice(verbs)
    verb.tag = {"VBZ": "VBP", "VBP": "VBZ"}.get(verb.tag, "VBD")
    verb.text = AGREEMENT.get(verb.text) or conjugate(verb.lemma, verb.tag)
    verb.changed = True
    return True


def swapped(sentence: list[Node], random: Random) -> bool:
    """Two neighbors of a phrase in the wrong order: film the, very was good."""

    def movable(first: Node, second: Node, after: Node) -> bool:
        # A single letter in front of a full stop would become an initial.
        if len(first.text) == 1 and after.tag == ".":
            return False
        return (first.head is second and first.dep in SWAPPED_DEPS) or (
            second.head is first and second.dep in SWAPPED_DEPS
        )

    free = set(_free(sentence))
    places = [place for place in sorted(free) if place + 1 in free and movable(*sentence[place : place + 3])]
    if not places:
        return False
    place = random.choice(places)
    first, second = sentence[place : place + 2]
    first.changed = second.changed = True
    sentence[place : place + 2] = second, first
    return True


def dropped_function_word(sentence: list[Node], random: Random) -> bool:
    """A determiner or an auxiliary left out."""
    nodes = [sentence[place] for place in _free(sentence)]
    nodes = [node for node in nodes if node.dep in DROPPED_DEPS]
    if not nodes:
        return False
    node = random.choice(nodes)
    node.head.changed = True
    _remove(sentence, node, node.head)
    return True


def dropped_verb(sentence: list[Node], random: Random) -> bool:
    """The main verb left out; a dependent takes its place."""
    root = next(node for node in sentence if node.head is node)
    heirs = [node for node in sentence if node.head is root and node.dep in SUCCESSORS]
    if root.tag not in ("VBZ", "VBP", "VBD") or sentence.index(root) not in _free(sentence) or not heirs:
        return False
    heir = min(heirs, key=lambda node: SUCCESSORS.index(node.dep))
    heir.changed = True
    _remove(sentence, root, heir)
    return True


def dropped_preposition(sentence: list[Node], random: Random) -> bool:
    """A preposition left out; its object hangs loosely on what it would have joined."""
    nodes = [sentence[place] for place in _free(sentence)]
    objects = [
        node for node in sentence if node.dep == "pobj" and node.head in nodes and node.head.head is not node.head
    ]
    if not objects:
        return False
    heir = random.choice(objects)
    _remove(sentence, heir.head, heir)
    heir.dep, heir.changed = "dep", True
    return True


def double_preposition(sentence: list[Node], random: Random) -> bool:
    """A second preposition in front of one: in at the end."""
    places = [place for place in _free(sentence) if sentence[place].dep == "prep" and sentence[place].tag == "IN"]
    if not places:
        return False
    place = random.choice(places)
    node = sentence[place]
    other = random.choice([word for word in PREPOSITIONS if word != node.text])
    node.changed = True
    sentence.insert(place, Node(other, "IN", "prep", node if node.head is node else node.head, changed=True))
    return True


def repeated(sentence: list[Node], random: Random) -> bool:
    """A short word written twice: the the."""
    places = [place for place in _free(sentence) if sentence[place].tag in REPEATED_TAGS]
    if not places:
        return False
    place = random.choice(places)
    node = sentence[place]
    node.changed = True
    sentence.insert(place + 1, Node(node.text, node.tag, "dep", node, changed=True))
    return True


def wrong_determiner(sentence: list[Node], random: Random) -> bool:
    """A determiner that does not go with its noun: a actors, these film."""
    nodes = [sentence[place] for place in _free(sentence)]
    nodes = [node for node in nodes if node.dep == "det" and node.text in WRONG_DETERMINERS]
    nodes = [node for node in nodes if node.text not in ("the", "some") or node.head.tag == "NNS"]
    if not nodes:
        return False
    node = random.choice(nodes)
    node.text, node.changed = WRONG_DETERMINERS[node.text], True
    return True


SLIPS = (
    agreement,
    swapped,
    dropped_function_word,
    dropped_verb,
    dropped_preposition,
    double_preposition,
    repeated,
    wrong_determiner,
)

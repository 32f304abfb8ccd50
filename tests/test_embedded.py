"""The embedded review world: reproducible, varied, English, and soundly annotated."""

import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest
import spacy

from mixdpo.world import review, reviews, to_doc, without_mistakes
from mixdpo.world.grammar import starts_with_vowel_sound
from mixdpo.world.lexicon import OPINIONS

DOMAINS = ("movie", "book")
SEED = 5
LABELS = """
ROOT nsubj nsubjpass csubj aux auxpass dobj attr acomp prep pobj det predet amod compound poss case advmod neg cc conj
mark advcl ccomp xcomp relcl acl nummod npadvmod punct expl dative intj prt pcomp appos parataxis dep
"""
ENTITIES = {"PERSON", "WORK_OF_ART", "GPE", "DATE", "CARDINAL", "ORG", "TIME"}


@pytest.fixture(scope="module")
def sample():
    return [one for domain in DOMAINS for one in reviews(domain, 1000, SEED)]


@pytest.fixture(scope="module")
def careful():
    return [without_mistakes(domain, SEED, index) for domain in DOMAINS for index in range(1000)]


def sentences(one):
    starts = [place for place, word in enumerate(one.words) if word.sent_start] + [len(one.words)]
    return [range(*bounds) for bounds in pairwise(starts)]


def names(one):
    return Counter(word.text.lower() for word in one.words if word.entity != "O")


def test_a_review_depends_on_its_domain_seed_and_index_alone(sample):
    assert review("movie", SEED, 700) == sample[700]
    assert list(reviews("book", 3, SEED)) == sample[1000:1003]
    assert review("movie", SEED + 1, 700) != sample[700] != review("book", SEED, 700)
    command = f"from mixdpo.world import review; print(review('book', {SEED}, 7).text)"
    other_process = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert other_process.stdout.strip() == sample[1007].text


def test_texts_differ(sample):
    assert len({one.text for one in sample}) > 0.995 * len(sample)
    assert len({one.text.split(".")[1] for one in sample}) > 0.8 * len(sample)


def test_lengths(sample):
    words = [sum(word.text[0].isalnum() for word in one.words) for one in sample]
    assert min(words) >= 25 and max(words) <= 75
    assert 42 < sum(words) / len(words) < 58


def test_words_are_the_tokens_that_spacy_makes(sample):
    tokenizer = spacy.blank("en").tokenizer
    for one in sample:
        assert [token.text for token in tokenizer(one.text)] == [word.text for word in one.words]


def test_every_sentence_is_a_tree(sample):
    labels = set(LABELS.split())
    for one in sample:
        for span in sentences(one):
            assert [one.words[place].dep for place in span].count("ROOT") == 1
            for place in span:
                word = one.words[place]
                assert word.dep in labels and word.head in span and (word.head == place) == (word.dep == "ROOT")
                steps = 0
                while one.words[place].head != place:
                    place, steps = one.words[place].head, steps + 1
                    assert steps < len(span)


def test_entities_are_well_formed(sample):
    for one in sample:
        for before, word in pairwise(one.words):
            assert word.entity == "O" or word.entity[2:] in ENTITIES
            assert word.entity[0] != "I" or before.entity[1:] == word.entity[1:]


def test_gold_documents_hold_the_annotation(sample):
    vocab = spacy.blank("en").vocab
    for one in sample:
        doc = to_doc(one, vocab)
        assert doc.text == one.text
        assert [sent.start for sent in doc.sents] == [span[0] for span in sentences(one)]
        assert [(t.tag_, t.pos_, t.head.i, t.dep_) for t in doc] == [(w.tag, w.pos, w.head, w.dep) for w in one.words]
        assert len(doc.ents) == sum(word.entity[0] == "B" for word in one.words)


def test_careful_reviews_are_clean_english(careful):
    for one in careful:
        for word, following in pairwise(one.words):
            assert word.text.lower() != following.text.lower()
            assert not (word.pos == following.pos == "PUNCT")
            if word.text.lower() in ("a", "an") and word.tag == "DT":
                assert (word.text.lower() == "an") == starts_with_vowel_sound(following.text)
        assert all(one.words[span[0]].text[0] in one.words[span[0]].text[0].upper() for span in sentences(one))
        assert one.words[-1].text in (".", "!", "?") and "  " not in one.text


def test_subjects_and_present_verbs_agree(careful):
    """Over plain subjects: one noun or name, or a pronoun."""
    for one in careful:
        for place, word in enumerate(one.words):
            head = one.words[word.head]
            if word.dep != "nsubj" or head.tag not in ("VBZ", "VBP") or word.tag not in ("NN", "NNP", "NNS"):
                continue
            joined = any(other.head == place and other.dep == "conj" for other in one.words)
            assert (head.tag == "VBP") == (word.tag == "NNS" or joined)


def test_mistakes_change_the_text_and_nothing_else(sample, careful):
    for one, meant in zip(sample, careful):
        assert meant.mistakes == 0 and meant.rating == one.rating
        assert (one.text != meant.text) == (one.mistakes > 0)
        assert names(one) == names(meant)
    shares = [one.mistakes / len(sentences(one)) for one in sample]
    assert sum(share == 0 for share in shares) > 0.25 * len(shares)
    assert sum(share > 0.5 for share in shares) > 0.15 * len(shares)


def test_labels_are_balanced_and_ratings_drive_opinions(sample):
    _, liked, disliked = OPINIONS["adj"]
    good, bad = set(liked.split()), set(disliked.split())
    for domain in DOMAINS:
        ones = [one for one in sample if one.domain == domain]
        assert 0.45 < sum(one.label for one in ones) / len(ones) < 0.55
        for label in (0, 1):
            words = [word.text for one in ones if one.label == label for word in one.words]
            share = sum(word in good for word in words) / sum(word in good | bad for word in words)
            assert (share > 0.65) if label else (share < 0.35)

"""The formulas on hand-built parses: what must score 1, what must lose, and what the damage does to a text."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import spacy
from spacy.tokens import Doc

from mixdpo.stages import validity as v
from mixdpo.stages.rewards import (
    REWARDS,
    Tools,
    grammar_of,
    grammatical_sentences_of,
    informativeness_of,
    rewards,
    score,
)

ASSETS = Path(__file__).parents[2] / "shared" / "assets"
RNG = np.random.default_rng
VOCAB = spacy.blank("en").vocab  # knows punctuation and number words


def parsed(*lines: str, ents=None) -> Doc:
    """A Doc of sentences written as word/TAG/label/head, the head counted from the sentence's first word."""
    rows, starts, heads = [], [], []
    for line in lines:
        first = len(rows)
        for token in line.split():
            word, tag, dep, head = token.split("/")
            starts.append(len(rows) == first)
            rows.append((word, tag, dep))
            heads.append(first + int(head))
    words, tags, deps = zip(*rows)
    return Doc(VOCAB, words=words, tags=tags, deps=deps, heads=heads, sent_starts=starts, ents=ents)


SHE_READS = "She/PRP/nsubj/1 {} the/DT/det/4 long/JJ/amod/4 {} to/IN/prep/1 Tom/NNP/pobj/5 ././punct/1"
INTACT = SHE_READS.format("reads/VBZ/ROOT/1", "book/NN/dobj/1")


def test_an_intact_sentence_scores_one():
    assert grammar_of(parsed(INTACT)) == 1.0
    assert grammar_of(parsed(INTACT, INTACT)) == 1.0


@pytest.mark.parametrize(
    "why, line",
    [
        ("she read (base form)", SHE_READS.format("read/VB/ROOT/1", "book/NN/dobj/1")),
        ("she read (plural form)", SHE_READS.format("read/VBP/ROOT/1", "book/NN/dobj/1")),
        ("she are", "She/PRP/nsubj/1 are/VBP/ROOT/1 glad/JJ/acomp/1 ././punct/1"),
        ("the books was", "The/DT/det/1 books/NNS/nsubj/2 was/VBD/ROOT/2 long/JJ/acomp/2 ././punct/2"),
        ("I is", "I/PRP/nsubj/1 is/VBZ/ROOT/1 glad/JJ/acomp/1 ././punct/1"),
        ("them are", "Them/PRP/nsubj/1 are/VBP/ROOT/1 glad/JJ/acomp/1 ././punct/1"),
        ("there are a book", "There/EX/expl/1 are/VBP/ROOT/1 a/DT/det/3 book/NN/attr/1 ././punct/1"),
        ("saw he", "Tom/NNP/nsubj/1 saw/VBD/ROOT/1 he/PRP/dobj/1 ././punct/1"),
        ("would has", "It/PRP/nsubj/2 would/MD/aux/2 has/VBZ/ROOT/2 charm/NN/dobj/2 ././punct/2"),
        ("has see", "Tom/NNP/nsubj/2 has/VBZ/aux/2 see/VB/ROOT/2 it/PRP/dobj/2 ././punct/2"),
        ("no verb", "The/DT/det/1 film/NN/ROOT/1 great/JJ/amod/1 ././punct/1"),
        ("these book", "Read/VB/ROOT/0 these/DT/det/2 book/NN/dobj/0 ././punct/0"),
        ("book the", "Read/VB/ROOT/0 book/NN/dobj/0 the/DT/det/1 ././punct/0"),
        ("the of", "Read/VB/ROOT/0 the/DT/det/3 of/IN/prep/0 book/NN/pobj/2 ././punct/0"),
        ("said twice", "Read/VB/ROOT/0 old/JJ/amod/3 old/JJ/amod/3 books/NNS/dobj/0 ././punct/0"),
        ("unattached", "Read/VB/ROOT/0 books/NNS/dobj/0 whether/IN/dep/0 ././punct/0"),
    ],
)
def test_an_error_costs(why, line):
    assert grammar_of(parsed(line)) < 1.0, why
    assert grammar_of(parsed(INTACT, line)) < 1.0, why


@pytest.mark.parametrize(
    "line",
    [
        "I/PRP/nsubj/1 was/VBD/ROOT/1 glad/JJ/acomp/1 ././punct/1",
        "Tom/NNP/nsubj/3 and/CC/cc/0 Ann/NNP/conj/0 are/VBP/ROOT/3 glad/JJ/acomp/3 ././punct/3",
        "A/DT/det/1 lot/NN/nsubj/4 of/IN/prep/1 books/NNS/pobj/2 are/VBP/ROOT/4 long/JJ/acomp/4 ././punct/4",
        "It/PRP/nsubjpass/3 has/VBZ/aux/3 been/VBN/auxpass/3 read/VBN/ROOT/3 ././punct/3",
        "Did/VBD/aux/2 he/PRP/nsubj/2 see/VB/ROOT/2 it/PRP/dobj/2 ?/./punct/2",
        "They/PRP/nsubj/1 saw/VBD/ROOT/1 him/PRP/nsubj/3 go/VB/ccomp/1 ././punct/1",
        "Watch/VB/ROOT/0 it/PRP/dobj/0 !/./punct/0",
        "Read/VB/ROOT/0 books/NNS/dobj/0 that/WDT/nsubj/3 are/VBP/relcl/1 long/JJ/acomp/3 ././punct/0",
    ],
)
def test_sound_constructions_cost_nothing(line):
    assert grammar_of(parsed(line)) == 1.0


def test_grammar_counts_the_words_that_a_bad_head_takes_along():
    """Them is unlicensed and hangs on `are`; nothing hangs on it, so one word of three is lost."""
    assert grammar_of(parsed("Them/PRP/nsubj/1 are/VBP/ROOT/1 glad/JJ/acomp/1 ././punct/1")) == pytest.approx(2 / 3)
    # Without a verb the root is unlicensed and takes both of its dependents along.
    assert grammar_of(parsed("The/DT/det/1 film/NN/ROOT/1 great/JJ/amod/1 ././punct/1")) == 0.0


def test_a_sentence_that_has_barely_begun_is_forgiven():
    begun, closed = "The/DT/det/1 film/NN/ROOT/1", "The/DT/det/1 film/NN/ROOT/1 ././punct/1"
    assert grammar_of(parsed(INTACT, begun)) == 1.0
    assert grammar_of(parsed(INTACT, closed)) < 1.0


def test_informativeness_counts_entities_and_numbers_outside_them_per_sentence():
    lines = "Tom/NNP/nsubj/1 saw/VBD/ROOT/1 two/CD/nummod/3 films/NNS/dobj/1", "They/PRP/nsubj/1 ran/VBD/ROOT/1"
    plain, named = parsed(*lines), parsed(*lines, ents=["B-PERSON", "O", "O", "O", "O", "O"])
    both = parsed(*lines, ents=["B-PERSON", "O", "B-CARDINAL", "O", "O", "O"])
    assert [informativeness_of(doc) for doc in (plain, named, both)] == [0.5, 1.0, 1.0]


def test_nothing_scores_zero():
    dots = parsed("././ROOT/0 ././punct/0")
    for doc in (Doc(VOCAB), dots):
        assert informativeness_of(doc) == grammar_of(doc) == grammatical_sentences_of(doc) == 0.0


def test_other_definitions():
    """Two sentences, 6 words; one entity, one number; the second sentence has a fault: 2 / 6, one of two faultless."""
    lines = "Tom/NNP/nsubj/1 saw/VBD/ROOT/1 two/CD/nummod/3 films/NNS/dobj/1", "They/PRP/nsubj/1 run/VBZ/ROOT/1"
    doc = parsed(*lines, ents=["B-PERSON", "O", "O", "O", "O", "O"])
    tools = SimpleNamespace(docs=lambda texts: [doc], positive=lambda texts: np.array([0.2, 0.5, 0.9]))
    assert REWARDS["informativeness_per_word"](["text"], tools) == pytest.approx([100 * 2 / 6])
    assert REWARDS["grammatical_sentences"](["text"], tools) == [0.5]
    assert REWARDS["sentiment_label"](["a", "b", "c"], tools).tolist() == [0, 0, 1]


def test_tools_read_equal_texts_once(monkeypatch):
    tools, seen = Tools("classifier", "pipeline"), []

    def _parse(self, texts):
        seen.append("parsed")
        return list(texts)

    def _classify(self, texts):
        seen.append("classified")
        return list(texts)

    monkeypatch.setattr(Tools, "_parse", _parse)
    monkeypatch.setattr(Tools, "_classify", _classify)
    for _ in range(2):
        assert tools.docs(["a"]) == tools.positive(("a",)) == ["a"]
    assert seen == ["parsed", "classified"]
    assert tools.docs(["b"]) == ["b"] and len(seen) == 3


class Stub(Tools):
    """One canned parse for every text, and the share of capitals as P(POSITIVE)."""

    def __init__(self, *_):
        pass

    def docs(self, texts):
        return [parsed(INTACT) for _ in texts]

    def positive(self, texts):
        return np.array([sum(map(str.isupper, text)) / max(len(text), 1) for text in texts])


def test_score_has_one_column_per_name():
    table = score(["GOOD", "bad"], ["grammar", "sentiment"], Stub())
    assert table.to_dict("list") == {"grammar": [1.0, 1.0], "sentiment": [1.0, 0.0]}
    with pytest.raises(ValueError, match="unknown reward humour: expected some of sentiment, informativeness, grammar"):
        score(["GOOD"], ["humour"], Stub())


def test_the_stage_keeps_rows_and_order(tmp_path, monkeypatch, runtime):
    monkeypatch.setattr("mixdpo.stages.rewards.Tools", Stub)
    rows = {"prompt_id": [7, 7, 3], "sample": [0, 1, 0], "prompt": ["A", "A", "b"], "completion": [" B", " b", " b"]}
    pd.DataFrame(rows).to_parquet(tmp_path / "completions.parquet")
    spec = {"names": ["sentiment", "grammar"]}
    rewards(
        tmp_path, spec, runtime=runtime, resume=tmp_path, completions=tmp_path, classifier=tmp_path, pipeline=tmp_path
    )
    scores = pd.read_parquet(tmp_path / "scores.parquet")
    assert list(scores) == ["prompt_id", "sample", "sentiment", "grammar"]
    assert scores["prompt_id"].tolist() == [7, 7, 3]
    assert scores["sentiment"].tolist() == pytest.approx([2 / 3, 1 / 3, 0])


TEXT = "Tom isn't bad. I saw \"Forever Strong\" (1999) with Tom Cruise and J.K. Bell's two friends, and it was great!"


def test_damage_by_names():
    damaged = v.replace_names(TEXT, RNG(0))
    assert not any(word in damaged for word in ("Tom", "Forever", "Strong", "1999", "Cruise", "J.K.", "Bell", "two"))
    assert damaged.count("I saw") == 1 and "'s " in damaged and damaged.endswith("friends, and it was great!")
    assert v.replace_names("I liked it.", RNG(0)) == "I liked it."


def test_damage_by_order():
    text = "The film is not bad. I saw it twice, and it was great!"
    damaged = v.shuffle_words(text, RNG(0))
    for before, after in zip(v.sentences(text), v.sentences(damaged), strict=True):
        assert after != before and after[0].isupper() and after[-1] == before[-1]
        assert sorted(after.lower().strip(".!").split()) == sorted(before.lower().strip(".!").split())
    assert v.shuffle_words(text, RNG(0)) == damaged


def test_damage_by_verbs_and_agreement():
    assert v.drop_verbs("It was long, it isn't good.", RNG(0)) == "It long, it isn't good."
    assert v.break_agreement("They don't see that he was here. Is it?", RNG(0)) == (
        "They doesn't see that he were here. Are it?"
    )


def test_a_crop_starts_with_a_sentence():
    text = "One two three. Four five six. Seven eight."
    crops = {v.crop(text, 4, RNG(seed)) for seed in range(20)}
    assert crops == {"One two three. Four", "Four five six. Seven"}
    assert v.crop("Short text.", 40, RNG(0)) == "Short text."


def test_pairwise_accuracy_counts_ties_half():
    assert v.pairwise_accuracy(np.array([1, 1, 1, 1]), np.array([0, 1, 2, 0])) == 0.625


def test_validity_writes_a_row_per_test(tmp_path, monkeypatch, runtime):
    monkeypatch.setattr("mixdpo.stages.validity.Tools", Stub)
    text = ["IT WAS FINE. Then Tom has two books.", "it was bad. Then Ann has two books.", "It is so."]
    rows = {"id": range(3), "text": text, "label": [1, 0, None], "rating": None, "domain": "film", "split": "test"}
    pd.DataFrame(rows).to_parquet(tmp_path / "reviews.parquet")
    spec = {"n": 3, "seed": 1, "crop_words": 4, "domains": ["film"]}
    v.validity(
        tmp_path, spec, runtime=runtime, resume=tmp_path, reviews=tmp_path, classifier=tmp_path, pipeline=tmp_path
    )
    table = pd.read_csv(tmp_path / "validity.csv")
    assert list(table) == ["reward", "text", "test", "metric", "value", "n"]
    assert set(table["reward"]) == {"sentiment", "informativeness", "grammar"} and len(table) == 10
    assert table.query("reward == 'sentiment' and text == 'whole review'")[["value", "n"]].values.tolist() == [[1.0, 2]]
    assert (table.query("reward == 'grammar'")["value"] == 0.5).all()  # the canned parse never changes


@pytest.mark.skipif(not (ASSETS / "spacy_en").is_dir(), reason="needs the local spaCy pipeline in ../shared/assets")
def test_a_real_pipeline_prefers_the_intact_sentence():
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    tools = Tools(ASSETS / "sentiment_reviews", ASSETS / "spacy_en")
    good = "The films that she makes are long, but I have never been bored by one. He doesn't like them."
    texts = [good, v.drop_verbs(good, RNG(0)), v.break_agreement(good, RNG(0)), v.shuffle_words(good, RNG(0)), ""]
    grammar = score(texts, ["grammar"], tools)["grammar"]
    assert grammar[0] > grammar[1:].max() and grammar[4] == 0
    assert tools.docs(texts) is tools.docs(list(texts))

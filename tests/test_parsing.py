"""spaCy by torch's products and in several processes reads texts as spaCy alone does."""

import numpy as np
import pytest
import spacy
from thinc.api import NumpyOps, get_current_ops, set_current_ops

from mixdpo.stages import parsing


@pytest.fixture
def ops():
    """spaCy's own operations before the test and after it."""
    before = get_current_ops()
    set_current_ops(NumpyOps())
    yield
    set_current_ops(before)


def pipeline(folder):
    """A tagger with random weights, saved."""
    nlp = spacy.blank("en")
    tagger = nlp.add_pipe("tagger")
    for label in ("NN", "VB", "DT"):
        tagger.add_label(label)
    nlp.initialize()
    output = tagger.model.get_ref("softmax")
    output.set_param("W", np.random.default_rng(0).normal(size=output.get_param("W").shape).astype("float32"))
    nlp.to_disk(folder)


def tags(docs):
    return [[(token.text, token.tag_) for token in doc] for doc in docs]


def test_torch_multiplies_as_spacy_does():
    rng, ours, theirs = np.random.default_rng(0), parsing.TorchOps(), NumpyOps()
    for trans1 in False, True:
        for trans2 in False, True:
            x = rng.normal(size=(5, 7) if not trans1 else (7, 5)).astype("float32")
            y = rng.normal(size=(7, 3) if not trans2 else (3, 7)).astype("float32")
            expected, out = theirs.gemm(x, y, trans1=trans1, trans2=trans2), np.ones((5, 3), "float32")
            np.testing.assert_allclose(ours.gemm(x, y, trans1=trans1, trans2=trans2), expected, rtol=1e-5, atol=1e-6)
            assert ours.gemm(x, y, out=out, trans1=trans1, trans2=trans2) is out
            np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_tags_are_those_of_spacy_whatever_the_processes(tmp_path, ops, monkeypatch):
    pipeline(tmp_path)
    texts = [f"The boat of sister {i} is long, and I liked it." for i in range(150)]
    expected = tags(spacy.load(tmp_path).pipe(texts))
    assert len({tag for doc in expected for _, tag in doc}) > 1
    nlp = parsing.load(tmp_path)
    assert isinstance(nlp.get_pipe("tagger").model.ops, parsing.TorchOps)
    monkeypatch.setattr(parsing, "TEXTS", 60)
    for processes in 1, 2, 8:
        assert tags(parsing.parse(nlp, texts, processes)) == expected

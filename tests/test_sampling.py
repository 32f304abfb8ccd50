"""Draws follow the distribution they are given, and depend on the seed and nothing else."""

import pytest
import torch

from mixdpo.method.decoding import draw, sample, truncate

TRANSITIONS = torch.tensor([[1.0, 0.0, 0.0], [0.2, 0.5, 0.3], [0.1, 0.9, 0.0]])  # row: last token; token 0 ends


def chain(prompts, seed=0, ends=(0,), **how):
    """Completions of a three-token Markov chain."""

    def next_logits(tokens):
        return TRANSITIONS[tokens[:, -1]].log()

    generator = torch.Generator().manual_seed(seed)
    return sample(next_logits, torch.tensor(prompts), ends, generator, **{"max_new_tokens": 6} | how)


def test_draw_follows_the_distribution():
    logits = torch.tensor([0.5, 0.3, 0.2, 0.0]).log().expand(40_000, 4)
    counts = draw(logits, torch.Generator().manual_seed(0)).bincount(minlength=4) / 40_000
    assert counts.tolist() == pytest.approx([0.5, 0.3, 0.2, 0.0], abs=0.01)
    assert counts[3] == 0


def test_truncate():
    logits = torch.tensor([[0.4, 0.1, 0.3, 0.2]]).log()
    assert truncate(logits, 2, 1.0).isfinite().tolist() == [[True, False, True, False]]
    assert truncate(logits, 0, 0.6).isfinite().tolist() == [[True, False, True, False]]
    assert truncate(logits, 0, 0.75).isfinite().tolist() == [[True, False, True, True]]
    assert truncate(logits, 0, 1.0).equal(logits)


def test_sampling_is_repeatable_and_ends_at_end_of_text():
    prompts = [[2, 1]] * 200
    first = chain(prompts, seed=1)
    assert first == chain(prompts, seed=1) != chain(prompts, seed=2)
    for row in first:
        assert 0 not in row[:-1]
        assert len(row) == 6 or row[-1] == 0
    assert {len(row) for row in first} == {1, 2, 3, 4, 5, 6}


def test_completions_follow_the_chain():
    """P(1, 2, 1 | 1) = 0.5 · 0.3 · 0.9 = 0.135 and P(end | 1) = 0.2, by counting; every row has its own prompt."""
    rows = chain([[2, 1]] * 20_000, max_new_tokens=3)
    assert rows.count([1, 2, 1]) / 20_000 == pytest.approx(0.135, abs=0.008)
    assert rows.count([0]) / 20_000 == pytest.approx(0.2, abs=0.009)
    ends = [row == [0] for row in chain([[1, 2], [2, 1]] * 10_000, max_new_tokens=1)]
    assert sum(ends[::2]) / 10_000 == pytest.approx(0.1, abs=0.01)
    assert sum(ends[1::2]) / 10_000 == pytest.approx(0.2, abs=0.013)


def test_temperature_and_truncation_reach_every_step():
    """From 1 the likeliest token is 1 for ever; at a temperature of 0.01 nothing else is drawn either."""
    assert chain([[1]] * 50, top_k=1) == chain([[1]] * 50, top_p=0.4) == [[1] * 6] * 50
    assert chain([[1]] * 50, temperature=0.01) == [[1] * 6] * 50


def test_any_of_several_ends_stops():
    rows = chain([[2, 1]] * 200, ends=(0, 2))
    assert all(not {0, 2} & set(row[:-1]) and (len(row) == 6 or row[-1] in (0, 2)) for row in rows)
    assert {row[-1] for row in rows if len(row) < 6} == {0, 2}
    assert {len(row) for row in chain([[1]] * 20, ends=())} == {6}

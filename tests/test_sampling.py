"""Draws follow the distribution they are given, and depend on the seed and nothing else."""

import pytest
import torch

from mixdpo.method import decoding
from mixdpo.method.decoding import draw, sample, truncate

TRANSITIONS = torch.tensor([[1.0, 0.0, 0.0], [0.2, 0.5, 0.3], [0.1, 0.9, 0.0]])  # row: last token; token 0 ends


class Chain:
    """A three-token Markov chain in a decoder's place; its state is the last token."""

    fixed = None

    def read(self, tokens):
        return [tokens[:, -1]]

    def mixed(self, states):
        return TRANSITIONS[states[0]].log()

    def draw(self, states, uniform):
        return draw(TRANSITIONS[states[0]], uniform[:, 1])

    def keep(self, rows):
        pass


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def chain(prompts, seed=0, ends=(0,), max_new_tokens=6, **how):
    return sample(Chain(), prompts, ends, uniform(len(prompts), max_new_tokens, 2, seed=seed), **how)


@pytest.mark.parametrize("columns", [4, 130])
def test_draw_follows_the_distribution(columns):
    """Four columns lie in one block; of 130, the last are alone in the third."""
    weights = torch.zeros(40_000, columns)
    places = torch.tensor([0, 1, columns // 2, columns - 1])
    weights[:, places] = torch.tensor([5.0, 3.0, 0.0, 2.0])
    drawn = draw(weights, uniform(40_000)).bincount(minlength=columns)
    assert (drawn[places] / 40_000).tolist() == pytest.approx([0.5, 0.3, 0.0, 0.2], abs=0.01)
    assert drawn[places].sum() == 40_000


def test_draw_never_takes_a_column_without_weight():
    weights = torch.zeros(3, 200)
    weights[0, 70], weights[1, [3, 190]], weights[2, 0] = 0.7, 0.1, 1e-30
    for u in 0.0, 0.5, 1 - 2**-24, 1.0:
        assert weights[range(3), draw(weights, torch.full((3,), u))].gt(0).all()


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
    ends = [row == [0] for row in chain([[1, 2], [2, 2, 0, 1]] * 10_000, max_new_tokens=1)]
    assert sum(ends[::2]) / 10_000 == pytest.approx(0.1, abs=0.01)
    assert sum(ends[1::2]) / 10_000 == pytest.approx(0.2, abs=0.013)


def test_a_completion_depends_on_its_own_row_alone(monkeypatch):
    """Neither longer prompts beside it change it, nor texts that leave once they have ended."""
    prompts = [[2, 1], [1], [1, 0, 2], [2]] * 25
    together = chain(prompts)
    monkeypatch.setattr(decoding, "STAYING", -1.0)
    assert together == chain(prompts)
    numbers = uniform(100, 6, 2)
    assert together == [sample(Chain(), [p], (0,), numbers[i : i + 1])[0] for i, p in enumerate(prompts)]


def test_temperature_and_truncation_reach_every_step():
    """From 1 the likeliest token is 1 for ever; at a temperature of 0.01 nothing else is drawn either."""
    assert chain([[1]] * 50, top_k=1) == chain([[1]] * 50, top_p=0.4) == [[1] * 6] * 50
    assert chain([[1]] * 50, temperature=0.01) == chain([[1]] * 50, temperature=1e-40) == [[1] * 6] * 50


def test_any_of_several_ends_stops():
    rows = chain([[2, 1]] * 200, ends=(0, 2))
    assert all(not {0, 2} & set(row[:-1]) and (len(row) == 6 or row[-1] in (0, 2)) for row in rows)
    assert {row[-1] for row in rows if len(row) < 6} == {0, 2}
    assert {len(row) for row in chain([[1]] * 20, ends=())} == {6}

"""Draws follow the model's distribution; completions depend on the seed and nothing else."""

import pytest
import torch

from mixdpo.language import TokenBatch, load_language_model, token_log_probs
from mixdpo.sampling import draw, sample, truncate

SPEC = {"max_new_tokens": 12, "temperature": 1.0, "top_k": 0, "top_p": 1.0}


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


def test_sampling_is_repeatable_and_ends_at_end_of_text(model_folder, runtime):
    model = load_language_model(model_folder, runtime)
    prompts = [[5, 6, 7]] * 40
    first = sample(model, prompts, SPEC, runtime, seed=1)
    assert first == sample(model, prompts, SPEC, runtime, seed=1) != sample(model, prompts, SPEC, runtime, seed=2)
    end = model.config.eos_token_id
    for row in first:
        assert end not in row[:-1]
        assert len(row) == 12 or row[-1] == end


def test_the_cache_changes_nothing(model_folder, runtime):
    """Greedy tokens of the cached loop are the argmax of the model run on the whole sequence."""
    model = load_language_model(model_folder, runtime)
    (row,) = sample(model, [[5, 6, 7]], SPEC | {"top_k": 1}, runtime, seed=0)
    tokens = torch.tensor([[5, 6, 7, *row]])
    with torch.no_grad():
        assert model(tokens).logits[0, 2:-1].argmax(-1).tolist() == row


def test_log_probs_ignore_padding_and_prompt(model_folder, runtime):
    """Each masked position is log softmax of the model on the unpadded sequence."""
    model = load_language_model(model_folder, runtime)
    prompts, completions = [[5, 6], [7]], [[8, 9, 10, 11], [12]]
    with torch.no_grad():
        ours = token_log_probs(model, TokenBatch.of(prompts, completions, "cpu")).sum(1)
        for value, prompt, completion in zip(ours, prompts, completions):
            whole = torch.tensor([prompt + completion])
            log_probs = model(whole).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
            expected = log_probs.gather(1, torch.tensor(completion)[:, None]).sum()
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)

"""Prompts are the beginnings of reviews; a killed run continues to the same rows; every way of decoding is scored."""

import pandas as pd
import pytest
import torch
from conftest import SENTENCES
from transformers import AutoTokenizer

from mixdpo.errors import UserError
from mixdpo.method.language import TokenBatch, load_language_model, sequence_log_probs
from mixdpo.method.policy import Policy
from mixdpo.method.scaled import scaled
from mixdpo.method.weights import GlobalWeights
from mixdpo.stages.completions import choose_prompts, complete, completions
from mixdpo.stages.evaluations import evaluations, of_drawn_experts, policy_log_probs

SPEC = {
    "prompts": 12,
    "prompt_tokens": [2, 8],
    "per_prompt": 2,
    "max_new_tokens": 10,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "batch_size": 4,
    "seed": 0,
    "domains": ["movie"],
    "split": "train",
}


def run(out, resume, model_folder, reviews_folder, runtime):
    for folder in (out, resume):
        folder.mkdir(exist_ok=True)
    completions(out, SPEC, runtime=runtime, resume=resume, reference=model_folder.parent, reviews=reviews_folder)
    return pd.read_parquet(out / "completions.parquet")


def test_prompts_begin_reviews(model_folder, reviews_folder):
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    prompts = choose_prompts(reviews_folder, tokenizer, SPEC)
    texts = pd.read_parquet(reviews_folder / "reviews.parquet").set_index("id")["text"]
    assert len(prompts) == 12 and prompts["review_id"].is_unique
    assert prompts["prompt_ids"].str.len().between(2, 8).all() and prompts["prompt_ids"].str.len().nunique() > 2
    for row in prompts.itertuples():
        assert texts[row.review_id].startswith(tokenizer.decode(row.prompt_ids))


def test_too_few_long_reviews_is_one_line(model_folder, reviews_folder):
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    expected = (
        "expected 12 prompts of domain movie that differ, each from a train review of more than 500 tokens, found 0"
    )
    with pytest.raises(
        UserError, match=rf"{expected} in 20 reviews; lower prompts, raise completions.prompt_tokens if"
    ):
        choose_prompts(reviews_folder, tokenizer, SPEC | {"prompt_tokens": [2, 500]})
    with pytest.raises(UserError, match="expected train reviews of domain book, found only movie/"):
        choose_prompts(reviews_folder, tokenizer, SPEC | {"domains": ["book"]})


def test_prompts_differ_in_text(tmp_path, model_folder, reviews_folder):
    """Reviews that begin alike give prompts of other lengths while there are any, and then none."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    frame = pd.read_parquet(reviews_folder / "reviews.parquet")
    texts = [f"{sentence} Number {i}." for i, sentence in enumerate([SENTENCES[0]] * 12 + [SENTENCES[1]] * 8)]
    frame[frame["split"] == "train"].assign(text=texts).to_parquet(tmp_path / "reviews.parquet")
    for seed in range(5):
        prompts = choose_prompts(tmp_path, tokenizer, SPEC | {"prompts": 10, "seed": seed})
        texts = tokenizer.batch_decode(prompts["prompt_ids"].tolist())
        assert len(set(texts)) == 10 and prompts["prompt_ids"].map(tuple).is_unique
        others = choose_prompts(tmp_path, tokenizer, SPEC | {"prompts": 2, "seed": seed}, taken=texts)
        assert not set(tokenizer.batch_decode(others["prompt_ids"].tolist())) & set(texts)
    with pytest.raises(
        UserError, match=r"expected 15 prompts .*, found 1[0-4] in 20 reviews; .*raise completions\.prompt_t"
    ):
        choose_prompts(tmp_path, tokenizer, SPEC | {"prompts": 15})


def test_a_prompt_ends_even_where_the_review_holds_the_replacement_character(tmp_path, model_folder, reviews_folder):
    """Such a review never decodes to a whole last character, so its prompt has the drawn length.

    Others go on to the end of a character that several tokens spell.
    """
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    frame = pd.read_parquet(reviews_folder / "reviews.parquet")
    for character, lengths in (("\ufffd", {4}), ("\U0001f3ac", {4, 5, 6, 7})):
        ids = tokenizer(character * 40)["input_ids"]
        frame.assign(text=character * 40).to_parquet(tmp_path / "reviews.parquet")
        prompts = choose_prompts(tmp_path, tokenizer, SPEC | {"prompt_tokens": [4, 4], "prompts": 1})
        assert set(prompts["prompt_ids"].str.len()) <= lengths
        assert all(row == ids[: len(row)] for row in prompts["prompt_ids"])
    assert not tokenizer.decode(prompts["prompt_ids"].iloc[0]).endswith("\ufffd")


def test_completions_and_resume(tmp_path, model_folder, reviews_folder, runtime):
    frame = run(tmp_path / "a", tmp_path / "ra", model_folder, reviews_folder, runtime)
    assert len(frame) == 24 and frame.groupby("prompt_id")["sample"].apply(list).map(tuple).unique().tolist() == [
        (0, 1)
    ]
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    for row in frame.itertuples():
        whole = tokenizer.decode([*row.prompt_ids, *row.completion_ids], skip_special_tokens=True)
        assert row.prompt + row.completion == whole
    batches = sorted((tmp_path / "ra").glob("batch-*.json"))
    for batch in batches[::2]:
        batch.unlink()
    again = run(tmp_path / "b", tmp_path / "ra", model_folder, reviews_folder, runtime)
    pd.testing.assert_frame_equal(frame, again)


def three_experts(model_folder, runtime) -> Policy:
    policy = Policy.from_language_model(
        load_language_model(model_folder, runtime),
        shared_heads=2,
        independent_models=1,
        weights=GlobalWeights(3, [0.5, 0.3, 0.2]),
    )
    policy.perturb(10.0, seed=0)
    return policy.eval()


def test_routing_reaches_the_policy(tmp_path, model_folder, reviews_folder, runtime):
    """expert=2 samples what the third expert alone samples; the mixture samples something else."""
    tokenizer, policy = AutoTokenizer.from_pretrained(model_folder), three_experts(model_folder, runtime)
    prompts, texts = choose_prompts(reviews_folder, tokenizer, SPEC), {}
    alone = Policy.from_language_model(policy.independent[0], independent_models=1)
    for name, model, routing in (("expert", policy, {"expert": 2}), ("alone", alone, {}), ("mixture", policy, {})):
        (tmp_path / name).mkdir()
        texts[name] = complete(model, tokenizer, prompts, SPEC, runtime, tmp_path / name, **routing)["completion_ids"]
    assert texts["expert"].equals(texts["alone"]) and not texts["expert"].equals(texts["mixture"])


@pytest.mark.parametrize(("top_s", "shares"), [(None, [0.5, 0.3, 0.2]), (2, [0.625, 0.375, 0.0])])
def test_evaluations_score_every_way_of_decoding(tmp_path, model_folder, reviews_folder, runtime, top_s, shares):
    """log π(y | x) of single experts, and of the two mixtures from token probabilities, computed here a row at a time;
    of the two experts of the largest weights, as if the third had none.

    log_prob − reference_log_prob averages to a KL divergence, which is positive.
    """
    policy, tokenizer = three_experts(model_folder, runtime), AutoTokenizer.from_pretrained(model_folder)
    policy.save_pretrained(tmp_path / "policy/model")
    tokenizer.save_pretrained(tmp_path / "policy/model")
    (tmp_path / "resume").mkdir()
    spec = SPEC | {"split": "test", "per_prompt": 1, "top_s": top_s, "scales": []}
    trained = run(tmp_path / "trained", tmp_path / "sampled", model_folder, reviews_folder, runtime)
    inputs = {"policy": tmp_path / "policy", "reference": model_folder.parent, "reviews": reviews_folder}
    inputs |= {"completions": tmp_path / "trained"}
    evaluations(tmp_path, spec, runtime=runtime, resume=tmp_path / "resume", **inputs)
    frame, base = pd.read_parquet(tmp_path / "completions.parquet"), load_language_model(model_folder, runtime)
    assert not set(frame["prompt"]) & set(trained["prompt"]), "a training prompt"
    assert frame["decoding"].value_counts().to_dict() == dict.fromkeys(
        ("token", "sequence", "expert0", "expert1", "expert2"), 12
    )
    w = torch.tensor(shares)
    with torch.no_grad():
        for row in frame.itertuples():
            batch = TokenBatch.of([row.prompt_ids], [row.completion_ids], "cpu")
            p = policy.token_log_probs(batch)[0].exp()[:, batch.mask[0]]  # (K, T)
            ways = {f"expert{k}": p[k].log().sum() for k in range(3)}
            ways |= {"token": (w @ p).log().sum(), "sequence": (w @ p.prod(1, dtype=torch.float64).float()).log()}
            assert row.log_prob == pytest.approx(ways[row.decoding].item(), abs=1e-2)
            assert row.reference_log_prob == pytest.approx(sequence_log_probs(base, batch).item(), abs=1e-4)
    assert (frame["log_prob"] - frame["reference_log_prob"]).groupby(frame["decoding"]).mean().min() > 0
    for _, rows in frame.groupby("prompt_id"):
        texts = rows.set_index("decoding")["completion_ids"].map(tuple)
        assert texts["sequence"] in [texts[f"expert{k}"] for k, share in enumerate(shares) if share]
    weights = pd.read_parquet(tmp_path / "weights.parquet")
    assert len(weights) == 12 and weights[["w0", "w1", "w2"]].iloc[0].tolist() == pytest.approx([0.5, 0.3, 0.2])
    for batch in sorted((tmp_path / "resume").glob("*/batch-*.json"))[::2]:
        batch.unlink()
    evaluations(tmp_path, spec, runtime=runtime, resume=tmp_path / "resume", **inputs)
    pd.testing.assert_frame_equal(frame, pd.read_parquet(tmp_path / "completions.parquet"))


def heads_on_a_frozen_encoder(model_folder, runtime, heads: int) -> Policy:
    policy = Policy.from_language_model(load_language_model(model_folder, runtime), shared_heads=heads)
    policy.perturb(10.0, seed=0)
    return policy.eval()


def test_a_scaled_expert_is_the_geometric_mixture(model_folder, runtime):
    """log π_λ of every token is λ log π_k + (1 − λ) log π_ref less the logarithm of its sum over the vocabulary."""
    policy = heads_on_a_frozen_encoder(model_folder, runtime, 2)
    base, ids = load_language_model(model_folder, runtime), torch.tensor([[5, 17, 40, 8, 3]])
    between = scaled(policy, 0.3, base)
    with torch.no_grad():
        reference = base(ids).logits.log_softmax(-1)
        for k in range(2):
            mixed = 0.3 * policy.expert(k)(ids).logits.log_softmax(-1) + 0.7 * reference
            expected = mixed - mixed.logsumexp(-1, keepdim=True)
            found = between.expert(k)(ids).logits.log_softmax(-1)
            assert torch.allclose(found, expected, atol=1e-4) and not torch.allclose(found, reference, atol=0.1)


@pytest.mark.parametrize("heads", [1, 2])
def test_evaluations_sample_scaled_experts(tmp_path, model_folder, reviews_folder, runtime, heads):
    """KL(π_λ ‖ π_ref) grows with λ, and log_prob is that of the scaled policy."""
    policy, tokenizer = (
        heads_on_a_frozen_encoder(model_folder, runtime, heads),
        AutoTokenizer.from_pretrained(model_folder),
    )
    policy.save_pretrained(tmp_path / "policy/model")
    tokenizer.save_pretrained(tmp_path / "policy/model")
    (tmp_path / "resume").mkdir()
    spec = SPEC | {"split": "test", "per_prompt": 8, "top_s": None, "scales": [0.5, 0.75]}
    run(tmp_path / "trained", tmp_path / "sampled", model_folder, reviews_folder, runtime)
    inputs = {"policy": tmp_path / "policy", "reference": model_folder.parent, "reviews": reviews_folder}
    inputs |= {"completions": tmp_path / "trained"}
    evaluations(tmp_path, spec, runtime=runtime, resume=tmp_path / "resume", **inputs)
    frame = pd.read_parquet(tmp_path / "completions.parquet")
    single = ["token"] if heads == 1 else ["expert0", "expert1"]
    kl = (frame["log_prob"] - frame["reference_log_prob"]).groupby(frame["decoding"]).mean()
    for name in single:
        assert 0 < kl[f"{name}@0.5"] < kl[f"{name}@0.75"] < kl[name]
    assert len(kl) == 3 * len(single) + (2 if heads > 1 else 0)
    between = scaled(policy, 0.5, load_language_model(model_folder, runtime))
    with torch.no_grad():
        for row in frame[frame["decoding"] == f"{single[0]}@0.5"].itertuples():
            batch = TokenBatch.of([row.prompt_ids], [row.completion_ids], "cpu")
            assert row.log_prob == pytest.approx(between.log_probs(batch)[0, 0].item(), abs=1e-3)


def test_only_heads_on_a_frozen_encoder_are_scaled(model_folder, runtime):
    base = load_language_model(model_folder, runtime)
    trained = heads_on_a_frozen_encoder(model_folder, runtime, 2)
    with torch.no_grad():
        trained.encoder.wte.weight[0] += 1.0
    for policy in three_experts(model_folder, runtime), trained, Policy.from_language_model(base, independent_models=1):
        with pytest.raises(
            UserError, match=r"^evaluations\.scales: expected experts that are heads on the reference's"
        ):
            scaled(policy, 0.5, base)


def test_the_mixture_by_sequence_draws_an_expert_for_each_row():
    experts = [pd.DataFrame({"row": range(20_000), "expert": k}) for k in range(3)]
    w = torch.tensor([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0]]).repeat(10_000, 1)
    drawn = of_drawn_experts(experts, w.log(), seed=3)
    assert drawn["row"].tolist() == list(range(20_000)) and drawn.equals(of_drawn_experts(experts, w.log(), seed=3))
    shares = drawn["expert"][::2].value_counts(normalize=True)
    assert shares.sort_index().tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.02)
    assert set(drawn["expert"][1::2]) == {1}


def test_a_text_goes_through_an_expert_once(model_folder, runtime, monkeypatch):
    """Whoever asks: one pass for all that a text needs, and the same figures as alone."""
    policy, seen, original = three_experts(model_folder, runtime), [], Policy.token_log_probs

    def token_log_probs(self, batch, experts=None):
        seen.extend((tuple(row), k) for row in batch.tokens.tolist() for k in experts)
        return original(self, batch, experts)

    monkeypatch.setattr(Policy, "token_log_probs", token_log_probs)
    shared, other = ((1, 2, 3), (4, 5)), ((1, 2, 3), (6, 7))
    log_w = torch.tensor([0.5, 0.3, 0.2]).log()
    ways = [{"expert": 0}, {"mixture": "sequence"}, {"mixture": "token"}]
    rows = [(shared, way, log_w) for way in ways] + [(other, {"expert": 1}, log_w)]
    with torch.no_grad():
        figures = policy_log_probs(policy, rows, runtime)
        assert sorted(seen) == [((1, 2, 3, 4, 5), k) for k in range(3)] + [((1, 2, 3, 6, 7), 1)]
        assert figures == pytest.approx([policy_log_probs(policy, [row], runtime)[0] for row in rows], abs=1e-5)

"""The loss against hand-worked numbers, its identities, and TRL's DPO."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from mixdpo.language import load_language_model
from mixdpo.losses import expert_loss, log_bradley_terry, log_mbt_likelihood, log_reward_posterior, responsibilities
from mixdpo.policies import PreferenceObjective, Triplets
from mixdpo.reference import log_probs
from mixdpo.runtime import Runtime

torch.manual_seed(0)
B, K = 64, 4
R = torch.randn(B, K, 2, dtype=torch.float64) * 3
LOG_W = torch.log_softmax(torch.randn(B, K, dtype=torch.float64), -1)


def test_by_hand():
    """w = (1/4, 3/4), r = ((ln 3, 0), (0, 0)): σ = (3/4, 1/2), so P = 3/16 + 3/8 = 9/16 and q = (1/3, 2/3).

    q⁽ʳ⁾(y⁺) ∝ (1/4·3, 3/4·1) = (1/2, 1/2); q⁽ʳ⁾(y⁻) ∝ (1/4, 3/4). At log_ratio 0 expert 1's loss is
    −1/3·ln(½ / (½ + ¼)) = 1/3·ln(3/2).
    """
    log_w = torch.tensor([[0.25, 0.75]], dtype=torch.float64).log()
    r = torch.tensor([[[math.log(3), 0.0], [0.0, 0.0]]], dtype=torch.float64)
    assert log_mbt_likelihood(log_w, r).exp().item() == pytest.approx(9 / 16)
    q, log_q_r = responsibilities(log_w, r), log_reward_posterior(log_w, r)
    assert q[0].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert log_q_r.exp()[0].flatten().tolist() == pytest.approx([0.5, 0.25, 0.5, 0.75])
    loss = expert_loss(torch.zeros_like(r), q, log_q_r, beta=0.1)
    assert loss[0, 0].item() == pytest.approx(math.log(1.5) / 3)


def test_theorem_1_bound_holds_and_is_tight_at_the_posterior():
    def elbo(q):
        return (q * (LOG_W + log_bradley_terry(R) - q.log())).sum(-1)

    marginal = log_mbt_likelihood(LOG_W, R)
    for _ in range(20):
        assert (elbo(torch.softmax(torch.randn(B, K, dtype=torch.float64) * 2, -1)) <= marginal + 1e-12).all()
    torch.testing.assert_close(elbo(responsibilities(LOG_W, R)), marginal)


def test_theorem_2_and_the_corrected_reward_of_lemma_3():
    """Equation (8) for a random q^(π); and r̃_k = r_k − log(q⁽ʳ⁾_k / w_k) is the mixture reward for every k."""
    r, log_q_r = R[..., 0], log_reward_posterior(LOG_W, R)[..., 0]
    mixture = torch.logsumexp(LOG_W + r, -1)
    log_q_pi = torch.log_softmax(torch.randn(B, K, dtype=torch.float64), -1)
    bracket = r + LOG_W - log_q_pi
    divergence = (log_q_pi.exp() * (log_q_pi - log_q_r)).sum(-1)
    torch.testing.assert_close((log_q_pi.exp() * bracket).sum(-1) + divergence, mixture)
    torch.testing.assert_close(r - (log_q_r - LOG_W), mixture.unsqueeze(-1).expand(-1, K))


def test_one_expert_is_dpo_in_value_and_gradient():
    log_ratio = torch.randn(B, 1, 2, dtype=torch.float64, requires_grad=True)
    r, log_w = 0.1 * log_ratio.detach(), torch.zeros(B, 1, dtype=torch.float64)
    loss = expert_loss(log_ratio, responsibilities(log_w, r), log_reward_posterior(log_w, r), 0.1).mean()
    dpo = -torch.nn.functional.logsigmoid(0.1 * (log_ratio[:, 0, 0] - log_ratio[:, 0, 1])).mean()
    torch.testing.assert_close(loss, dpo)
    torch.testing.assert_close(torch.autograd.grad(loss, log_ratio)[0], torch.autograd.grad(dpo, log_ratio)[0])


def test_gradient_of_section_d2_has_a_minus_in_both_terms():
    """∇ = β q A⁻/(A⁺ + A⁻)·(∇log π(y⁻) − ∇log π(y⁺)): the paper's last line prints A⁺ before the first of them."""
    log_ratio = torch.randn(B, K, 2, dtype=torch.float64, requires_grad=True)
    q, log_q_r = responsibilities(LOG_W, R), log_reward_posterior(LOG_W, R)
    gradient = torch.autograd.grad(expert_loss(log_ratio, q, log_q_r, 0.3).sum(), log_ratio)[0]
    share = torch.softmax(0.3 * log_ratio + log_q_r, -1)[..., 1]
    torch.testing.assert_close(gradient, 0.3 * (q * share).unsqueeze(-1) * torch.tensor([-1.0, 1.0]))


def test_log_space_survives_extremes():
    r = torch.tensor([[[-1000.0, 1000.0], [1000.0, -1000.0]]])
    log_w = torch.tensor([[-1e-30, -300.0]])
    for value in (log_mbt_likelihood(log_w, r), responsibilities(log_w, r), log_reward_posterior(log_w, r)):
        assert torch.isfinite(value).all()


def test_parity_with_trl(model_folder, tmp_path):
    """Loss and every gradient of one DPO batch equal those of TRL's trainer on the same tokens."""
    trl = pytest.importorskip("trl", reason="TRL is a development dependency: pip install -e .[dev]")
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.pad_token = tokenizer.eos_token
    data = Dataset.from_list(
        [
            {"prompt": "The film is", "chosen": " a quiet story about sisters.", "rejected": " old."},
            {"prompt": "I liked", "chosen": " the acting", "rejected": " nobody in this book, and that is why"},
            {"prompt": "Skip it. The jokes", "chosen": " work.", "rejected": " are old and far too long."},
        ]
    )
    runtime = Runtime("cpu", "fp32", 1)
    policy, reference = load_language_model(model_folder, runtime), load_language_model(model_folder, runtime)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += 0.05 * torch.randn_like(weight)
    trainer = trl.DPOTrainer(
        policy,
        reference,
        args=trl.DPOConfig(
            str(tmp_path),
            beta=0.1,
            per_device_train_batch_size=3,
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_dropout=True,
        ),
        train_dataset=data,
        processing_class=tokenizer,
    )
    inputs = next(iter(trainer.get_train_dataloader()))
    policy.eval()
    theirs = trainer.compute_loss(policy, dict(inputs))
    theirs.backward()
    expected = {name: p.grad.clone() for name, p in policy.named_parameters()}
    policy.zero_grad()

    prompts, completions = [], []
    for ids, mask, real in zip(inputs["input_ids"], inputs["completion_mask"].bool(), inputs["attention_mask"].bool()):
        prompts.append(ids[real & ~mask].tolist())
        completions.append(ids[mask].tolist())
    half = len(prompts) // 2  # chosen first
    ids = {"prompt_ids": prompts[:half], "chosen_ids": completions[:half], "rejected_ids": completions[half:]}
    pd.DataFrame(ids).to_parquet(tmp_path / "triplets.parquet")
    ref = log_probs(reference, prompts, completions, runtime)
    pd.DataFrame({"chosen": ref[:half], "rejected": ref[half:]}).to_parquet(tmp_path / "reference.parquet")
    triplets = Triplets(tmp_path / "triplets.parquet", tmp_path / "reference.parquet")
    ours, _ = PreferenceObjective(policy, 0.1, runtime).loss(triplets, np.arange(half))
    ours.backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for name, p in policy.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)

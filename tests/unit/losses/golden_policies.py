"""DPO and its kin, SimPO, ORPO, KTO, and token log-probabilities."""

from __future__ import annotations

import dataclasses as dc

import pytest
import torch

from swiftlike.losses import LOSSES
from swiftlike.losses.base import LabelledLogps
from swiftlike.losses.terms import chosen_nll

from .golden import Adapter, Case, numbers
from .pairs import args_of, means_of, pair_outputs, pair_record


def run_dpo(case: Case) -> Case:
    """TRL 1.16's DPO and beta-DPO's plain mode: `rpo_alpha` is unknown to them, so it is off."""
    args = args_of("dpo", case["params"], rpo_alpha=case["params"].get("rpo_alpha"))
    record = pair_record(case["inputs"])
    gaps = record.ratios[:, 0] - record.ratios[:, 1]
    outputs = pair_outputs(record, LOSSES.get("dpo").fn(record, args))
    return {**outputs, "gaps": gaps, "beta_used": args.beta}


def run_dpo_rpo(case: Case) -> Case:
    """ms-swift: the loss is given what it is to compare, already averaged or not, so nothing is left to divide by.

    The NLL has its own path there: it is reported always, and averaged over the true number of tokens.
    """
    record = pair_record(case["inputs"])
    args = args_of("dpo", case["params"], rpo_alpha=case["params"]["rpo_alpha"])
    if args.loss_type == ["exo_pair"] and not args.label_smoothing:
        args = dc.replace(args, label_smoothing=1e-3)  # what ms-swift puts in place of 0
    undivided = dc.replace(record, tokens=torch.ones_like(record.tokens))
    loss = LOSSES.get("dpo").fn(undivided, args)
    loss = dc.replace(loss, nll=chosen_nll(record, args.nll_weight))
    always = chosen_nll(record, 1.0)
    return {**pair_outputs(record, loss), "nll_loss": always.total / always.tokens}


def run_cpo(case: Case) -> Case:
    """CPO and SimPO: sums and lengths in, the objective averages by itself where it has to."""
    name = case["loss"]
    record = pair_record(case["inputs"], "policy_{}_logps_sum")
    args = {"loss_type": None} if name == "simpo" else {}
    return pair_outputs(record, LOSSES.get(name).fn(record, args_of(name, case["params"] | args)))


def run_orpo(case: Case) -> Case:
    """Averages in; without lengths (one token each) only the odds-ratio part is asked for."""
    inputs = case["inputs"]
    record = pair_record(inputs, "policy_{}_logps_avg")
    scope, prompt = "completion", {}
    if any(inputs.get("prompt_predicted_tokens", ())):
        scope = "all"
        prompt = {
            "prompt_nll": numbers(inputs["prompt_nll_sum"]),
            "prompt_tokens": numbers(inputs["prompt_predicted_tokens"]),
        }
    policy = (record.policy * record.tokens).detach().requires_grad_()
    record = dc.replace(record, policy=policy, **prompt)
    loss = LOSSES.get("orpo").fn(record, args_of("orpo", case["params"], orpo_nll_scope=scope))
    outputs = pair_outputs(record, loss)
    (slope,) = torch.autograd.grad(loss.rows.mean(), record.policy)
    slope = slope * record.tokens  # with respect to the average
    return {
        **outputs,
        "beta_times_log_sigmoid": -loss.rows,
        "mean_log_sigmoid_log_odds": loss.metrics["log_odds_ratio"].mean(),
        "mean_log_odds": loss.metrics["log_odds_chosen"].mean(),
        "grad_chosen_logps_avg": slope[:, 0],
        "grad_rejected_logps_avg": slope[:, 1],
    }


def run_kto(case: Case) -> Case:
    """The KL point arrives as the mean over the global batch, not yet clamped."""
    inputs = case["inputs"]
    policy = numbers(inputs["policy_logps"]).requires_grad_()
    kl = (numbers(inputs["policy_kl_logps"]) - numbers(inputs["ref_kl_logps"])).mean()
    good = torch.tensor(inputs["labels"])
    record = LabelledLogps(policy, torch.ones_like(policy), numbers(inputs["ref_logps"]), good, kl)
    loss = LOSSES.get("kto").fn(record, args_of("kto", case["params"]))
    (slope,) = torch.autograd.grad(loss.value, policy)
    measured = means_of(record, loss)
    return {
        "loss": loss.value,
        "losses": loss.rows,
        "rewards": loss.rewards,
        "kl": measured["kl"],
        "grad_policy_logps": slope,
        "metrics": measured,
    }


def run_logps(case: Case) -> Case:
    """Position t predicts label t + 1. The logits are hidden states under an identity head."""
    token_logps = pytest.importorskip("swiftlike.models.logps").token_logps
    logits, labels = numbers(case["inputs"]["logits"]), torch.tensor(case["inputs"]["labels"])
    targets = labels[:, 1:]
    counted = targets != -100
    head = torch.eye(logits.shape[-1], dtype=logits.dtype)
    sums = torch.zeros(counted.shape, dtype=logits.dtype)
    sums[counted], _ = token_logps(logits[:, :-1][counted], head, targets[counted], chunk=2)
    lengths = counted.sum(dim=1)
    return {"logps_sum": sums.sum(dim=1), "logps_avg": sums.sum(dim=1) / lengths, "n_tokens": lengths}


ADAPTERS: dict[str, Adapter] = {
    "logps": run_logps,
    "dpo": run_dpo,
    "dpo_rpo": run_dpo_rpo,
    "cpo": run_cpo,
    "simpo": run_cpo,
    "orpo": run_orpo,
    "kto": run_kto,
}

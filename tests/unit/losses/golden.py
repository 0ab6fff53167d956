"""Reference numbers: reading them, calling the shipped objectives on their inputs, and how near is near enough."""

from __future__ import annotations

import dataclasses as dc
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from swiftlike.losses import LOSSES
from swiftlike.losses.base import GroupLogps, LabelledLogps, Loss
from swiftlike.losses.metrics import preference_metrics, with_margins
from swiftlike.losses.terms import chosen_nll

Case = dict[str, Any]
SCHEMA = "swiftlike-golden/1"

# family of a case -> objective that must reproduce it; a family without an adapter below waits for its objective
OBJECTIVES = {
    **dict.fromkeys(("dpo", "dpo_rpo", "trl093_sigmoid"), "dpo"),
    **dict.fromkeys(("simpo", "trl093_simpo"), "simpo"),
    **{name: name for name in ("cpo", "orpo", "kto", "rm", "beta_dpo", "aipo", "apo_rm")},
    **dict.fromkeys(("beta_dpo_trajectory", "beta_dpo_distributed"), "beta_dpo"),
    **dict.fromkeys(("exo_pref", "exo_rw", "dpo_pref", "dpo_rw"), "exo"),
    **dict.fromkeys(("alpha_dpo", "nll_loss", "aipo_batch"), "aipo"),
    **dict.fromkeys(("apo_rm_pairs", "apo_metrics", "calibration"), "apo_rm"),
}
# families that describe data or pipelines: their tests live with those
NOT_OBJECTIVES = {
    **dict.fromkeys(("exo_vectorize", "exo_rm_vectorize", "exo_sft_vectorize", "pref_to_rw"), "EXO data"),
    **dict.fromkeys(("beta_dpo_tokenize", "hh_prompt_split"), "beta-DPO data"),
    **dict.fromkeys(("apo_item", "apo_convert", "apo_rejection", "apo_reject_sample_load"), "APO data"),
    **dict.fromkeys(("arena_verdict", "arena_hard_score", "summary_table"), "evaluation tools"),
    **dict.fromkeys(
        ("self_instruct_parse", "self_instruct_loop", "self_instruct_prompt", "dpo_row", "generation_row", "chunk"),
        "AIPO pipeline",
    ),
    **dict.fromkeys(
        ("filter_truncation", "filter_prompt", "filter_urls", "chat_template", "preference_pair"), "AIPO pipeline"
    ),
}
# outputs that a family shares a file with, but that another objective defines
NOT_HERE = {
    "trl093_sigmoid": {"policy_margin", "reference_margin", "regularization_term"},
    "trl093_simpo": {
        "policy_margin",
        "reference_margin",
        "regularization_term",
        "chosen_rewards",
        "rejected_rewards",
    },
}


def read_cases(folder: Path) -> Iterator[tuple[str, Case]]:
    """(test id, case) of every golden file in a folder. UsageError when there is none.

    Files whose cases have no "loss" belong to other parts of the package, which share the folder.
    """
    found = False
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            continue
        for case in content["cases"]:
            if "loss" in case:
                found = True
                yield f"{folder.name}-{path.stem}-{case['name']}", case
    if not found:
        raise pytest.UsageError(f"--golden {folder}: no golden file there")


def family(case: Case) -> str:
    """The case's family; AIPO's trainer reuses two names of others for formulas it inherits from TRL 0.9.3."""
    name: str = case["loss"]
    if name in ("sigmoid", "simpo") and "lambda" in case["params"]:
        return "alpha_dpo" if name == "sigmoid" and case["params"].get("gamma") else f"trl093_{name}"
    return name


def check(case: Case) -> None:
    """Run a case; skip it, with the reason, when nothing shipped is meant to reproduce it."""
    name = family(case)
    if any(mark in case.get("notes", "") for mark in ("DEFECT", "NOT the formula to ship")):
        pytest.skip(f"not a target: {case['notes']}")
    if name in NOT_OBJECTIVES:
        pytest.skip(f"{name} is not an objective but belongs to: {NOT_OBJECTIVES[name]}")
    if name not in ADAPTERS:
        assert name in OBJECTIVES, f"nobody knows golden cases of family {name!r}"
        assert OBJECTIVES[name] not in LOSSES, f"objective {OBJECTIVES[name]} needs an adapter for family {name!r}"
        pytest.skip(f"objective {OBJECTIVES[name]} is not in the registry yet")
    expected = {key: value for key, value in case["outputs"].items() if key not in NOT_HERE.get(name, ())}
    compare(ADAPTERS[name](case), expected, case)


def compare(actual: Any, expected: Any, case: Case, path: str = "") -> None:
    """Everything in `expected` is in `actual` and near it. NaN equals NaN, and what is absent."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            if key != "grad_is":  # a text about the file
                compare(actual.get(key), value, case, f"{path}{key}.")
        return
    near = tolerance(case, path)
    want = numbers(expected)
    got = torch.as_tensor(math.nan if actual is None else actual, dtype=torch.float64).detach()
    got = got.expand_as(want) if actual is None else got
    torch.testing.assert_close(
        got, want, rtol=near, atol=near, equal_nan=True, msg=lambda text: f"{case['name']}: {path[:-1]}: {text}"
    )


def tolerance(case: Case, path: str) -> float:
    """As the golden README says. Shares of rows were averaged in float32 whatever the case's precision."""
    if "accuracies" in path:
        return 1e-6
    exact_part = "float64 elsewhere" in case["dtype"] and path.startswith(("metrics.nll_loss", "metrics.logps/"))
    if "float32" not in case["dtype"] or exact_part:
        return 1e-9
    return 2e-5 if family(case) == "orpo" else 1e-5


def numbers(values: Any) -> torch.Tensor:
    """Nested lists of numbers to float64; `NaN` and `Infinity` may be texts."""

    def plain(value: Any) -> Any:
        return [plain(one) for one in value] if isinstance(value, list) else float(value)

    return torch.tensor(plain(values), dtype=torch.float64)


# ---------------------------------------------------------------------------------------------------- adapters


def args_of(name: str, params: dict[str, Any], **fixed: Any) -> Any:
    """The objective's arguments from a case's parameters, which may say None for "not used" and have more names."""
    cls = LOSSES.get(name).args
    given = {field.name: params[field.name] for field in dc.fields(cls) if params.get(field.name) is not None}
    if isinstance(given.get("loss_type"), str):
        given["loss_type"] = [given["loss_type"]]
    return cls(**given | fixed)


def pair_record(inputs: dict[str, Any], policy: str = "policy_{}_logps", **more: Any) -> GroupLogps:
    """[B, 2] from the chosen and rejected lists of a case; answers of unknown length count as one token."""
    values = torch.stack([numbers(inputs[policy.format(side)]) for side in ("chosen", "rejected")], dim=1)
    tokens = torch.ones_like(values)
    if "chosen_lengths" in inputs:
        tokens = torch.stack([numbers(inputs[f"{side}_lengths"]) for side in ("chosen", "rejected")], dim=1)
    if "ref_chosen_logps" in inputs:
        more["reference"] = torch.stack([numbers(inputs[f"ref_{side}_logps"]) for side in ("chosen", "rejected")], 1)
    return GroupLogps(values.requires_grad_(), tokens, **more)


def pair_outputs(record: GroupLogps, loss: Loss) -> Case:
    """Every output that a pair objective can be asked for, under the names of the golden files."""
    (slope,) = torch.autograd.grad(loss.value, record.policy, retain_graph=True)
    measured = {"nll_loss": 0.0} | means_of(record, loss)
    outputs = {"loss": loss.value, "losses": loss.rows, "nll_loss": measured["nll_loss"], "metrics": measured}
    for column, side in enumerate(("chosen", "rejected")):
        outputs[f"{side}_rewards"] = loss.rewards[:, column]
        # tokens enter a sum with factor 1: both derivatives are the same number
        outputs[f"grad_{side}_logps"] = outputs[f"grad_{side}_token_logps"] = slope[:, column]
    return outputs


def means_of(record: GroupLogps | LabelledLogps, loss: Loss) -> dict[str, float]:
    """The metrics as a trainer logs them for a single batch; a class without rows has none."""
    sums = preference_metrics(record, loss)
    return with_margins({name: (total / count).item() for name, (total, count) in sums.items() if count})


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


def run_trl093(case: Case) -> Case:
    """AIPO's trainer with `sigmoid` (this is DPO) or `simpo` (SimPO without an NLL; its rewards are DPO's)."""
    record, params = pair_record(case["inputs"]), case["params"]
    if case["loss"] == "sigmoid":
        return pair_outputs(record, LOSSES.get("dpo").fn(record, args_of("dpo", params, rpo_alpha=None)))
    args = args_of("simpo", params, simpo_gamma=params["gamma"] or 0.0, cpo_alpha=0.0)
    return pair_outputs(record, LOSSES.get("simpo").fn(record, args))


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


ADAPTERS: dict[str, Callable[[Case], Case]] = {
    "logps": run_logps,
    "dpo": run_dpo,
    "dpo_rpo": run_dpo_rpo,
    "cpo": run_cpo,
    "simpo": run_cpo,
    "trl093_sigmoid": run_trl093,
    "trl093_simpo": run_trl093,
    "orpo": run_orpo,
    "kto": run_kto,
}

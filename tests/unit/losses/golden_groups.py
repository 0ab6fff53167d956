"""EXO over groups of answers, beta-DPO with its state, AIPO."""

from __future__ import annotations

import dataclasses as dc
import math

import numpy as np
import torch

from swiftlike.data.collate import Collator, Item
from swiftlike.data.encode import Encoded, Span
from swiftlike.losses import LOSSES
from swiftlike.losses.aipo import AipoArgs
from swiftlike.losses.base import GroupLogps
from swiftlike.losses.beta_dpo import BetaDpoArgs, Decision, State, batch_beta, beta_dpo, collect, log_weights
from swiftlike.losses.exo import ExoArgs
from swiftlike.models.logps import group_logps, token_logps

from .golden import Adapter, Case, numbers
from .pairs import args_of, means_of, pair_outputs, pair_record

# -- EXO ---------------------------------------------------------------------------------------------------------------


def run_exo(case: Case) -> Case:
    """From token logits on: which positions count, the temperature, sums, groups, loss."""
    inputs, params = case["inputs"], case["params"]
    smoothing = {} if params["log_epsilon"] is None else {"exo_label_smoothing": math.exp(params["log_epsilon"])}
    args = ExoArgs(
        **smoothing,
        loss_type=[params["loss_type"]],
        num_contrastive=params["num_contrastive"],
        beta_pi=params["beta_pi"],
        beta_r=params["beta_r"],
        temperature=params["temp"],
        tie_policy="second",
    )
    tokens = inputs["token_level"]
    batch = exo_batch(tokens)
    used = batch["input_ids"].shape[1]
    sums = {}
    for side in ("policy", "ref"):
        logits = numbers(tokens[f"{side}_logits"])[:, :used].flatten(0, 1)
        head = torch.eye(logits.shape[1], dtype=logits.dtype)
        scored = token_logps(logits[batch["predict"]], head, batch["targets"], temperature=args.temperature)
        sums[side] = group_logps(scored, batch)["policy"].flatten()
        torch.testing.assert_close(sums[side], numbers(inputs[f"{side}_logps"]), rtol=1e-9, atol=1e-9)
    scores = numbers(inputs["rewards"])[None]
    policy = sums["policy"][None].requires_grad_()
    record = GroupLogps(
        policy, torch.ones_like(policy), sums["ref"][None], scores=scores, present=torch.ones_like(scores).bool()
    )
    loss = LOSSES.get("exo").fn(record, args)
    (slope,) = torch.autograd.grad(loss.value, policy)
    rows, length = len(tokens["input_ids"]), len(tokens["input_ids"][0])
    mask = torch.zeros(rows, length, dtype=torch.long)
    mask[batch["predict"] // used, batch["predict"] % used] = 1
    return {
        "loss": loss.value,
        "per_group_losses": loss.rows,
        "grad_policy_logps": slope[0],
        "completion_mask_shifted": mask[:, :-1],
    }


def exo_batch(tokens: Case) -> dict[str, torch.Tensor]:
    """What the collator makes of sequences whose prompts and completions have the given lengths."""
    items = []
    for ids, attention, prompt in zip(
        tokens["input_ids"], tokens["attention_mask"], tokens["prompt_lens"], strict=True
    ):
        used = np.array(ids[: sum(attention)], np.int32)
        whole = Span(used[:prompt], np.zeros(prompt, bool))
        items.append(Item(Encoded(whole, (Span(used[prompt:], np.ones(len(used) - prompt, bool)),))))
    return Collator(pad_id=0, layout="split")(items)


# -- beta-DPO ----------------------------------------------------------------------------------------------------------


@dc.dataclass
class Known:
    """Ranks whose other members are known: what they would send, and the mask that was drawn."""

    everyone: torch.Tensor
    mask: torch.Tensor
    before: int = 0
    rows: int = 0

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        self.rows = len(values)
        torch.testing.assert_close(self.everyone[self.before : self.before + self.rows], values.detach())
        return self.everyone

    def share(self, values: torch.Tensor) -> torch.Tensor:
        assert values.sum() == self.mask.sum(), "as many rows are drawn as the original keeps"
        return self.mask

    def own(self, values: torch.Tensor) -> torch.Tensor:
        return values[self.before : self.before + self.rows]


def beta_args(params: Case) -> BetaDpoArgs:
    return BetaDpoArgs(
        beta=params["beta"],
        beta_scale=params["a"],
        beta_filter_ratio=params["mode_weight"],
        beta_momentum=params.get("momentum", 0.9),
        reference_free=params.get("reference_free", False),
    )


def gaps_of(record: GroupLogps) -> torch.Tensor:
    return (record.ratios[:, 0] - record.ratios[:, 1]).detach()


def decided(record: GroupLogps, args: BetaDpoArgs, decision: Decision) -> Case:
    """Outputs of a batch that was decided on; the rows' losses before the mask are those of a mask of ones."""
    loss = beta_dpo(record, args, decision)
    whole = beta_dpo(record, args, dc.replace(decision, mask=torch.ones_like(decision.mask)))
    rewards = loss.rewards
    measured = means_of(record, loss)
    state = decision.state
    return pair_outputs(record, loss) | {
        "losses": whole.rows,
        "per_example_losses": whole.rows,
        "gaps": gaps_of(record),
        "beta_used": measured["beta_dpo/beta"],
        "mask_count": [measured["beta_dpo/kept"]],
        "gap_mean": [measured["beta_dpo/gap_mean"]],
        "gap_std": [measured["beta_dpo/gap_std"]],
        "loss_mean": [state.loss_mean],
        "loss_std": [state.loss_std],
        "mask": decision.mask,
        "local_mask": decision.mask,
        "n_kept": decision.kept,
        "accuracies": (rewards[:, 0] > rewards[:, 1]).double(),
        "margins": rewards[:, 0] - rewards[:, 1],
    }


def run_beta_dpo(case: Case) -> Case:
    """One call with statistics that are up to date already, and the drawn mask."""
    record, args, inputs = pair_record(case["inputs"]), beta_args(case["params"]), case["inputs"]
    state = State(seed=0, gap_mean=inputs["gap_mean"], gap_std=inputs["gap_std"])
    mask, gaps = numbers(inputs["mask"]), gaps_of(record)
    beta = batch_beta(gaps, mask, state, args)
    outputs = decided(record, args, Decision(beta, mask, int(mask.sum()), state))
    return outputs | {"beta_used": [outputs["beta_used"]], "weights": log_weights(gaps, state).exp()}


def run_trajectory(case: Case) -> Case:
    """Statistics over batches. The original moves them in evaluation too, so here evaluation batches count as well;
    the trainer never does that (test_beta_dpo.py)."""
    args, params = beta_args(case["params"]), case["params"]
    state = State(seed=0, gap_mean=params["init_mean"], gap_std=params["init_std"])
    steps = []
    for step in case["inputs"]["steps"]:
        record = pair_record(step)
        decision, state = collect(record, args, state, Known(gaps_of(record), numbers(step["mask"])))
        outputs = decided(record, args, decision)
        steps.append(outputs | {"beta_used": [outputs["beta_used"]]})
    return {"steps": steps}


def run_distributed(case: Case) -> Case:
    """Two ranks that see each other's gaps and the same mask."""
    args, inputs = beta_args(case["params"]), case["inputs"]
    state = State(seed=0, gap_mean=inputs["gap_mean_before"], gap_std=inputs["gap_std_before"])
    records = [pair_record(rank) for rank in inputs["ranks"]]
    everyone = torch.cat([gaps_of(record) for record in records])
    mask = torch.cat([numbers(rank["local_mask"]) for rank in inputs["ranks"]])
    ranks, before = [], 0
    for record in records:
        decision, _ = collect(record, args, state, Known(everyone, mask, before))
        before += len(record.policy)
        outputs = decided(record, args, decision)
        ranks.append(outputs | {"beta_used": [outputs["beta_used"]] * len(records)})
    losses = torch.cat([rank["losses"] for rank in ranks])
    return {"ranks": [rank | {"gathered_losses": losses} for rank in ranks]}


# -- AIPO --------------------------------------------------------------------------------------------------------------


def run_aipo(case: Case) -> Case:
    """Every loss type of AIPO's trainer. Without a reference it is DPO's to compute, with an old-style NLL nobody's."""
    params, record = case["params"], pair_record(case["inputs"])
    if params.get("reference_free") or params.get("rpo_alpha"):
        args = args_of("dpo", params, rpo_alpha=params.get("rpo_alpha"), loss_type=["sigmoid"])
        loss = LOSSES.get("dpo").fn(record, args)
        shift, margins = -0.0, {}
    else:
        args = AipoArgs(
            beta=params["beta"],
            aipo_alpha=params["alpha"] or 0.0,
            aipo_lambda=params["lambda"] or 0.0,
            aipo_gamma=params.get("gamma") or 0.0,
            label_smoothing=params["label_smoothing"],
            loss_type=[params["loss_type"]],
        )
        loss = LOSSES.get("aipo").fn(record, args)
        shift = loss.metrics["regularization_term"]
        margins = {f"{name}_margin": loss.metrics[f"margin/{name}"] for name in ("policy", "reference")}
    outputs = pair_outputs(record, loss)
    prefix = "eval_" if params.get("train_eval") == "eval" else ""
    measured = {prefix + name: value for name, value in outputs["metrics"].items()}
    if not margins:
        policy, reference = record.policy.detach(), record.reference
        margins = {
            "policy_margin": params["beta"] * (policy[:, 0] - policy[:, 1]),
            "reference_margin": params["beta"] * (reference[:, 0] - reference[:, 1]),
        }
        if params.get("reference_free"):  # one zero there, whatever the batch
            margins["reference_margin"] = torch.zeros(1)
    return outputs | margins | {"regularization_term": shift, "metrics": measured}


ADAPTERS: dict[str, Adapter] = {
    **dict.fromkeys(("exo_pref", "exo_rw", "dpo_pref", "dpo_rw"), run_exo),
    "beta_dpo": run_beta_dpo,
    "beta_dpo_trajectory": run_trajectory,
    "beta_dpo_distributed": run_distributed,
    **dict.fromkeys(("aipo", "alpha_dpo", "nll_loss", "aipo_batch", "trl093_sigmoid", "trl093_simpo"), run_aipo),
}

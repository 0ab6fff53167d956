"""beta-DPO: DPO whose beta follows the gaps of each batch, and which leaves outliers out."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from swiftlike.core.declare import arg, section
from swiftlike.losses.base import GroupLogps, Loss, LossCard, Ranks, log_sigmoid
from swiftlike.losses.terms import pair_difference, widened

if TYPE_CHECKING:
    from torch import Generator, Tensor

FEW = 4  # rows whose spread says little


@section
class BetaDpoArgs:
    """Flags of --rlhf_type beta_dpo."""

    beta: float = arg(0.1, "beta at an average gap; evaluation uses it as it is", ge=0)
    beta_scale: float = arg(0.6, "how strongly beta follows the (unscaled) gap of a batch")
    beta_filter_ratio: float = arg(0.2, "share of each batch that is left out as outliers", ge=0, le=0.99)
    beta_momentum: float = arg(0.9, "share of the old value in the running mean and deviation", ge=0, le=1)
    beta_min: float = arg(1e-3, "beta is never lower", ge=0)
    beta_stats_init: Literal["zero", "batch"] = arg(
        "zero", "running mean and deviation start at zero (as in the original), or at those of the first batch"
    )
    reference_free: bool = arg(False, "drop the reference from the loss (statistics and rewards still use it)")


@dc.dataclass(frozen=True)
class State:
    """Running mean and standard deviation of the gap and of the plain DPO loss. `draws` masks were drawn so far, each
    from `seed` and its number."""

    seed: int
    draws: int = 0
    gap_mean: float = 0.0
    gap_std: float = 0.0
    loss_mean: float = 0.0
    loss_std: float = 0.0


@dc.dataclass(frozen=True)
class Decision:
    """What a batch of all ranks decides for each: beta, and `mask` [B] of this rank's rows that are kept.

    `kept` counts them over all ranks.
    """

    beta: float
    mask: Tensor
    kept: int
    state: State


def moved(state: State, gaps: Tensor, args: BetaDpoArgs) -> State:
    """`M <- m M + (1-m) mean(g)`, `S <- m S + (1-m) std(g)` with the n-1 divisor, and the same for the plain losses
    `-log s(b0 g)`, which are only logged. A single row has no deviation and changes none."""
    losses = -log_sigmoid(args.beta * gaps)
    from_batch = args.beta_stats_init == "batch"
    m = 0.0 if from_batch and not state.draws else args.beta_momentum
    k = 0.0 if from_batch and not state.gap_std else args.beta_momentum  # a batch of one has left it at zero
    several = len(gaps) > 1
    return State(
        seed=state.seed,
        draws=state.draws + 1,
        gap_mean=m * state.gap_mean + (1 - m) * gaps.mean().item(),
        gap_std=k * state.gap_std + (1 - k) * gaps.std().item() if several else state.gap_std,
        loss_mean=m * state.loss_mean + (1 - m) * losses.mean().item(),
        loss_std=k * state.loss_std + (1 - k) * losses.std().item() if several else state.loss_std,
    )


def log_weights(gaps: Tensor, state: State) -> Tensor:
    """`-((g - M) / S)^2 / 2`: the logarithm of how likely a row is kept. Equal where S says nothing."""
    if len(gaps) < 2 or not math.isfinite(state.gap_std) or state.gap_std < 1e-8:
        return gaps.new_zeros(gaps.shape)
    return -0.5 * ((gaps - state.gap_mean) / state.gap_std).square()


def kept(rows: int, args: BetaDpoArgs) -> int:
    """How many rows of a batch are trained on: at least one."""
    return max(1, math.floor(rows * (1 - args.beta_filter_ratio) + 1e-9))


def draw(weights: Tensor, count: int, generator: Generator) -> Tensor:
    """A 0/1 mask [N] with `count` ones, drawn without replacement by log-weights (Gumbel top-k: nothing underflows)."""
    import torch

    uniform = torch.rand(len(weights), dtype=torch.float64, generator=generator).clamp(min=1e-300)
    keys = weights.double().cpu() - torch.log(-torch.log(uniform))
    return torch.zeros(len(weights), dtype=torch.float64).index_fill(0, keys.topk(count).indices, 1.0).to(weights)


def batch_beta(gaps: Tensor, mask: Tensor, state: State, args: BetaDpoArgs) -> float:
    """`max(b0 (1 + a (mean of the kept gaps - M)), minimum)`."""
    mean = (gaps * mask).sum().item() / max(mask.sum().item(), 1)
    return max(args.beta * (1 + args.beta_scale * (mean - state.gap_mean)), args.beta_min)


def collect(record: GroupLogps, args: BetaDpoArgs, state: State, ranks: Ranks) -> tuple[Decision, State]:
    """Statistics over all ranks, then the mask, which rank 0 draws for all, then beta."""
    import torch

    gaps = ranks.gather(pair_difference(widened(record).ratios))
    state = moved(state, gaps, args)
    generator = torch.Generator().manual_seed((state.seed + 1_000_003 * state.draws) % 2**63)
    mask = ranks.share(draw(log_weights(gaps, state), kept(len(gaps), args), generator))
    beta = batch_beta(gaps, mask, state, args)
    return Decision(beta, ranks.own(mask), int(mask.sum()), state), state


def beta_dpo(record: GroupLogps, args: BetaDpoArgs, decision: Decision | None) -> Loss:
    """`sum_i mask_i (-log s(b g_i)) / kept` (Wu et al. 2024), b and the mask decided by the batch of all ranks.

    Evaluation has no decision: beta as given, every row. Rewards are scaled with beta as given in both.
    """
    record = widened(record)
    rewards = args.beta * record.ratios.detach()
    gaps = pair_difference(record.policy if args.reference_free else record.ratios)
    if decision is None:
        return Loss(-log_sigmoid(args.beta * gaps), rewards)
    rows = -log_sigmoid(decision.beta * gaps) * decision.mask
    state = decision.state
    facts = {
        "beta_dpo/beta": decision.beta,
        "beta_dpo/gap_mean": state.gap_mean,
        "beta_dpo/gap_std": state.gap_std,
        "beta_dpo/loss_mean": state.loss_mean,
        "beta_dpo/loss_std": state.loss_std,
        "beta_dpo/kept": decision.kept,
    }
    metrics = {name: rows.new_tensor(float(value)) for name, value in facts.items()}
    return Loss(rows, rewards, count=decision.mask.sum(), metrics=metrics)


def advice(rows: Sequence[Any], args: BetaDpoArgs, together: int) -> str | None:
    """Warns when the rows of a forward pass are too few to have a spread."""
    if together >= FEW:
        return None
    return (
        f"beta_dpo reads mean and spread of the rows of one forward pass over all processes, and these are {together}: "
        "raise --batch_size and lower --gradient_accumulation_steps"
    )


def words(args: BetaDpoArgs) -> str:
    """`beta-DPO(beta 0.1 x (1 + 0.6 x (gap - its mean)), 20 % left out)`."""
    more = f"{args.beta_filter_ratio:.0%} of each batch left out" + ", no reference" * args.reference_free
    return f"beta-DPO(beta {args.beta} x (1 + {args.beta_scale} x (gap - its mean)), {more})"


CARD = LossCard(
    name="beta_dpo",
    fn=beta_dpo,
    args=BetaDpoArgs,
    data="pair",
    paper="https://arxiv.org/abs/2407.08639",
    summary="DPO with a beta that follows the gaps of each batch, and outliers left out",
    words=words,
    needs_reference=lambda args: True,
    start=lambda args, seed: State(seed),
    collect=collect,
    kept=kept,
    advice=advice,
    formula="mean over kept pairs of -log s(b g), g = d(w) - d(l), b = max(beta (1 + beta_scale (mean of kept g - "
    "M)), beta_min); kept with weights exp(-((g - M) / S)^2 / 2)",
    when="You have pairs of mixed quality (some nearly equal, some mislabelled) and cannot tune beta for each "
    "set. Needs several rows in one forward pass.",
    defaults="beta 0.1 and beta_scale 0.6 of the original's README; a fifth left out, momentum 0.9 and the lowest "
    "beta 0.001 of its code.",
    differs=(
        "The original stops with an error when all gaps are equal (the first batch, policy = reference), when "
        "they jump (all weights underflow), and on a batch of one; here weights are drawn in log space and "
        "are equal where the deviation says nothing.",
        "Its evaluation moves the running statistics and draws random numbers; here evaluation uses beta as "
        "given, every row, and changes nothing.",
        "Its running statistics are lost on resume; here they are in the checkpoint.",
        "Its processes agree on the mask by sharing a seed and divide by their own kept rows; here rank 0 "
        "draws for all, and every kept row weighs the same.",
        "It accepts label smoothing and ignores it; here there is none. The scale multiplies the gap without "
        "beta, as in the code (the paper writes rewards).",
    ),
)

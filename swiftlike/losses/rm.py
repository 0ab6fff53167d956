"""A reward model from pairs: a scalar for each answer, so that differences say which answer is preferred."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from swiftlike.core.declare import arg, section
from swiftlike.losses.base import GroupRewards, Loss, LossCard, log_sigmoid
from swiftlike.losses.terms import pair_difference, widened

if TYPE_CHECKING:
    from torch import Tensor


class Head(Protocol):
    """The flags of every objective that trains a reward model."""

    @property
    def rm_pooling(self) -> str: ...
    @property
    def rm_head_dropout(self) -> float: ...


@section
class RmArgs:
    """Flags of --rlhf_type rm."""

    center_rewards_coefficient: float | None = arg(
        None, "factor of the squared sum of a pair's rewards, which keeps them around 0; 0.01 is usual", ge=0
    )
    rm_pooling: Literal["eos", "last", "mean", "max"] = arg(
        "eos", "what a reward is read from: the last token, the one before the end token, or all tokens of the sequence"
    )
    rm_head_bias: bool | None = arg(
        None, "whether the reward head has a bias; none: with LoRA yes, in full training no (as classifiers have it)"
    )
    rm_head_dropout: float = arg(0.0, "dropout before the reward head; ms-swift 2.5 has 0.1", ge=0, le=1)

    @property
    def moves_bias(self) -> bool:
        """Whether the head's bias has a gradient: differences of rewards do not see it, and an optimiser that divides
        by the size of gradients would make steps of rounding errors."""
        return bool(self.center_rewards_coefficient)


def rm(record: GroupRewards, args: RmArgs) -> Loss:
    """`-log s(s(w) - s(l) - m) + c (s(w) + s(l))^2`: Bradley-Terry (Ouyang et al. 2022 eq. 1) with a margin m
    (Llama 2) and rewards centred at 0 (Eisenstein et al. 2023). Pairs that lack an answer count nowhere."""
    import torch

    record = widened(record)
    difference = pair_difference(record.rewards)
    rows = -log_sigmoid(difference if record.margin is None else difference - record.margin)
    if args.center_rewards_coefficient:
        rows = rows + args.center_rewards_coefficient * record.rewards.sum(1).square()
    whole = record.present.all(1)
    rewards = record.rewards.detach()
    chosen, rejected = rewards[whole].unbind(1)
    both = rewards[whole].flatten()
    metrics = {"margin": chosen - rejected, "min_reward": both, "mean_reward": both, "max_reward": both}
    metrics |= pair_metrics(chosen, rejected)
    return Loss(torch.where(whole, rows, 0), rewards, count=whole.sum(), metrics=metrics)


def pair_metrics(chosen: Tensor, rejected: Tensor) -> dict[str, Tensor]:
    """Rewards of the better and of the worse answer of each pair, under the names of preference losses."""
    right = (chosen > rejected).to(chosen.dtype)
    return {
        "accuracy": right,
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": right,
    }


def units(scores: Tensor | None, present: Tensor, args: RmArgs) -> Tensor:
    """Pairs of a micro-batch that have both answers."""
    return present.all(1).sum()


def head_words(args: Head) -> str:
    """`reward read from the last token`, with the head's dropout where there is any."""
    read = {"eos": "the last token", "last": "the token before the end", "mean": "the mean of all tokens"}
    dropout = f", head dropout {args.rm_head_dropout}" if args.rm_head_dropout else ""
    return f"reward read from {read.get(args.rm_pooling, 'the largest of each feature')}{dropout}"


def words(args: RmArgs) -> str:
    """`Bradley-Terry(reward read from the last token) + 0.01 x (sum of rewards)^2`."""
    center = args.center_rewards_coefficient
    return f"Bradley-Terry({head_words(args)})" + (f" + {center} x (sum of rewards)^2" if center else "")


CARD = LossCard(
    name="rm",
    fn=rm,
    args=RmArgs,
    data="pair",
    paper="https://arxiv.org/abs/2203.02155",
    summary="reward model: a scalar head trained on pairs (Bradley-Terry)",
    words=words,
    record="rewards",
    units=units,
    formula="mean of -log s(s(w) - s(l) - margin) + center_rewards_coefficient x mean of (s(w) + s(l))^2",
    when="You have pairs and need a number for each answer: to rank samples, to pick the best of n, to label data "
    "for exo. `margin` of a row asks for at least that difference.",
    defaults="The head has no dropout and reads the last token, as TRL does today. ms-swift 2.5.2 has dropout 0.1 "
    "before the head. center_rewards_coefficient is off; its paper (2312.09244) recommends 0.01.",
    differs=(
        "EXO reads the token before the end token in training and the end token when it scores; here --rm_pooling says "
        "which, for both.",
        "The token is found by the attention mask, not by counting padding ids, so a pad token that is also the end "
        "token does no harm.",
    ),
)

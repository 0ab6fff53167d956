"""The reward model of adversarial preference optimisation: lists with scores, annotated and adversarial ones mixed."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from swiftlike.core.declare import arg, section
from swiftlike.losses.base import GroupRewards, Loss, LossCard, log_sigmoid
from swiftlike.losses.calibration import as_bins, as_sums, bin_sums, edges, errors
from swiftlike.losses.rm import head_words, pair_metrics
from swiftlike.losses.terms import widened

if TYPE_CHECKING:
    from torch import Tensor

ADVERSARIAL = "apo"  # the mark of items that set a golden answer against a sample of the policy
_TINY = 1e-5


@section
class ApoRmArgs:
    """Flags of --rlhf_type apo_rm."""

    apo_loss_coeff: float = arg(0.1, "factor of the adversarial items (golden answer against sample)", ge=0)
    apo_sample_num: int | None = arg(
        None, "samples that each golden answer is set against; divides the factor; none: counted in the data", ge=1
    )
    rm_kl_coeff: float = arg(1.0, "factor of the annotated items, which hold the model to what people prefer", ge=0)
    apo_loss_type: Literal["ranking", "diff"] = arg(
        "ranking",
        "loss of adversarial items: ranking (log-sigmoid), or diff, the difference of the rewards (unbounded)",
    )
    task_type: Literal["apo", "rm"] = arg("apo", "apo: the factors above; rm: every item counts alike")
    rm_calibration: bool = arg(True, "calibration errors in evaluation, and the reliability diagram")
    calibration_bins: list[int] = arg([10], "numbers of bins that calibration is measured with")
    rm_pooling: Literal["eos", "last", "mean", "max"] = arg(
        "last",
        "what a reward is read from: the last token, the one before the end token, or all tokens of the sequence",
    )
    rm_head_bias: bool | None = arg(
        None, "whether the reward head has a bias; none: with LoRA yes, in full training no (as classifiers have it)"
    )
    rm_head_dropout: float = arg(0.0, "dropout before the reward head; ms-swift 2.5 has 0.1", ge=0, le=1)

    @property
    def moves_bias(self) -> bool:
        """Differences of rewards do not see the head's bias."""
        return False

    def problems(self) -> list[str]:
        """Values that do not go together."""
        found = [f"--calibration_bins {n}: give at least 1" for n in self.calibration_bins if n < 1]
        if self.rm_calibration and not self.calibration_bins:
            found.append("--calibration_bins: give at least one number, or --rm_calibration false")
        return found

    @property
    def adversarial_factor(self) -> float:
        """What each pair of an adversarial item is multiplied by."""
        return self.apo_loss_coeff / (self.apo_sample_num or 1)


def normalised_scores(scores: Sequence[float], args: Any = None) -> tuple[float, ...]:
    """Scores of one item brought into (0, 1): `(s - min + 1e-5) / (max - min + 2e-5)`. Equal scores become 0.5, so none
    is below 0, which marks answers that are not there."""
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    return tuple((score - low + _TINY) / (high - low + 2 * _TINY) for score in scores)


def preferred(scores: Tensor, present: Tensor) -> Tensor:
    """[B, K] to [B, K, K]: whether answer i is better than answer j. Both must be there, with scores from 0 on."""
    there = present & (scores >= 0)
    return (scores[:, :, None] > scores[:, None, :]) & there[:, :, None] & there[:, None, :]


def apo_rm(record: GroupRewards, args: ApoRmArgs) -> Loss:
    """`sum over pairs of c f(s(better) - s(worse)) / |P|`, P all pairs with different scores (Cheng et al. 2023).

    Annotated items: `c = rm_kl_coeff`, `f = -log s`. Adversarial ones: `c = apo_loss_coeff / apo_sample_num`, f the
    same, or minus the difference. |P| counts every pair of both kinds, whatever its factor. No pair: 0.
    """
    import torch

    if record.scores is None:
        raise ValueError("this objective needs scores of the answers")
    record = widened(record)
    assert record.scores is not None
    better = preferred(record.scores, record.present)
    difference = record.rewards[:, :, None] - record.rewards[:, None, :]
    ranking = -log_sigmoid(difference)
    if args.task_type == "rm" or record.adversarial is None:
        factor = 1.0 if args.task_type == "rm" else args.rm_kl_coeff
        pairs = factor * ranking
    else:
        game = ranking if args.apo_loss_type == "ranking" else -difference
        adversarial = record.adversarial[:, None, None]
        pairs = torch.where(adversarial, args.adversarial_factor * game, args.rm_kl_coeff * ranking)
    rows = torch.where(better, pairs, 0).sum((1, 2))
    rewards = record.rewards.detach()
    won, lost = rewards[:, :, None].expand_as(better)[better], rewards[:, None, :].expand_as(better)[better]
    real = record.present & (record.scores >= 0)
    return Loss(rows, rewards, count=better.sum(), metrics={**pair_metrics(won, lost), "avg_score": rewards[real]})


def units(scores: Tensor, present: Tensor, args: ApoRmArgs) -> Tensor:
    """Pairs of a micro-batch."""
    return preferred(scores, present).sum()


def measure(record: GroupRewards, args: ApoRmArgs) -> dict[str, tuple[Tensor, Tensor]]:
    """Sums of each bin over both orders of every pair: `s(u_i - u_j)` says how likely i is better than j."""
    import torch

    if not args.rm_calibration or record.scores is None:
        return {}
    better = preferred(record.scores, record.present)
    rewards = record.rewards.detach().double()
    probability = torch.sigmoid(rewards[:, :, None] - rewards[:, None, :])
    compared = better | better.transpose(1, 2)
    outcome, probability = better[compared], probability[compared]
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for n in args.calibration_bins:
        found |= as_sums(bin_sums(outcome, probability, edges(probability, n)))
    return found


def summarise(sums: Mapping[str, tuple[float, float]], args: ApoRmArgs) -> dict[str, float]:
    """`calibration_ECE_bin10` and its like, under the names of the original."""
    bins = as_bins(sums) if args.rm_calibration else {}
    empty: list[tuple[float, float, float]] = []
    return {
        f"calibration_{name}_bin{n}": value
        for n in (args.calibration_bins if args.rm_calibration else [])
        for name, value in errors(bins.get(n, empty)).items()
    }


def derive(rows: Sequence[Any], args: ApoRmArgs) -> dict[str, Any]:
    """How many samples a golden answer is usually set against: adversarial items of each prompt. Items without an id of
    their prompt cannot be told apart, and count as one prompt each."""
    if args.apo_sample_num is not None:
        return {}
    counts = Counter(row.prompt_id or f"item {i}" for i, row in enumerate(rows) if row.mark == ADVERSARIAL)
    return {"apo_sample_num": statistics.mode(sorted(counts.values()))} if counts else {}


def advice(rows: Sequence[Any], args: ApoRmArgs, together: int) -> str | None:
    """Items that say nothing, and items that cannot be told apart."""
    tied = sum(len(set(row.scores)) < 2 for row in rows)
    said = [f"{tied} of {len(rows)} items have no two different scores: they count nowhere"] if tied else []
    other = sorted({row.mark for row in rows} - {ADVERSARIAL, "", "hh"})
    if other:
        said.append(f"type {', '.join(map(repr, other))} is not {ADVERSARIAL!r}: such items count as annotated")
    game = [row for row in rows if row.mark == ADVERSARIAL]
    unnamed = sum(not row.prompt_id for row in game)
    if unnamed and args.task_type == "apo" and args.apo_sample_num == 1:
        said.append(
            f"{unnamed} adversarial items have no query_id, so --apo_sample_num cannot be counted in the data and is 1"
        )
    if game and args.task_type == "apo" and not args.apo_loss_coeff:
        said.append(f"--apo_loss_coeff 0: {len(game)} adversarial items only make the annotated ones count less")
    return "; ".join(said) or None


def words(args: ApoRmArgs) -> str:
    """`pairs of scored answers(...): 1.0 x annotated + 0.1 / 4 x adversarial (ranking)`."""
    if args.task_type == "rm":
        return f"ranking of all pairs of scored answers({head_words(args)})"
    number = args.apo_sample_num if args.apo_sample_num is not None else "apo_sample_num"
    game = f"{args.apo_loss_coeff} / {number} x adversarial pairs ({args.apo_loss_type})"
    return f"APO reward model({head_words(args)}): {args.rm_kl_coeff} x annotated pairs + {game}"


CARD = LossCard(
    name="apo_rm",
    fn=apo_rm,
    args=ApoRmArgs,
    data="ranked",
    paper="https://arxiv.org/abs/2311.08045",
    summary="reward model over lists of scored answers; APO's game of golden answers against samples",
    words=words,
    record="rewards",
    units=units,
    scaled=normalised_scores,
    derive=derive,
    advice=advice,
    measure=measure,
    summarise=summarise,
    formula="sum over pairs of c f(s(better) - s(worse)) / number of all pairs; annotated: c = rm_kl_coeff, f = -log "
    "sigmoid; adversarial: c = apo_loss_coeff / apo_sample_num, f the same or minus the difference",
    when="Answers come as lists with scores, or you train the reward model against samples of the policy (items with "
    "`type` apo). Evaluation reports accuracy, average score and calibration, and draws a reliability diagram.",
    defaults="apo_loss_coeff 0.1 is that of the original's README (its code has 0); apo_sample_num is counted in the "
    "data (the code has 1, the README 4).",
    differs=(
        "The number of pairs is that of the whole optimiser step, so how a step is split changes nothing; the original "
        "divides by those of each micro-batch, which with one item each never mixes both kinds.",
        "avg_score averages real answers only; the original's includes padding.",
        "The reward is read from the token before the end token, found by the attention mask.",
    ),
)

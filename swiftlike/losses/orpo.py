"""Odds-ratio preference optimisation: supervised fine-tuning with a penalty on the odds of the rejected answer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from swiftlike.core.declare import arg, section
from swiftlike.losses.base import GroupLogps, Loss, LossCard, Nll, log_sigmoid
from swiftlike.losses.metrics import pair_logps
from swiftlike.losses.terms import pair_difference, widened

if TYPE_CHECKING:
    from torch import Tensor


@section
class OrpoArgs:
    """Flags of --rlhf_type orpo."""

    beta: float = arg(0.1, "factor of the odds-ratio term (lambda in the paper)", ge=0)
    orpo_nll_scope: Literal["completion", "all"] = arg(
        "completion", "tokens of the NLL: the chosen completion's, or the prompt's as well (as TRL does)"
    )


def log1mexp(x: Tensor) -> Tensor:
    """`log(1 - exp(x))` for x <= 0, exact near 0 and far below it (Maechler 2012); finite gradients everywhere."""
    import torch

    x = x.clamp(max=-torch.finfo(x.dtype).tiny)  # a certain answer: log 0
    near = x > -math.log(2)
    # each branch sees only values it is good for: a NaN gradient would pass through torch.where
    return torch.where(near, (-x.where(near, -1).expm1()).log(), (-x.where(~near, -1).exp()).log1p())


def orpo(record: GroupLogps, args: OrpoArgs) -> Loss:
    """`NLL(w) - b mean_i log s(o(w) - o(l))`, `o(y) = A(y) - log(1 - exp A(y))`. Hong et al. 2024 eq. 6, 7."""
    record = widened(record)
    means = record.mean
    log_odds = pair_difference(means - log1mexp(means))
    ratio = log_sigmoid(log_odds)
    metrics = {"log_odds_ratio": ratio.detach(), "log_odds_chosen": log_odds.detach(), **pair_logps(means)}
    return Loss(-args.beta * ratio, args.beta * means.detach(), nll=_nll(record, args), metrics=metrics)


def _nll(record: GroupLogps, args: OrpoArgs) -> Nll:
    total = -record.policy[:, 0].sum()
    if args.orpo_nll_scope == "all":
        if record.prompt_nll is None:
            raise ValueError("--orpo_nll_scope all needs the log-probabilities of the prompt")
        total = total + record.prompt_nll.sum()
    return Nll(total, nll_tokens(record.tokens, record.prompt_tokens, args), 1.0)


def nll_tokens(tokens: Tensor, prompt_tokens: Tensor | None, args: OrpoArgs) -> Tensor:
    """Tokens in the NLL: the chosen completions', and the prompts' when the scope is `all`."""
    chosen = tokens[:, 0].sum()
    return chosen if args.orpo_nll_scope == "completion" or prompt_tokens is None else chosen + prompt_tokens.sum()


def words(args: OrpoArgs) -> str:
    """`ORPO: NLL(chosen) + 0.1 x odds ratio`."""
    return f"ORPO: NLL({'prompt and ' * (args.orpo_nll_scope == 'all')}chosen) + {args.beta} x odds ratio"


CARD = LossCard(
    name="orpo",
    fn=orpo,
    args=OrpoArgs,
    data="pair",
    paper="https://arxiv.org/abs/2403.07691",
    summary="odds-ratio preference optimisation: NLL plus a log odds ratio, no reference",
    words=words,
    needs_prompt_nll=lambda args: args.orpo_nll_scope == "all",
    nll_tokens=nll_tokens,
    formula="NLL(w) - beta mean of log s(o(w) - o(l)), o(y) = A(y) - log(1 - exp A(y))",
    when="You have pairs and a base model that was never fine-tuned: one stage instead of SFT and DPO, without "
    "a reference.",
    defaults="beta 0.1 (the paper's lambda) is TRL's and ms-swift's.",
    differs=(
        "TRL's NLL counts the prompt as well; here it is over the answer (--orpo_nll_scope all for TRL's).",
        "log(1 - exp A) loses all digits for likely answers when it is written as it stands; here it keeps them.",
    ),
)

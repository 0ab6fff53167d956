"""What every objective sees and gives back. Pure: no model, no batch, no global state. All sums are natural logs."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dc.dataclass(frozen=True)
class GroupLogps:
    """K completions of each of B prompts, best first (K = 2: chosen, rejected). Tensors are [B, K] unless said.

    `policy` and `reference` are summed log-probabilities of the counted tokens, `tokens` how many were counted,
    `scores` external rewards. `present` is False where a prompt has fewer than K completions. `prompt_nll` and
    `prompt_tokens` are [B]: minus the summed log-probability of the prompt's own tokens, given only on request.
    """

    policy: Tensor
    tokens: Tensor
    reference: Tensor | None = None
    scores: Tensor | None = None
    present: Tensor | None = None
    margin: Tensor | None = None
    prompt_nll: Tensor | None = None
    prompt_tokens: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        """Length-averaged log-probabilities."""
        return self.policy / self.tokens

    @property
    def ratios(self) -> Tensor:
        """d(y): policy minus reference."""
        if self.reference is None:
            raise ValueError("this objective needs reference log-probabilities")
        return self.policy - self.reference


@dc.dataclass(frozen=True)
class LabelledLogps:
    """Single answers marked good or bad (KTO). Tensors are [B]; `kl` is a scalar, already averaged over ranks."""

    policy: Tensor
    tokens: Tensor
    reference: Tensor
    desirable: Tensor
    kl: Tensor


@dc.dataclass(frozen=True)
class Nll:
    """A negative log-likelihood normalised by the tokens of the whole optimiser step, not of one micro-batch.

    `total` is the summed negative log-likelihood, `tokens` the number of tokens in it (both scalars), `weight` its
    factor in the loss.
    """

    total: Tensor
    tokens: Tensor
    weight: float


@dc.dataclass(frozen=True)
class Loss:
    """`rows` [B] are not averaged yet. The batch loss is `rows.mean() + nll.weight * nll.total / nll.tokens`.

    `rewards` are detached, shaped as the record ([B, K] or [B]). `metrics` values are detached scalars or [B].
    """

    rows: Tensor
    rewards: Tensor
    nll: Nll | None = None
    state: Any = None
    metrics: dict[str, Tensor] = dc.field(default_factory=dict)

    @property
    def value(self) -> Tensor:
        """The loss of this batch on its own."""
        mean = self.rows.mean()
        return mean if self.nll is None else mean + self.nll.weight * self.nll.total / self.nll.tokens


@dc.dataclass(frozen=True, kw_only=True)
class LossCard:
    """An objective. `fn` is `(record, args) -> Loss`, or `(record, args, state) -> Loss` when `start` is given.

    `record` says what it reads: "group" (GroupLogps), "labelled" (LabelledLogps), "rewards". `data` says what rows it
    needs: "completion", "pair", "labelled" or "ranked". `words` describes the loss of given arguments for the start-up
    line. `needs_reference(args)` decides whether a reference is loaded at all. `nll_tokens(tokens [B, K], prompt_tokens
    [B] or None, args)` counts the tokens of `Loss.nll` before the forward pass, for the whole optimiser step.
    `advice(labels of all rows, args)` may warn about the data before training.
    """

    name: str
    fn: Callable[..., Loss]
    args: type
    data: str
    paper: str
    summary: str
    words: Callable[[Any], str]
    record: str = "group"
    needs_reference: Callable[[Any], bool] = lambda args: False
    needs_prompt_nll: Callable[[Any], bool] = lambda args: False
    nll_tokens: Callable[[Any, Any, Any], Any] = lambda tokens, prompt_tokens, args: tokens[:, 0].sum()
    advice: Callable[[Any, Any], str | None] = lambda labels, args: None
    start: Callable[[], Any] | None = None
    dropout: bool = False  # preference losses compare two log-probabilities: dropout is turned off


def log_sigmoid(x: Tensor) -> Tensor:
    """Stable log of the logistic function."""
    from torch.nn.functional import logsigmoid

    return logsigmoid(x)

"""What every objective sees and gives back. Pure: no model, no batch, no global state. All sums are natural logs."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

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
class GroupRewards:
    """Scalar rewards of K completions of each of B prompts, from a reward model. Tensors are [B, K] unless said.

    Pairs are chosen, rejected. `present` is False where a prompt has fewer than K completions, `scores` is what the
    data says of each. `margin` and `adversarial` are [B]: the wanted difference, and whether the group sets a golden
    answer against samples of a policy (APO).
    """

    rewards: Tensor
    present: Tensor
    scores: Tensor | None = None
    margin: Tensor | None = None
    adversarial: Tensor | None = None


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
    """`rows` are not averaged yet: their sum is divided by `count` units (default: one for each entry).

    `rewards` are detached, shaped as the record ([B, K] or [B]). `metrics` values are detached, averaged over their
    entries; those called min_* and max_* are extremes.
    """

    rows: Tensor
    rewards: Tensor
    nll: Nll | None = None
    count: Tensor | None = None
    metrics: dict[str, Tensor] = dc.field(default_factory=dict)

    @property
    def units(self) -> Tensor:
        """What the sum of `rows` is divided by, a scalar."""
        return self.rows.new_tensor(float(self.rows.numel())) if self.count is None else self.count.to(self.rows.dtype)

    @property
    def value(self) -> Tensor:
        """The loss of this batch on its own."""
        mean = self.rows.sum() / self.units.clamp(min=1)
        return mean if self.nll is None else mean + self.nll.weight * self.nll.total / self.nll.tokens


class Ranks(Protocol):
    """The processes of a run, for objectives that look at the whole batch of all of them."""

    def gather(self, values: Tensor) -> Tensor:
        """[B] of this rank's rows to [N] of all ranks' rows, in the order one process would have them."""
        ...

    def share(self, values: Tensor) -> Tensor:
        """What rank 0 has, on every rank: [N] for all rows."""
        ...

    def own(self, values: Tensor) -> Tensor:
        """This rank's [B] of an [N] for all rows."""
        ...


@dc.dataclass(frozen=True, kw_only=True)
class LossCard:
    """An objective. `fn` is `(record, args) -> Loss`.

    `record` says what it reads: "group" (GroupLogps), "labelled" (LabelledLogps), "rewards" (GroupRewards). `data` says
    what rows it needs: "completion", "pair", "labelled" or "ranked". `words` describes the loss of given arguments for
    the start-up line. `needs_reference(args)` decides whether a reference is loaded at all, `temperature(args)` divides
    the logits of both.

    A step's loss is `sum of rows / units + NLL`: `units(scores [B, K] or None, present [B, K], args)` counts the units
    of a micro-batch before its forward pass, `kept(units, args)` how many of a micro-batch's units over all ranks the
    loss keeps, `nll_tokens(tokens [B, K], prompt_tokens [B] or None, args)` the tokens of `Loss.nll`.

    Objectives with running statistics have `start(args, seed)`, their first state, and `collect(record, args, state,
    ranks) -> (shared, state)`, called once for each training micro-batch; `fn` is then `(record, args, shared)`, with
    shared None in evaluation.

    Evaluation may have numbers that are no means: `measure(record, args)` gives (sum, count) pairs of each batch, and
    `summarise(sums, args)` the metrics made of their totals over the whole set and all ranks.

    Before training: `refuse(scores, size, args)` gives (reason, detail) of a row that cannot be used,
    `scaled(scores, args)` what the objective sees of its scores, `derive(rows, args)` values of arguments that the data
    decide, and `advice(rows, args, together)` may warn, `together` being the rows of a micro-batch over all ranks; rows
    have `.label`, `.scores`, `.mark`, `.prompt_id`.
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
    temperature: Callable[[Any], float] = lambda args: 1.0
    units: Callable[[Any, Any, Any], Any] = lambda scores, present, args: present.shape[0]
    kept: Callable[[int, Any], int] | None = None
    nll_tokens: Callable[[Any, Any, Any], Any] = lambda tokens, prompt_tokens, args: tokens[:, 0].sum()
    start: Callable[[Any, int], Any] | None = None
    collect: Callable[[Any, Any, Any, Ranks], tuple[Any, Any]] | None = None
    measure: Callable[[Any, Any], dict[str, tuple[Tensor, Tensor]]] | None = None
    summarise: Callable[[Mapping[str, tuple[float, float]], Any], dict[str, float]] = lambda sums, args: {}
    refuse: Callable[[Sequence[float], int, Any], tuple[str, str] | None] = lambda scores, size, args: None
    scaled: Callable[[Sequence[float], Any], Sequence[float]] = lambda scores, args: scores
    derive: Callable[[Sequence[Any], Any], dict[str, Any]] = lambda rows, args: {}
    advice: Callable[[Sequence[Any], Any, int], str | None] = lambda rows, args, together: None
    dropout: bool = False  # preference losses compare two log-probabilities: dropout is turned off
    # for people who choose: the formula, when to take it, where defaults come from, what the original gets wrong
    formula: str = ""
    when: str = ""
    defaults: str = ""
    differs: tuple[str, ...] = ()


def log_sigmoid(x: Tensor) -> Tensor:
    """Stable log of the logistic function."""
    from torch.nn.functional import logsigmoid

    return logsigmoid(x)

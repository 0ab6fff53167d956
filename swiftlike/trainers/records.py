"""From a batch and its log-probabilities to the record that an objective reads."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from swiftlike.losses.base import GroupLogps, LabelledLogps
from swiftlike.losses.metrics import with_margins

Mean = Callable[[Tensor], Tensor]  # mean of a [B] tensor over all ranks


def group_record(logps: dict[str, Tensor], reference: Tensor | None, batch: dict[str, Any], mean: Mean) -> GroupLogps:
    """K completions of a prompt."""
    return GroupLogps(
        policy=logps["policy"],
        tokens=batch["tokens"],
        reference=reference,
        scores=batch.get("scores"),
        present=batch["present"],
        margin=batch.get("margin"),
        prompt_nll=logps.get("prompt_nll"),
        prompt_tokens=logps.get("prompt_tokens"),
    )


def labelled_record(
    logps: dict[str, Tensor], reference: Tensor | None, batch: dict[str, Any], mean: Mean
) -> LabelledLogps:
    """A judged completion in column 0; column 1 is another row's completion behind the same prompt, for the KL term."""
    if reference is None:
        raise ValueError("this objective needs reference log-probabilities")
    drift = (logps["policy"][:, 1] - reference[:, 1]).detach()[batch["real"]]  # filler counts nowhere
    return LabelledLogps(
        policy=logps["policy"][:, 0],
        tokens=batch["tokens"][:, 0],
        reference=reference[:, 0],
        desirable=batch["label"],
        kl=mean(drift),
    )


RECORDS: dict[str, Callable[..., Any]] = {"group": group_record, "labelled": labelled_record}


def only(record: Any, real: Tensor) -> Any:
    """The rows of a record that count. Fields of [B] or [B, K] are indexed, scalars stay."""
    if bool(real.all()):
        return record
    kept = {
        field.name: value[real] if isinstance(value := getattr(record, field.name), Tensor) and value.ndim else value
        for field in dc.fields(record)
    }
    return type(record)(**kept)


class Tally:
    """Sums and counts per metric, on the device until they are asked for."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, values: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Add (sum, count) pairs."""
        for name, (total, count) in values.items():
            pair = torch.stack([total.detach().double(), count.detach().double()])
            self.sums[name] = self.sums[name] + pair if name in self.sums else pair

    def means(self, names: Sequence[str], device: Any, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Mean per metric over all ranks: `names` are those that any of them has, `reduce` sums a tensor on `device`
        over them. Metrics that nothing counted are left out."""
        if not names:
            return {}
        nothing = torch.zeros(2, dtype=torch.double)
        table = reduce(torch.stack([self.sums.get(name, nothing).to(device) for name in names]))
        pairs = zip(names, table.tolist(), strict=True)
        return with_margins({name: total / count for name, (total, count) in pairs if count})

    def clear(self) -> None:
        """Forget everything."""
        self.sums = {}

"""From a batch and its log-probabilities to the record that an objective reads."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate.utils import broadcast, gather_object
from torch import Tensor

from swiftlike.losses.base import GroupLogps, GroupRewards, LabelledLogps
from swiftlike.losses.metrics import EXTREMES, with_margins

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


def rewards_record(rewards: Tensor, reference: Tensor | None, batch: dict[str, Any], mean: Mean) -> GroupRewards:
    """What a reward model said of K completions of a prompt."""
    return GroupRewards(
        rewards=rewards,
        present=batch["present"],
        scores=batch.get("scores"),
        margin=batch.get("margin"),
        adversarial=batch.get("adversarial"),
    )


RECORDS: dict[str, Callable[..., Any]] = {
    "group": group_record,
    "labelled": labelled_record,
    "rewards": rewards_record,
}


def only(record: Any, real: Tensor) -> Any:
    """The rows of a record that count. Fields of [B] or [B, K] are indexed, scalars stay."""
    if bool(real.all()):
        return record
    kept = {
        field.name: value[real] if isinstance(value := getattr(record, field.name), Tensor) and value.ndim else value
        for field in dc.fields(record)
    }
    return type(record)(**kept)


class AllRanks:
    """`losses.base.Ranks` over the processes of a run. `real` [B] marks this rank's rows that are no filler."""

    def __init__(self, accelerator: Any, real: Tensor) -> None:
        self.accelerator, self.real = accelerator, real
        self.before = 0  # rows of lower ranks

    def gather(self, values: Tensor) -> Tensor:
        """[B] of this rank's rows to [N] of all ranks' rows."""
        table = torch.zeros(len(self.real), 2, dtype=torch.double, device=values.device)
        table[self.real] = torch.stack([values.detach().double(), torch.ones_like(values, dtype=torch.double)], dim=1)
        everyone = self.accelerator.gather(self.accelerator.pad_across_processes(table, dim=0))
        whose = torch.arange(len(everyone), device=values.device) // (len(everyone) // self.accelerator.num_processes)
        counts = everyone[:, 1] > 0
        self.before = int((counts & (whose < self.accelerator.process_index)).sum())
        return everyone[counts, 0].to(values.dtype)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of what all ranks have, as many values as each may have."""
        pair = torch.stack([values.sum(), torch.tensor(float(len(values)), device=values.device)])
        total, count = self.accelerator.reduce(pair, reduction="sum")
        return total / count

    def share(self, values: Tensor) -> Tensor:
        """What rank 0 has, on every rank."""
        return broadcast(values.contiguous())

    def own(self, values: Tensor) -> Tensor:
        """This rank's [B] of an [N] for all rows, in the order of `gather`."""
        return values[self.before : self.before + int(self.real.sum())]


class Tally:
    """Sums and counts per metric, on the device until they are asked for. Metrics called min_* and max_* are extremes
    instead of means."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, values: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Add (sum, count) pairs."""
        for name, (total, count) in values.items():
            pair = torch.stack([total.detach().double(), count.detach().double()])
            self.sums[name] = _joined(name, torch.stack([self.sums[name], pair])) if name in self.sums else pair

    def means(self, names: Sequence[str], device: Any, gather: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Mean per metric over all ranks, as `totals` has them. Metrics that nothing counted are left out."""
        return averages(self.totals(names, device, gather))

    def totals(
        self, names: Sequence[str], device: Any, gather: Callable[[Tensor], Tensor]
    ) -> dict[str, tuple[float, float]]:
        """(sum, count) per metric over all ranks: `names` are those that any of them has, `gather` stacks a tensor on
        `device` of all ranks along the first dimension."""
        if not names:
            return {}
        nothing = torch.zeros(2, dtype=torch.double)
        own = torch.stack([self.sums.get(name, nothing).to(device) for name in names])
        table = gather(own[None]).cpu()
        return {name: tuple(_joined(name, table[:, i]).tolist()) for i, name in enumerate(names)}

    def clear(self) -> None:
        """Forget everything."""
        self.sums = {}


def computed(batch: dict[str, Any]) -> Tensor:
    """[2]: the tokens of a batch, and the positions that are computed for them."""
    positions = batch["input_ids"].numel()
    used = batch["segments"] >= 0 if "segments" in batch else batch.get("attention_mask")
    return torch.tensor([positions if used is None else int(used.sum()), positions])


def averages(totals: dict[str, tuple[float, float]]) -> dict[str, float]:
    """What is logged of (sum, count) pairs; metrics that nothing counted are left out."""
    return with_margins({name: total / count for name, (total, count) in totals.items() if count})


def agreed(accelerator: Any, yes: bool) -> bool:
    """Whether all ranks say yes."""
    votes = accelerator.reduce(torch.tensor(int(yes), device=accelerator.device), reduction="sum")
    return int(votes) == accelerator.num_processes


def everywhere(tally: Tally, accelerator: Any) -> dict[str, tuple[float, float]]:
    """Totals over all ranks. One that had nothing but filler has no metrics, and still takes part."""
    names = sorted(set(gather_object(list(tally.sums))))
    return tally.totals(names, accelerator.device, accelerator.gather)


def _joined(name: str, pairs: Tensor) -> Tensor:
    """[N, 2] of (sum, count) to one: added, or for extremes the lowest or highest of those that have one."""
    if not name.startswith(EXTREMES):
        return pairs.sum(0)
    having = pairs[pairs[:, 1] > 0]
    if not len(having):
        return pairs[0]
    values = having[:, 0] / having[:, 1]
    value = values.min() if name.startswith("min_") else values.max()
    return torch.stack([value, torch.ones_like(value)])

"""What a run would need, on cards that may not be there."""

from typing import Any

from swiftlike.args import consistency
from swiftlike.args.rlhf import SFT, LossSections
from swiftlike.core.declare import arg, section


@section
class PlanArgs:
    json: bool = arg(False, "print the plan as JSON")


class PlannedSections(LossSections):
    """Every objective, supervised training (`--rlhf_type sft`) among them."""

    @staticmethod
    def names() -> tuple[str, ...]:
        """All that the registry has."""
        return (*LossSections.names(), SFT)


def problems(run: Any) -> list[str]:
    """What stands in the way of the training that is planned; nothing is written, so that no folder does."""
    return consistency.training(run.replace("plan", dry_run=True))

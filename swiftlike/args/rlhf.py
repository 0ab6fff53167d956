"""Which preference objective, and what it compares with. The objectives' own flags are declared beside them."""

from collections.abc import Iterator, Mapping

from swiftlike.core.declare import arg, section
from swiftlike.core.merge import Run
from swiftlike.losses import LOSSES

SFT = "sft"


@section
class RlhfArgs:
    rlhf_type: str = arg("dpo", "preference objective (`swiftlike list losses`)")
    ref_model: str | None = arg(
        None, "reference model; none: the policy as it starts", aliases=("ref_model_id_or_path",)
    )
    ref_model_type: str | None = arg(None, "its registered name; none: that of the policy")
    ref_model_revision: str | None = arg(None, "its branch, tag or commit", values={"master": "none"})


def reference_problems(run: Run) -> list[str]:
    """A reference that was asked for and that the objective does not read."""
    name = run.rlhf.rlhf_type if "rlhf" in run.sections else SFT
    flags = ("ref_model", "ref_model_type", "ref_model_revision", "ref_adapters")
    asked = [f"--{flag}" for flag in flags if run.flags().get(flag)]
    if not asked or LOSSES.get(name).needs_reference(run.loss):
        return []
    cards = [LOSSES.get(one) for one in LossSections.names()]
    having = ", ".join(card.name for card in cards if card.needs_reference(card.args()))
    return [f"{', '.join(asked)}: {name} compares with no reference; those that do are {having}"]


class LossSections(Mapping[str, type]):
    """Objective name -> its arguments, live: an objective that a plugin adds later is seen."""

    def __getitem__(self, name: str) -> type:
        if name not in self.names():
            raise KeyError(name)
        return LOSSES.get(name).args

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    @staticmethod
    def names() -> tuple[str, ...]:
        """Preference objectives; supervised training is a command of its own."""
        return tuple(name for name in LOSSES.names() if name != SFT)

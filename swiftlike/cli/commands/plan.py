"""swiftlike plan"""

from swiftlike.args.data import DataArgs
from swiftlike.args.lora import TunerArgs
from swiftlike.args.model import ModelArgs
from swiftlike.args.plan import PlanArgs, PlannedSections, problems
from swiftlike.args.rlhf import RlhfArgs
from swiftlike.args.train import TrainArgs
from swiftlike.cli.commands import COMMANDS
from swiftlike.core.declare import Command

COMMAND = Command(
    name="plan",
    summary=COMMANDS["plan"][1],
    target="swiftlike.pipelines.planner:run",
    sections={
        "model": ModelArgs,
        "data": DataArgs,
        "tuner": TunerArgs,
        "train": TrainArgs,
        "rlhf": RlhfArgs,
        "plan": PlanArgs,
    },
    choose={"loss": ("rlhf_type", PlannedSections())},
    check=problems,
)

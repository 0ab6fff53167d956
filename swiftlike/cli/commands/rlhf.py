"""swiftlike rlhf"""

from swiftlike.args import consistency
from swiftlike.args.data import DataArgs
from swiftlike.args.lora import TunerArgs
from swiftlike.args.model import ModelArgs
from swiftlike.args.rlhf import LossSections, RlhfArgs
from swiftlike.args.train import TrainArgs
from swiftlike.cli.commands import COMMANDS
from swiftlike.core.declare import Command, Stage

COMMAND = Command(
    name="rlhf",
    summary=COMMANDS["rlhf"][1],
    target="swiftlike.pipelines.train:run",
    sections={"model": ModelArgs, "data": DataArgs, "tuner": TunerArgs, "train": TrainArgs, "rlhf": RlhfArgs},
    choose={"loss": ("rlhf_type", LossSections())},
    check=consistency.training,
    distributed=True,
    stage=Stage(output=".", flag="output_dir", trains=True),
)

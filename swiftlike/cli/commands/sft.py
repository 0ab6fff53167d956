"""swiftlike sft"""

from swiftlike.args import consistency
from swiftlike.args.data import DataArgs
from swiftlike.args.lora import TunerArgs
from swiftlike.args.model import ModelArgs
from swiftlike.args.rlhf import SFT
from swiftlike.args.train import TrainArgs
from swiftlike.cli.commands import COMMANDS
from swiftlike.core.declare import Command, Stage
from swiftlike.losses import LOSSES

COMMAND = Command(
    name="sft",
    summary=COMMANDS["sft"][1],
    target="swiftlike.pipelines.train:run",
    sections={
        "model": ModelArgs,
        "data": DataArgs,
        "tuner": TunerArgs,
        "train": TrainArgs,
        "loss": LOSSES.get(SFT).args,
    },
    check=consistency.training,
    distributed=True,
    stage=Stage(output=".", flag="output_dir", trains=True),
)

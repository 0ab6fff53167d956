"""swiftlike filter_pairs"""

from swiftlike.args.filter_pairs import FilterPairsArgs, PairDataArgs, problems
from swiftlike.args.model import ModelArgs
from swiftlike.cli.commands import COMMANDS
from swiftlike.core.declare import Command, Stage

COMMAND = Command(
    name="filter_pairs",
    summary=COMMANDS["filter_pairs"][1],
    target="swiftlike.pipelines.filter_pairs:run",
    sections={"filter_pairs": FilterPairsArgs, "data": PairDataArgs, "model": ModelArgs},
    positional="dataset",
    check=problems,
    stage=Stage(output="train.jsonl", flag="output"),
)

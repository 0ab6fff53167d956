"""swiftlike check"""

from swiftlike.args.check import CheckArgs, problems
from swiftlike.args.data import DataArgs
from swiftlike.args.model import ModelArgs
from swiftlike.cli.commands import COMMANDS
from swiftlike.core.declare import Command

COMMAND = Command(
    name="check",
    summary=COMMANDS["check"][1],
    target="swiftlike.pipelines.check:run",
    sections={"check": CheckArgs, "data": DataArgs, "model": ModelArgs},
    positional="dataset",
    check=problems,
)

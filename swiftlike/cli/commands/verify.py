"""swiftlike verify"""

from swiftlike.args.data import DataArgs
from swiftlike.args.generate import EngineArgs, UseArgs
from swiftlike.args.model import ModelArgs
from swiftlike.args.verify import VerifyArgs, problems
from swiftlike.cli.commands import COMMANDS
from swiftlike.core.declare import Command

COMMAND = Command(
    name="verify",
    summary=COMMANDS["verify"][1],
    target="swiftlike.pipelines.verify:run",
    sections={"verify": VerifyArgs, "use": UseArgs, "model": ModelArgs, "data": DataArgs, "engine": EngineArgs},
    positional="dataset",
    check=problems,
)

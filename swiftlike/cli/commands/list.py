"""swiftlike list"""

from swiftlike.args.listing import ListArgs
from swiftlike.cli.commands import COMMANDS
from swiftlike.core.declare import Command

COMMAND = Command(
    name="list",
    summary=COMMANDS["list"][1],
    target="swiftlike.cli.listing:run",
    sections={"list": ListArgs},
    positional="what",
)

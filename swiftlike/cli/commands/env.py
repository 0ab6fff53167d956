"""swiftlike env"""

from swiftlike.args.listing import EnvArgs
from swiftlike.cli.commands import COMMANDS
from swiftlike.core.declare import Command

COMMAND = Command(
    name="env",
    summary=COMMANDS["env"][1],
    target="swiftlike.cli.machine:run",
    sections={"env": EnvArgs},
)

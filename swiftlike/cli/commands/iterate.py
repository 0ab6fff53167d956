"""swiftlike iterate"""

from swiftlike.args.iterate import IterateArgs, problems
from swiftlike.cli.commands import COMMANDS
from swiftlike.core.declare import Command

COMMAND = Command(
    name="iterate",
    summary=COMMANDS["iterate"][1],
    target="swiftlike.cli.recipes:run",
    sections={"iterate": IterateArgs},
    positional="recipe",
    check=problems,
    config=False,
)

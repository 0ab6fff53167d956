"""swiftlike convert"""

from swiftlike.args.convert import ConvertArgs
from swiftlike.cli.commands import COMMANDS
from swiftlike.core.declare import Command, Stage

COMMAND = Command(
    name="convert",
    summary=COMMANDS["convert"][1],
    target="swiftlike.pipelines.convert:run",
    sections={"convert": ConvertArgs},
    positional="from_to_input",
    stage=Stage(output="rows.jsonl", flag="output"),
)

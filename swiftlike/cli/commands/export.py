"""swiftlike export"""

from swiftlike.args.data import DataArgs
from swiftlike.args.export import ExportArgs, ExportModelArgs, HubArgs, QuantArgs, problems
from swiftlike.args.generate import UseArgs
from swiftlike.cli.commands import COMMANDS
from swiftlike.core.declare import Command, Stage

COMMAND = Command(
    name="export",
    summary=COMMANDS["export"][1],
    target="swiftlike.pipelines.export.command:run",
    sections={
        "use": UseArgs,
        "model": ExportModelArgs,
        "export": ExportArgs,
        "quant": QuantArgs,
        "hub": HubArgs,
        "data": DataArgs,
    },
    check=problems,
    stage=Stage(output=".", flag="output_dir"),
)

"""swiftlike report"""

from swiftlike.args.report import ReportArgs, problems
from swiftlike.cli.commands import COMMANDS
from swiftlike.core.declare import Command, Stage

COMMAND = Command(
    name="report",
    summary=COMMANDS["report"][1],
    target="swiftlike.pipelines.report:run",
    sections={"report": ReportArgs},
    positional="results",
    check=problems,
    stage=Stage(output=".", flag="output_dir"),
)

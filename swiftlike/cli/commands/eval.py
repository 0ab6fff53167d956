"""swiftlike eval"""

from swiftlike.args.data import DataArgs
from swiftlike.args.eval import EvalArgs, problems
from swiftlike.args.generate import EngineArgs, GenerateArgs, UseArgs
from swiftlike.args.model import ModelArgs
from swiftlike.args.score import JudgeArgs, PairwiseArgs, RuleArgs
from swiftlike.cli.commands import COMMANDS
from swiftlike.core.declare import Command, Stage

COMMAND = Command(
    name="eval",
    summary=COMMANDS["eval"][1],
    target="swiftlike.pipelines.evaluate.command:run",
    sections={
        "eval": EvalArgs,
        "use": UseArgs,
        "data": DataArgs,
        "generate": GenerateArgs,
        "rule": RuleArgs,
        "judge": JudgeArgs,
        "pairwise": PairwiseArgs,
        "model": ModelArgs,
        "engine": EngineArgs,
    },
    positional="dataset",
    check=problems,
    stage=Stage(output=".", flag="output_dir"),
)

"""swiftlike infer"""

from swiftlike.args import infer
from swiftlike.args.data import DataArgs
from swiftlike.args.generate import EngineArgs, GenerateArgs, UseArgs
from swiftlike.args.model import ModelArgs
from swiftlike.cli.commands import COMMANDS
from swiftlike.core.declare import Command, Stage

COMMAND = Command(
    name="infer",
    summary=COMMANDS["infer"][1],
    target="swiftlike.pipelines.infer.command:run",
    sections={
        "use": UseArgs,
        "model": ModelArgs,
        "infer": infer.InferArgs,
        "generate": GenerateArgs,
        "engine": EngineArgs,
        "data": DataArgs,
    },
    check=infer.problems,
    distributed=True,
    stage=Stage(output="results.jsonl", flag="result_path", resumes=True),
)

"""swiftlike self_instruct"""

from swiftlike.args.data import DataArgs
from swiftlike.args.generate import EngineArgs, UseArgs
from swiftlike.args.model import ModelArgs
from swiftlike.args.self_instruct import SelfInstructArgs, SelfInstructGenerateArgs, problems
from swiftlike.args.shards import ShardArgs
from swiftlike.cli.commands import COMMANDS
from swiftlike.core.declare import Command, Stage

COMMAND = Command(
    name="self_instruct",
    summary=COMMANDS["self_instruct"][1],
    target="swiftlike.pipelines.self_instruct:run",
    sections={
        "self_instruct": SelfInstructArgs,
        "shards": ShardArgs,
        "use": UseArgs,
        "generate": SelfInstructGenerateArgs,
        "data": DataArgs,
        "model": ModelArgs,
        "engine": EngineArgs,
    },
    positional="dataset",
    check=problems,
    distributed=True,
    stage=Stage(output="prompts.jsonl", flag="output", resumes=True, sharded=True),
)

"""swiftlike sample"""

from swiftlike.args.data import DataArgs
from swiftlike.args.generate import EngineArgs, GenerateArgs, UseArgs
from swiftlike.args.model import ModelArgs
from swiftlike.args.sample import SampleArgs, problems
from swiftlike.args.shards import ShardArgs
from swiftlike.cli.commands import COMMANDS
from swiftlike.core.declare import Command, Stage

COMMAND = Command(
    name="sample",
    summary=COMMANDS["sample"][1],
    target="swiftlike.pipelines.sample:run",
    sections={
        "sample": SampleArgs,
        "shards": ShardArgs,
        "use": UseArgs,
        "generate": GenerateArgs,
        "data": DataArgs,
        "model": ModelArgs,
        "engine": EngineArgs,
    },
    positional="dataset",
    check=problems,
    distributed=True,
    stage=Stage(output="responses.jsonl", flag="output", resumes=True, sharded=True),
)

"""swiftlike score"""

from swiftlike.args.data import DataArgs
from swiftlike.args.generate import EngineArgs, UseArgs
from swiftlike.args.model import ModelArgs
from swiftlike.args.score import JudgeArgs, PairwiseArgs, RuleArgs, ScoreArgs, problems
from swiftlike.args.shards import ShardArgs
from swiftlike.cli.commands import COMMANDS
from swiftlike.core.declare import Command, Stage

COMMAND = Command(
    name="score",
    summary=COMMANDS["score"][1],
    target="swiftlike.pipelines.score:run",
    sections={
        "score": ScoreArgs,
        "shards": ShardArgs,
        "rule": RuleArgs,
        "judge": JudgeArgs,
        "pairwise": PairwiseArgs,
        "use": UseArgs,
        "data": DataArgs,
        "model": ModelArgs,
        "engine": EngineArgs,
    },
    positional="dataset",
    check=problems,
    distributed=True,
    stage=Stage(output="scored.jsonl", flag="output", resumes=True, sharded=True),
)

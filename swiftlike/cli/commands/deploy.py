"""swiftlike deploy"""

from swiftlike.args import deploy
from swiftlike.args.generate import EngineArgs, GenerateArgs, UseArgs
from swiftlike.args.model import ModelArgs
from swiftlike.cli.commands import COMMANDS
from swiftlike.core.declare import Command

COMMAND = Command(
    name="deploy",
    summary=COMMANDS["deploy"][1],
    target="swiftlike.pipelines.deploy:run",
    sections={
        "use": UseArgs,
        "model": ModelArgs,
        "deploy": deploy.DeployArgs,
        "generate": GenerateArgs,
        "engine": EngineArgs,
        "data": deploy.PictureArgs,
    },
    check=deploy.problems,
)

"""The commands by name. A command's module is imported when it is chosen, so this table is all that help needs."""

from __future__ import annotations

from swiftlike.core.declare import Command
from swiftlike.core.dotted import resolve

COMMANDS = {
    "sft": ("swiftlike.cli.commands.sft:COMMAND", "Train on good answers (supervised)."),
    "rlhf": ("swiftlike.cli.commands.rlhf:COMMAND", "Train on preferences: dpo, simpo, orpo, cpo, kto ..."),
    "plan": ("swiftlike.cli.commands.plan:COMMAND", "Estimate the memory of a training run under every placement."),
    "infer": ("swiftlike.cli.commands.infer:COMMAND", "Answer: the rows of a data set, or in a conversation."),
    "deploy": ("swiftlike.cli.commands.deploy:COMMAND", "Serve a model as OpenAI's API does."),
    "check": ("swiftlike.cli.commands.check:COMMAND", "Read data sets and report every row that cannot be used."),
    "convert": ("swiftlike.cli.commands.convert:COMMAND", "Turn data files of one format into another."),
    "self_instruct": ("swiftlike.cli.commands.self_instruct:COMMAND", "Let a model come up with new prompts."),
    "sample": ("swiftlike.cli.commands.sample:COMMAND", "Let a model answer the prompts of a data set, N times each."),
    "score": ("swiftlike.cli.commands.score:COMMAND", "Judge answers, and write rewards, the best ones, or pairs."),
    "filter_pairs": ("swiftlike.cli.commands.filter_pairs:COMMAND", "Keep the pairs that AIPO trains on."),
    "eval": ("swiftlike.cli.commands.eval:COMMAND", "Measure models and answers: rewards, pairs, win rates."),
    "report": ("swiftlike.cli.commands.report:COMMAND", "Many results as one table and one picture."),
    "verify": ("swiftlike.cli.commands.verify:COMMAND", "Compare training, engines and merged weights on some rows."),
    "export": ("swiftlike.cli.commands.export:COMMAND", "Merge, quantise, convert or upload a trained model."),
    "iterate": (
        "swiftlike.cli.commands.iterate:COMMAND",
        "Run a whole system of stages from one file: AIPO, EXO, APO.",
    ),
    "list": ("swiftlike.cli.commands.list:COMMAND", "List models, datasets, losses, formats or flags."),
    "env": ("swiftlike.cli.commands.env:COMMAND", "Show versions and hardware, for a bug report."),
}


def load(name: str) -> Command:
    """The declaration of a command."""
    command: Command = resolve(COMMANDS[name][0])
    return command

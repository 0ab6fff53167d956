"""What README and docs say holds: links lead somewhere, commands parse, flags exist, example rows are what they claim.

Fenced blocks are marked: `sh` (every swiftlike command in it must be accepted), `sh refused` (must be refused), `jsonl
KIND` (every line gives rows of that kind), `text` (output), `<language> title="name"` (a file that commands use).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from swiftlike.args import hf, refused
from swiftlike.cli.commands import COMMANDS, load
from swiftlike.cli.layers import build_run
from swiftlike.core.errors import UserError
from swiftlike.core.flags import Flags
from swiftlike.datasets_registry.kinds import to_kind
from swiftlike.datasets_registry.shapes import to_row
from swiftlike.datasets_registry.syntax import parse_all
from swiftlike.losses import LOSSES
from swiftlike.model_registry.match import find

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARKS = re.compile(
    r'sh|sh refused|text|jsonl (pair|ranked|labelled|completion)( title="[\w./]+")?'
    r'|(python|json|yaml) title="[\w./]+"|python'
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FLAG = re.compile(r"(?<![\w-])--(\w+)")
VARIABLE = re.compile(r"[A-Z][A-Z_]*=\S*")
NOT_OURS = {
    "golden",
    "check",
    "help",
    "config",
    "show_config",
    "version",
}  # flags of pytest and tools, and of every command


class Block(NamedTuple):
    page: Path
    mark: str
    text: str


class Command(NamedTuple):
    page: str
    env: dict[str, str]
    words: list[str]
    refused: bool

    def __str__(self) -> str:
        return " ".join(self.words)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


BLOCKS = [Block(page, *found) for page in PAGES for found in FENCE.findall(page.read_text(encoding="utf-8"))]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def commands(block: Block) -> list[Command]:
    lines = block.text.replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        words = shlex.split(re.sub(r"(^|\s+)#.*", "", line))
        front = [word for word in words if VARIABLE.fullmatch(word)]
        rest = words[len(front) :]
        if rest[:1] == ["swiftlike"]:
            env = dict(one.split("=", 1) for one in front)
            found.append(Command(name(block.page), env, rest[1:], block.mark == "sh refused"))
    return found


ALL = [command for block in BLOCKS if block.mark.startswith("sh") for command in commands(block)]
TITLED = {match[1]: block.text for block in BLOCKS if (match := re.search(r'title="(.+)"', block.mark))}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages show."""
    for title, text in TITLED.items():
        (tmp_path / title).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / title).write_text(text, encoding="utf-8")
    (tmp_path / "pairs.jsonl").write_text(
        next(one.text for one in BLOCKS if one.mark == "jsonl pair"), encoding="utf-8"
    )
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_is_something_to_test() -> None:
    assert len(PAGES) >= 15
    assert len(ALL) >= 30
    assert len({command.page for command in ALL}) >= 6


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", head).lower().replace(" ", "-") for head in heads}, target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_are_marked(page: Path) -> None:
    marks = [block.mark for block in BLOCKS if block.page == page]
    assert [mark for mark in marks if not MARKS.fullmatch(mark)] == []
    assert page.read_text(encoding="utf-8").count("\n```") == 2 * len(marks)


@pytest.mark.parametrize("command", ALL, ids=str)
def test_commands_are_accepted(command: Command, place: Path) -> None:
    for folder in re.findall(r"--(?:resume_from_checkpoint|adapters|ckpt_dir) (\S+)", str(command)):
        (place / folder).mkdir(parents=True)
        (place / folder / "adapter_config.json").write_text("{}")
        (place / folder / "args.json").write_text(
            '{"format": 1, "args": {"model_type": "tiny-llama", "dataset": ["demo"]}}'
        )
    if "--plugin" in command.words or "--help" in command.words or command.words[0] not in ("sft", "rlhf", "check"):
        last = [] if {"--help", "list", "env"} & {*command.words} else ["--show_config"]
        words = [sys.executable, "-m", "swiftlike", *command.words, *last]  # what a plugin enters would stay here
        done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, **command.env})
        assert done.returncode == 0, done.stderr
        return
    assert command.words[0] in COMMANDS
    if command.refused:
        with pytest.raises(UserError):
            build_run(load(command.words[0]), command.words[1:], command.env)
        return
    run, _ = build_run(load(command.words[0]), command.words[1:], command.env)
    if run.model.model or run.model.model_type:
        find(run.model.model, run.model.model_type)
    if not run.data.custom_dataset_info:  # those would stay registered
        parse_all([*run.data.dataset, *run.data.val_dataset])


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name != "reference"], ids=name)
def test_flags_and_commands_in_the_text_exist(page: Path) -> None:
    known = {flag for command in COMMANDS for flag in Flags(load(command)).spellings()}
    known |= {*refused.REFUSED, *hf.fields(), *NOT_OURS}
    words = INLINE.findall(prose(page))
    assert [flag for word in words for flag in FLAG.findall(word) if flag not in known] == []
    named = [word.split()[1] for word in words if word.startswith("swiftlike ") and word.split()[1][0].islower()]
    assert [one for one in named if one not in (*COMMANDS, *LOSSES.names())] == []


ROWS = [(block, line) for block in BLOCKS if block.mark.startswith("jsonl") for line in block.text.splitlines()]


@pytest.mark.parametrize(("block", "line"), ROWS, ids=[line for _, line in ROWS])
def test_example_rows_are_of_the_kind_that_is_said(block: Block, line: str) -> None:
    kind = block.mark.split()[1]
    row, mapping = to_row(json.loads(line), kind)
    assert mapping.kind == kind
    assert mapping.unused == ()
    assert len(to_kind(row, kind)) == 1

"""What is kept of a stage, apart from its output: what it was asked, whether it is done. And who may write."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from swiftlike.args.environment import PREFIX, READ, RESERVED
from swiftlike.core import secrets
from swiftlike.core.errors import UserError
from swiftlike.core.files import atomic, errors_file, write_json
from swiftlike.pipelines.iterate.recipe import PROGRAM, Recipe, Step

STATE, BACKUP = "stages", "backup_"  # folders beside those of the stages
_WHOLE = 64 << 20  # bytes up to which a file's whole content counts
_ENDS = 1 << 20  # bytes at either end of a larger one that count
RUNNING, DONE, FAILED = "running", "done", "failed"


@dc.dataclass(frozen=True, kw_only=True)
class Mark:
    """What is known of a stage's last run. `parts` is what its identity is made of, to say what changed; `calls` are
    those of other machines that this run of the stage has answered."""

    state: str
    identity: str
    parts: dict[str, str]
    words: list[str]
    started: float
    seconds: float = 0.0
    rows: int | None = None
    where: str = ""
    calls: list[str] = dc.field(default_factory=list)


def mark_file(root: Path, step: Step) -> Path:
    """`stages/iter0/dpo.json`."""
    return root / STATE / f"{step.name}.json"


def log_file(root: Path, step: Step, rank: int = 0) -> Path:
    """`stages/iter0/dpo.log.jsonl`; each machine has its own."""
    return root / STATE / f"{step.name}.log{rank or ''}.jsonl"


def read_mark(root: Path, step: Step) -> Mark | None:
    """None when the stage has not begun, or its mark cannot be read."""
    try:
        found = json.loads(mark_file(root, step).read_text(encoding="utf-8"))
        return Mark(**found)
    except (OSError, ValueError, TypeError):
        return None


def write_mark(root: Path, step: Step, mark: Mark) -> None:
    """Leave the mark, whole or not at all."""
    write_json(mark_file(root, step), dc.asdict(mark))


def call(root: Path, step: Step, rank: int) -> str:
    """Machine `rank` is ready for a stage. Gives what the first machine will answer: a mark that an earlier run left
    does not hold it."""
    word = uuid.uuid4().hex
    with atomic(_call_file(root, step, rank)) as file:
        file.write(word)
    return word


def calls(root: Path, step: Step, count: int) -> list[str]:
    """The newest call of each of `count` machines that has called."""
    found = [_call_file(root, step, rank) for rank in range(1, count)]
    return [path.read_text(encoding="utf-8") for path in found if path.is_file()]


def beat(root: Path, step: Step, rank: int) -> None:
    """Machine `rank` works on a stage."""
    (root / STATE / f"{step.name}.beat{rank}").write_text(str(time.time()), encoding="utf-8")


def beats(root: Path, step: Step, ranks: range) -> tuple[str, ...]:
    """Changes while one of these machines works."""
    found = [root / STATE / f"{step.name}.beat{rank}" for rank in ranks]
    return tuple(path.read_text(encoding="utf-8") if path.is_file() else "" for path in found)


def _call_file(root: Path, step: Step, rank: int) -> Path:
    return root / STATE / f"{step.name}.call{rank}"


def parts_of(recipe: Recipe, step: Step) -> dict[str, str]:
    """What decides a stage's output: its words, and the content of what it reads. The folder of all stages does not
    count, so that it may be moved."""
    root = re.compile(rf"(?:^|(?<=[=:,])){re.escape(str(recipe.root))}(?=$|[/#:,])")
    parts = {"words": json.dumps([root.sub("{root}", word) for word in secrets.apart(step.words)[0]])}
    outputs = {one.name: one.output for one in recipe.steps}
    parts |= {f"input {name}": fingerprint(outputs[name]) for name in step.inputs}
    for word in step.words if step.kind == PROGRAM else step.words[1:]:
        path = _path_in(word)
        if path is not None and not of_stages(recipe, path.resolve()):
            parts[f"file {path}"] = fingerprint(path)
    if asked := {name: value for name, value in os.environ.items() if name in READ or _is_flag(name)}:
        parts["environment"] = json.dumps(secrets.public(asked), sort_keys=True)
    return parts


def _is_flag(name: str) -> bool:
    return name.startswith(PREFIX) and name not in RESERVED


def of_stages(recipe: Recipe, path: Path) -> bool:
    """Whether a path is what stages write, or holds it: that counts as the output of a stage, or not at all."""
    folders = [*(step.folder.resolve() for step in recipe.steps), (recipe.root / STATE).resolve()]
    return any(path == one or one in path.parents or path in one.parents for one in folders)


def identity_of(parts: Mapping[str, str]) -> str:
    """One name for all of it."""
    return _hash(json.dumps(parts, sort_keys=True).encode())


def _path_in(word: str) -> Path | None:
    """The file or folder that a word names, as in `rows.jsonl#100`, `name=folder` or `judge.py:reward`."""
    for text in (word, word.partition("#")[0], word.partition("=")[2], word.partition(":")[0]):
        with contextlib.suppress(OSError):  # a text too long for a name
            if text and not text.startswith("-") and Path(text).expanduser().exists():
                return Path(text).expanduser()
    return None


def fingerprint(path: Path) -> str:
    """Changes when a file's or a folder's content does; "" when there is nothing."""
    if path.is_file():
        return _of_file(path)
    if not path.is_dir():
        return ""
    lines = [f"{one.relative_to(path)} {_of_file(one)}" for one in _files(path)]
    return _hash("\n".join(lines).encode("utf-8", "surrogatepass"))


def _files(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and (not entry.is_symlink() or entry.resolve() not in folder.resolve().parents):
            yield from _files(entry)
        elif entry.is_file():
            yield entry


def _of_file(path: Path) -> str:
    stat = path.stat()
    return _content(str(path), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=1 << 16)
def _content(path: str, size: int, _: int) -> str:
    """Of a large file its size, beginning and end count: copies on other machines have other times."""
    with Path(path).open("rb") as file:
        if size <= _WHOLE:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
        begin = file.read(_ENDS)
        file.seek(-_ENDS, os.SEEK_END)
        return f"{size} {_hash(begin + file.read())}"


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def rows_of(step: Step) -> int | None:
    """Lines of an output that has one per row."""
    return _lines(step.output) if step.output.is_file() and step.output.suffix == ".jsonl" else None


def wrong_rows(step: Step) -> tuple[int, Path] | None:
    """How many rows have no result although they should, and the file that says why."""
    path = errors_file(step.output)
    return (_lines(path), path) if path.is_file() else None


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def put_aside(root: Path, step: Step, keep: bool) -> Path | None:
    """Make room for a new run: what was there becomes a backup, or is deleted. Gives the backup."""
    if not step.folder.exists():
        return None
    if not keep:
        clear(step)
        return None
    backup = root / f"{BACKUP}{time.strftime('%Y%m%d_%H%M%S')}" / step.name
    while backup.exists():  # twice in a second
        backup = backup.with_name(f"{backup.name}_")
    backup.parent.mkdir(parents=True, exist_ok=True)
    step.folder.replace(backup)
    return backup


def clear(step: Step) -> None:
    """Delete what a run that was stopped left unfinished."""
    if step.folder.exists():
        shutil.rmtree(step.folder)


@contextlib.contextmanager
def locked(root: Path, rank: int, patience: float = 60.0) -> Iterator[int]:
    """Only one run of this machine in a folder. Gives the lock's file descriptor, which stages inherit: it stays locked
    until the last of them has ended, so a new run waits for those of a run that was killed."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = (root / f".lock{rank or ''}").open("a+")
    except OSError as error:
        raise UserError(f"cannot write in {root}: {error.strerror}", hint="see output_dir of the recipe") from None
    with file:
        _claim(file, root, patience)
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield file.fileno()


def _claim(file: Any, root: Path, patience: float) -> None:
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip()
            if _lives(holder) or time.monotonic() > end:
                who = f"another run (process {holder})" if _lives(holder) else "a stage of a run that was killed still"
                raise UserError(f"{who} works in {root}", hint="wait for it, or stop it") from None
            time.sleep(0.2)  # its stages are about to end
        else:
            return


def _lives(pid: str) -> bool:
    """Whether a process is there; one that ended and was not waited for is not."""
    try:
        state = Path(f"/proc/{int(pid)}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (OSError, ValueError, IndexError):
        return False
    return state != "Z"

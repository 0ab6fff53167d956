"""JSON lines in and out, atomic writes, run folders, and the arguments that a run leaves behind."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import swiftlike
from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger
from swiftlike.core.merge import Run
from swiftlike.core.secrets import holds_hidden

ARGS = "args.json"
_OLD_ARGS = "sft_args.json"  # ms-swift v2
RECORDS = (ARGS, _OLD_ARGS)
_CHECKPOINT = r"checkpoint-(\d+)"
_OPTIMISER = ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*")  # ours, FSDP's, DeepSpeed's
WHOLE = "swiftlike.json"  # written last into a checkpoint: without it that is not whole
_DIGESTED = 16 << 20  # bytes of a file that is read to tell whether it has changed
_FORMAT = 1  # of args.json; a change that old readers would misread raises it


def file_facts(path: Path) -> tuple[str, int, Any]:
    """(name, bytes, what changes with the content): a digest, or of large files the time of the last change.

    UserError when it is no file: a pipe would be waited for, and a device never ends.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    found = path.stat()
    if found.st_size > _DIGESTED:
        return str(path), found.st_size, found.st_mtime_ns
    return str(path), found.st_size, hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def read_jsonl(path: str | Path, on_bad: Callable[[int, str], None] | None = None) -> Iterator[tuple[int, Any]]:
    """(line number from 1, value) of every line that is not blank.

    A line that is not JSON is handed to `on_bad(line, reason)` and left out; without `on_bad` it is a UserError.
    """
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                reason = f"not JSON: {error.msg} at column {error.colno}"
                if on_bad is None:
                    raise UserError(f"{path}:{number}: {reason}") from None
                on_bad(number, reason)
                continue
            yield number, value


def open_text(path: str | Path) -> IO[str]:
    """A UTF-8 text file for reading, a byte order mark tolerated. UserError when it cannot be opened."""
    try:
        return Path(path).open(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def write_jsonl(path: str | Path, rows: Iterable[Any]) -> int:
    """Write one JSON value per line, atomically. Gives the number of lines."""
    count = 0
    with atomic(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def errors_file(output: Path) -> Path:
    """`answers.jsonl` -> `answers.errors.jsonl`."""
    name = output.name
    for suffix in (".gz", ".jsonl", ".json"):
        name = name.removesuffix(suffix)
    return output.with_name(f"{name}.errors.jsonl")


def append_jsonl(path: str | Path, row: Any) -> None:
    """Add one line, in one write, so that a killed run leaves whole lines."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_json(path: str | Path, value: Any) -> None:
    """Write one JSON document, atomically."""
    with atomic(path) as file:
        file.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def draft_of(path: Path) -> Path:
    """Where a file is written until it is whole: beside it, with its ending, and under a name that no other process
    takes, on no other machine that shares the folder either."""
    return path.with_name(f".{os.getpid()}.{os.urandom(4).hex()}.{path.name}")


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[IO[str]]:
    """A text file that appears under its name only when it is complete and on disk; its folder is made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = draft_of(path)
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def new_run_folder(output_dir: str | Path, name: str, *, add_version: bool = True, now: float | None = None) -> Path:
    """Make and give `output_dir/name/vN-YYYYmmdd-HHMMSS`, N one more than the highest there; only rank 0 may call it.

    Without `add_version` it is `output_dir` itself. UserError when it cannot be made.
    """
    parent = Path(output_dir)
    if add_version:
        parent /= re.sub(r"[^\w.+-]+", "-", name).strip("-.")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return _new_version(parent, now) if add_version else parent
    except OSError as error:
        raise UserError(f"cannot make a run folder in {parent}: {error.strerror}", hint="see --output_dir") from None


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The `checkpoint-N` of a run folder with the highest N, None when it has none. Those that were cut off while they
    were written are passed over, with a warning; where none says that it is whole, another program wrote them."""
    found = [path for _, path in _checkpoints(folder)]
    whole = whole_checkpoints(folder)
    if whole and whole[-1] != found[-1]:
        cut = [path.name for path in found[found.index(whole[-1]) + 1 :]]
        get_logger(__name__).warning("%s: %s not whole; %s is taken", folder, _are(cut), whole[-1].name)
    return (whole or found or [None])[-1]


def whole_checkpoints(folder: str | Path) -> list[Path]:
    """The `checkpoint-N` of a run folder that were written to their end, the newest last."""
    return [path for _, path in _checkpoints(folder) if (path / WHOLE).is_file()]


def _checkpoints(folder: str | Path) -> list[tuple[int, Path]]:
    there = Path(folder).iterdir() if Path(folder).is_dir() else ()
    named = ((re.fullmatch(_CHECKPOINT, path.name), path) for path in there)
    return sorted((int(match[1]), path) for match, path in named if match)


def _are(names: list[str]) -> str:
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'}"


def latest(run_folder: str | Path) -> Path:
    """The newest whole checkpoint in a run folder."""
    found = whole_checkpoints(run_folder)
    if not found:
        raise UserError(f"there is no whole checkpoint in {run_folder}")
    return found[-1]


def has_optimiser(checkpoint: Path) -> bool:
    """Whether training can go on from a checkpoint exactly; not where --save_only_model left weights alone."""
    return any(path for name in _OPTIMISER for path in checkpoint.glob(name))


def named_folders(words: Iterable[str]) -> list[tuple[str, str]]:
    """(name, folder) of `name=folder` words; a folder without a name is called after its last part."""
    pairs = [word.split("=", 1) if "=" in word else (Path(word).expanduser().absolute().name, word) for word in words]
    return [(name, folder) for name, folder in pairs]


def _new_version(parent: Path, now: float | None) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    while True:
        versions = [int(match[1]) for entry in parent.iterdir() if (match := re.match(r"v(\d+)-", entry.name))]
        folder = parent / f"v{max(versions, default=-1) + 1}-{stamp}"
        with contextlib.suppress(FileExistsError):  # another run took the number a moment ago
            folder.mkdir()
            return folder


def write_args(folder: str | Path, run: Run) -> Path:
    """Leave every argument of a run, and where it came from, in `folder/args.json`."""
    path = Path(folder) / ARGS
    record = {"format": _FORMAT, "swiftlike": swiftlike.__version__, "command": run.command}
    write_json(path, record | {"args": run.flags(), "origin": dict(run.origin)})
    return path


def read_args(folder: str | Path) -> tuple[Path, dict[str, Any]] | None:
    """The file and the flat arguments that a run left in `folder`, None when there are none. Reads ms-swift's too."""
    for name in RECORDS:
        path = Path(folder) / name
        if path.is_file():
            return path, _saved(path)
    return None


def _saved(path: Path) -> dict[str, Any]:
    record = read_document(path)
    args = record.get("args") if "format" in record else record
    if not isinstance(args, Mapping):
        raise UserError(f"{path} is not a record of arguments")
    if record.get("format", _FORMAT) > _FORMAT:
        raise UserError(f"{path} was written by swiftlike {record['swiftlike']}", hint="pip install -U swiftlike")
    derived = {flag for flag, source in record.get("origin", {}).items() if source == "derived"}  # to be derived again
    return {flag: value for flag, value in args.items() if not holds_hidden(value) and flag not in derived}


def read_document(path: str | Path) -> dict[str, Any]:
    """A YAML or JSON file that holds one mapping. UserError when it does not."""
    with open_text(path) as file:
        text = file.read()
    try:
        value = json.loads(text) if Path(path).suffix == ".json" else _yaml(text)
    except ValueError as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} does not hold a mapping of flag names to values")
    return value


def _yaml(text: str) -> Any:
    import yaml  # tens of milliseconds, so only when a file is given

    class Loader(yaml.SafeLoader):
        """A safe loader that does not let the second of two equal keys win in silence."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value]
            doubles = sorted({key for key in keys if isinstance(key, str) and keys.count(key) > 1})
            if doubles:
                raise ValueError(f"line {node.start_mark.line + 1}: given twice: {', '.join(doubles)}")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader) or {}
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None

"""Files of results of any kind as numbers by name."""

from __future__ import annotations

import dataclasses as dc
import json
import math
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from swiftlike.args.data import DataArgs
from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger
from swiftlike.data.load import sources_of
from swiftlike.data.report import Reasons
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.kinds import LeftOut
from swiftlike.pipelines.evaluate.answers import mean_length, rewards_of
from swiftlike.pipelines.records import Numbered
from swiftlike.pipelines.score_rows import group_of

log = get_logger(__name__)
ANSWERS = "answers"  # the prefix of files of answers
_PREFIXES = {"reward": "reward_model"}  # of evaluations that are not called after their kind
_ACCOUNTS = ("bad_rows", "left_out")  # counts by reason


@dc.dataclass(frozen=True)
class Result:
    """The numbers of one file. `prefix` tells its columns from those of others; `named`: the user chose it."""

    name: str
    prefix: str
    named: bool
    path: Path
    values: dict[str, float]


def read_results(words: Sequence[str]) -> list[Result]:
    """The results that `name=path` words name, in order. UserError names all that cannot be read."""
    found: list[Result] = []
    problems: list[str] = []
    for word in words:
        name, prefix, path = _parted(word)
        try:
            for file in _files(path):
                kind, values = _read(file)
                found.append(Result(name, prefix or kind, bool(prefix), file, values))
        except UserError as error:
            problems += [f"{name}: {line}" for line in str(error).splitlines()]
    if problems:
        raise UserError("results cannot be read:", problems=problems)
    return found


def _parted(word: str) -> tuple[str, str, Path]:
    """`iter0:kl=path` -> iter0, kl, path; a path alone is called after itself."""
    left, mark, right = word.partition("=")
    if not mark or Path(word).expanduser().exists():
        path = Path(word).expanduser()
        return path.resolve().name if path.is_dir() else path.name.partition(".")[0], "", path
    match = re.fullmatch(r"(.+?)(?::(\w+))?", left)
    if match is None or not right:
        raise UserError(f"--results {word}: write name=path")
    return match[1], match[2] or "", Path(right).expanduser()


def _files(path: Path) -> list[Path]:
    """The file itself; of a folder the results of evaluations that lie in it."""
    if not path.is_dir():
        if not path.is_file():
            raise UserError(f"there is no {path}")
        return [path]
    found = [file for file in sorted(path.glob("*.json")) if _is_result(_document(file))]
    if not found:
        raise UserError(f"{path} holds no result of `swiftlike eval`")
    return found


def _document(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}") from None


def _is_result(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("eval_type"), str)


def _read(file: Path) -> tuple[str, dict[str, float]]:
    """(prefix, numbers) of a file."""
    if file.suffix == ".json":
        value = _document(file)
        if _is_result(value):
            kind = value["eval_type"]
            return _PREFIXES.get(kind, kind), dict(_numbers(value))
        if isinstance(value, dict):
            raise UserError(f"{file} is no result of `swiftlike eval`: it has no eval_type")
    return ANSWERS, of_answers(file)


def _numbers(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """Every number with its column: `arc/acc` inside a task of lm-eval, `win_rate_lower` of an interval."""
    for key, one in value.items():
        if isinstance(one, Mapping) and key not in _ACCOUNTS:
            yield from _numbers(one, before if key == "results" else f"{before}{key}/")
        elif isinstance(one, int | float) and not isinstance(one, bool):
            column = f"win_rate_{key}" if key in ("lower", "upper") and "win_rate" in value else key
            yield before + column.removesuffix(",none"), one


def of_answers(file: Path) -> dict[str, float]:
    """What a file of answers says by itself: how many, how long, and its rewards if there are any."""
    (source,) = sources_of(DataArgs(), [str(file)])
    said: list[str] = []
    rewards: list[list[float]] = []
    rows, bad = 0, Reasons()
    for number, (record, origin) in enumerate(source.stream()):
        try:
            group = group_of(Numbered(number, record, origin, source), None)
            scores = rewards_of(group)
        except (BadRow, LeftOut) as error:
            bad.add(error.kind if isinstance(error, BadRow) else str(error), f"{origin}: {error}")
            continue
        rows += 1
        said += group.answers
        rewards += [scores] if scores else []
    if not rows:
        raise UserError(f"{file} holds no answers", problems=bad.as_text().splitlines())
    if bad.counts:
        log.warning("%s: rows without answers: %s", file, bad.as_text())
    words = sum(len(answer.split()) for answer in said) / len(said)
    values = {"rows": rows, "answers": len(said), "mean_length": mean_length(said), "mean_words": words}
    if rewards:
        values |= _mean("mean_reward", (score for one in rewards for score in one))
        values |= _mean("best_reward", map(max, rewards))
    return values


def _mean(column: str, values: Iterable[float]) -> dict[str, float]:
    """Mean and standard error."""
    found = list(values)
    mean = {column: statistics.fmean(found)}
    return mean | ({f"{column}_stderr": statistics.stdev(found) / math.sqrt(len(found))} if len(found) > 1 else {})

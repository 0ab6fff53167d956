"""Files of answers of any kind, matched by what was asked."""

from __future__ import annotations

import dataclasses as dc
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run
from swiftlike.data.files import read_file
from swiftlike.data.load import sources_of
from swiftlike.data.report import Reasons
from swiftlike.datasets_registry.apo import samples_of
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.columns import SCORES
from swiftlike.datasets_registry.kinds import LeftOut
from swiftlike.datasets_registry.row import Image, Turns
from swiftlike.pipelines.judges import Group
from swiftlike.pipelines.records import Numbered
from swiftlike.pipelines.score_rows import group_of

Key = tuple[Any, ...]
_SCORES = "rewards"  # where a pair has the scores that its answers brought along


@dc.dataclass
class Answers:
    """The answers of one file: what was asked -> each answer to it, in order."""

    name: str
    by_prompt: dict[Key, list[Group]] = dc.field(default_factory=dict)
    bad: Reasons = dc.field(default_factory=Reasons)

    def __len__(self) -> int:
        return sum(map(len, self.by_prompt.values()))


def read_answers(run: Run, name: str) -> Answers:
    """Answers of an infer, sample, score or AlpacaEval file. A row that holds none is counted in `bad`."""
    found = Answers(name)
    for source in sources_of(run.data, [name], "hf" if run.model.use_hf else "ms"):
        for number, (record, origin) in enumerate(source.stream()):
            try:
                group = group_of(Numbered(number, record, origin, source), run.data.image_root)
            except (BadRow, LeftOut) as error:
                found.bad.add(error.kind if isinstance(error, BadRow) else str(error), f"{origin}: {error}")
                continue
            for k in range(group.row.size):
                one = Group(_only(group, k), _record(group, k))
                found.by_prompt.setdefault(key_of(one.row.prompt), []).append(one)
    if not found.by_prompt:
        raise UserError(f"{name} holds no answers", problems=found.bad.as_text().splitlines())
    return found


def _only(group: Group, k: int) -> Any:
    row = group.row
    scores = row.scores[k : k + 1]
    return dc.replace(
        row, prompt=row.prompt_of(k), prompts=(), completions=(row.completions[k],), scores=scores, label=None
    )


def _record(group: Group, k: int) -> dict[str, Any]:
    """The record with answer k's own score, where it has one for each."""
    kept = {name: value for name, value in group.record.items() if name not in SCORES}
    lists = [value for name in SCORES if isinstance(value := group.record.get(name), list)]
    fitting = [value for value in lists if len(value) == group.row.size]
    return kept | ({_SCORES: [fitting[0][k]]} if fitting else {})


def rewards_of(group: Group) -> list[float]:
    """The scores that a record brought along for its answers, also APO's by the name of the answer; none where it has
    none. BadRow when they are not one number for each."""
    record = group.record
    found = next((record[name] for name in ("rewards", *SCORES) if record.get(name) not in (None, [], {})), [])
    if isinstance(found, Mapping):
        return [float(found[key]) for key in samples_of(record) if found.get(key) is not None]
    numbers = found if isinstance(found, list) else [found]
    if numbers and len(numbers) != group.row.size:
        raise BadRow("scores do not match answers", f"{group.row.size} answers, {len(numbers)} scores")
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in numbers):
        raise BadRow("scores are not numbers", str(numbers)[:80])
    return [float(one) for one in numbers]


def key_of(prompt: Turns) -> Key:
    """What two files say of the same question: its turns without the system message, and its pictures by name."""
    said = tuple((one.role, one.content.strip()) for one in prompt.messages if one.role != "system")
    return said, tuple(map(_picture, prompt.images))


def _picture(image: Image) -> str:
    """Files of one name are taken for one picture: folders differ between files of results."""
    if isinstance(image.source, bytes) or image.source.startswith("data:"):
        source = image.source if isinstance(image.source, bytes) else image.source.encode()
        return hashlib.blake2b(source, digest_size=16).hexdigest()
    return Path(image.source).name


def matched(first: Answers, second: Answers) -> list[Group]:
    """A group of two answers for each prompt that both files have; of several answers to it, the k-th with the k-th."""
    pairs = []
    for key, mine in first.by_prompt.items():
        for one, other in zip(mine, second.by_prompt.get(key, []), strict=False):
            row = dc.replace(one.row, completions=(*one.row.completions, *other.row.completions), scores=())
            record = {**other.record, **one.record}
            record.pop(_SCORES, None)
            if _SCORES in one.record and _SCORES in other.record:
                record[_SCORES] = [*one.record[_SCORES], *other.record[_SCORES]]
            pairs.append(Group(row, record))
    return pairs


def read_rows(path: Path | str) -> list[dict[str, Any]]:
    """Rows of a benchmark's file of answers, JSON or JSON lines."""
    found = []
    for record, origin in read_file(Path(path).expanduser()):
        if isinstance(record, BadRow):
            raise UserError(f"{origin}: {record}")
        found.append(record)
    return found


def text_of(turn: Any) -> str:
    """A turn as a text: MT-Bench has texts, Arena-Hard `{"content": text}`."""
    text: str = turn["content"] if isinstance(turn, Mapping) else turn
    return text


def mean_length(answers: Iterable[str]) -> float:
    """Characters of an answer, on average; 0 without any."""
    lengths = [len(answer) for answer in answers]
    return sum(lengths) / len(lengths) if lengths else 0.0


def said(pairs: Sequence[Group], side: int) -> list[str]:
    """The answers of one side."""
    return [pair.answers[side] for pair in pairs]

"""Records with answers to rows that can be judged, and what is written of their scores."""

from __future__ import annotations

import dataclasses as dc
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from swiftlike.data.media import located
from swiftlike.datasets_registry.apo import best_of_n, samples_of
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.columns import COMPLETIONS, SCORES
from swiftlike.datasets_registry.formats import FORMATS
from swiftlike.datasets_registry.kinds import LeftOut
from swiftlike.datasets_registry.readers import is_sample, query_of
from swiftlike.datasets_registry.row import Row, Turns
from swiftlike.datasets_registry.shapes import to_row
from swiftlike.datasets_registry.texts import only_answer
from swiftlike.datasets_registry.written import CANNOT, swift_v2
from swiftlike.pipelines.answers import in_conversation, in_text
from swiftlike.pipelines.convert_rows import portable, renamed
from swiftlike.pipelines.judges import Group
from swiftlike.pipelines.records import Numbered
from swiftlike.stages.ranking import System, preference_pair, ranks_of

Record = dict[str, Any]
_VERDICTS = (*SCORES, "ranks")  # columns of an earlier judgement


def group_of(read: Numbered, image_root: str | None) -> Group:
    """The answers of a record. BadRow when it has none."""
    if isinstance(read.record, BadRow):
        raise read.record
    card = read.source.wanted.card
    if card is not None and card.to_row is not None:
        record, row = read.record, card.to_row(read.record)
        if row is None:
            raise LeftOut("the data set's own rule")
    else:
        record = renamed(read.record, read.source.columns)
        row, _ = to_row(_readable(record))
        row = row if row.prompt_id or record.get("query_id") is None else _identified(row, record)
    if not row.completions:
        raise BadRow("no answer", f"its columns are {', '.join(map(str, record)) or 'none'}")
    return Group(_placed(row, read.origin, image_root), record)


def list_column(record: Mapping[str, Any]) -> str:
    """The column that holds a list of answers, empty when there is none."""
    return next((name for name in COMPLETIONS if isinstance(record.get(name), list)), "")


def _readable(record: Record) -> Record:
    """A layout that `to_row` knows: answers that nobody judged, or not as we do, get the score 0."""
    if is_sample(record) and not list_column(record):
        record = {"prompt": query_of(record), "completions": [*samples_of(record).values()]} | _pictures(record)
    column = list_column(record)
    return _unjudged(record) | {"scores": [0.0] * len(record[column])} if column else record


def _pictures(record: Record) -> Record:
    return {name: record[name] for name in ("images", "image") if record.get(name)}


def _identified(row: Row, record: Record) -> Row:
    return dc.replace(row, prompt_id=str(record["query_id"]))


def _unjudged(record: Record) -> Record:
    return {name: value for name, value in record.items() if name not in _VERDICTS}


def _placed(row: Row, origin: str, image_root: str | None) -> Row:
    roots = [Path(image_root).expanduser() if image_root else Path(origin.rpartition(":")[0]).parent, Path()]

    def placed(turns: Turns) -> Turns:
        return dc.replace(turns, images=tuple(located(image, roots) for image in turns.images))

    prompts, completions = tuple(map(placed, row.prompts)), tuple(map(placed, row.completions))
    return dc.replace(row, origin=origin, prompt=placed(row.prompt), prompts=prompts, completions=completions)


@dc.dataclass(frozen=True)
class Judged:
    """A group with its scores (less the penalty for length) and the ranks that they give."""

    group: Group
    scores: tuple[float | None, ...]
    ranks: tuple[int | None, ...]


def judged(group: Group, scores: Sequence[float | None], count: Callable[[str], int] | None, penalty: float) -> Judged:
    """The verdict on a group. `count` gives the tokens of an answer; it is needed with a penalty only."""
    lengths = [count(answer) for answer in group.answers] if penalty and count is not None else []
    ranks = ranks_of(scores, lengths, length_penalty=penalty)
    if penalty:
        paired = zip(scores, lengths, strict=True)
        scores = [None if score is None else score - penalty * length for score, length in paired]
    return Judged(group, tuple(scores), tuple(ranks))


@dc.dataclass(frozen=True)
class Writer:
    """What is written of a verdict. LeftOut when there is nothing to write, BadRow when the format cannot hold it."""

    write: str
    folder: Path
    system: System = "keep"
    ranks: bool = False  # whether ranks are written beside rewards
    gone: Counter[str] = dc.field(default_factory=Counter)  # answers that are not written, by reason

    def __call__(self, found: Judged) -> Record:
        """One record."""
        made = {"rewards": self._rewards, "best_of_n": self._best, "rejection": self._rejection, "pairs": self._pair}
        return made[self.write](found)

    def _rewards(self, found: Judged) -> Record:
        """The record with `rewards`; one of another layout as EXO's reward row. Answers that could not be trained on,
        blank or without a score, are left out."""
        known = self._usable(found)
        rewards: Record = {"rewards": [found.scores[k] for k in known]}
        rewards |= {"ranks": [found.ranks[k] for k in known]} if self.ranks else {}
        group = found.group
        row = portable(group.row, self.folder)
        column = list_column(group.record)
        if column:
            answers = group.record[column]
            return self._pictured(group.record, row) | {column: [answers[k] for k in known]} | rewards
        record = self._text(row, [group.answers[k] for k in known], "exo_reward", rewards["rewards"])
        return ({"query_id": row.prompt_id} if row.prompt_id else {}) | record | rewards

    def _usable(self, found: Judged) -> list[int]:
        known = []
        for k, (score, answer) in enumerate(zip(found.scores, found.group.answers, strict=True)):
            if score is None or not answer.strip():
                self.gone["without a score" if score is None else "blank"] += 1
            else:
                known.append(k)
        if not known:
            raise LeftOut("no answer that is scored and not blank")
        return known

    def _pictured(self, record: Mapping[str, Any], row: Row) -> Record:
        """The record without earlier verdicts, its pictures found from the output's folder."""
        kept = _unjudged(dict(record))
        for column in ("images", "image"):
            if kept.get(column) and row.prompt.images:
                kept[column] = [image.source for image in row.prompt.images]
        return kept

    def _text(self, row: Row, answers: Sequence[str], target: str, scores: Sequence[float] = ()) -> Record:
        if row.prompts:
            raise BadRow(CANNOT, "its answers have different prompts")
        text, _ = in_text(row, answers, FORMATS[target], spaced=True)
        write = FORMATS[target].write
        assert write is not None
        return write(dc.replace(text, scores=tuple(scores)))

    def _best(self, found: Judged) -> Record:
        """Query and best response, as for SFT."""
        row = in_conversation(found.group.row)
        answers = {str(k): answer for k, answer in enumerate(found.group.answers)}
        best = best_of_n(answers, _merits([*answers], found.ranks))
        if best is None:
            raise LeftOut("no answer that is scored and not blank")
        k = int(best[0])
        chosen = dc.replace(row, prompt=row.prompt_of(k), prompts=(), completions=(row.completions[k],), scores=())
        return swift_v2(portable(chosen, self.folder))

    def _rejection(self, found: Judged) -> Record:
        """APO's row of samples with the best one as `target` and all scores."""
        record = dict(found.group.record)
        if not is_sample(record) or list_column(record):
            row = portable(found.group.row, self.folder)
            row = row if row.prompt_id else dc.replace(row, prompt_id=row.origin)
            record = self._text(row, found.group.answers, "apo_sample")
        keys = [*samples_of(record)]
        best = best_of_n(record, _merits(keys, found.ranks))
        if best is None:
            raise LeftOut("no answer that is scored and not blank")
        scores = {key: score for key, score in zip(keys, found.scores, strict=True) if score is not None}
        return {**record, "target": best[1], "scores": scores}

    def _pair(self, found: Judged) -> Record:
        """`prompt`, `chosen` and `rejected` as whole conversations."""
        row = in_conversation(found.group.row)
        if row.prompts:
            raise BadRow(CANNOT, "its answers have different prompts")
        answers = [only_answer(row, k) for k in range(row.size)]
        said = [message for message in row.prompt.messages if message.role != "system"]
        own = [{"role": m.role, "content": m.content} for m in row.prompt.messages if m.role == "system"]
        ranks = [rank if answer.strip() else None for rank, answer in zip(found.ranks, answers, strict=True)]
        query = said[-1].content if said else ""
        example = {"prompt": query, "messages": own, "responses": answers, "ranks": ranks}
        pair = preference_pair(example, system=self.system)
        if pair is None:
            few = sum(rank is not None for rank in ranks) < 2
            raise LeftOut("fewer than two answers that are scored and not blank" if few else "a tie: all rank the same")
        if pair["chosen"][-1]["content"].strip() == pair["rejected"][-1]["content"].strip():
            raise LeftOut("chosen equals rejected")
        turns = [{"role": message.role, "content": message.content} for message in said]
        for side in ("chosen", "rejected"):
            pair[side] = [*pair[side][:-2], *turns, pair[side][-1]]
        images = [image.source for image in portable(row, self.folder).prompt.images]
        return pair | ({"images": images} if images else {})


def _merits(keys: Sequence[str], ranks: Sequence[int | None]) -> dict[str, float]:
    """What `best_of_n` takes the highest of: the lowest rank is best, an answer without one cannot win."""
    return {key: -rank for key, rank in zip(keys, ranks, strict=True) if rank is not None}

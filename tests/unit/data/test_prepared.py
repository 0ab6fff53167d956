"""Prepared groups are those of reading and encoding every row by itself, however many processes there are."""

from __future__ import annotations

import dataclasses as dc
import hashlib
import multiprocessing
import os
import pickle
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest

from swiftlike.args.data import DataArgs
from swiftlike.core.errors import UserError
from swiftlike.data import pool
from swiftlike.data.check import Problem
from swiftlike.data.encode import Encoded, Encoder, Span
from swiftlike.data.load import load_rows
from swiftlike.data.packed import Packed
from swiftlike.data.prepared import Prepared, Preparing, prepare
from swiftlike.data.template import Template
from swiftlike.datasets_registry.card import BadRow
from swiftlike.model_registry import TEMPLATES

from .conftest import pair, picture

Args = Callable[..., DataArgs]
Write = Callable[..., Path]
WORDS = ("the", "sea", "is", "quiet", "and", "an", "old", "mill", "stands", "by", "the", "road", "to", "town")


def few(chance: random.Random, most: int) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(1, most)))


def records(kind: str, count: int, folder: Path) -> list[dict[str, Any]]:
    """Rows of very different lengths; some broken, some repeated, some too long."""
    chance = random.Random(count)
    rows: list[Any] = []
    for number in range(count):
        row: dict[str, Any] = {"query": few(chance, 20), "response": f"{few(chance, 12)} {number}"}
        if kind == "pair":
            row |= {"rejected_response": few(chance, 9), "margin": number / 3}
        elif kind == "labelled":
            row |= {"label": number % 3 > 0}
        elif kind == "ranked":
            size = 2 + number % 3
            row = {"prompt": row["query"], "completions": [f"{few(chance, 9)} {k}" for k in range(size)]}
            row |= {"rewards": [chance.choice((1.0, 2.0, 0.5)) for _ in range(size)], "query_id": f"p{number // 2}"}
            row |= {"type": "apo"} if number % 4 == 0 and size == 2 else {}
        elif kind == "picture":
            names = [str(folder / f"{number % 7}.png"), str(folder / "0.png")][: 1 + number % 2]
            row |= {"rejected_response": few(chance, 9), "images": names}
            row["query"] = "<image>" * len(names) + row["query"]
        rows.append(rows[-1] if number % 11 == 5 else row)
    rows[7] = {**rows[7], "query" if kind != "ranked" else "prompt": ""}
    rows[9] = {"nothing": "known"}
    for number in range(13, count, 4):
        prompt = "prompt" if kind == "ranked" else "query"
        rows[number] = {**rows[number], prompt: rows[number][prompt] + " ".join(WORDS * 9)}
    return rows


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encoder]:
    text = Template(families.tokenizer(), TEMPLATES.get("chatml"))
    looking = Template(families.tokenizer(), TEMPLATES.get("chatml"), families.card("llava").vision)
    made = {"text": Encoder(template=text, max_length=150)}
    made["picture"] = Encoder(template=looking, adapter=families.adapter("llava"), max_length=150)
    return made


def plain(data: Any, kind: str, encode: Encoder) -> tuple[list[Encoded], list[Encoded], str, list[list[Problem]]]:
    """One row after the other, all in memory."""
    loaded = load_rows(data, kind, 5)
    groups: list[list[Encoded]] = [[], []]
    problems: list[list[Problem]] = [[], []]
    for part, rows in enumerate((loaded.train, loaded.val)):
        for row in rows:
            try:
                groups[part].append(encode(row))
            except BadRow as error:
                problems[part].append(Problem(row.origin, error.kind, error.detail))
    return groups[0], groups[1], loaded.report.as_text(), problems


def facts(groups: Sequence[Encoded]) -> list[Any]:
    """Everything in a group, so that it can be compared."""
    return [
        [
            (span.ids.dtype, span.ids.tolist(), span.counted.dtype, span.counted.tolist(), span.images)
            for span in (group.prompt, *group.completions)
        ]
        + [
            repr(getattr(group, field.name))
            for field in dc.fields(group)
            if field.name not in ("prompt", "completions")
        ]
        for group in groups
    ]


def old_digest(groups: Sequence[Encoded]) -> str:
    out = hashlib.blake2b(digest_size=16)
    for group in groups:
        out.update(repr((group.label, group.scores, group.margin, group.images)).encode() + group.mark.encode())
        for span in (group.prompt, *group.completions):
            out.update(span.ids.tobytes())
    return out.hexdigest()


def digest(groups: Packed) -> str:
    out = hashlib.blake2b(digest_size=16)
    groups.fold(out)
    return out.hexdigest()


FLAGS: dict[str, dict[str, Any]] = {
    "all": {},
    "held": {"dataset_test_ratio": 0.2},
    "repeats": {"many": "#130", "dataset_test_ratio": 0.1},
    "few": {"many": "#20"},
    "bounded": {"train_dataset_sample": 17, "val_dataset_sample": 3, "dataset_test_ratio": 0.3},
    "mixed": {"twice": True, "interleave_prob": [0.3, 0.7], "stopping_strategy": "all_exhausted"},
    "after": {"twice": True, "dataset_test_ratio": 0.1},
}


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
@pytest.mark.parametrize("kind", ["completion", "pair", "labelled", "ranked", "picture"])
def test_equal_to_one_row_after_the_other(
    kind: str, flags: dict[str, Any], tmp_path: Path, args: Args, jsonl: Write, encoders: dict[str, Encoder]
) -> None:
    for number in range(7 if kind == "picture" else 0):
        picture(tmp_path / f"{number}.png", (20 + 9 * number, 30))
    flags = dict(flags)
    items = [f"{jsonl(records(kind, 60, tmp_path))}{flags.pop('many', '')}"]
    if flags.pop("twice", False):
        items += [str(jsonl(records(kind, 31, tmp_path), "b.jsonl")), items[0]]
        if "interleave_prob" in flags:
            items.pop()
    data = args(*items, on_bad_row="drop", **flags)
    encode = encoders["picture" if kind == "picture" else "text"]
    wanted = "pair" if kind == "picture" else kind
    train, val, report, problems = plain(data, wanted, encode)
    assert train
    assert problems[0]
    for processes, folder in ((1, None), (2, tmp_path / "two"), (3, None)):
        if folder:
            folder.mkdir()
        found = prepare(data, wanted, 5, "hf", Preparing(encode=encode, processes=processes), folder)
        assert facts(found.train) == facts(train)
        assert facts(found.val) == facts(val)
        assert found.report == report
        assert [found.bad_train, found.bad_val] == problems
        assert digest(found.train) == old_digest(train)
        check_lengths(found, train)


def check_lengths(found: Prepared, groups: list[Encoded]) -> None:
    packed = found.train
    assert packed.shared_lengths.tolist() == [group.shared_length for group in groups]
    assert packed.longest.tolist() == [group.longest for group in groups]
    assert packed.prompt_lengths.tolist() == [len(group.prompt.ids) for group in groups]
    assert packed.completion_lengths.tolist() == [len(one.ids) for group in groups for one in group.completions]
    assert packed.sizes.tolist() == [len(group.completions) for group in groups]
    assert packed.pictures == any(group.images for group in groups)
    some = int(groups[0].prompt.ids[-1])
    counts = [sum((span.ids == some).sum() for span in (one.prompt, *one.completions)) for one in groups]
    assert packed.count(some).tolist() == [n if one.images else 0 for n, one in zip(counts, groups, strict=True)]
    briefs = [(group.label, group.scores, group.mark, group.prompt_id) for group in groups]
    assert list(packed.briefs) == briefs
    again = pickle.loads(pickle.dumps(packed[1::2]))
    assert facts(again) == facts(groups[1::2])
    assert facts([again[-1]]) == facts([groups[1::2][-1]])


@pytest.mark.parametrize("processes", [1, 2])
def test_errors_are_those_of_reading(processes: int, args: Args, jsonl: Write, encoders: dict[str, Encoder]) -> None:
    how = Preparing(encode=encoders["text"], processes=processes)
    good = jsonl([pair(n) for n in range(9)], "good.jsonl")
    bad = jsonl([pair(1), pair(2, response=""), pair(3), pair(4, query="")])
    strange = jsonl([{"foo": "bar"}] * 9, "strange.jsonl")
    for data in (
        args(good, bad),
        args(strange),
        args(bad, columns={"nowhere": "query"}),
        args(good, val_dataset=["x"]),
    ):
        with pytest.raises(UserError) as wanted:
            load_rows(data, "pair", 1)
        with pytest.raises(UserError) as found:
            prepare(data, "pair", 1, "hf", how)
        assert str(found.value) == str(wanted.value)


def test_numbers_that_are_no_floats_stay_what_they_are() -> None:
    one = Encoded(*_spans(), scores=(1, 0), margin=2)
    other = Encoded(*_spans(), scores=(float("nan"), 0.1), margin=float("inf"), label=True)
    assert facts(Packed.of([one, other])) == facts([one, other])


def _spans() -> Any:
    span = Span(np.array([1, 2], np.int32), np.array([False, True]))
    return span, (span, span)


def test_a_process_that_is_killed_ends_the_run(args: Args, jsonl: Write, encoders: dict[str, Encoder]) -> None:
    data = args(jsonl([pair(n) for n in range(20)]))
    parent = os.getpid()

    def decides(group: Encoded) -> bool:
        if os.getpid() != parent:
            os.kill(os.getpid(), 9)
        return True

    with pytest.raises(UserError, match="was ended"):
        prepare(data, "pair", 1, "hf", Preparing(encode=encoders["text"], decides=decides, processes=2))


def test_nobody_goes_on_when_the_run_is_killed(args: Args, jsonl: Write, encoders: dict[str, Encoder]) -> None:
    data = args(jsonl([pair(n) for n in range(20)]))
    context = multiprocessing.get_context("fork")
    told = context.Queue()

    def decides(group: Encoded) -> bool:
        told.put(os.getpid())
        time.sleep(600)
        return True

    how = Preparing(encode=encoders["text"], decides=decides, processes=2)
    run = context.Process(target=prepare, args=(data, "pair", 1, "hf", how))
    run.start()
    workers = {told.get(timeout=60), told.get(timeout=60)}
    assert run.pid not in workers
    run.kill()
    run.join()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}/stat").exists() and _runs(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _runs(pid: int) -> bool:
    """Not a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_small_data_does_not_pay_for_processes(
    monkeypatch: pytest.MonkeyPatch, args: Args, jsonl: Write, encoders: dict[str, Encoder]
) -> None:
    monkeypatch.setattr(pool, "cores", lambda: 2)
    seen: list[int] = []
    how = Preparing(encode=encoders["text"], decides=lambda group: bool(seen.append(os.getpid())) or True)
    prepare(args(jsonl([pair(n) for n in range(20)])), "pair", 1, "hf", how)
    assert set(seen) == {os.getpid()}
    assert len(seen) == 20

"""Rows of a data set answered (or, by a reward model, scored), each written as soon as it is ready."""

from __future__ import annotations

import dataclasses as dc
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from swiftlike.core.devices import own_devices
from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger, is_main, rank, world_size
from swiftlike.core.merge import Run
from swiftlike.engines.base import Answer, Engine, Request, Sampling, Scorer
from swiftlike.models.placement import local_processes
from swiftlike.pipelines.infer.progress import Progress, count
from swiftlike.pipelines.infer.records import Record, answered, conversation, scored
from swiftlike.pipelines.infer.results import Claim, Lines, errors_in, new_path, notes_of
from swiftlike.pipelines.infer.rows import Asked, digest, of_training, read_rows
from swiftlike.pipelines.serving import Opened, open_engine, open_scorer

log = get_logger(__name__)
Done = Callable[[Asked, Record, int], None]  # a row, its line, its new tokens
_NO_FACT = {"max_batch_size", "gpu_memory_utilization", "tensor_parallel_size", "max_num_seqs", "enforce_eager"}


class Work(Protocol):
    """What is done to rows: `done` is called once for each, as it is ready."""

    def __call__(self, rows: Sequence[Asked], done: Done) -> None: ...

    def close(self) -> None: ...


def run_batch(run: Run, opened: Opened, sampling: Sampling) -> int:
    """Read, claim the file, load the weights, answer. Exit code 1 when not a single row could be answered."""
    run = of_training(run, opened.args)
    rows = read_rows(run, opened.args)
    path, done, claim = _claim_together(run, opened, sampling, rows)
    mine = [one for one in rows if one.index % world_size() == rank() and one.index not in done]
    if is_main() and done:
        log.info("%s has %d of %s: going on with the rest", path, len(done), count(len(rows), "row"))
    # the longest first: what memory cannot hold shows at once, and no long row is left to be waited for alone
    mine.sort(key=lambda one: (-one.length, one.index))
    lines, before = Lines(path), sum(one.index in done for one in rows if one.index % world_size() == rank())
    progress = Progress(len(mine) + before, before, shown=is_main())
    try:
        if mine:
            _answer(run, opened, sampling, mine, (lines, progress))
        total = _together(progress)
    except KeyboardInterrupt:
        if is_main():
            log.warning("stopped; to go on: the same command with --result_path %s", path)
        raise
    finally:
        lines.close()
        if claim is not None:
            claim.end()
    if is_main():
        _summary(total, len(done), progress.seconds, path)
    return int(total["rows"] > 0 and total["errors"] == total["rows"])


def _answer(run: Run, opened: Opened, sampling: Sampling, rows: Sequence[Asked], where: tuple[Lines, Progress]) -> None:
    lines, progress = where
    work: Work = Scoring(open_scorer(run, opened)) if opened.reward else Answering(run, opened, sampling)

    def done(one: Asked, record: Record, tokens: int) -> None:
        lines.add(record)
        progress.add(tokens, record["error"] is not None)

    try:
        with progress:
            for one in rows:
                if one.row is None:
                    done(one, scored(one, []) if opened.reward else answered(one, None), 0)
            work([one for one in rows if one.row is not None], done)
    finally:
        work.close()


class Answering:
    """An engine writes one answer to each prompt. Row i of a sampled run has the seed `--seed` + i."""

    def __init__(self, run: Run, opened: Opened, sampling: Sampling) -> None:
        self.engine: Engine = open_engine(run, opened)
        self.sampling, self.logprobs, self.adapter = sampling, run.infer.logprobs, adapter_of(opened)

    def __call__(self, rows: Sequence[Asked], done: Done) -> None:
        def ready(place: int, answer: Answer) -> None:
            completion = answer.completions[0] if answer.completions else None
            record = answered(rows[place], completion, answer.error, self.logprobs)
            done(rows[place], record, len(completion.ids) if completion else 0)

        self.engine.generate([self.request(one) for one in rows], ready)

    def request(self, one: Asked) -> Request:
        """What the engine is asked for a row."""
        assert one.row is not None
        seed = self.sampling.seed
        return Request(
            prompt=one.row.prompt,
            sampling=self.sampling if seed is None else dc.replace(self.sampling, seed=seed + one.index),
            adapter=self.adapter,
            tools=one.row.tools,
        )

    def close(self) -> None:
        """Give the weights back."""
        self.engine.close()


def adapter_of(opened: Opened) -> str:
    """The adapter that answers: the only one, whether or not it was given a name."""
    return opened.served or next(iter(opened.adapters), "")


class Scoring:
    """A reward model scores every answer that a row has."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def __call__(self, rows: Sequence[Asked], done: Done) -> None:
        asked: list[Any] = []
        owner: list[tuple[Asked, int]] = []
        waiting: dict[int, int] = {}
        found: dict[int, list[float | str]] = {}
        for one in rows:
            assert one.row is not None
            if not one.row.size:
                done(one, scored(one, [], f"{one.origin}: there is no answer to score"), 0)
                continue
            waiting[one.index] = one.row.size
            found[one.index] = [""] * one.row.size
            for k, completion in enumerate(one.row.completions):
                asked.append(conversation(one.row.prompt_of(k), completion))
                owner.append((one, k))

        def ready(place: int, reward: float | str) -> None:
            one, k = owner[place]
            found[one.index][k] = reward
            waiting[one.index] -= 1
            if not waiting[one.index]:
                done(one, scored(one, found.pop(one.index)), 0)

        self.scorer.score(asked, ready)

    def close(self) -> None:
        """Nothing runs between calls."""


def _claim_together(
    run: Run, opened: Opened, sampling: Sampling, rows: list[Asked]
) -> tuple[Path, frozenset[int], Claim | None]:
    """The file, the rows that it has, and rank 0's claim on it. All ranks agree before one of them writes."""
    claim = None
    if is_main():
        given = run.infer.result_path
        path = Path(given).expanduser() if given else new_path(home_of(opened))
        claim = Claim(path, facts(run, opened, sampling, rows))
        path, done = claim.path, claim.done
        if beyond := [index for index in done if index >= len(rows)]:
            raise UserError(
                f"{path} has a row {beyond[0]}; the data has {len(rows)}", hint="give another --result_path"
            )
    if world_size() > 1:
        path, done = _from_main((str(path), done) if is_main() else None)
    return Path(path), done, claim


def home_of(opened: Opened) -> Path:
    """Where results go by default: beside the weights that the user named, else the working folder."""
    folder = opened.adapters.get(adapter_of(opened), opened.model_folder)
    named = opened.adapters or opened.run.use.ckpt_dir or Path(opened.run.model.model).expanduser().is_dir()
    return folder if named and folder.is_dir() and os.access(folder, os.W_OK) else Path()


def facts(run: Run, opened: Opened, sampling: Sampling, rows: list[Asked]) -> dict[str, Any]:
    """What decides the answers: a file of answers is gone on with only where all of it is the same."""
    asked = {} if opened.reward else {name: value for name, value in dc.asdict(sampling).items() if value is not None}
    engine = {name: value for name, value in dc.asdict(run.engine).items() if name not in _NO_FACT and value}
    return {
        "model": str(opened.model_folder),
        "adapters": {name: str(folder) for name, folder in opened.adapters.items()},
        "rows": len(rows),
        "data": digest(rows),
        "template": run.model.template,
        "system": run.model.system,
        "infer_backend": run.use.infer_backend,
        "merge_lora": run.use.merge_lora,
        "sampling": asked,
        "engine": engine,
    }


def _from_main(value: Any) -> Any:
    """What rank 0 has, on every rank. Ranks that take long are waited for: none is stopped for being slow."""
    import datetime

    import torch
    import torch.distributed as dist
    from accelerate import PartialState

    if mine := own_devices(torch.cuda.device_count(), local_processes()[1], local_processes()[0]):
        torch.cuda.set_device(mine[0])
    PartialState(cpu=True, timeout=datetime.timedelta(days=7))
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _together(progress: Progress) -> dict[str, int]:
    """The counts of all ranks."""
    mine = {"rows": progress.rows, "errors": progress.errors, "tokens": progress.tokens}
    if world_size() == 1:
        return mine
    import torch.distributed as dist

    box: list[Any] = [None] * world_size()
    dist.all_gather_object(box, mine)
    dist.destroy_process_group()
    return {name: sum(one[name] for one in box) for name in mine}


def _summary(total: dict[str, int], before: int, seconds: float, path: Path) -> None:
    wrong = errors_in(path) - total["errors"] if before else 0
    earlier = f" ({before} were there before{f', {wrong} of them without an answer' * bool(wrong)})" if before else ""
    speed = f", {count(total['tokens'], 'token')}, {total['tokens'] / seconds:.1f} tokens/s" if total["tokens"] else ""
    log.info(
        "finished: %s%s, %s, %.1f s%s",
        *(count(total["rows"], "row"), earlier, count(total["errors"], "error"), seconds, speed),
    )
    log.info("answers (in the order they were ready; `index` is the row's place): %s", path)
    log.info("what they answer: %s", notes_of(path))

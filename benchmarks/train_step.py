"""Training steps of swiftlike and of TRL, ms-swift and LLaMA-Factory: same model, rows, adapter, batches, machine, run.

python benchmarks/train_step.py [--workloads c d ...] [--size 30m] [--tools trl ...] [--windows 7] [--quick]

Each side is a process of its own that trains through its real user path; it stops after each window of steps and goes
on when its turn comes again, so that all share whatever else the machine is doing. Before any timing a peer must agree
with swiftlike on token counts, and to 1e-3 on log-probabilities, loss and every gradient norm, at step 0 and with an
adapter that is not zero; one that does not is not timed, and the results say why. Peers' environments are made when
absent. Results: benchmarks/results/train_step.json and .txt, docs/performance.md. A workload that is not measured this
time keeps the numbers that stand there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import environments
import train_report
from agreement import checked_as, comparable, differences
from common import load, machine
from flops import card_name
from train_numbers import compare, summary
from train_report import PUBLISHED, RESULTS
from workloads import SIZES, TILE, WORKLOADS, build_model, write_rows


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line. `--quick` makes everything small: it tests the script, not the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--workloads", nargs="+", choices=(*WORKLOADS, "e"), default=list(WORKLOADS), help="e: e4 and e8")
    add("--size", choices=tuple(SIZES), default="tiny")
    add("--tools", nargs="+", choices=("swiftlike", *environments.PEERS), help="default: all")
    add("--pythons", nargs="*", default=[], help="TOOL=PYTHON of environments that are there already")
    add("--output", type=Path, default=RESULTS)
    add("--page", type=Path, help="page written from the results; default: docs/performance.md for the default output")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--threads", type=int, nargs="+", default=[os.cpu_count() or 1])
    add("--checkpointing", nargs="+", choices=("on", "off"), help="default: on, and for (c) off as well")
    add("--warmup", type=int, default=1, help="steps before the first window")
    add("--windows", type=int, default=7)
    add("--steps", type=int, default=1, help="steps in a window")
    add("--learning_rate", type=float, default=1e-4)
    add("--seed", type=int, default=0)
    add("--quick", action="store_true")
    options = parser.parse_args(words)
    options.shrink = 16 if options.quick else 1  # of lengths
    if options.quick:
        vars(options).update(size="tiny", windows=2, threads=[1])
        if options.output == RESULTS:
            options.output = Path(tempfile.gettempdir()) / RESULTS.name
    if options.page is None and options.output == RESULTS:
        options.page = PUBLISHED
    options.workloads = [one for one in WORKLOADS if one in options.workloads or one[0] in options.workloads]
    options.tools = options.tools or ["swiftlike", *environments.PEERS]
    return options


class Side(common.Side):
    """A running side of a workload."""

    script = "side.py"

    def window(self, steps: int) -> dict[str, Any]:
        """Let it train; what it measured."""
        self.send(steps)
        found = self.receive()
        if found["misses"] and "live" not in self.name:
            self.failed(f"did not know {found['misses']} rows' reference numbers, so its store was not warm")
        return found

    def failed(self, how: str) -> dict[str, Any]:
        """The side's end, with the end of its log."""
        self.process.kill()
        raise FailedError(f"{how}: {last_line(self.log)}", self.log.read_text()[-4000:])


class FailedError(Exception):
    """A side that does not run. Its words are for the results, `log` for the reader of the terminal."""

    def __init__(self, words: str, log: str) -> None:
        super().__init__(words)
        self.log = log


def last_line(log: Path) -> str:
    """The last words of a log, files without their folders."""
    lines = [line.strip() for line in log.read_text().splitlines() if line.strip()]
    return re.sub(r"(?<!\S)/\S*/", "", lines[-1])[:300] if lines else "it said nothing"


# -- agreement ---------------------------------------------------------------------------------------------------------


def check(options: argparse.Namespace, sides: list[str], pythons: dict[str, str]) -> tuple[list[Any], dict[str, str]]:
    """Compare all sides with ours before anything is timed. Gives each row's tokens (prompt, answers), and why sides
    are left out."""
    found: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    for name in dict.fromkeys(map(checked_as, sides)):
        try:
            process = Side(name, pythons[name.split()[0]], options, "check", max(options.threads))
            numbers = process.receive()
            process.end()
        except FailedError as error:
            if not found:
                sys.exit(f"{name} {error}\n{error.log}")
            print(f"{name} {error}\n{error.log}", file=sys.stderr)
            skipped[name] = str(error)
            continue
        first = next(iter(found.values()), numbers)
        wrong = differences(comparable(first, numbers), numbers)
        if wrong:
            print("\n  ".join([f"{name} does not compute the same:", *wrong[:20]]), file=sys.stderr)
            skipped[name] = f"does not compute the same at {len(wrong)} places: {wrong[0]}"
        else:
            found[name] = numbers
    if options.device == "cuda":
        fill = Side(next(iter(found)), pythons["swiftlike"], options, "fill", max(options.threads))
        fill.receive()
        fill.end()
    return next(iter(found.values()))["lengths"], {
        side: skipped[checked_as(side)] for side in sides if checked_as(side) in skipped
    }


# -- timing ------------------------------------------------------------------------------------------------------------


def measure(
    options: argparse.Namespace, sides: list[str], pythons: dict[str, str], mode: str, threads: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """All sides at one setting, window by window in turns. Gives what was measured, and why sides fell out."""
    running: list[Side] = []
    results: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    for name in sides:  # one after another: what one does to start shall not disturb another
        side = Side(name, pythons[name.split()[0]], options, mode, threads)
        try:
            results[name] = {**side.receive(), "startup_s": time.perf_counter() - side.started, "windows": []}
            running.append(side)
        except FailedError as error:
            print(f"{name} {error}\n{error.log}", file=sys.stderr)
            skipped[name] = str(error)
    for count in [options.warmup, *[options.steps] * options.windows]:
        for side in list(running):
            try:
                results[side.name]["windows"].append(side.window(count))
            except FailedError as error:
                print(f"{side.name} {error}\n{error.log}", file=sys.stderr)
                skipped[side.name] = str(error)
                running.remove(side)
                del results[side.name]
    for side in running:
        side.send(0)
        side.process.wait()
    return {name: summary(result, options) for name, result in results.items()}, skipped


# -- a workload --------------------------------------------------------------------------------------------------------


def set_up(options: argparse.Namespace, name: str, folder: Path) -> dict[str, int]:
    """Rows, model and setting.json of a workload. Gives the model's sizes."""
    workload = WORKLOADS[name]
    vars(options).update(SIZES[options.size])
    per_step = workload.batch * workload.accumulation
    options.rows = per_step * (options.warmup + options.windows * options.steps + 1)
    options.kind, options.picture, options.answers = workload.kind, workload.picture, workload.answers
    options.batch_size, options.accumulation, options.max_length = (
        workload.batch,
        workload.accumulation,
        workload.max_length,
    )
    options.tile = 56 if options.quick else TILE.get(workload.picture, 0)
    options.folder, options.model, options.data = str(folder), str(folder / "model"), str(folder)
    write_rows(workload.rows(options, random.Random(options.seed)), workload, folder)
    sizes = build_model(options, workload.picture, folder / "model")
    options.sizes = sizes
    setting = vars(options) | {"output": None, "page": None}
    (folder / "setting.json").write_text(json.dumps(setting), encoding="utf-8")
    return sizes


def described(options: argparse.Namespace) -> dict[str, Any]:
    """The machine, and its card where one computes."""
    return machine() | ({"card": card_name()} if options.device == "cuda" else {})


def run(options: argparse.Namespace, name: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Check and measure one workload. Gives an entry of the results for each setting."""
    workload = WORKLOADS[name]
    sides = [side for side in workload.sides if side.split()[0] in options.tools]
    pythons, missing = environments.find(options, {side.split()[0] for side in sides})
    left_out = {side: missing[side.split()[0]] for side in sides if side.split()[0] in missing}
    sides = [side for side in sides if side not in left_out]
    sizes = set_up(options, name, folder)
    options.lengths, unequal = check(options, sides, pythons)
    left_out |= unequal
    sides = [side for side in sides if side not in left_out]
    facts = {
        "batch_size": options.batch_size,
        "accumulation": options.accumulation,
        "mean_prompt": round(statistics.mean(row[0] for row in options.lengths), 1),
        "mean_answer": round(statistics.mean(tokens for row in options.lengths for tokens in row[1:]), 1),
        **{one: getattr(options, one) for one in ("windows", "steps", "warmup", "seed", "quick")},
    }
    for threads in options.threads:
        for mode in options.checkpointing or workload.modes:
            key = {"workload": name, "size": options.size, "device": options.device, "threads": threads}
            entry = {**key, "checkpointing": mode, "machine": described(options), "model": sizes, "rows": facts}
            entry |= {"date": time.strftime("%Y-%m-%d"), "load_average_before": load()}
            found, fell_out = measure(options, sides, pythons, mode, threads)
            ratios = compare(found, workload, tiny=options.size == "tiny")
            entry |= {"load_average_after": load(), "sides": found, "ratios": ratios}
            yield entry | {"skipped": left_out | fell_out}


def main(words: list[str] | None = None) -> int:
    """Run and write the results."""
    options = arguments(words)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    results = train_report.known(options.output, options.device, described(options))
    for name in options.workloads:
        with tempfile.TemporaryDirectory(prefix=f"train_step_{name}_") as folder:
            try:
                for entry in run(options, name, Path(folder)):
                    results = train_report.merged(results, entry)
                    train_report.write(results, options.output, options.page)
                    print(train_report.table([entry]), flush=True)
            except FileNotFoundError as error:
                print(f"SKIPPED: ({name}) needs {error.filename}", file=sys.stderr, flush=True)
    print(f"\n{train_report.NOTES}\n\nwritten to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Seconds from the command to the end of the first optimiser step: swiftlike against TRL, DPO with LoRA, in turns.

python benchmarks/first_step.py [--runs 7] [--pythons trl=PATH] [--output FILE]

The same tiny model and 64 pairs of short texts for both. `swiftlike rlhf` is the command as a user types it, TRL's is a
script as its documentation shows one (first_step_trl.py); both are fresh processes each time, with nothing but the
step to do: no evaluation, no saving, no tracker. Compiled Python files are there, and the model's files are in the
disk's cache, for both alike: the first round is not counted. Results: benchmarks/results/first_step.{json,txt}.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import environments
from common import load, machine, make_model, spread

WANTED = 0.7  # of TRL's time at most
STEP = "first optimiser step done"  # what TRL's script says; ours logs the first step anyway


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--pythons", nargs="*", default=[], help="trl=PATH: a python that has it; else one is made")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "first_step.json")
    options = parser.parse_args(words)
    size = {"hidden": 64, "intermediate": 128, "layers": 2, "heads": (4, 2), "vocabulary": 512, "seed": 0}
    vars(options).update(size)
    return options


def commands(folder: Path, pythons: dict[str, str]) -> dict[str, list[str]]:
    """What a user runs."""
    flags = {
        "rlhf_type": "dpo", "rpo_alpha": "none", "model": folder / "model", "template": "chat_template",
        "dataset": folder / "pairs.jsonl", "dataset_test_ratio": 0, "output_dir": folder / "ours", "max_steps": 1,
        "batch_size": 4, "gradient_accumulation_steps": 1, "eval_strategy": "no", "save_strategy": "no",
        "report_to": "none",
    }  # fmt: skip
    ours = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    script = Path(__file__).with_name("first_step_trl.py")
    return {
        "swiftlike": [pythons["swiftlike"], "-m", "swiftlike", "rlhf", *ours],
        "trl": [pythons["trl"], str(script), str(folder)],
    }


def first_step(words: list[str], said: str, folder: Path) -> dict[str, float]:
    """Wall and CPU seconds until a process says that its first step is done; it is then waited for."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "SWIFTLIKE_CACHE": str(folder / "cache")}
    begun = time.perf_counter()
    with subprocess.Popen(
        words, env=env, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if said in line:
                wall = time.perf_counter() - begun
                cpu = _cpu(process.pid)
                process.stdout.read()
                process.wait()
                return {"wall": wall, "cpu": cpu}
    sys.exit(f"{' '.join(words[:4])} ... never said {said!r}:\n{''.join(lines)[-4000:]}")


def _cpu(pid: int) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def make(folder: Path, options: argparse.Namespace) -> None:
    """Model, tokenizer and rows."""
    make_model(options, folder / "model")
    draw = random.Random(0)

    def turn(role: str, count: int) -> list[dict[str, str]]:
        return [{"role": role, "content": " ".join(f"w{draw.randrange(options.vocabulary - 5)}" for _ in range(count))}]

    rows = [
        {"prompt": turn("user", 20), "chosen": turn("assistant", 9), "rejected": turn("assistant", 9)}
        for _ in range(64)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def table(result: dict[str, Any]) -> str:
    """What a reader looks at."""
    lines = [
        "seconds from the command to the end of the first optimiser step, DPO with LoRA, tiny Llama, 4 pairs",
        f"{len(result['swiftlike']['wall'])} runs in turns, load {result['load_before'][0]} before, "
        f"{result['load_after'][0]} after, {result['date']}",
        f"  {'':<12}{'wall s':>8}{'CPU s':>8}",
    ]
    for side in ("swiftlike", "trl"):
        wall, cpu = (statistics.median(result[side][name]) for name in ("wall", "cpu"))
        lines.append(f"  {side:<12}{wall:>8.2f}{cpu:>8.2f}")
    wall, cpu = result["ratio_wall"], result["ratio_cpu"]
    mark = "reached" if wall["median"] <= WANTED else "MISSED"
    lines.append(
        f"  swiftlike / trl: {wall['median']:.2f}x wall ({wall['min']:.2f} to {wall['max']:.2f}), "
        f"{cpu['median']:.2f}x CPU; wanted at most {WANTED}: {mark}"
    )
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    """Run and write the results."""
    options = arguments(words)
    pythons, missing = environments.find(options, {"swiftlike", "trl"})
    if missing:
        sys.exit(f"SKIPPED: {missing}")
    result: dict[str, Any] = {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "load_before": load()}
    with tempfile.TemporaryDirectory(prefix="first_step_") as name:
        folder = Path(name)
        make(folder, options)
        sides = commands(folder, pythons)
        found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for _ in range(options.runs + 1):
            for side, command in sides.items():
                found[side].append(first_step(command, STEP if side == "trl" else " step 1/1 ", folder))
    for side, runs in found.items():
        result[side] = {kind: [round(run[kind], 3) for run in runs[1:]] for kind in ("wall", "cpu")}
    for kind in ("wall", "cpu"):
        result[f"ratio_{kind}"] = spread(result["swiftlike"][kind], result["trl"][kind])
    result["load_after"] = load()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    options.output.with_suffix(".txt").write_text(table(result) + "\n", encoding="utf-8")
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())

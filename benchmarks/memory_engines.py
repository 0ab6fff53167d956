"""The planner's memory per process beside what processes really held, under DDP, ZeRO-1, 2, 3 and FSDP2 on a CPU.

    python benchmarks/memory_engines.py [--only zero2] [--processes 2]

All weights of a random llama of 220 million (float32, AdamW) are trained on a few short pairs, by the command that a
user types. `planned` is what `--dry_run` says for the same command under the same launcher. `measured` is the most that
one process had for itself (RssAnon, looked at every 5 ms), less the same of a run with a model of half a million
weights, which is what modules and libraries take. glibc is told to give large blocks back at once
(MALLOC_MMAP_THRESHOLD_), as a card's allocator reuses them. Writes results/memory_engines.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "memory_engines.json"
PLACEMENTS = {
    "ddp": [],
    "zero1": ["--deepspeed", "zero1"],
    "zero2": ["--deepspeed", "zero2"],
    "zero3": ["--deepspeed", "zero3"],
    "fsdp2": ["--fsdp", "fsdp2"],
}
SIZE = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12, "vocab_size": 32000, "head_dim": 64}
UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def build(folder: Path) -> None:
    """A random model with the tokenizer of the built-in one."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from swiftlike.args.model import ModelArgs
    from swiftlike.models.load import locate

    small = locate(ModelArgs(model="tiny-llama")).folder
    config = AutoConfig.from_pretrained(small)
    for name, value in (SIZE | {"num_attention_heads": 16, "num_key_value_heads": 16}).items():
        setattr(config, name, value)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(small).save_pretrained(folder)


def words(model: list[str], out: Path, more: list[str]) -> list[str]:
    """The command."""
    flags = ["--rlhf_type", "cpo", "--sft_type", "full", "--dataset", "demo#16", "--dataset_test_ratio", "0"]
    flags += ["--batch_size", "1", "--gradient_accumulation_steps", "1", "--max_steps", "3", "--save_strategy", "no"]
    flags += ["--template", "chatml", "--report_to", "none", "--output_dir", str(out)]
    return [sys.executable, "-m", "swiftlike", "rlhf", *model, *flags, *more]


def run(argv: list[str], processes: int) -> tuple[str, int]:
    """(what was said, most private bytes of one of the processes that train)."""
    env = os.environ | {"NPROC_PER_NODE": str(processes), "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "262144"}
    with tempfile.TemporaryFile("w+") as said:
        started = subprocess.Popen(argv, env=env, stdout=said, stderr=said)
        peak = 0
        while started.poll() is None:
            peak = max([peak, *(private(pid) for pid in children(started.pid))])
            time.sleep(0.005)
        said.seek(0)
        text = said.read()
    if started.returncode:
        sys.exit(text[-4000:])
    return text, peak


def children(pid: int) -> list[int]:
    """Processes that one has started."""
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except OSError:
        return []


def private(pid: int) -> int:
    """Bytes that a process has for itself."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return int(found[1]) << 10 if found else 0


def planned(text: str) -> int:
    """Bytes in the line of a dry run."""
    found = re.search(r"estimated peak memory per device: ([\d.]+) (\w+)", text)
    if not found:
        sys.exit(text[-4000:])
    return int(float(found[1]) * UNITS[found[2]])


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(PLACEMENTS), nargs="+", help="these, nothing written")
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="memory_engines_") as made:
        folder = Path(made)
        build(folder / "model")
        large, small = ["--model", str(folder / "model"), "--model_type", "llama"], ["--model_type", "tiny-llama"]
        for name in asked.only or PLACEMENTS:
            said, _ = run(words(large, folder / "out", [*PLACEMENTS[name], "--dry_run"]), asked.processes)
            _, without = run(words(small, folder / "out", PLACEMENTS[name]), asked.processes)
            _, held = run(words(large, folder / "out", PLACEMENTS[name]), asked.processes)
            row = {"placement": name, "planned": planned(said), "measured": held - without, "without": without}
            row["off"] = row["planned"] / row["measured"] - 1
            rows.append(row)
            print(f"{name:6} planned {row['planned'] / 2**20:7.0f} MiB, measured {row['measured'] / 2**20:7.0f} MiB, "
                  f"{row['off']:+.1%}", flush=True)  # fmt: skip
    if not asked.only:
        import torch

        versions = {"torch": torch.__version__, "processes": asked.processes}
        RESULTS.write_text(json.dumps(versions | {"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

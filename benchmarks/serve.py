"""Answers per second: swiftlike's pt engine against one-by-one generation, its vllm engine against vLLM alone.

python benchmarks/serve.py [--vllm_python PATH] [--threads 1] [--windows 3] [--quick]

The same model, chats and machine for all sides, greedy, float32, window by window in turns. Each side is a process of
its own: plain transformers; `swiftlike infer --val_dataset`; `swiftlike deploy` with all requests at the same time over
real sockets; vLLM's `LLM.generate` on token ids. No window asks what another one asked, so no cache of prompts helps.
Start-up is not timed. Before any timing all sides must give the same answers, and both sides of vLLM's have the same
settings of its engine, else the run is aborted; answers of the timed windows are compared too. Results: a table, and
benchmarks/results/serve.json with the machine's description; a group that is not measured this time (--groups) keeps
the numbers that stand there of the same model and machine.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
from common import load, machine, make_model, spread

GROUPS = {"pt": ("one by one", "infer pt", "deploy pt"), "vllm": ("vllm", "infer vllm")}
PAIRS = (  # ours, theirs, the ratio that is wanted at least, what it means
    ("infer pt", "one by one", None, "PtEngine.generate with all requests, through `swiftlike infer`"),
    ("deploy pt", "one by one", 4.0, "all requests at once over sockets to `swiftlike deploy`"),
    ("infer vllm", "vllm", 0.97, "`swiftlike infer --infer_backend vllm` against LLM.generate"),
)
COMMON = ("requests", "new_tokens", "prompt", "hidden", "intermediate", "layers", "heads", "vocabulary", "seed")
NOTES = (
    "  tokens/s: new tokens of all answers per second of a window; medians, and ratios of windows in turns",
    "  s, CPU s: medians of a window; CPU of the side's processes together, client and server included",
    "  vllm: LLM with its own defaults, which make text token by token; infer makes it at the end, and writes files",
)
SHOWN = ("max_num_batched_tokens", "max_num_seqs", "max_model_len", "enable_prefix_caching", "enforce_eager")


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line. `--quick` makes everything small: it tests the script, not the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--vllm_python", help="python of an environment with vllm and swiftlike; none: that part is skipped")
    add("--output", type=Path, default=Path(__file__).parent / "results" / "serve.json")
    add("--groups", nargs="+", choices=tuple(GROUPS), default=list(GROUPS))
    add("--threads", type=int, nargs="+", default=[1])
    add("--requests", type=int, default=64)
    add("--alone", type=int, help="requests of a window that are answered one by one; none: all")
    add("--new_tokens", type=int, default=64)
    add("--prompt", type=int, nargs=2, default=(23, 118), help="tokens: fewest, most; lengths in between are even")
    add("--windows", type=int, default=3)
    add("--hidden", type=int, default=384)
    add("--intermediate", type=int, default=1152)
    add("--layers", type=int, default=10)
    add("--heads", type=int, nargs=2, default=(6, 2), help="of queries, of keys and values")
    add("--vocabulary", type=int, default=32_000)
    add("--seed", type=int, default=0)
    add("--quick", action="store_true")
    options = parser.parse_args(words)
    if options.quick:
        size = {"hidden": 64, "intermediate": 128, "layers": 2, "heads": (2, 1), "vocabulary": 512}
        vars(options).update({**size, "requests": 4, "new_tokens": 6, "prompt": (6, 12), "windows": 2, "threads": [1]})
    options.alone = options.alone or options.requests
    return options


def make_questions(options: argparse.Namespace) -> list[list[str]]:
    """Random words, one token each: a list for each window, the first for the comparison of answers. All windows have
    the same lengths. The template adds two tokens."""
    draw = random.Random(options.seed)
    least, most = (tokens - 2 for tokens in options.prompt)
    steps = max(options.requests - 1, 1)
    lengths = [least + (most - least) * i // steps for i in range(options.requests)]
    draw.shuffle(lengths)
    return [
        [" ".join(f"w{draw.randrange(options.vocabulary - 5)}" for _ in range(length)) for length in lengths]
        for _ in range(options.windows + 1)
    ]


class Side(common.Side):
    """A running worker of this benchmark."""

    script = "serve_side.py"

    def window(self, number: int) -> dict[str, Any]:
        """Let it answer the questions of a window, counted from 1; what it measured."""
        self.send(number)
        return self.receive()


def different(ours: list[Any], theirs: list[Any]) -> list[str]:
    """Every answer that two sides do not share, of the first ones that both gave."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    return [f"request {i}: {one} against {other}" for i, (one, other) in pairs if one != other]


def measure(options: argparse.Namespace, pythons: dict[str, str], group: str, threads: int) -> dict[str, Any]:
    """All sides of a group, window by window in turns."""
    sides, found = [], {}
    for name in GROUPS[group]:  # one after another: what one does to start shall not disturb another
        side = Side(name, pythons[group], options, group, threads)
        facts = side.receive()
        found[name] = {"versions": facts["versions"], "startup_s": round(time.perf_counter() - side.started, 1)}
        found[name]["windows"] = []
        sides.append(side)
    for number in range(1, options.windows + 2):
        for side in sides:
            found[side.name]["windows"].append(side.window(number))
            wrong = disagreement(found, side.name, number) if number == 1 else []
            if wrong:
                sys.exit(f"{side.name} answers otherwise, so nothing is timed:\n  " + "\n  ".join(wrong[:5]))
            same_settings(found, side.name)
    for side in sides:
        side.send(0)
        side.end()
    return {name: summary(result, disagreements(found, name)) for name, result in found.items()}


def same_settings(found: dict[str, Any], name: str) -> None:
    """Stops where a side computes with other engines than the group's first one."""
    ours, theirs = (found[one]["windows"][0]["settings"] for one in (name, next(iter(found))))
    if ours != theirs:
        sys.exit(f"{name} computes with other settings, so nothing is timed:\n  {ours}\n  against {theirs}")


def disagreement(found: dict[str, Any], name: str, number: int) -> list[str]:
    """Answers of a window that are not those of the group's first side."""
    first = next(iter(found))
    return different(found[name]["windows"][number - 1]["answers"], found[first]["windows"][number - 1]["answers"])


def disagreements(found: dict[str, Any], name: str) -> int:
    """Answers of all windows that are not those of the group's first side."""
    return sum(len(disagreement(found, name, number + 1)) for number in range(len(found[name]["windows"])))


def summary(result: dict[str, Any], wrong: int) -> dict[str, Any]:
    """Speeds of one side; the window that compared answers is left out."""
    timed = result["windows"][1:]
    tokens = [sum(answer[1] for answer in one["answers"]) for one in timed]
    speeds = [count / one["seconds"] for count, one in zip(tokens, timed, strict=True)]
    thrift = [count / one["cpu"] for count, one in zip(tokens, timed, strict=True)]
    return {
        "tokens_per_s": round(statistics.median(speeds), 1),
        "tokens_per_cpu_s": round(statistics.median(thrift), 1),
        "requests": len(timed[0]["answers"]),
        "answers_that_differ": wrong,
        "startup_s": result["startup_s"],
        "windows_s": [round(one["seconds"], 3) for one in timed],
        "windows_cpu_s": [round(one["cpu"], 3) for one in timed],
        "windows_tokens": tokens,
        "windows_tokens_per_s": [round(value, 2) for value in speeds],
        "windows_tokens_per_cpu_s": [round(value, 2) for value in thrift],
        "versions": result["versions"],
        "settings": timed[-1]["settings"],
    }


def compare(sides: dict[str, Any]) -> dict[str, Any]:
    """Ratios of the pairs, window by window."""
    out = {}
    for ours, theirs, wanted, meaning in PAIRS:
        if ours not in sides:
            continue
        one, other = sides[ours], sides[theirs]
        speed = spread(one["windows_tokens_per_s"], other["windows_tokens_per_s"])
        thrift = spread(one["windows_tokens_per_cpu_s"], other["windows_tokens_per_cpu_s"])
        out[f"{ours} / {theirs}"] = {"tokens_per_s": speed, "cpu_efficiency": thrift, "what": meaning}
        if wanted is not None:
            out[f"{ours} / {theirs}"] |= {"wanted": wanted, "reached": speed["median"] >= wanted}
    return out


def table(result: dict[str, Any]) -> str:
    """What a reader looks at."""
    asked, lines = result["options"], []
    lines.append(
        f"{asked['requests']} chats of {asked['prompt'][0]} to {asked['prompt'][1]} tokens, {asked['new_tokens']} new "
        f"tokens, greedy, float32, {result['model']['parameters'] / 1e6:.1f} M parameters"
    )
    for setting in sorted(result["settings"], key=lambda one: one["group"]):
        before, after = setting["load_average_before"][0], setting["load_average_after"][0]
        windows = len(next(iter(setting["sides"].values()))["windows_s"])
        lines.append(
            f"\nOMP_NUM_THREADS={setting['threads']}, {windows} windows, load average {before} before, {after} after, "
            f"{setting['date']}"
        )
        lines.append(f"  {'':<14}{'tokens/s':>10}{'s':>9}{'CPU s':>9}{'requests':>10}{'answers that differ':>21}")
        for name, side in setting["sides"].items():
            wall, cpu = statistics.median(side["windows_s"]), statistics.median(side["windows_cpu_s"])
            lines.append(
                f"  {name:<14}{side['tokens_per_s']:>10.1f}{wall:>9.2f}{cpu:>9.2f}{side['requests']:>10}"
                f"{side['answers_that_differ']:>21}"
            )
        (engines,) = {json.dumps(side.get("settings", [])) for side in setting["sides"].values()}  # they are the same
        lines += ["  all: " + ", ".join(f"{name} {one[name]}" for name in SHOWN) for one in json.loads(engines)]
        for name, pair in setting["ratios"].items():
            low, middle, high = pair["tokens_per_s"].values()
            wanted = (
                f", wanted {pair['wanted']}: {'reached' if pair['reached'] else 'MISSED'}" if "wanted" in pair else ""
            )
            lines.append(
                f"  {name:<24}{middle:.2f}x tokens/s ({low:.2f} to {high:.2f}), "
                f"{pair['cpu_efficiency']['median']:.2f}x per CPU second{wanted}"
            )
    lines += [f"\nSKIPPED: {one}" for one in result["skipped"]]
    return "\n".join([*lines, "", *(f"  {ours} / {theirs}: {what}" for ours, theirs, _, what in PAIRS), *NOTES])


def environments(options: argparse.Namespace) -> tuple[dict[str, str], list[str]]:
    """The python of each group that takes part, and why others do not."""
    pythons = {"pt": sys.executable, "vllm": options.vllm_python}
    skipped = []
    if "vllm" in options.groups and not (options.vllm_python and Path(options.vllm_python).is_file()):
        reason = f"there is no {options.vllm_python}" if options.vllm_python else "no --vllm_python was given"
        skipped.append(f"vLLM was not measured: {reason}")
        print(f"SKIPPED: {skipped[0]}", file=sys.stderr, flush=True)
    kept = [group for group in options.groups if group != "vllm" or not skipped]
    return {group: pythons[group] for group in kept}, skipped


def known(output: Path, result: dict[str, Any], measured: set[str]) -> list[dict[str, Any]]:
    """Settings of earlier runs of the same model, questions and machine, less the groups that are measured now."""
    if not output.is_file():
        return []
    there = json.loads(output.read_text(encoding="utf-8"))
    wanted = json.loads(json.dumps(result))
    if any(there.get(name) != value for name, value in wanted.items()):
        return []
    return [one for one in there["settings"] if one["group"] not in measured]


def run(options: argparse.Namespace, folder: str) -> Iterator[dict[str, Any]]:
    """Make model and questions, compare answers, measure. Gives the results so far after each group."""
    pythons, skipped = environments(options)
    if not pythons:
        sys.exit("nothing is left to measure")
    described = {name: value for name, value in vars(options).items() if name in COMMON}
    options.folder, options.model = folder, f"{folder}/model"
    parameters = make_model(options, Path(options.model))
    setting = vars(options) | {"output": None, "questions": make_questions(options)}
    Path(folder, "setting.json").write_text(json.dumps(setting), encoding="utf-8")
    result = {"machine": machine(), "model": {"parameters": parameters}, "options": described}
    earlier = known(options.output, result, set(pythons))
    result["skipped"] = skipped if not any(one["group"] == "vllm" for one in earlier) else []
    result["settings"] = [*earlier]
    for threads in options.threads:
        for group in pythons:
            found = {
                "group": group,
                "threads": threads,
                "date": time.strftime("%Y-%m-%d"),
                "load_average_before": load(),
            }
            found["sides"] = measure(options, pythons, group, threads)
            result["settings"].append(found | {"load_average_after": load(), "ratios": compare(found["sides"])})
            yield result


def main(words: list[str] | None = None) -> int:
    """Run and write the results."""
    options = arguments(words)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="serve_") as folder:
        for result in run(options, folder):
            options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            options.output.with_suffix(".txt").write_text(table(result) + "\n", encoding="utf-8")
            print(f"{result['settings'][-1]['group']} measured", flush=True)
    print(f"\n{table(result)}\n\nwritten to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

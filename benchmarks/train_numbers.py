"""What the windows of a side say, and what one side's say over another's."""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from common import MIB, spread
from flops import used_share
from workloads import Workload


def tokens_of(options: argparse.Namespace, window: int) -> int:
    """Real tokens that a window trains on, counted from 1: every answer with a prompt of its own."""
    per_step = options.batch_size * options.accumulation
    first = (options.warmup + (window - 1) * options.steps) * per_step
    rows = [options.lengths[i % len(options.lengths)] for i in range(first, first + options.steps * per_step)]
    return sum((len(row) - 1) * row[0] + sum(row[1:]) for row in rows)


def summary(result: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Speeds and memory of one side at one setting; the warm-up window is left out."""
    rows = options.batch_size * options.accumulation * options.steps
    warm, *timed = result["windows"]
    seconds = [sum(one["steps"]) for one in timed]
    per_second = [rows / spent for spent in seconds]
    tokens = [tokens_of(options, i) / spent for i, spent in enumerate(seconds, 1)]
    used, computed = timed[-1]["seen"]
    highest = timed[-1]["peak"]
    found = {
        "rows_per_s": round(statistics.median(per_second), 4),
        "tokens_per_s": round(statistics.median(tokens), 1),
        "cpu_s_per_row": round(statistics.median(one["cpu"] / rows for one in timed), 4),
        "peak_mib": round(highest / MIB, 1),
        "peak_over_loaded_mib": round((highest - result["after_load"]) / MIB, 1),
        "padding": round(1 - used / computed, 4),
        "first_step_s": round(result["startup_s"] + warm["steps"][0], 1),
        "windows_rows_per_s": [round(value, 4) for value in per_second],
        "windows_cpu_s_per_row": [round(one["cpu"] / rows, 4) for one in timed],
        "versions": result["versions"],
    }
    if options.device == "cuda":
        found["mfu"] = round(used_share(options, statistics.median(per_second)), 4)
    return found


START = 0.7  # of TRL's seconds from the command to the first step, wanted at most of a tiny model


def compare(sides: dict[str, Any], workload: Workload, *, tiny: bool = False) -> dict[str, Any]:
    """Ratios of swiftlike's sides to the peers, window by window. The wanted figures are for swiftlike's default
    against the fastest and the leanest peer; of the start, which only a `tiny` model shows, against TRL."""
    peers = {name: side for name, side in sides.items() if not name.startswith("swiftlike")}
    out: dict[str, Any] = {}
    for ours in [name for name in sides if name.startswith("swiftlike")]:
        for theirs in [*peers, *(["swiftlike split live"] if ours != "swiftlike split live" else [])]:
            if theirs in sides:
                out[f"{ours} / {theirs}"] = pair(sides[ours], sides[theirs])
    mine = "swiftlike" if "swiftlike" in sides else "swiftlike cache"
    if not peers or mine not in sides:
        return {"pairs": out}
    fastest = max(peers, key=lambda name: peers[name]["rows_per_s"])
    leanest = min(peers, key=lambda name: peers[name]["peak_mib"])
    speed = out[f"{mine} / {fastest}"]["rows_per_s"]["median"]
    memory = out[f"{mine} / {leanest}"]["peak"]
    wanted = {
        "rows_per_s": {"peer": fastest, "found": speed, "wanted": workload.speed, "reached": speed >= workload.speed},
        "peak": {"peer": leanest, "found": memory, "wanted": workload.memory, "reached": memory <= workload.memory},
    }
    if tiny and "trl" in peers:
        start = out[f"{mine} / trl"]["first_step"]
        wanted["first_step"] = {"peer": "trl", "found": start, "wanted": START, "reached": start <= START}
    return {"pairs": out, "wanted": wanted}


def pair(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """One side's numbers over another's; efficiency and speed above 1 and memory below 1 are for the first."""
    return {
        "rows_per_s": spread(one["windows_rows_per_s"], other["windows_rows_per_s"]),
        "cpu_efficiency": spread(other["windows_cpu_s_per_row"], one["windows_cpu_s_per_row"]),
        "peak": round(one["peak_mib"] / other["peak_mib"], 3),
        "peak_over_loaded": round(one["peak_over_loaded_mib"] / max(other["peak_over_loaded_mib"], 0.1), 3),
        "first_step": round(one["first_step_s"] / other["first_step_s"], 3),
    }

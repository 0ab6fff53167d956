"""What train_step.py found: JSON that keeps earlier workloads, a table, docs/performance.md and its picture.

python benchmarks/train_report.py writes the table, the page and the picture anew from the published JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from workloads import WORKLOADS

RESULTS = Path(__file__).parent / "results" / "train_step.json"
PUBLISHED = Path(__file__).parents[1] / "docs" / "performance.md"
KEY = ("workload", "size", "device", "threads", "checkpointing")
NOTES = """\
  rows/s: pairs, groups (EXO) or rows (SFT), each step whole: data, forward, reference, backward, optimiser, log
  tokens/s: real tokens, every answer with a prompt of its own, whatever a side computes or pads
  CPU s/row: with the processes that a side started; peak MiB: with what those hold for themselves
  over loaded: peak memory minus what the process held when the model was loaded
  padding: share of the computed positions that hold no token
  first step: seconds from the command to the end of the first step, all starts one after another
  live, cache: reference computed in every step, or known beforehand (swiftlike's default from the second epoch on);
  trl precomputed: TRL's option of the same meaning; trl pairs: DPO on the same number of answers as EXO's, K / 2 pairs
  each with a prompt of its own (TRL has no EXO); split live: swiftlike's reference path, a prompt for every answer
  wanted: the median ratio of swiftlike's default to the fastest, and to the leanest, peer of the run"""
PAGE = """\
<!-- written by benchmarks/train_step.py from benchmarks/results/train_step.json -->

# Training speed

How fast `swiftlike rlhf` and `swiftlike sft` train beside TRL 1.16, ms-swift 4.6 and LLaMA-Factory 0.9.5, measured by
`benchmarks/train_step.py`. All sides have the same model of random weights, rows in the same order, LoRA layers (q, k,
v; rank 8, no dropout), batch, precision and gradient checkpointing; each is a process of its own that trains through
its tool's own user path, with the tool's defaults otherwise. Before any timing a side must give the same token counts,
log-probabilities, loss and gradient norms as swiftlike, to 1e-3, at step 0 and with an adapter far from zero. Then
sides train in turns, a window of steps each; ratios are of windows that ran one after the other, and medians of those.

Not measured: convergence (the numbers are equal, so the curves are), several cards, and data that must be downloaded.
The machine is shared and its load is given: ratios are worth more than absolute speeds.
"""
LIMITS = """\
## What limits the memory on a CPU

Of (a)'s 1,475 MiB with 2 threads, as read from the process while it trained: about 300 are Python's modules, 150 the
libraries of torch, 195 the weights, 300 a layer that is recomputed and differentiated, and nearly all the rest is lost
between blocks: glibc keeps what is freed, and what a layer keeps for the backward pass comes to lie in the gaps.
`MALLOC_MMAP_THRESHOLD_=2097152 THP_MEM_ALLOC_ENABLE=1` in the environment of the command gives every large block pages
of its own: 1,047 MiB, at 1.19 times the time of a row (swiftlike alone, 3 windows each, one after the other). That is
why it is not the default. On a card none of this applies. With those two variables (c) takes
756 MiB in place of 1,256, at 1.39 times the time of a row (the same way of measuring). (b) was not looked into.

## What limits (c) on a CPU

More than half of a step of (c) is matrix products, at all that two cores have (170 GFLOP/s), and nearly a third is
torch's attention. A prompt that is computed once and a reference that is known leave 2.4 times less to compute than
ms-swift has, whose output head skips the prompt as well; the rest of the ratio is what else a step does.

## Before the first step

A tiny Llama's first step ends 4.48 s after the command, and TRL's after 4.98 s (`benchmarks/first_step.py`, seven runs
in turns): 0.90 times its time, where 0.7 was wanted. Of the time that such a run spends in imports (once, with Python's
`-X importtime`, which slows them), 44 % are torch's own modules, 11 % transformers', 11 % peft's and 6 % ours; within
these, torch._dynamo, which transformers' attention masks import, is 11 %, and sympy, which torch brings, 6 %. How the
time after the imports divides has not been measured.

## From files to tokens

`benchmarks/data_path.py`, pairs of 250 words, two cores, beside what TRL does with them (datasets.map, which does not
check rows): 100,000 rows take 82.9 s at the first start against 79.1 s, with 886 MB of private memory against 1,556,
and 7.3 s at the second against 8.1 s. One million rows take 707 s at the first start, with 1,293 MB in three processes
(565 in the first of them, which has 276 without rows), and 11.1 s with 391 MB at the second; no peer was run on these.
In a profile, more than half of what is done for a row is inside the tokenizer.
"""


def known(output: Path, device: str, here: dict[str, Any]) -> list[dict[str, Any]]:
    """Entries of earlier runs: of this machine, and of the other kind of device whatever the machine."""
    if not output.is_file():
        return []
    found = json.loads(output.read_text(encoding="utf-8"))["results"]
    here = json.loads(json.dumps(here))
    return [one for one in found if one["device"] != device or one["machine"] == here]


def merged(results: list[dict[str, Any]], entry: dict[str, Any]) -> list[dict[str, Any]]:
    """With an entry in the place of the one of its workload, size and setting."""
    others = [one for one in results if any(one[name] != entry[name] for name in KEY)]
    order = list(WORKLOADS)

    def place(one: dict[str, Any]) -> tuple[Any, ...]:
        return one["device"], one["size"], order.index(one["workload"]), -one["threads"], one["checkpointing"] == "off"

    return sorted([*others, entry], key=place)


def write(results: list[dict[str, Any]], output: Path, page: Path | None) -> None:
    """JSON, table, and the page where one is wanted."""
    output.write_text(json.dumps({"results": results}, indent=2) + "\n", encoding="utf-8")
    output.with_suffix(".txt").write_text(f"{table(results)}\n\n{NOTES}\n", encoding="utf-8")
    if page is not None:
        picture = page.parent / "images" / "train_step.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        draw(results, picture)
        page.write_text(as_page(results, f"images/{picture.name}"), encoding="utf-8")


# -- text --------------------------------------------------------------------------------------------------------------


def table(results: list[dict[str, Any]]) -> str:
    """What a reader of the terminal looks at."""
    return "\n".join(line for entry in results for line in _entry(entry))


def title(entry: dict[str, Any]) -> str:
    """What an entry measured."""
    rows = entry["rows"]
    return (
        f"({entry['workload']}) {WORKLOADS[entry['workload']].what}; {entry['size']}, {entry['device']}, "
        f"{entry['threads']} threads, gradient checkpointing {entry['checkpointing']}, "
        f"{rows['batch_size']} x {rows['accumulation']} rows a step" + (", QUICK" if rows["quick"] else "")
    )


def _entry(entry: dict[str, Any]) -> list[str]:
    before, after, rows = entry["load_average_before"][0], entry["load_average_after"][0], entry["rows"]
    lines = [
        f"\n{title(entry)}",
        f"  {entry['model']['parameters'] / 1e6:.1f} M parameters, {rows['mean_prompt']:.0f} + "
        f"{rows['mean_answer']:.0f} tokens, {rows['windows']} windows of {rows['steps']} steps, load {before} before, "
        f"{after} after, {entry['date']}",
        f"  {'':<22}{'rows/s':>9}{'tokens/s':>10}{'CPU s/row':>11}{'peak MiB':>10}{'over loaded':>13}{'padding':>9}"
        f"{'first step':>12}",
    ]
    for name, side in entry["sides"].items():
        lines.append(
            f"  {name:<22}{side['rows_per_s']:>9.3f}{side['tokens_per_s']:>10.0f}{side['cpu_s_per_row']:>11.3f}"
            f"{side['peak_mib']:>10.0f}{side['peak_over_loaded_mib']:>13.0f}{side['padding']:>9.1%}"
            f"{side['first_step_s']:>12.1f}" + (f"  MFU {side['mfu']:.1%}" if "mfu" in side else "")
        )
    for name, pair in entry["ratios"]["pairs"].items():
        low, middle, high = pair["rows_per_s"].values()
        lines.append(
            f"  {name:<40}{middle:.2f}x rows/s ({low:.2f} to {high:.2f}), {pair['cpu_efficiency']['median']:.2f}x per "
            f"CPU second, {pair['peak']:.2f}x peak ({pair['peak_over_loaded']:.2f}x over loaded), "
            f"{pair['first_step']:.2f}x first step"
        )
    lines += [f"  {line}" for line in wanted(entry)]
    return lines + [f"  SKIPPED: {side}: {reason}" for side, reason in entry["skipped"].items()]


def wanted(entry: dict[str, Any]) -> list[str]:
    """The wanted figures, reached or missed."""
    found = entry["ratios"].get("wanted", {})
    words = {
        "rows_per_s": ("rows/s", "at least"),
        "peak": ("peak memory", "at most"),
        "first_step": ("time to the first step", "at most"),
    }
    return [
        f"wanted {words[name][1]} {one['wanted']}x {words[name][0]}: {one['found']:.2f}x of {one['peer']}, "
        f"{'reached' if one['reached'] else 'MISSED'}"
        for name, one in found.items()
    ]


# -- the page ----------------------------------------------------------------------------------------------------------


def as_page(results: list[dict[str, Any]], picture: str) -> str:
    """docs/performance.md."""
    if not results:
        return f"{PAGE}\nNo run is published yet.\n"
    parts = [PAGE, f"![rows per second of swiftlike over each peer, for every workload]({picture})\n"]
    for device in dict.fromkeys(one["device"] for one in results):
        here = [one for one in results if one["device"] == device]
        seen = here[0]["machine"]
        card = f", {seen['card']}" if "card" in seen else ""
        memory = f"{seen['memory_gib']:.0f} GiB" if "memory_gib" in seen else ""
        parts.append(f"## {device}: {seen.get('cpu', '')}, {seen.get('cores', '?')} cores, {memory}{card}\n")
        parts += [_summary(here), _versions(here)]
        parts += [_section(one) for one in here]
    parts += [LIMITS] if any(one["device"] == "cpu" for one in results) else []
    meaning = [" ".join(line.split()) for line in NOTES.replace("\n  live", "\n\n  live").splitlines()]
    return "\n".join([*parts, "## What the columns mean\n", *(f"- {line}" for line in _sentences(meaning)), ""])


def _sentences(lines: list[str]) -> list[str]:
    """Lines that go on are joined."""
    out: list[str] = []
    for line in lines:
        starts = ":" in line.split(" ")[0] or line.partition(":")[0] in _TERMS
        if starts or not out:
            out.append(line)
        elif line:
            out[-1] += f" {line}"
    return out


_TERMS = ("CPU s/row", "over loaded", "first step", "live, cache", "trl precomputed")


def _summary(entries: list[dict[str, Any]]) -> str:
    head = ("workload", "model", "rows/s, wanted", "of the fastest peer", "reference computed every step")
    lines = [f"| {' | '.join((*head, 'peak memory, wanted', 'of the leanest peer'))} |", "| --- " * 7 + "|"]
    for one in entries:
        if "wanted" not in one["ratios"]:
            continue
        speed, memory = (one["ratios"]["wanted"][name] for name in ("rows_per_s", "peak"))
        mode = f", checkpointing {one['checkpointing']}" if one["checkpointing"] == "off" else ""
        lines.append(
            f"| ({one['workload']}) {WORKLOADS[one['workload']].what}{mode} | {one['size']} | at least "
            f"{speed['wanted']}x | {speed['found']:.2f}x {speed['peer']}, {_mark(speed)} | {_live(one, speed['peer'])} "
            f"| at most {memory['wanted']}x "
            f"| {memory['found']:.2f}x {memory['peer']}, {_mark(memory)} |"
        )
    return "\n".join(lines) + "\n"


def _live(entry: dict[str, Any], peer: str) -> str:
    """The same ratio in swiftlike's first epoch, where it has no reference numbers yet."""
    found = entry["ratios"]["pairs"].get(f"swiftlike live / {peer}")
    return f"{found['rows_per_s']['median']:.2f}x" if found else ""


def _versions(entries: list[dict[str, Any]]) -> str:
    """What each tool ran with."""
    found = {name.split()[0]: side["versions"] for one in entries for name, side in one["sides"].items()}
    lines = [f"- {tool}: {', '.join(f'{name} {one}' for name, one in has.items())}" for tool, has in found.items()]
    return "\n".join(["Each tool has the versions that it asks for:", "", *lines, ""])


def _mark(one: dict[str, Any]) -> str:
    return "reached" if one["reached"] else "**missed**"


def _section(entry: dict[str, Any]) -> str:
    head = "| side | rows/s | tokens/s | CPU s/row | peak MiB | over loaded | padding | first step s |"
    lines = [f"### {title(entry)}\n", head, "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for name, side in entry["sides"].items():
        lines.append(
            f"| {name} | {side['rows_per_s']:.3f} | {side['tokens_per_s']:.0f} | {side['cpu_s_per_row']:.3f} | "
            f"{side['peak_mib']:.0f} | {side['peak_over_loaded_mib']:.0f} | {side['padding']:.1%} | "
            f"{side['first_step_s']:.1f} |"
        )
    facts = (
        f"{entry['model']['parameters'] / 1e6:.1f} M parameters; {entry['rows']['mean_prompt']:.0f} tokens a prompt, "
        f"{entry['rows']['mean_answer']:.0f} an answer; {entry['rows']['windows']} windows of {entry['rows']['steps']} "
        f"steps; load average {entry['load_average_before'][0]} before, {entry['load_average_after'][0]} after; "
        f"{entry['date']}."
    )
    skipped = [f"- left out: {side}: {_plain(reason)}" for side, reason in entry["skipped"].items()]
    return "\n".join([*lines, "", facts, *(["", *skipped] if skipped else []), ""])


def _plain(text: str) -> str:
    """Without signs that Markdown would read."""
    return "".join(" " if sign in "[]()`<>|*" else sign for sign in text)


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Bars: swiftlike's default over each peer, rows per second and peak memory."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bars = [bar for entry in results for bar in _bars(entry)]
    figure = Figure(figsize=(9, 1.2 + 0.24 * max(len(bars), 1)), layout="constrained")
    FigureCanvasAgg(figure)
    speed, memory = figure.subplots(1, 2, sharey=True)
    names = [name for name, *_ in bars]
    speed.barh(names, [found for _, found, _ in bars], color="#3465a4")
    memory.barh(names, [found for _, _, found in bars], color="#73a946")
    for axes, words in ((speed, "rows per second, swiftlike / peer"), (memory, "peak memory, swiftlike / peer")):
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_xlabel(words)
    speed.invert_yaxis()
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _bars(entry: dict[str, Any]) -> list[tuple[str, float, float]]:
    mode = "" if entry["checkpointing"] == "on" else ", off"
    return [
        (
            f"({entry['workload']}{mode}) {entry['size']} {entry['device']} / {name.partition(' / ')[2]}",
            pair["rows_per_s"]["median"],
            pair["peak"],
        )
        for name, pair in entry["ratios"]["pairs"].items()
        if name.startswith(("swiftlike cache / ", "swiftlike / "))
    ]


if __name__ == "__main__":
    write(json.loads(RESULTS.read_text(encoding="utf-8"))["results"], RESULTS, PUBLISHED)

"""What good requests to `swiftlike deploy` notice of 1,000 hostile ones: latency beside them, and alone.

python benchmarks/hostile.py [--models tiny-qwen2_5-vl llama-30m] [--windows 5] [--quick]

Three processes on one machine: the server; this one, which asks one good chat after another over one connection and
notes how long each took; and a sender of hostile requests (hostile_cases.py), made beforehand as bytes, on 8
connections at a time, as fast as they are answered. Quiet and hostile windows take turns; a hostile one lasts until
all 1,000 requests are sent. All three share the machine's cores, so what the sender itself needs counts against the
server.
Results: a table, and benchmarks/results/hostile.json and .md with the machine's description.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hostile_cases
import psutil
from common import load, machine, make_model
from hostile_cases import COUNT
from serve_side import ready

BOUND = 2.0  # times the quiet latency that is allowed
BUILT = "llama-30m"  # made here, as in serve.py; other names are built-in models
ASKED = [{"role": "user", "content": "Name a fruit."}]


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line. `--quick` makes everything small: it tests the script, not the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    kinds = list(hostile_cases.cases(Path(), ""))
    add("--models", nargs="+", default=["tiny-qwen2_5-vl", BUILT])
    add("--output", type=Path, default=Path(__file__).parent / "results" / "hostile.json")
    add("--count", type=int, default=COUNT, help="hostile requests of a window")
    add("--kinds", nargs="+", choices=kinds, default=kinds, help="of hostile requests")
    add("--senders", type=int, default=8, help="hostile connections at a time")
    add("--windows", type=int, default=5)
    add("--quiet_s", type=float, default=15.0, help="seconds of a quiet window")
    add("--new_tokens", type=int, default=8)
    add("--quick", action="store_true")
    options = parser.parse_args(words)
    if options.quick:
        vars(options).update(models=["tiny-qwen2_5-vl"], count=26, windows=2, quiet_s=0.5)
    sizes = {"hidden": 384, "intermediate": 1152, "layers": 10, "heads": (6, 2), "vocabulary": 32_000, "seed": 0}
    vars(options).update(sizes)
    return options


class Server:
    """`swiftlike deploy` in a process of its own."""

    def __init__(self, options: argparse.Namespace, model: str, folder: Path) -> None:
        log = folder / "deploy.log"
        where = ["--model_type", model]
        if model == BUILT:
            self.parameters = make_model(options, folder / "model")
            where = ["--model", str(folder / "model"), "--template", "chat_template", "--torch_dtype", "float32"]
        words = [sys.executable, "-m", "swiftlike", "deploy", *where, "--served_model_name", "eyes", "--port", "0"]
        words += ["--infer_backend", "pt", "--max_body", "1", "--verbose", "false"]
        words += ["--allowed_local_media_path", str(folder / "files" / "open")]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        env = os.environ | threads | {"HF_HUB_OFFLINE": "1", "SWIFTLIKE_CACHE": str(folder / "cache")}
        with log.open("wb") as out:
            self.process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, env=env)
        self.url, self.log = ready(self.process, log), log
        self.seen = psutil.Process(self.process.pid)

    def facts(self) -> dict[str, float]:
        """What it takes of the machine, and its CPU seconds so far."""
        times = self.seen.cpu_times()
        return {
            "rss_mib": round(self.seen.memory_info().rss / 2**20, 1),
            "threads": self.seen.num_threads(),
            "files": self.seen.num_fds(),
            "cpu": round(times.user + times.system, 2),
        }

    def end(self) -> None:
        """Stop it."""
        self.process.terminate()
        self.process.wait()


class Sender:
    """The hostile client's process."""

    def __init__(self, setting: Path) -> None:
        words = [sys.executable, str(Path(__file__).resolve().with_name("hostile_side.py")), str(setting)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.kinds = self.receive()["kinds"]

    def receive(self) -> dict[str, Any]:
        """The next message."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline() or sys.exit("the hostile client ended early"))

    def send(self, number: int) -> None:
        """A number, 0 to end."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Stop it."""
        self.send(0)
        self.process.wait()


class Good:
    """A client that asks for an answer, again and again."""

    def __init__(self, url: str, tokens: int) -> None:
        place = urlsplit(url)
        self.connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=300)
        asked = {"model": "eyes", "messages": ASKED, "max_tokens": tokens, "temperature": 0}
        self.body, self.expected = json.dumps(asked), ""

    def ask(self) -> float:
        """Milliseconds of one answer, which is the same as all before."""
        began = time.perf_counter()
        self.connection.request("POST", "/v1/chat/completions", self.body, {"Content-Type": "application/json"})
        reply = self.connection.getresponse()
        said = reply.read()
        took = (time.perf_counter() - began) * 1000
        if reply.status != 200:
            sys.exit(f"a good request was answered {reply.status}: {said.decode()}")
        text = json.loads(said)["choices"][0]["message"]["content"]
        self.expected = self.expected or text
        if text != self.expected:
            sys.exit(f"a good request was answered {text!r}, not {self.expected!r}")
        return took


def windows(options: argparse.Namespace, server: Server, sender: Sender) -> Iterator[dict[str, Any]]:
    """Quiet and hostile windows in turns; the first pair is for warming up."""
    good = Good(server.url, options.new_tokens)
    for number in range(1, options.windows + 2):
        sender.send(number)
        sender.receive()  # its requests are made
        before, end, quiet = server.facts()["cpu"], time.perf_counter() + options.quiet_s, []
        while time.perf_counter() < end:
            quiet.append(good.ask())
        middle, hostile = server.facts()["cpu"], []
        sender.send(number)
        with contextlib.closing(Listening(sender)) as attack:
            while not attack.done:
                hostile.append(good.ask())
        facts = server.facts()
        cpu = {"quiet": round(middle - before, 2), "hostile": round(facts.pop("cpu") - middle, 2)}
        if number > 1:
            yield {"quiet_ms": quiet, "hostile_ms": hostile, "server_cpu": cpu, "server": facts, **attack.found}


class Listening:
    """Waits for the sender's report beside what is timed, without a thread of its own."""

    def __init__(self, sender: Sender) -> None:
        import selectors

        self.sender, self.found = sender, {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(sender.process.stdout, selectors.EVENT_READ)

    @property
    def done(self) -> bool:
        """Whether it has sent all."""
        if self.selector.select(0):
            self.found = self.sender.receive()
        return bool(self.found)

    def close(self) -> None:
        """Give the selector back."""
        self.selector.close()


def shape(values: list[float]) -> dict[str, float]:
    """Median, 95th percentile and maximum of milliseconds."""
    ordered = sorted(values)
    at = min(int(0.95 * len(ordered)), len(ordered) - 1)
    found = {"median": statistics.median(ordered), "p95": ordered[at], "max": ordered[-1]}
    return {name: round(value, 1) for name, value in found.items()} | {"chats": len(ordered)}


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """All windows together, and the ratio of each pair of neighbours."""
    quiet, hostile = (shape([ms for one in found for ms in one[name]]) for name in ("quiet_ms", "hostile_ms"))
    pairs = [(shape(one["quiet_ms"]), shape(one["hostile_ms"])) for one in found]
    ratios = {
        name: {
            "all": round(hostile[name] / quiet[name], 2),
            "windows": [round(beside[name] / alone[name], 2) for alone, beside in pairs],
        }
        for name in ("median", "p95", "max")
    }
    statuses: dict[str, Counter[str]] = {}
    for one in found:
        for kind, counts in one["statuses"].items():
            statuses.setdefault(kind, Counter()).update(counts)
    rows = [{**one, "quiet_ms": alone, "hostile_ms": beside} for one, (alone, beside) in zip(found, pairs, strict=True)]
    return {
        "quiet_ms": quiet,
        "hostile_ms": hostile,
        "ratio": ratios,
        "reached": ratios["median"]["all"] <= BOUND and ratios["p95"]["all"] <= BOUND,
        "statuses": {kind: dict(sorted(counts.items())) for kind, counts in statuses.items()},
        "errors_5xx": sum(count for found in statuses.values() for status, count in found.items() if status >= "5"),
        "windows": [{name: value for name, value in row.items() if name != "statuses"} for row in rows],
    }


def table(result: dict[str, Any]) -> str:
    """What a reader looks at."""
    asked, facts, lines = result["options"], result["machine"], ["# Good requests beside hostile ones", ""]
    lines += [
        f"Written by `benchmarks/hostile.py`. {asked['windows']} pairs of windows; in each hostile one "
        f"{asked['count']} requests on {asked['senders']} connections at a time, as fast as they are answered. "
        f"A good chat asks for {asked['new_tokens']} tokens, one after another.",
        "",
        f"Machine: {facts.get('cpu')}, {facts.get('cores')} cores, {facts.get('memory_gib')} GiB, {facts['system']}, "
        f"Python {facts.get('python')}; OMP_NUM_THREADS=1.",
        "The server, the good client and the hostile sender share these cores: what the sender needs counts against "
        "the server.",
        "",
    ]
    for one in result["models"]:
        lines += section(one)
    return "\n".join(lines).rstrip() + "\n"


def section(one: dict[str, Any]) -> list[str]:
    """A model's part of the table."""
    mean = {name: statistics.mean(row[name] for row in one["windows"]) for name in ("seconds", "cpu")}
    busy = statistics.mean(row["server_cpu"]["hostile"] for row in one["windows"])
    first, last = (one["windows"][i]["server"] for i in (0, -1))
    lines = [
        f"## {one['model']}",
        "",
        "| latency of a good chat, ms | median | p95 | max | chats |",
        "|---|---|---|---|---|",
    ]
    for name, label in (("quiet_ms", "quiet"), ("hostile_ms", "beside hostile requests")):
        lines.append(
            f"| {label} | " + " | ".join(str(one[name][key]) for key in ("median", "p95", "max", "chats")) + " |"
        )
    ratios = [f"{one['ratio'][key]['all']:.2f}" for key in ("median", "p95", "max")]
    windows = {key: ", ".join(f"{value:.2f}" for value in one["ratio"][key]["windows"]) for key in ("median", "p95")}
    lines += [
        f"| ratio | {' | '.join(ratios)} | |",
        "",
        f"Ratio of medians, window by window: {windows['median']}; of p95: {windows['p95']}. "
        f"At most {BOUND:g} is wanted for both: {'reached' if one['reached'] else 'MISSED'}.",
        f"A hostile window takes {mean['seconds']:.1f} s; in it the sender needs {mean['cpu']:.1f} s of CPU, the "
        f"server {busy:.1f} s for good and hostile requests. Answers with 5xx: {one['errors_5xx']}.",
        f"The server after the first and the last window: {first['rss_mib']} and {last['rss_mib']} MiB, "
        f"{first['threads']} and {last['threads']} threads, {first['files']} and {last['files']} files and sockets.",
        f"{one['date']}, load average {one['load_average_before'][0]} before, {one['load_average_after'][0]} after.",
        "",
    ]
    return lines


def measure(options: argparse.Namespace, model: str, folder: Path) -> dict[str, Any]:
    """One model's windows."""
    hostile_cases.open_folder(folder / "files")
    before, server = load(), Server(options, model, folder)
    try:
        setting = {name: getattr(options, name) for name in ("count", "kinds", "senders")}
        (folder / "setting.json").write_text(json.dumps(setting | {"files": str(folder / "files"), "url": server.url}))
        sender = Sender(folder / "setting.json")
        found = list(windows(options, server, sender))
        sender.end()
        assert "Traceback" not in server.log.read_text(), server.log.read_text()
    finally:
        server.end()
    dates = {"date": time.strftime("%Y-%m-%d"), "load_average_before": before, "load_average_after": load()}
    return {"model": model, **dates, **summary(found)}


def main(words: list[str] | None = None) -> int:
    """Run and write the results."""
    options = arguments(words)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    described = {
        name: getattr(options, name) for name in ("count", "kinds", "senders", "windows", "quiet_s", "new_tokens")
    }
    result: dict[str, Any] = {"machine": machine(), "options": described, "models": []}
    for model in options.models:
        with tempfile.TemporaryDirectory(prefix="hostile_") as folder:
            result["models"].append(measure(options, model, Path(folder)))
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        options.output.with_suffix(".md").write_text(table(result), encoding="utf-8")
    print(f"{table(result)}\nwritten to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

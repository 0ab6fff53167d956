"""The hostile client of hostile.py, in a process of its own.

It makes the requests of a window beforehand, as bytes, and sends them from `senders` connections at a time when the
driver says so: each takes the next request when its last one is answered or given up.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from channel import Channel
from hostile_cases import Case, cases, patience, send

LEAVING = 0.15  # of the requests: the client goes away before there is an answer


def made(kinds: dict[str, Case], count: int, window: int) -> list[tuple[str, bytes, bool]]:
    """(kind, bytes, whether the client leaves) of the requests of a window, in an order of their own."""
    out = []
    for number in range(count):
        draw = random.Random(window * count + number)
        kind = list(kinds)[number % len(kinds)]
        out.append((kind, kinds[kind](draw), draw.random() < LEAVING))
    random.Random(window).shuffle(out)
    return out


def attack(url: str, requests: list[tuple[str, bytes, bool]], senders: int) -> dict[str, Any]:
    """Send them all; how often each kind was answered with what, seconds and CPU seconds."""
    began, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(senders) as pool:
        found = pool.map(lambda one: (one[0], send(url, one[1], one[2], patience(one[0]))[0]), requests)
        counts = Counter(found)
    statuses: dict[str, dict[str, int]] = {}
    for (kind, status), count in sorted(counts.items()):
        statuses.setdefault(kind, {})[str(status)] = count
    seconds, busy = time.perf_counter() - began, time.process_time() - cpu
    return {"seconds": round(seconds, 2), "cpu": round(busy, 2), "statuses": statuses}


def main(setting: Path) -> None:
    """Window after window."""
    options = argparse.Namespace(**json.loads(setting.read_text()))
    channel = Channel()
    kinds = {name: case for name, case in cases(Path(options.files), "9").items() if name in options.kinds}
    channel.send(kinds=list(kinds))
    while number := channel.wait():
        requests = made(kinds, options.count, number)
        channel.send(ready=True)
        channel.wait()
        channel.send(**attack(options.url, requests, options.senders))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

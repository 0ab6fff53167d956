"""How much the command line costs over `import typer` alone: medians in milliseconds, exit code 1 above 60.

python benchmarks/startup.py [--runs 21]
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata

LIMIT_MS = 60
BASE = "import typer"
COMMANDS = {
    "python": ["-c", "pass"],
    BASE: ["-c", "import typer"],
    "--help": ["-m", "swiftlike", "--help"],
    "rlhf --help": ["-m", "swiftlike", "rlhf", "--help"],
    "argument error": ["-m", "swiftlike", "rlhf", "--lora_rnak", "8"],
}


def milliseconds(words: list[str], cache: str) -> float:
    """Wall time of one fresh interpreter. Compiled files are kept in `cache`, as an installed package has them."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], capture_output=True, check=False, env=env | {"PYTHONPYCACHEPREFIX": cache})
    return 1000 * (time.perf_counter() - start)


def measure(runs: int) -> dict[str, dict[str, float]]:
    """Median and least of each command; the commands take turns, so that a busy machine slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(runs + 1):
            for name, words in COMMANDS.items():
                times[name].append(milliseconds(words, cache))
    kept = {name: values[1:] for name, values in times.items()}  # the first round fills the caches
    return {
        name: {"median": round(statistics.median(values), 1), "least": round(min(values), 1)}
        for name, values in kept.items()
    }


def main() -> int:
    """Print JSON; 1 when a help page is too slow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=21)
    found = measure(max(15, parser.parse_args().runs))
    over = {name: round(found[name]["median"] - found[BASE]["median"], 1) for name in ("--help", "rlhf --help")}
    machine = {
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "typer": metadata.version("typer"),
    }
    print(json.dumps({"machine": machine, "ms": found, "over_typer_ms": over, "limit_ms": LIMIT_MS}, indent=2))
    return int(max(over.values()) > LIMIT_MS)


if __name__ == "__main__":
    sys.exit(main())

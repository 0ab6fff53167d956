"""The peers' environments: made once, in the cache folder, with the torch that swiftlike runs on."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from channel import versions

PEERS = {
    "trl": ("trl==1.16.0", "SAME", "pillow"),
    "ms-swift": ("ms-swift==4.6.0",),
    "llama-factory": ("llamafactory==0.9.5",),
}
OURS = ("transformers", "peft", "accelerate", "datasets")  # what TRL can share with us, so that only TRL differs


def find(options: argparse.Namespace, tools: set[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The python of each tool, and why others have none."""
    given = dict(word.split("=", 1) for word in options.pythons)
    pythons, missing = {"swiftlike": sys.executable}, {}
    for tool in sorted(tools - {"swiftlike"}):
        try:
            pythons[tool] = given.get(tool) or made(tool)
        except subprocess.CalledProcessError as error:
            lines = (error.stderr or "").strip().splitlines() or ["it said nothing"]
            missing[tool] = f"its environment cannot be made: {lines[-1][:300]}"
            print(f"SKIPPED: {tool}: {missing[tool]}", file=sys.stderr, flush=True)
    return pythons, missing


def made(tool: str) -> str:
    """The environment of a peer, made when absent."""
    from swiftlike.core.cache import cache_folder

    first, *others = PEERS[tool]
    folder = cache_folder("benchmarks") / first.replace("==", "-")
    python = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        print(f"making {folder}", file=sys.stderr, flush=True)
        found = {name: version.partition("+")[0] for name, version in versions().items()}
        same = [f"{name}=={found[name]}" for name in OURS] if "SAME" in others else []
        constraints = folder.parent / "constraints.txt"
        constraints.write_text(f"torch=={found['torch']}\n", encoding="utf-8")
        packages = [first, "torch", *same, *(one for one in others if one != "SAME")]
        _command(sys.executable, "-m", "venv", folder)
        _command(python, "-m", "pip", "install", "--quiet", "-c", constraints, *packages)
        (folder / "ready").touch()
    return str(python)


def _command(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True)

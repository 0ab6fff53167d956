"""How much of a card's arithmetic a training step uses for real tokens."""

from __future__ import annotations

import argparse
import statistics
import subprocess

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bfloat16, operations per second


def used_share(options: argparse.Namespace, rows_per_second: float) -> float:
    """Model-FLOP utilisation: a row's operations, every real token once, over what the card could do."""
    name = card_name()
    peak = next((speed for card, speed in PEAK.items() if card in name), None)
    if peak is None:
        raise SystemExit(f"the arithmetic of {name} is not known: add it to {__file__}")
    return statistics.mean(row_operations(options, row) for row in options.lengths) * rows_per_second / peak


def card_name() -> str:
    """Of the first card."""
    words = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()


def row_operations(options: argparse.Namespace, row: list[int]) -> float:
    """Of a row [prompt, answers...], the prompt once. Frozen weights: 2 a weight and token forward, 2 for the gradient
    of what comes in; the head where answers are predicted; attention causal; the tower forward only."""
    prompt, *answers = row
    tied = 1 if not options.picture else 2
    embeddings = options.vocabulary * options.hidden
    body = options.sizes["language"] - tied * embeddings
    seen = prompt**2 / 2 + sum(tokens * (prompt + tokens / 2) for tokens in answers)
    attention = 12 * options.hidden * options.layers * seen
    head = 0 if options.kind == "rm" else 4 * embeddings * sum(answers)
    patches = 4 * (prompt if options.picture == "internvl" else 0) or (prompt if options.picture else 0)
    return 4 * body * (prompt + sum(answers)) + attention + head + 2 * options.sizes["tower"] * patches

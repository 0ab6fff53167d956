"""Built-in preference data: `demo` (text) and `demo-vl` (drawn pictures), made from a seed.

Both are balanced, so that nothing but the thing asked about tells which answer is right: every answer stands as often
among the chosen as among the rejected answers, in `demo-vl` even for each question by itself. The held-out rows
(`test.jsonl`) have word pairs, or pictures, that the training rows (`train.jsonl`) do not have.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SEED = 7
KINDS = {
    "fruit": ("apple", "pear", "plum", "grape", "lemon", "cherry"),
    "tool": ("hammer", "saw", "drill", "wrench", "pliers", "chisel"),
    "animal": ("horse", "goat", "sheep", "tiger", "rabbit", "otter"),
}
PHRASES = ("Which of these is a kind of {kind}: {first} or {second}?", "Pick the {kind}: {first} or {second}.")

COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220), "yellow": (235, 205, 50)}
SHAPES = ("circle", "square", "triangle")
SIDE = 64  # pixels of a picture
RADIUS = (9, 19)  # pixels, of a shape
ROUNDS = {"train": 20, "test": 5}  # pictures for each question, true answer and false answer

Rows = dict[str, list[dict[str, Any]]]


def text(folder: Path, subset: str = "train") -> Path:
    """The JSON lines file of a subset of `demo` under `folder`, written when it is missing."""
    return _once(folder, "demo", _text_rows) / f"{subset}.jsonl"


def vision(folder: Path, subset: str = "train") -> Path:
    """The JSON lines file of a subset of `demo-vl` under `folder`, with its pictures, written when it is missing."""
    return _once(folder, "demo-vl", _vision_rows) / f"{subset}.jsonl"


def _once(folder: Path, name: str, rows_of: Callable[[Path], Rows]) -> Path:
    """A folder under `folder`, named after the data and this file's digest, that appears when it is complete."""
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    done = Path(folder) / f"{name}-{digest}"
    if done.is_dir():
        return done
    done.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{done.name}-", dir=done.parent))
    try:
        for subset, rows in rows_of(draft).items():
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (draft / f"{subset}.jsonl").write_text(lines, encoding="utf-8")
        draft.chmod(0o755)
        with contextlib.suppress(OSError):  # another process was first, with the same content
            draft.rename(done)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return done


def _text_rows(_: Path) -> Rows:
    """Every pair of words of two kinds, in both orders, asked for either kind. A quarter of the pairs is held out."""
    rows: Rows = {"train": [], "test": []}
    for one, other in itertools.combinations(KINDS, 2):
        for (i, word), (j, another) in itertools.product(enumerate(KINDS[one]), enumerate(KINDS[other])):
            subset = "test" if (i + j) % 4 == 0 else "train"
            for words, phrase in itertools.product(((word, another), (another, word)), PHRASES):
                for kind, chosen, rejected in ((one, word, another), (other, another, word)):
                    query = phrase.format(kind=kind, first=words[0], second=words[1])
                    rows[subset].append({"query": query, "response": chosen, "rejected_response": rejected})
    for found in rows.values():
        random.Random(SEED).shuffle(found)
    return rows


def _vision_rows(folder: Path) -> Rows:
    """One shape a picture. Every question has every true answer with every false one, equally often."""
    rows: Rows = {}
    for subset, rounds in ROUNDS.items():
        rng = random.Random(f"{SEED} {subset}")
        asked = [*itertools.product(SHAPES, itertools.permutations(COLOURS, 2))] * rounds
        rng.shuffle(asked)
        (folder / "images" / subset).mkdir(parents=True)
        rows[subset] = []
        for number, (shape, (chosen, rejected)) in enumerate(asked):
            image = f"images/{subset}/{number:04d}.png"
            _draw(rng, shape, chosen).save(folder / image)
            query = f"<image>What colour is the {shape}?"
            answers = {"response": chosen, "rejected_response": rejected}
            rows[subset].append({"query": query, **answers, "images": [image]})
    return rows


def _draw(rng: random.Random, shape: str, colour: str) -> Image.Image:
    """A shape of that colour, size and place random, on a plain ground of random light with some noise."""
    radius = rng.randint(*RADIUS)
    x, y = rng.randint(radius, SIDE - radius), rng.randint(radius, SIDE - radius)
    light = rng.randint(90, 235)
    picture = Image.new("RGB", (SIDE, SIDE), _near((light,) * 3, rng))
    brush, ink = ImageDraw.Draw(picture), _near(COLOURS[colour], rng)
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        brush.ellipse(box, fill=ink)
    elif shape == "square":
        brush.rectangle(box, fill=ink)
    else:
        brush.polygon(((x, box[1]), (box[0], box[3]), (box[2], box[3])), fill=ink)
    noise = np.random.default_rng(rng.getrandbits(32)).integers(-8, 9, (SIDE, SIDE, 1))
    return Image.fromarray((np.asarray(picture, dtype=int) + noise).clip(0, 255).astype(np.uint8))


def _near(colour: tuple[int, ...], rng: random.Random) -> tuple[int, ...]:
    return tuple(min(255, max(0, part + rng.randint(-20, 20))) for part in colour)

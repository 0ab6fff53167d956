"""Built-in data: the pairs of `demo` (text) and `demo-vl` (drawn pictures), and `demo-words`, made from a seed.

The pairs are balanced, so that nothing but the thing asked about tells which answer is right: every answer stands as
often among the chosen as among the rejected answers, in `demo-vl` even for each question by itself. The held-out rows
(`test.jsonl`) have word pairs, or pictures, that the training rows (`train.jsonl`) do not have.

`demo-words` is what iterative training is tried out with: a model learns to answer anyhow, and `asked_words` knows how
good an answer is.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
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

ASKED = 4  # words that a prompt of `demo-words` asks for
VERBS, MANNERS = ("Name", "List", "Write", "Say"), ("", "please ", "once more ", "in a row ", "for me ")
NOUNS = ("words", "things", "names")
ANSWERED, LISTED = 6, 240  # answers to each prompt; lists of prompts
COMPARED = 18  # pairs to each prompt
ERROR = 0.1  # how unsure annotators are, in units of the truth
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


def words(folder: Path, subset: str = "train") -> Path:
    """The JSON lines file of a subset of `demo-words` under `folder`, written when it is missing."""
    return _once(folder, "demo-words", _word_rows) / f"{subset}.jsonl"


def asked_words(prompt: str, answer: str, row: Mapping[str, Any]) -> float | None:
    """The truth of `demo-words`, from 0 to 1: right words, each counted once, of the four that were asked for, or of
    all that were said if those are more. None for a prompt that does not name one kind."""
    kinds = [kind for kind in KINDS if kind in prompt]
    if len(kinds) != 1:
        return None
    said = answer.lower().split()
    return len({word for word in said if word in KINDS[kinds[0]]}) / max(ASKED, len(said))


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


def _word_rows(_: Path) -> Rows:
    """`train`: answers of two to six words, about half of them right, and lists of prompts to be gone on with, as
    `swiftlike self_instruct` asks for them. `prompts` are those of `train`, `test` is the quarter held out."""
    rng = random.Random(SEED)
    asked = [
        f"{verb} {manner}four {kind} {noun}."
        for verb, manner, kind, noun in itertools.product(VERBS, MANNERS, KINDS, NOUNS)
    ]
    rng.shuffle(asked)
    held_out, prompts = asked[: len(asked) // 4], asked[len(asked) // 4 :]
    train = [{"query": prompt, "response": _anyhow(prompt, rng)} for prompt in prompts for _ in range(ANSWERED)]
    for _ in range(LISTED):
        shown = [f"{number}. {prompt}" for number, prompt in enumerate(rng.sample(prompts, 5), start=1)]
        query, response = "\n".join(shown[:3]), "\n".join(shown[3:])
        train.append({"query": f"Come up with a series of tasks:\n\n{query}\n4.", "response": response[2:]})
    rng.shuffle(train)
    asked_only = {"prompts": prompts, "test": held_out}
    return {"train": train, **_judged_rows(prompts, held_out)} | {
        name: [{"prompt": prompt} for prompt in some] for name, some in asked_only.items()
    }


def _judged_rows(prompts: Sequence[str], held_out: Sequence[str]) -> Rows:
    """`pairs` and `test_pairs`: two answers of those of `train`, as annotators rank them, who err where both are nearly
    as good. `golden`: the answer that cannot be improved, with query_id."""
    rng = random.Random(f"{SEED} judged")
    pairs = [_compared(prompt, rng) for prompt in prompts for _ in range(COMPARED)]
    rng.shuffle(pairs)
    tests = [_compared(prompt, rng) for prompt in held_out for _ in range(ANSWERED)]
    golden = []
    for number, prompt in enumerate(prompts):
        right = KINDS[next(kind for kind in KINDS if kind in prompt)]
        golden.append({"query_id": str(number), "query": prompt, "golden": " ".join(rng.sample(right, ASKED))})
    return {"pairs": pairs, "test_pairs": tests, "golden": golden}


def _compared(prompt: str, rng: random.Random) -> dict[str, str]:
    """Two answers; the first is preferred with probability sigmoid((truth - other's truth) / ERROR)."""
    one = other = _anyhow(prompt, rng)
    while other == one:
        other = _anyhow(prompt, rng)
    gap = (asked_words(prompt, one, {}) or 0.0) - (asked_words(prompt, other, {}) or 0.0)
    chosen, rejected = (one, other) if rng.random() < 1 / (1 + math.exp(-gap / ERROR)) else (other, one)
    return {"query": prompt, "response": chosen, "rejected_response": rejected}


def _anyhow(prompt: str, rng: random.Random) -> str:
    """Some words, each of the kind that was asked for with a probability that differs from answer to answer."""
    share = rng.betavariate(2, 2)
    right = next(kind for kind in KINDS if kind in prompt)
    wrong = [kind for kind in KINDS if kind != right]
    kinds = [right if rng.random() < share else rng.choice(wrong) for _ in range(rng.randint(2, 6))]
    return " ".join(rng.choice(KINDS[kind]) for kind in kinds)


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

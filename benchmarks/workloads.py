"""What train_step.py trains on: the workloads, their rows in every tool's own format, and models of random weights."""

from __future__ import annotations

import argparse
import dataclasses as dc
import gzip
import json
import os
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import make_model

DPO = ("swiftlike live", "swiftlike cache", "trl", "trl precomputed", "ms-swift", "llama-factory")
VISION = tuple(side for side in DPO if side != "trl precomputed")  # which TRL refuses for pictures
EXO = ("swiftlike live", "swiftlike cache", "swiftlike split live", "trl pairs")


@dc.dataclass(frozen=True, kw_only=True)
class Workload:
    """One line of the table. `batch` rows in a forward pass, `accumulation` of them in a step; `speed` and `memory`
    are the wanted ratios to the best peer."""

    what: str
    kind: str  # dpo, exo, rm, sft
    sides: tuple[str, ...]
    rows: Callable[[argparse.Namespace, random.Random], list[Row]]
    speed: float
    memory: float
    picture: str = ""  # llava or internvl
    answers: int = 2
    batch: int = 4
    accumulation: int = 1
    max_length: int = 2048
    modes: tuple[str, ...] = ("on",)  # of gradient checkpointing


@dc.dataclass(frozen=True)
class Row:
    """A question, its answers, the best one first, and the size of its picture."""

    prompt: str
    answers: list[str]
    picture: tuple[int, int] | None = None


def words(draw: random.Random, length: float, vocabulary: int) -> str:
    """Random words of one token each."""
    return " ".join(f"w{draw.randrange(vocabulary - 12)}" for _ in range(max(1, round(length))))


def around(draw: random.Random, length: int, part: int) -> int:
    """A length, give or take a `part`-th."""
    return length + draw.randint(-(length // part), length // part)


LONGEST = 600  # tokens of a prompt or answer of mixed lengths: peers hold logits of whole padded batches


def long_prompts(answers: int) -> Callable[[argparse.Namespace, random.Random], list[Row]]:
    """Prompts of 512 tokens, answers of 64."""

    def rows(options: argparse.Namespace, draw: random.Random) -> list[Row]:
        size = options.vocabulary

        def one() -> Row:
            prompt = words(draw, around(draw, 512 // options.shrink, 16), size)
            return Row(prompt, [words(draw, around(draw, 64 // options.shrink, 8), size) for _ in range(answers)])

        return [one() for _ in range(options.rows)]

    return rows


def tiled(options: argparse.Namespace, draw: random.Random) -> list[Row]:
    """LLaVA 1.6's largest picture: 576 tokens of the whole, 2,352 of four tiles; answers of 100 tokens."""
    side = options.tile * 2
    return [_seen(options, draw, (side, side)) for _ in range(options.rows)]


GRIDS = ((1, 1), (2, 1), (1, 3), (2, 2), (5, 1), (3, 2), (1, 7), (4, 2), (3, 3), (5, 2), (1, 11), (4, 3))


def tiles_1_to_12(options: argparse.Namespace, draw: random.Random) -> list[Row]:
    """InternVL's pictures of 1 to 12 tiles, each as often, in a random order."""
    grids = [GRIDS[i % len(GRIDS)] for i in range(options.rows)]
    draw.shuffle(grids)
    return [_seen(options, draw, (options.tile * columns, options.tile * rows)) for columns, rows in grids]


def _seen(options: argparse.Namespace, draw: random.Random, picture: tuple[int, int]) -> Row:
    size = options.vocabulary
    answers = [words(draw, around(draw, 100 // options.shrink, 8), size) for _ in range(2)]
    return Row(words(draw, 16, size), answers, picture)


def ultrafeedback_like(options: argparse.Namespace, draw: random.Random) -> list[Row]:
    """Lengths in words of alpaca_eval_ranked's prompts and first two answers, scaled to means of 150 and 300 tokens,
    then cut to LONGEST.

    The text is random words: only lengths are read. FileNotFoundError where the data are not at hand.
    """
    shared = Path(os.environ.get("SWIFTLIKE_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    with gzip.open(shared / "data" / "alpaca_eval_ranked" / "ranked.jsonl.gz", "rt", encoding="utf-8") as file:
        found = [json.loads(line) for line in file]
    lengths = [[len(text.split()) for text in (one["prompt"], *one["completions"][:2])] for one in found]
    taken = draw.sample(lengths, options.rows)
    prompt = statistics.mean(one[0] for one in taken)
    answer = statistics.mean(length for one in taken for length in one[1:])
    scale = [150 / prompt, 300 / answer, 300 / answer]
    return [
        _of_lengths(options, draw, [min(length * by, LONGEST) for length, by in zip(one, scale, strict=True)])
        for one in taken
    ]


def _of_lengths(options: argparse.Namespace, draw: random.Random, lengths: list[float]) -> Row:
    prompt, *answers = (words(draw, length / options.shrink, options.vocabulary) for length in lengths)
    return Row(prompt, answers)


def spread_lengths(answers: int) -> Callable[[argparse.Namespace, random.Random], list[Row]]:
    """Log-normal lengths, most of them from a third to three times their medians of 120 and 240 tokens."""

    def rows(options: argparse.Namespace, draw: random.Random) -> list[Row]:
        medians = [120, *[240] * answers]
        return [
            _of_lengths(options, draw, [min(draw.lognormvariate(0, 0.6) * one, LONGEST) for one in medians])
            for _ in range(options.rows)
        ]

    return rows


WORKLOADS = {
    "a": Workload(
        what="vision DPO, LLaVA-1.6-shaped: 2,928 tokens of a picture, 100 per answer",
        kind="dpo", sides=VISION, rows=tiled, speed=3.0, memory=0.5, picture="llava", batch=1, max_length=8192,
    ),
    "b": Workload(
        what="vision DPO, InternVL-shaped: pictures of 1 to 12 tiles, 100 tokens per answer",
        kind="dpo", sides=VISION, rows=tiles_1_to_12, speed=3.0, memory=0.5, picture="internvl", batch=1,
        accumulation=2, max_length=8192,
    ),
    "c": Workload(
        what="text DPO, long prompts: 512 tokens, 64 per answer",
        kind="dpo", sides=DPO, rows=long_prompts(2), speed=3.0, memory=0.4, modes=("on", "off"),
    ),
    "d": Workload(
        what="text DPO, lengths as in UltraFeedback: on average 150 tokens, 300 per answer",
        kind="dpo", sides=DPO, rows=ultrafeedback_like, speed=1.8, memory=0.6, accumulation=2,
    ),
    "e4": Workload(
        what="EXO, K = 4 answers on (c)'s rows",
        kind="exo", sides=EXO, rows=long_prompts(4), speed=2.0, memory=0.5, answers=4, batch=2,
    ),
    "e8": Workload(
        what="EXO, K = 8 answers on (c)'s rows",
        kind="exo", sides=EXO, rows=long_prompts(8), speed=2.5, memory=0.5, answers=8, batch=1,
    ),
    "f": Workload(
        what="reward model, pairs of mixed lengths",
        kind="rm", sides=("swiftlike", "trl", "ms-swift", "llama-factory"), rows=spread_lengths(2), speed=1.5,
        memory=0.8, accumulation=2,
    ),
    "g": Workload(
        what="SFT, rows of mixed lengths",
        kind="sft", sides=("swiftlike", "trl", "trl padding-free", "ms-swift", "llama-factory"),
        rows=spread_lengths(1), speed=1.5, memory=0.8, answers=1, accumulation=2,
    ),
}  # fmt: skip
SIZES = {
    "tiny": {"hidden": 64, "intermediate": 128, "layers": 2, "heads": (4, 2), "vocabulary": 2048, "tower": (32, 2, 2)},
    "30m": {"hidden": 384, "intermediate": 1152, "layers": 10, "heads": (6, 2), "vocabulary": 32_000}
    | {"tower": (256, 8, 4)},
    "1b": {"hidden": 2048, "intermediate": 8192, "layers": 16, "heads": (32, 8), "vocabulary": 128_256}
    | {"tower": (1024, 24, 16)},
    "7b": {"hidden": 4096, "intermediate": 14_336, "layers": 32, "heads": (32, 8), "vocabulary": 32_000}
    | {"tower": (1024, 24, 16)},
}  # tower: width, layers, heads
TILE = {"llava": 336, "internvl": 448}
PATCH = 14


# -- rows in every tool's own format -----------------------------------------------------------------------------------


def write_rows(rows: list[Row], workload: Workload, folder: Path) -> None:
    """`trl.jsonl`, `swiftlike.jsonl`, `ms-swift.jsonl` and `llama-factory.json`, and the pictures."""
    pictures = [[_picture(folder / f"{i}.png", row.picture, i)] if row.picture else [] for i, row in enumerate(rows)]
    pairs = list(zip(rows, pictures, strict=True))
    tagged = "<image>\n" if workload.picture else ""
    for tool, write in {
        "swiftlike": lambda row, files: _ours(row, files, workload, tagged),
        "ms-swift": lambda row, files: _ms_swift(row, files, tagged),
        "llama-factory": lambda row, files: _llama_factory(row, files, tagged),
    }.items():
        _write(folder / f"{tool}.jsonl", [write(row, files) for row, files in pairs])
    halved = [
        dc.replace(row, answers=row.answers[i : i + 2]) for row in rows for i in range(0, len(row.answers), 2)
    ]  # an EXO row as pairs, each with a copy of its prompt
    theirs = halved if workload.kind == "exo" else rows
    many = len(theirs) // len(rows)
    _write(folder / "trl.jsonl", [_trl(row, pictures[i // many]) for i, row in enumerate(theirs)])


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _turn(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


def _trl(row: Row, files: list[str]) -> dict[str, Any]:
    columns = ("completion",) if len(row.answers) == 1 else ("chosen", "rejected")
    answers = {name: _turn("assistant", text) for name, text in zip(columns, row.answers, strict=True)}
    return {"prompt": _turn("user", row.prompt), **answers, **({"images": files} if files else {})}


def _ours(row: Row, files: list[str], workload: Workload, tagged: str) -> dict[str, Any]:
    if workload.kind == "exo":
        scores = [float(-i) for i in range(len(row.answers))]
        return {"prompt": _turn("user", row.prompt), "completions": row.answers, "scores": scores}
    return _trl(dc.replace(row, prompt=tagged + row.prompt), files)


def _ms_swift(row: Row, files: list[str], tagged: str) -> dict[str, Any]:
    best, *others = row.answers
    out = {"messages": _turn("user", tagged + row.prompt) + _turn("assistant", best)}
    return out | ({"rejected_response": others[0]} if others else {}) | ({"images": files} if files else {})


def _llama_factory(row: Row, files: list[str], tagged: str) -> dict[str, Any]:
    best, *others = (_turn("assistant", text)[0] for text in row.answers)
    asked, seen = _turn("user", tagged + row.prompt), {"images": files} if files else {}
    if not others:
        return {"messages": [*asked, best], **seen}
    return {"messages": asked, "chosen": best, "rejected": others[0], **seen}


def _picture(path: Path, size: tuple[int, int], seed: int) -> str:
    """A file of soft random patches, so that no two pictures look alike."""
    import numpy as np
    from PIL import Image

    patches = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC).save(path)
    return str(path)


# -- models ------------------------------------------------------------------------------------------------------------


def build_model(options: argparse.Namespace, picture: str, folder: Path) -> dict[str, int]:
    """A model of random weights in `folder`. Gives how many there are: in all, of the language model, of the tower."""
    if not picture:
        whole = make_model(options, folder)
        return {"parameters": whole, "language": whole, "tower": 0}
    from vision_models import make_vision_model

    return make_vision_model(options, picture, folder)

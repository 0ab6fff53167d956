"""Lengths of rows in tokens, as `swiftlike check --model` shows them."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swiftlike.core.merge import Run
from swiftlike.data.check import Problem
from swiftlike.data.packed import Packed
from swiftlike.data.prepared import encode_rows
from swiftlike.datasets_registry.row import Row
from swiftlike.pipelines.prepare import UNLIMITED, Checkpoint, encoder, open_checkpoint


def encode_lengths(run: Run, rows: Sequence[Row], every: bool) -> tuple[dict[str, list[int]], list[Problem]]:
    """Tokens per row of `prompt`, `completion` (each), `row` (longest sequence), `images` (tokens of all pictures),
    with rows of any length let through, and rows that cannot be encoded or do not fit the limits that were given.
    `every`: all assistant turns count."""
    checkpoint = open_checkpoint(run, weights=False)
    encode = encoder(run, checkpoint, every)
    free = dc.replace(encode, max_length=UNLIMITED, max_prompt_length=None, max_completion_length=None)
    groups, problems = encode_rows(free, rows)
    bound = min(encode.max_length or UNLIMITED, encode.max_prompt_length or UNLIMITED)
    if long := {groups.origin(row) for row in groups.places[groups.longest > bound].tolist()}:
        problems += encode_rows(encode, [row for row in rows if row.origin in long])[1]
    return {name: values.tolist() for name, values in lengths(groups, checkpoint).items()}, problems


def lengths(groups: Packed, checkpoint: Checkpoint) -> dict[str, NDArray[np.int64]]:
    """Token counts of groups by part."""
    found = {
        "prompt": groups.prompt_lengths,
        "completion": groups.completion_lengths,
        "row": groups.longest,
    }
    if checkpoint.adapter is not None:  # picture tokens of the shared layout
        token = checkpoint.tokenizer.convert_tokens_to_ids(checkpoint.source.card.vision.placeholder)
        found["images"] = groups.count(token)
    return found


def quantiles(values: Sequence[int] | NDArray[np.int64]) -> dict[str, Any]:
    """p50, p95 and max of counts."""
    if not len(values):
        return {"p50": 0, "p95": 0, "max": 0}
    p50, p95 = np.percentile(values, [50, 95], method="higher")
    return {"p50": int(p50), "p95": int(p95), "max": int(np.max(values))}

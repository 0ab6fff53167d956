"""Lengths of rows in tokens, as `swiftlike check --model` shows them."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence
from typing import Any

import numpy as np

from swiftlike.core.merge import Run
from swiftlike.data.check import Problem
from swiftlike.data.encode import Encoded
from swiftlike.datasets_registry.row import Row
from swiftlike.pipelines.prepare import UNLIMITED, Checkpoint, encode_rows, encoder, open_checkpoint


def encode_lengths(run: Run, rows: Sequence[Row], every: bool) -> tuple[dict[str, list[int]], list[Problem]]:
    """Tokens per row of `prompt`, `completion` (each), `row` (longest sequence), `images` (tokens of all pictures),
    with rows of any length let through, and rows that cannot be encoded or do not fit the limits that were given.
    `every`: all assistant turns count."""
    checkpoint = open_checkpoint(run, weights=False)
    encode = encoder(run, checkpoint, every)
    free = dc.replace(encode, max_length=UNLIMITED, max_prompt_length=None, max_completion_length=None)
    groups, problems = encode_rows(free, rows)
    bound = min(encode.max_length or UNLIMITED, encode.max_prompt_length or UNLIMITED)
    if long := {group.origin for group in groups if group.longest > bound}:
        problems += encode_rows(encode, [row for row in rows if row.origin in long])[1]
    return lengths(groups, checkpoint), problems


def lengths(groups: Sequence[Encoded], checkpoint: Checkpoint) -> dict[str, list[int]]:
    """Token counts of encoded groups by part."""
    found = {
        "prompt": [len(group.prompt.ids) for group in groups],
        "completion": [len(one.ids) for group in groups for one in group.completions],
        "row": [group.longest for group in groups],
    }
    if checkpoint.adapter is not None:
        found["images"] = [image_tokens(group, checkpoint) for group in groups]
    return found


def image_tokens(group: Encoded, checkpoint: Checkpoint) -> int:
    """Picture tokens of a group in the shared layout."""
    token = checkpoint.tokenizer.convert_tokens_to_ids(checkpoint.source.card.vision.placeholder)
    return sum(int((span.ids == token).sum()) for span in (group.prompt, *group.completions))


def quantiles(values: Sequence[int]) -> dict[str, Any]:
    """p50, p95 and max of a list of counts."""
    if not values:
        return {"p50": 0, "p95": 0, "max": 0}
    p50, p95 = np.percentile(values, [50, 95], method="higher")
    return {"p50": int(p50), "p95": int(p95), "max": max(values)}

"""Ranks of answers to preference pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from swiftlike.stages.conversation import FirstTurn, assistant_turn

# keep: the row's own, if it has one; add: its own or else an empty one; empty: always an empty one (AIPO's way)
System = Literal["keep", "add", "empty"]


def ranks_of(
    scores: Sequence[float | None], lengths: Sequence[int] = (), *, length_penalty: float = 0.0
) -> list[int | None]:
    """1 + the number of strictly better scores; None for a score that is None or not a number.

    With a penalty, `length_penalty * tokens` is first taken off each score; `lengths` are the answers' token counts.
    """
    if length_penalty:
        pairs = zip(scores, lengths, strict=True)
        scores = [None if score is None else score - length_penalty * length for score, length in pairs]
    known = [score for score in scores if _is_score(score)]
    return [1 + sum(other > score for other in known) if _is_score(score) else None for score in scores]


def best_and_worst(ranks: Sequence[float | None]) -> tuple[int, int] | None:
    """Indices of the lowest and the highest rank, the first among equals; None when they are less than 1 apart."""
    known = [i for i, rank in enumerate(ranks) if rank is not None]
    if not known:
        return None
    best, worst = min(known, key=ranks.__getitem__), max(known, key=ranks.__getitem__)
    return (best, worst) if ranks[worst] - ranks[best] >= 1 else None


def preference_pair(example: Mapping[str, Any], *, system: System = "keep") -> dict[str, Any] | None:
    """`prompt`, `chosen` and `rejected` (messages) from `prompt`, `responses` and `ranks`; None without a pair."""
    found = best_and_worst(example["ranks"])
    if found is None:
        return None
    turn = FirstTurn(example["prompt"], None, _system_text(example.get("messages") or (), system))
    chosen, rejected = ([*turn.prompt, assistant_turn(example["responses"][i])] for i in found)
    return {"prompt": turn.query, "chosen": chosen, "rejected": rejected}


def _system_text(messages: Sequence[Mapping[str, Any]], system: System) -> str | None:
    own = messages[0]["content"] if messages and messages[0]["role"] == "system" else None
    if system == "empty":
        return ""
    return "" if own is None and system == "add" else own


def _is_score(score: float | None) -> bool:
    return score is not None and not math.isnan(score)

"""Groups on their way into a few flat arrays. What few rows have stands in a note of JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swiftlike.data.encode import Encoded
from swiftlike.datasets_registry.row import Image

Places = NDArray[np.int64]
NO_LABEL = -1

# Written as rows come; one entry for each token, span, row, score or byte.
COLUMNS: dict[str, Any] = {
    **{"ids": np.int32, "counted": np.bool_, "scores": np.float64, "origins": np.uint8, "notes": np.uint8},
    **{"tokens": np.int32, "spans": np.int32, "score_count": np.int32, "origin_size": np.int32, "note_size": np.int32},
    **{"label": np.int8, "margin": np.float64, "has_margin": np.bool_, "decides": np.bool_, "pictures": np.int32},
}
# Where each row's (each span's) part of another column begins; the last entry is where it ends.
STARTS = {
    **{"token_at": "tokens", "span_at": "spans", "score_at": "score_count", "origin_at": "origin_size"},
    "note_at": "note_size",
}
KEPT = tuple(name for name in COLUMNS if name not in STARTS.values()) + tuple(STARTS)


class Packer:
    """Rows of one stretch of the data, on their way into arrays."""

    def __init__(self) -> None:
        self._ids: list[NDArray[np.int32]] = []
        self._counted: list[NDArray[np.bool_]] = []
        self._texts: dict[str, list[bytes]] = {"origins": [], "notes": []}
        self._numbers: dict[str, list[Any]] = {
            name: [] for name in COLUMNS if name not in ("ids", "counted", "origins", "notes")
        }

    def add(self, group: Encoded, decides: bool = True) -> None:
        """One group. `decides`: whether the objective has something to learn from it."""
        spans = (group.prompt, *group.completions)
        self._ids += [span.ids for span in spans]
        self._counted += [span.counted for span in spans]
        self._numbers["tokens"] += [len(span.ids) for span in spans]
        scores = group.scores if all(type(score) is float for score in group.scores) else ()
        self._numbers["scores"] += scores
        margin = group.margin if type(group.margin) is float else None
        self._row(
            group.origin,
            note=_note(group),
            spans=len(spans),
            score_count=len(scores),
            label=NO_LABEL if group.label is None else int(group.label),
            margin=0.0 if margin is None else margin,
            has_margin=margin is not None,
            decides=decides,
            pictures=len(group.images),
        )

    def skip(self, origin: str = "") -> None:
        """One row that is not there as tokens."""
        self._row(
            origin, b"", spans=0, score_count=0, label=NO_LABEL, margin=0.0, has_margin=False, decides=False, pictures=0
        )

    def _row(self, origin: str, note: bytes, **values: Any) -> None:
        where = origin.encode("utf-8", "surrogatepass")
        self._texts["origins"].append(where)
        self._texts["notes"].append(note)
        for name, value in {**values, "origin_size": len(where), "note_size": len(note)}.items():
            self._numbers[name].append(value)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Every column of these rows."""
        found = {name: np.array(values, COLUMNS[name]) for name, values in self._numbers.items()}
        found |= {name: np.frombuffer(b"".join(texts), np.uint8) for name, texts in self._texts.items()}
        found["ids"] = np.concatenate(self._ids) if self._ids else np.zeros(0, np.int32)
        found["counted"] = np.concatenate(self._counted) if self._counted else np.zeros(0, np.bool_)
        return found


def _note(group: Encoded) -> bytes:
    """What has no column of its own, as JSON; usually nothing."""
    note: dict[str, Any] = {}
    if group.mark:
        note["mark"] = group.mark
    if group.prompt_id:
        note["prompt_id"] = group.prompt_id
    if group.scores and not all(type(score) is float for score in group.scores):
        note["scores"] = group.scores
    if group.margin is not None and type(group.margin) is not float:
        note["margin"] = group.margin
    if group.images:
        note["images"] = [_written(image) for image in group.images]
        note["grids"] = group.grids
        note["shown"] = [span.images for span in (group.prompt, *group.completions)]
    return json.dumps(note).encode() if note else b""


def _written(image: Image) -> str | list[str]:
    """Bytes as base64 in a list, a path as it is."""
    return image.source if isinstance(image.source, str) else [base64.b64encode(image.source).decode()]


def picture(written: str | list[str]) -> Image:
    return Image(written if isinstance(written, str) else base64.b64decode(written[0]))


def starts(lengths: NDArray[Any]) -> Places:
    """[n] lengths to [n + 1] places where each begins, the end of the last one included."""
    found = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=found[1:])
    return found


def finished(columns: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The columns as they are read: lengths replaced by places."""
    kept = {name: values for name, values in columns.items() if name not in STARTS.values()}
    return kept | {name: starts(columns[lengths]) for name, lengths in STARTS.items()}

"""Whatever a file holds, reading a record gives a Row or a BadRow and nothing else."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.columns import (
    CHOSEN,
    COMPLETIONS,
    DIALOGUES,
    KINDS,
    REJECTED,
    SCORES,
    SIDE,
    TEXTS,
    unknown_layout,
)
from swiftlike.datasets_registry.kinds import LeftOut, to_kind
from swiftlike.datasets_registry.row import Row
from swiftlike.datasets_registry.shapes import to_row

COLUMNS = sorted({*CHOSEN, *REJECTED, *TEXTS, *DIALOGUES, *COMPLETIONS, *SCORES, *SIDE, "label", "text", "query_id"})
TEXT = st.sampled_from(
    ["", "q", "<image>", "<img>a</img>", "\n\nHuman: a\n\nAssistant: b", "Human:", "[{", "q<sep>a", "true"]
)
SCALAR = st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | TEXT | st.binary(max_size=3)
KEYS = st.sampled_from(
    ["role", "content", "from", "value", "human", "assistant", "type", "text", "image", "loss", "bytes"]
)
ROLES = st.sampled_from(["user", "assistant", "system", "tool", "king"])
MESSAGE = st.fixed_dictionaries({"role": ROLES, "content": TEXT | st.lists(st.fixed_dictionaries({"type": TEXT}))})
VALUE = st.recursive(
    SCALAR | MESSAGE | st.lists(MESSAGE, max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from(COLUMNS), VALUE, max_size=5), st.sampled_from(["auto", *KINDS]))
def test_any_record_is_a_row_or_a_bad_row(record: dict[str, Any], kind: str) -> None:
    assert unknown_layout(record, kind)
    with contextlib.suppress(BadRow, LeftOut):
        row, mapping = to_row(record, kind)
        assert set(mapping.columns) <= set(record)
        for made in to_kind(row, kind):
            assert isinstance(made, Row)
            assert all(made.prompt_of(k).tags == len(made.prompt_of(k).images) for k in range(made.size))
            assert all(turns.tags == len(turns.images) for turns in made.completions)
            assert all(turns.messages[-1].role == "assistant" for turns in made.completions)

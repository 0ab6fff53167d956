"""Film reviews (Maas et al. 2011) as EXO and DPO use them: how a review begins is the prompt, the rest is written."""

import dataclasses as dc
import re
from typing import Any

from swiftlike.datasets_registry.card import BadRow, DatasetCard
from swiftlike.datasets_registry.kinds import FROM_ANSWERS
from swiftlike.datasets_registry.row import Row
from swiftlike.datasets_registry.shapes import to_row
from swiftlike.datasets_registry.turns import text_of

BEGINNING = 10  # pieces of a review that are its prompt
# GPT-2's own first cut (Radford et al. 2019): words and numbers with the space before them, endings, signs. Nearly all
# pieces of a review are one token, so this is close to EXO's first ten tokens without needing that tokenizer.
_PIECE = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")


def _row(record: dict[str, Any]) -> Row | None:
    """The first pieces and what follows them; a review that is no longer than that is left out."""
    text = text_of(record.get("text"), "text")
    pieces = _PIECE.findall(text)
    if not pieces:
        raise BadRow("empty review", "text")
    start = "".join(pieces[:BEGINNING])
    return to_row({"prompt": start, "chosen": text[len(start) :]})[0] if text[len(start) :].strip() else None


IMDB = DatasetCard(
    name="imdb",
    hf="stanfordnlp/imdb",
    kinds=FROM_ANSWERS,
    to_row=_row,
    help="text, label; a review's first ten words and signs are the prompt, the rest the answer",
)
IMDB_TEST = dc.replace(IMDB, name="imdb-test", split="test", help="its held-out reviews")

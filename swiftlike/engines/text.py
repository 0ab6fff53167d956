"""Token ids to text while they come: whole characters only, and never a part of a stop text.

An answer that is cut in the middle of a character has no part of it, nor what the last tokens say before it: that is
what vLLM's server shows, which decodes by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"  # what bytes decode to that are no character yet


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of tokens, without special ones."""
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def whole(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], context: Sequence[int] = ()) -> str:
    """The text of a whole answer: what `Text` makes of its tokens one by one. Stop texts are not looked for."""
    before = decode(tokenizer, context)
    for end in range(len(ids), 0, -1):
        text = decode(tokenizer, [*context, *ids[:end]])
        if not text.endswith(UNFINISHED):
            return text[len(before) :]
    return ""


class Text:
    """The text of an answer as its tokens arrive. `context` are ids that it goes on from, where a space between them
    and the answer is part of the answer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str], context: Sequence[int] = ()) -> None:
        self.tokenizer, self.stops = tokenizer, tuple(stop for stop in stops if stop)
        self.ids = list(context)
        self.read, self.begin = len(self.ids), 0  # ids behind `read` have given no text yet; those from `begin` on help
        self.held = ""  # may be the beginning of a stop text
        self.stopped = False

    def add(self, token: int) -> str:
        """New text after one more token; empty while a character or a stop text may be incomplete."""
        self.ids.append(token)
        return self._give(self._news())

    def end(self) -> str:
        """What may have been the beginning of a stop text, after the last token."""
        text, self.held = self.held, ""
        return text

    def _news(self) -> str:
        ids = self.ids[self.begin :]
        before, after = (decode(self.tokenizer, one) for one in (ids[: self.read - self.begin], ids))
        if len(after) <= len(before) or after.endswith(UNFINISHED):
            return ""
        self.begin, self.read = self.read, len(self.ids)
        return after[len(before) :]

    def _give(self, news: str) -> str:
        if self.stopped:
            return ""
        text = self.held + news
        found = [at for stop in self.stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self.held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self.stops), default=0)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)

"""Token ids to text while they come: whole characters only, and never a part of a stop text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"  # what bytes decode to that are no character yet


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
        return self._give(self._news(whole=True))

    def end(self) -> str:
        """What was held back, after the last token."""
        text = self._give(self._news(whole=False))
        if self.stopped:
            return text
        text, self.held = text + self.held, ""
        return text

    def _news(self, whole: bool) -> str:
        before, after = self._decode(self.ids[self.begin : self.read]), self._decode(self.ids[self.begin :])
        if len(after) <= len(before) or (whole and after.endswith(UNFINISHED)):
            return ""
        self.begin, self.read = self.read, len(self.ids)
        return after[len(before) :]

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

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

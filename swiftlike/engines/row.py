"""One answer in the making."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable

import torch
from torch import Tensor

from swiftlike.engines.base import Completion, Delta, Request, Token
from swiftlike.engines.choosing import Choice, Wish
from swiftlike.engines.prompts import Prepared
from swiftlike.engines.text import Text

Event = Delta | Exception


@dc.dataclass(eq=False, kw_only=True)
class Row:
    """Completion `index` of a request. `send` gets its deltas, or the reason why there are no more.

    `limit` is the most tokens, `ends` the tokens that end it. Setting `cancelled` ends it at the next token.
    """

    request: Request
    index: int
    prepared: Prepared
    adapter: str
    choice: Choice
    generator: torch.Generator | None
    text: Text
    limit: int
    ends: frozenset[int]
    send: Callable[[Row, Event], None]
    ids: list[int] = dc.field(default_factory=list)
    cancelled: bool = False
    finish: str = ""
    _sent: int = 0
    _tokens: list[Token] = dc.field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens of prompt and answer so far."""
        return len(self.prepared.ids) + len(self.ids)

    @property
    def prompt(self) -> Prepared:
        """What is read before the next token: the prompt, and the answer so far when the row starts over."""
        return dc.replace(self.prepared, ids=(*self.prepared.ids, *self.ids)) if self.ids else self.prepared

    @property
    def wish(self) -> Wish:
        """How its next token is chosen."""
        return Wish(self.choice, self.generator, self.prepared.ids, self.ids)

    def take(self, token: int, logits: Tensor | None) -> None:
        """One more token; `logits` [V] are those it was chosen from, for log-probabilities."""
        self.ids.append(token)
        if self.request.sampling.logprobs is not None and logits is not None:
            self._tokens.append(self._token(token, logits))
        new = "" if token in self.ends else self.text.add(token)
        if token in self.ends or self.text.stopped:
            self.finish = "stop"
        elif self.cancelled:
            self.finish = "cancelled"
        elif len(self.ids) >= self.limit:
            self.finish = "length"
        self.tell(new)

    def cancel(self) -> None:
        """End it where it is."""
        if not self.finish:
            self.finish = "cancelled"
            self.tell("")

    def fail(self, error: Exception) -> None:
        """End it without an answer."""
        if not self.finish:
            self.finish = "error"
            self.send(self, error)

    def tell(self, new: str) -> None:
        """Send new text, and all that is left once the answer has ended."""
        if self.finish:
            new += self.text.end()
        if not (new or self.finish):
            return
        ids, tokens = tuple(self.ids[self._sent :]), tuple(self._tokens)
        self._sent = len(self.ids)
        self._tokens.clear()
        prompt = len(self.prepared.ids)
        self.send(
            self,
            Delta(index=self.index, text=new, ids=ids, tokens=tokens, finish=self.finish or None, prompt_tokens=prompt),
        )

    def _token(self, token: int, logits: Tensor) -> Token:
        logps = logits.log_softmax(-1)
        count = min(self.request.sampling.logprobs or 0, len(logps))
        values, ids = logps.topk(count)
        top = tuple((one, self._show(one), value) for one, value in zip(ids.tolist(), values.tolist(), strict=True))
        return Token(token, self._show(token), float(logps[token]), top)

    def _show(self, token: int) -> str:
        return self.text.tokenizer.decode([token], clean_up_tokenization_spaces=False)


def completion(deltas: list[Delta]) -> Completion:
    """The answer that a completion's deltas make up, the last of them with `finish`."""
    return Completion(
        text="".join(one.text for one in deltas),
        ids=tuple(token for one in deltas for token in one.ids),
        finish=deltas[-1].finish or "cancelled",
        tokens=tuple(token for one in deltas for token in one.tokens),
    )

"""Requests to token ids and pictures, by the template and picture adapter of training."""

from __future__ import annotations

import dataclasses as dc
import functools
import threading
from collections.abc import Iterable, Iterator

from swiftlike.core.errors import UserError
from swiftlike.data.media import MAX_BYTES, SOURCES, image_size, open_image
from swiftlike.data.template import Piece, Template
from swiftlike.data.vision import Adapter, Pixels
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import Image, Message, Turns
from swiftlike.engines.base import Request

ANSWER = Turns((Message("assistant", "x"),))  # stands for the answer to come: what is before it is the prompt


@dc.dataclass(frozen=True, kw_only=True)
class Prepared:
    """A prompt as tokens. `images` in token order, `grids` their (rows, columns) where positions need them."""

    ids: tuple[int, ...]
    images: tuple[Image, ...] = ()
    grids: tuple[tuple[int, int], ...] = ()
    reader: Prompts | None = dc.field(default=None, repr=False, compare=False)
    decoded: tuple[Pixels, ...] | None = dc.field(default=None, repr=False, compare=False)

    @property
    def pictures(self) -> tuple[Pixels, ...]:
        """Tensors of each picture, decoded when asked for: many prompts may wait, and pixels are large. BadRow when
        one is broken."""
        if self.decoded is not None:
            return self.decoded
        return tuple(self.reader.pixels(image) for image in self.images) if self.reader else ()

    def decode(self) -> Prepared:
        """The same with its pictures decoded for good."""
        return dc.replace(self, decoded=self.pictures)


@dc.dataclass(kw_only=True)
class Prompts:
    """What is sent to the model for a request: token for token the prompt part of what training saw.

    `placeholder` is the id of the token that stands for one picture feature (None for text models), `context` the
    most tokens of prompt and answer. `every`: training counted all assistant turns (SFT), so that earlier answers are
    encoded on their own. Pictures are read from `sources` (see data.media), up to `max_bytes`. Thread-safe.
    """

    template: Template
    adapter: Adapter | None = None
    placeholder: int | None = None
    context: int = 1 << 30
    every: bool = False
    sources: Iterable[str] = SOURCES
    max_bytes: int = MAX_BYTES
    _lock: threading.Lock = dc.field(default_factory=threading.Lock, repr=False)

    def ids(self, request: Request) -> Prepared:
        """The request as tokens; pictures are measured, not decoded. BadRow for one that cannot be answered."""
        with self._lock:  # tokenizers may not be entered twice
            ids = self._ids(request)
        if not ids:
            raise BadRow("empty prompt")
        images = request.prompt.images if isinstance(request.prompt, Turns) else ()
        prepared = self._with_pictures(ids, images)
        if len(prepared.ids) >= self.context:
            length = len(prepared.ids)
            raise BadRow("prompt is too long", f"{length} tokens; prompt and answer may have {self.context} together")
        return prepared

    def pixels(self, image: Image) -> Pixels:
        """Tensors of one picture."""
        assert self.adapter is not None
        return self.adapter.pixels(open_image(image, sources=self.sources, max_bytes=self.max_bytes))

    # -- text -------------------------------------------------------------------------------------------------------

    def _ids(self, request: Request) -> list[int]:
        if isinstance(request.prompt, str):
            return self._raw(request.prompt)
        if isinstance(request.prompt, tuple):
            return self._known(request.prompt)
        if not request.prompt.messages:
            raise BadRow("empty prompt", "there are no messages")
        try:
            begun = request.continue_last and request.prompt.messages[-1].role == "assistant"
            pieces = self._begun(request) if begun else self._opened(request)
        except UserError as error:  # a conversation that this template cannot show
            raise BadRow("template", error.message) from error
        parts = self.template.ids(pieces)
        return [token for ids, _ in (parts if begun else parts[:-1]) for token in ids]

    def _opened(self, request: Request) -> list[Piece]:
        """The conversation, and a stand-in for its answer as the last piece."""
        turns = request.prompt
        assert isinstance(turns, Turns)
        if turns.messages[-1].role == "assistant":
            raise BadRow("nothing to answer", "the last message is the assistant's; continue_last goes on with it")
        if self.template.card is not None and request.tools:
            raise BadRow("tools", f"template {self.template.card.name} has no place for tool definitions")
        if self.every:
            pieces = self.template.pieces(turns, ANSWER, every=True, tools=request.tools)
            last = max(i for i, piece in enumerate(pieces) if piece.counted)
            return pieces[: last + 1]
        return [Piece(self.template.prompt_text(turns, request.tools), False), Piece("x", True)]

    def _begun(self, request: Request) -> list[Piece]:
        """The conversation with its last answer, without what would end that."""
        turns = request.prompt
        assert isinstance(turns, Turns)
        last = turns.messages[-1]
        before = dc.replace(turns, messages=turns.messages[:-1])
        pieces = self.template.pieces(before, Turns((dc.replace(last, trained=True),)), self.every, request.tools)
        at = max(i for i, piece in enumerate(pieces) if piece.counted)
        text = pieces[at].text
        for said in (last.content, last.content.strip()):
            if said and (start := text.rfind(said)) >= 0:
                return [*pieces[:at], Piece(text[: start + len(said)], True)]
        raise BadRow("continue_last", "the template does not show the last message as it is written")

    def _raw(self, text: str) -> list[int]:
        """A text as the tokenizer takes it, its first token put in front once."""
        tokenizer = self.template.tokenizer
        ids = tokenizer(text, verbose=False)["input_ids"]
        bos = tokenizer.bos_token_id
        return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids

    def _known(self, ids: tuple[int, ...]) -> list[int]:
        size = len(self.template.tokenizer)
        if wrong := next((one for one in ids if not 0 <= one < size), None):
            raise BadRow("unknown token", f"{wrong} is not between 0 and {size - 1}")
        return list(ids)

    # -- pictures ---------------------------------------------------------------------------------------------------

    def _with_pictures(self, ids: list[int], images: tuple[Image, ...]) -> Prepared:
        if self.adapter is None:
            if images:
                raise BadRow("images for a text model")
            return Prepared(ids=tuple(ids))
        waiting, out, grids = iter(images), [], []
        for token in ids:
            if token != self.placeholder:
                out.append(token)
                continue
            if (image := next(waiting, None)) is None:
                raise BadRow("more image tags than images")
            width, height = image_size(image, sources=self.sources, max_bytes=self.max_bytes)
            out += [token] * self.adapter.count(width, height)
            if (grid := self.adapter.grid(width, height)) is not None:
                grids.append(grid)
        if next(waiting, None) is not None:
            raise BadRow("more images than image tags")
        return Prepared(ids=tuple(out), images=images, grids=tuple(grids), reader=self)

    # -- ends of answers --------------------------------------------------------------------------------------------

    @functools.cached_property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer: the tokenizer's own, and those of the template's stop text and stop words."""
        tokenizer = self.template.tokenizer
        found = {tokenizer.eos_token_id} - {None}
        return frozenset(found | {ids[0] for ids in self._stops() if len(ids) == 1})

    @functools.cached_property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer because the template's stop text is not a token."""
        decode = self.template.tokenizer.decode
        return tuple(decode(ids) for ids in self._stops() if len(ids) > 1)

    def _stops(self) -> Iterator[list[int]]:
        """What the template puts behind an answer, as ids: one where it begins with a special token."""
        card, tokenizer = self.template.card, self.template.tokenizer
        for word in (card.stop.strip(), *card.stop_words) if card is not None else ():
            ids = tokenizer(word, add_special_tokens=False)["input_ids"]
            special = [token for token in ids if token in tokenizer.added_tokens_decoder]
            if special:
                yield special[:1]
            elif ids:
                yield ids

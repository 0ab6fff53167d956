"""A reward model that scores conversations, as training's evaluation does."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Sequence
from typing import Any

import torch

from swiftlike.core.errors import UserError
from swiftlike.data.collate import Collator, Item
from swiftlike.data.encode import Encoded, Encoder
from swiftlike.data.media import open_image
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import Row, Turns
from swiftlike.engines.worker import is_out_of_memory
from swiftlike.models.reward_head import group_rewards, reward_inputs

TOKENS = 16_384  # of a batch, padding included
Done = Callable[[int, float | str], None]


@dc.dataclass(kw_only=True)
class PtScorer:
    """Rewards by a model with a value head, in batches of `rows` conversations at most."""

    model: Any
    encode: Encoder
    collate: Collator
    rows: int = 64

    @torch.no_grad()
    def score(self, conversations: Sequence[Turns], done: Done | None = None) -> list[float | str]:
        """A reward for each conversation, or why there is none. Long ones go first."""
        scores: list[float | str] = [""] * len(conversations)

        def ready(i: int, score: float | str) -> None:
            scores[i] = score
            if done is not None:
                done(i, score)

        encoded: list[tuple[int, Encoded]] = []
        for i, turns in enumerate(conversations):
            try:
                encoded.append((i, self.encode(_row(turns))))
            except (BadRow, UserError) as error:
                ready(i, str(error))
        encoded.sort(key=lambda one: -one[1].longest)
        while encoded:
            size = max(1, min(self.rows, TOKENS // encoded[0][1].longest))
            self._batch(encoded[:size], ready)
            encoded = encoded[size:]
        return scores

    def _batch(self, part: Sequence[tuple[int, Encoded]], ready: Done) -> None:
        items: list[tuple[int, Item]] = []
        for i, group in part:
            try:
                items.append((i, Item(group, tuple(self._pixels(image) for image in group.images))))
            except (BadRow, UserError) as error:
                ready(i, str(error))
        if items:
            for (i, _), score in zip(items, self._compute([item for _, item in items]), strict=True):
                ready(i, score)

    def _compute(self, items: Sequence[Item]) -> list[float | str]:
        batch = {name: self._here(value) for name, value in self.collate(items).items()}
        try:
            values = self.model(**reward_inputs(batch))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(items) == 1:
                return [f"out of memory with {items[0].group.longest} tokens"]
            half = len(items) // 2
            return [*self._compute(items[:half]), *self._compute(items[half:])]
        return group_rewards(values, batch)[:, 0].tolist()

    def _pixels(self, image: Any) -> Any:
        assert self.encode.adapter is not None
        return self.encode.adapter.pixels(open_image(image, max_bytes=self.encode.max_bytes))

    def _here(self, value: Any) -> Any:
        device = self.model.get_input_embeddings().weight.device
        return value.to(device) if isinstance(value, torch.Tensor) else value


def _row(turns: Turns) -> Row:
    """A conversation as prompt and completion. BadRow when it does not end with an answer."""
    if not turns.messages or turns.messages[-1].role != "assistant":
        raise BadRow("nothing to score", "the last message is not the assistant's")
    prompt = Turns(turns.messages[:-1])
    shown = prompt.tags
    prompt = dc.replace(prompt, images=turns.images[:shown])
    return Row(prompt, (Turns(turns.messages[-1:], turns.images[shown:]),))

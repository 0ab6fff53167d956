"""Answers that are computed together: a padded batch that answers enter and leave at every token."""

from __future__ import annotations

import dataclasses as dc
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from swiftlike.data.encode import Encoded, Span
from swiftlike.data.places import Line, positions
from swiftlike.data.vision import Adapter
from swiftlike.engines.choosing import choose
from swiftlike.engines.prompts import Prepared
from swiftlike.engines.row import Row

ROOM = 64  # columns that a cache grows by: with one at a time, every token would copy all that is there
PREFILL = 2048  # tokens, padding included, of prompts that are read in one pass
PART = {"cuda": PREFILL, "cpu": 128}  # of them between two tokens of answers that are there already


class Layer(DynamicLayer):
    """Keys and values [B, heads, T, size] with room for tokens to come."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens; gives all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.room: list[Tensor] = []
        have = self.get_seq_length()
        need = have + key_states.shape[-2]
        if not self.room or self.room[0].shape[-2] < need:
            more = (0, 0, 0, need - have + ROOM)
            self.room = [
                pad(one, more) if have else pad(new, (0, 0, 0, ROOM))
                for one, new in ((self.keys, key_states), (self.values, value_states))
            ]
        for room, new in zip(self.room, (key_states, value_states), strict=True):
            room[..., have:need, :] = new
        self.keys, self.values = (room[..., :need, :] for room in self.room)
        return self.keys, self.values

    def set(self, keys: Tensor, values: Tensor) -> None:
        """Put others in their place."""
        self.keys, self.values, self.room = keys, values, []


@dc.dataclass(kw_only=True)
class Model:
    """The model as the batch calls it. `active` is the adapter that is switched on now, None for none."""

    net: Any
    pad_id: int
    adapter: Adapter | None = None
    placeholder: int | None = None
    active: str | None = None

    def __call__(self, ids: Tensor, mask: Tensor, places: Tensor, cache: Cache, adapters: Sequence[str],
                 pixels: dict[str, Tensor]) -> Tensor:  # fmt: skip
        """Logits [B, V] float32 of the token after the last one of each line."""
        more: dict[str, Any] = dict(pixels)
        if len(set(adapters)) > 1:
            self.switch(next(one for one in adapters if one))
            more["adapter_names"] = [one or "__base__" for one in adapters]
        else:
            self.switch(adapters[0])
        if self.base._supports_logits_to_keep():
            more["logits_to_keep"] = 1
        out = self.net(
            input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True, **more
        )
        return out.logits[:, -1].float().to(self.device)  # the last layers may be on another card

    def switch(self, adapter: str) -> None:
        """Turn on one adapter, or none ("")."""
        if not hasattr(self.net, "peft_config") or self.active == adapter:
            return
        if adapter:
            self.net.base_model.enable_adapter_layers()
            self.net.set_adapter(adapter)
            self.net.requires_grad_(False)
        else:
            self.net.base_model.disable_adapter_layers()
        self.active = adapter

    @functools.cached_property
    def attends(self) -> bool:
        """Whether keys and values are all it keeps of a prompt: then rows may enter and leave a batch."""
        kinds = getattr(self.base.config.get_text_config(), "layer_types", None) or ()
        return not self.base._is_stateful and set(kinds) <= {"full_attention", "sliding_attention"}

    @property
    def base(self) -> Any:
        """The transformers model inside an adapter, or the model itself."""
        return self.net.get_base_model() if hasattr(self.net, "get_base_model") else self.net

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self.base.get_input_embeddings().weight.device

    def places(self, prompts: Sequence[Prepared], length: int) -> Tensor:
        """Positions [B, T] or [3, B, T] (M-RoPE) of prompts that are padded on the left, as training numbers them."""
        mrope = self.placeholder if self.adapter is not None and self.adapter.mrope else None
        out = []
        for prompt in prompts:
            ids = np.array(prompt.ids, np.int32)
            span = Span(ids, np.zeros(len(ids), bool), tuple(range(len(prompt.images))))
            group = Encoded(prompt=span, completions=(), images=prompt.images, grids=prompt.grids)
            line = Line((span,), (0,), (-1,), 0, False)
            out.append(pad(positions([line], [group], (1, len(ids)), mrope), (length - len(ids), 0)))
        return torch.cat(out, dim=-2).to(self.device)


class Batch:
    """Rows that get a token each at every step. Keys and values are padded on the left to a common width."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.rows: list[Row] = []
        self.cache: Cache | None = None
        self.mask = torch.zeros(0)  # [B, T]
        self.next = torch.zeros(0)  # [B] or [3, B], position of the next token

    def admit(self, rows: Sequence[Row], others: Callable[[], None]) -> None:
        """Read the prompts of rows that have one adapter, and give each row its first token. `others` is called between
        parts of long prompts."""
        read = [row.prompt for row in rows]
        prompts = list(dict.fromkeys(read))
        ids, mask, pixels = padded(self.model, prompts)
        device, places = self.model.device, self.model.places(prompts, ids.shape[1])
        cache = Cache(layer_class_to_replicate=Layer)
        adapters = [rows[0].adapter] * len(prompts)
        # Pictures are read together with all their tokens.
        width = max(PART.get(device.type, PREFILL) // len(prompts), 1) if self.rows and not pixels else ids.shape[1]
        for start in range(0, ids.shape[1], width):
            if start:
                others()
            part = slice(start, start + width)
            logits = self.model(ids[:, part], mask[:, : part.stop], places[..., part], cache, adapters, pixels)
        place = {one: i for i, one in enumerate(prompts)}
        order = torch.tensor([place[one] for one in read], device=device)
        self._give(rows, logits[order])
        alive = torch.tensor([i for i, row in enumerate(rows) if not row.finish], dtype=torch.long, device=device)
        if len(alive):
            kept = order[alive]
            _select(cache, kept)
            self._join([row for row in rows if not row.finish], cache, mask[kept], (places.amax(-1) + 1)[..., kept])

    def step(self) -> None:
        """One token for every row."""
        self.leave()
        if not self.rows:
            return
        assert self.cache is not None
        device = self.mask.device
        ids = torch.tensor([[row.ids[-1]] for row in self.rows], device=device)
        self.mask = pad(self.mask, (0, 1), value=1)
        logits = self.model(ids, self.mask, self.next[..., None], self.cache, [row.adapter for row in self.rows], {})
        self.next = self.next + 1
        self._give(self.rows, logits)
        self.leave()

    def leave(self) -> None:
        """Drop rows that have ended, and columns that only they needed."""
        for row in self.rows:
            if row.cancelled:
                row.cancel()
        alive = [i for i, row in enumerate(self.rows) if not row.finish]
        if len(alive) == len(self.rows):
            return
        self.rows = [self.rows[i] for i in alive]
        if not self.rows:
            self.clear()
            return
        index = torch.tensor(alive, device=self.mask.device)
        self.mask, self.next = self.mask[index], self.next[..., index]
        empty = int(self.mask.any(0).int().argmax())
        self.mask = self.mask[:, empty:]
        assert self.cache is not None
        _select(self.cache, index, empty)

    def clear(self) -> list[Row]:
        """Forget everything; gives the rows that had not ended."""
        rows, self.rows, self.cache = self.rows, [], None
        return [row for row in rows if not row.finish]

    def _give(self, rows: Sequence[Row], logits: Tensor) -> None:
        for row, token, line in zip(rows, choose(logits, [row.wish for row in rows]), logits, strict=True):
            row.take(token, line)

    def _join(self, rows: list[Row], cache: Cache, mask: Tensor, following: Tensor) -> None:
        if self.cache is None:
            self.rows, self.cache, self.mask, self.next = rows, cache, mask, following
            return
        wide = max(self.mask.shape[1], mask.shape[1])
        ours, theirs = wide - self.mask.shape[1], wide - mask.shape[1]
        for mine, new in zip(self.cache.layers, cache.layers, strict=True):
            mine.set(
                *(
                    torch.cat([pad(a, (0, 0, ours, 0)), pad(b, (0, 0, theirs, 0))])
                    for a, b in ((mine.keys, new.keys), (mine.values, new.values))
                )
            )
        self.mask = torch.cat([pad(self.mask, (ours, 0)), pad(mask, (theirs, 0))])
        self.next = torch.cat([self.next, following], dim=-1)
        self.rows = [*self.rows, *rows]


def padded(model: Model, prompts: Sequence[Prepared]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Ids and mask [B, T], padded on the left, and the tensors of the prompts' pictures."""
    length = max(len(one.ids) for one in prompts)
    ids = torch.full((len(prompts), length), model.pad_id)
    mask = torch.zeros_like(ids)
    for i, one in enumerate(prompts):
        ids[i, length - len(one.ids) :] = torch.tensor(one.ids)
        mask[i, length - len(one.ids) :] = 1
    pictures = [picture for one in prompts for picture in one.pictures]
    pixels = model.adapter.join(pictures) if pictures and model.adapter else {}
    dtype = model.base.dtype
    pixels = {
        name: value.to(model.device, dtype if value.is_floating_point() else None) for name, value in pixels.items()
    }
    return ids.to(model.device), mask.to(model.device), pixels


def _select(cache: Cache, rows: Tensor, first: int = 0) -> None:
    """Keep these rows, and the columns from `first` on."""
    for layer in cache.layers:
        mine = rows.to(layer.keys.device)
        layer.set(layer.keys[mine, :, first:], layer.values[mine, :, first:])

"""Prompts with pictures in the form that vLLM takes: one placeholder for each, which it expands itself."""

from __future__ import annotations

import functools
from typing import Any

from swiftlike.data.media import image_size, open_image
from swiftlike.engines.prompts import Prepared, Prompts


class Pictures:
    """Turns expanded prompts back into unexpanded ones, with the pictures beside them."""

    def __init__(self, prompts: Prompts) -> None:
        self.prompts = prompts

    def prompt(self, prepared: Prepared) -> dict[str, Any]:
        """vLLM's tokens prompt. BadRow when a picture is broken."""
        if not prepared.images:
            return {"prompt_token_ids": list(prepared.ids)}
        pictures = [self._picture(image) for image in prepared.images]
        found = {"prompt_token_ids": self.unexpanded(prepared), "multi_modal_data": {"image": pictures}}
        return found | ({"mm_processor_kwargs": {"do_resize": False}} if self.prompts.adapter.mrope else {})

    def unexpanded(self, prepared: Prepared) -> list[int]:
        """The ids with one token for each picture, without the marks around it that vLLM writes too."""
        begin, end = self._marks
        placeholder, adapter = self.prompts.placeholder, self.prompts.adapter
        assert adapter is not None
        ids, out, at = prepared.ids, [], 0
        images = iter(prepared.images)
        while at < len(ids):
            if ids[at] != placeholder:
                out.append(ids[at])
                at += 1
                continue
            width, height = image_size(next(images), sources=self.prompts.sources, max_bytes=self.prompts.max_bytes)
            at += adapter.count(width, height) + len(end)
            del out[len(out) - len(begin) :]
            out.append(placeholder)
        return out

    @functools.cached_property
    def _marks(self) -> tuple[list[int], list[int]]:
        """Ids before and after a picture in training's prompts that vLLM does not want to see."""
        vision, tokenizer = self.prompts.template.vision, self.prompts.template.tokenizer
        if vision is None or not vision.unexpanded:
            return [], []
        before, _, after = vision.image_text.partition(vision.unexpanded)
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, after))

    def _picture(self, image: Any) -> Any:
        """The picture at the size that training hands to the family's processor."""
        picture = open_image(image, sources=self.prompts.sources, max_bytes=self.prompts.max_bytes)
        adapter = self.prompts.adapter
        assert adapter is not None
        size = adapter.fit(*picture.size)
        if (grid := adapter.grid(*picture.size)) is not None:  # any size: the processor then resizes nothing
            size = grid[1] * adapter.factor, grid[0] * adapter.factor
        return picture if size == picture.size else picture.resize(size, resample=3)

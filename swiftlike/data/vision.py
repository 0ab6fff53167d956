"""How each vision family turns a picture into placeholder tokens and pixel tensors.

An adapter answers two questions: how many tokens a picture of a given size takes (from the size alone, so that data
can be checked without decoding), and what the model wants as tensors. A test holds the two equal to the number of
features the model computes.
"""

from __future__ import annotations

import dataclasses as dc
import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from swiftlike.core.dotted import resolve
from swiftlike.core.errors import UserError
from swiftlike.model_registry.card import VisionCard

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Pixels = dict[str, torch.Tensor]


@dc.dataclass(frozen=True)
class ImageBudget:
    """What the user allows a picture to take. None leaves the checkpoint's own setting."""

    max_pixels: int | None = None
    min_pixels: int | None = None
    max_image_tokens: int | None = None
    max_tiles: int | None = None


class Adapter:
    """Shared by all families. Sizes are (width, height) in pixels."""

    mrope = False
    processor_type = "CLIPImageProcessor"  # where the folder does not say
    supports: tuple[str, ...] = ("max_pixels",)
    joined: tuple[str, ...] = ("pixel_values",)  # tensors that are concatenated along their first dimension

    def __init__(self, processor: Any, config: Any, budget: ImageBudget) -> None:
        self.processor, self.config, self.budget = processor, config, budget
        for field in dc.fields(budget):
            if getattr(budget, field.name) is not None and field.name not in (*self.supports, "max_image_tokens"):
                raise UserError(
                    f"--{field.name} does not apply to {config.model_type} models",
                    hint=f"use {' or '.join('--' + name for name in (*self.supports, 'max_image_tokens'))}",
                )
        self.limit()

    def limit(self) -> None:
        """Bring the processor's own settings within the budget."""

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """The size after `max_pixels`, aspect ratio kept."""
        allowed = self.budget.max_pixels
        if allowed is None or width * height <= allowed:
            return width, height
        scale = math.sqrt(allowed / (width * height))
        return max(1, int(width * scale)), max(1, int(height * scale))

    def count(self, width: int, height: int) -> int:
        """Placeholder tokens of a picture of that size."""
        raise NotImplementedError

    def grid(self, width: int, height: int) -> tuple[int, int] | None:
        """(rows, columns) of tokens where positions are two-dimensional (M-RoPE), else None."""
        return None

    def pixels(self, picture: Picture) -> Pixels:
        """Tensors of one RGB picture."""
        size = self.fit(*picture.size)
        if size != picture.size:
            picture = picture.resize(size, resample=3)
        return dict(self.processor(images=[picture], return_tensors="pt"))

    def join(self, pictures: Sequence[Pixels]) -> Pixels:
        """One batch's tensors from those of its pictures, in token order."""
        return {name: torch.cat([one[name] for one in pictures]) for name in self.joined}

    def too_small(self, least: int) -> UserError:
        """The error for a budget that no picture fits."""
        return UserError(
            f"--max_image_tokens {self.budget.max_image_tokens}: {self.config.model_type} needs at least {least} "
            "tokens for a picture"
        )


class Llava(Adapter):
    """LLaVA 1.5: one square crop, always the same number of tokens."""

    def __init__(self, processor: Any, config: Any, budget: ImageBudget) -> None:
        vision = config.vision_config
        self.tokens = (vision.image_size // vision.patch_size) ** 2
        if config.vision_feature_select_strategy == "full":
            self.tokens += 1
        super().__init__(processor, config, budget)

    def limit(self) -> None:
        """Nothing can be made smaller: refuse a budget below the fixed count."""
        if (self.budget.max_image_tokens or self.tokens) < self.tokens:
            raise self.too_small(self.tokens)

    def count(self, width: int, height: int) -> int:
        """A constant."""
        return self.tokens


class LlavaNext(Adapter):
    """LLaVA 1.6: a base view and a grid of tiles chosen by aspect ratio; padding is cut, each row gets a newline."""

    processor_type = "LlavaNextImageProcessor"
    joined = ("pixel_values", "image_sizes")

    def __init__(self, processor: Any, config: Any, budget: ImageBudget) -> None:
        vision = config.vision_config
        self.side, self.patches = vision.image_size, vision.image_size // vision.patch_size
        self.extra = 1 if config.vision_feature_select_strategy == "full" else 0
        super().__init__(processor, config, budget)

    def limit(self) -> None:
        """Keep the grids whose largest possible count is within the budget.

        The model chooses its grid from its config, the processor from its own list: both get the kept ones.
        """
        grids = [tuple(grid) for grid in self.config.image_grid_pinpoints]
        allowed = self.budget.max_image_tokens
        if allowed is not None:
            most = {grid: self.patches**2 + self.extra + self._tile_tokens(*grid, grid) for grid in grids}
            grids = [grid for grid in grids if most[grid] <= allowed]
            if not grids:
                raise self.too_small(min(most.values()))
        self.config.image_grid_pinpoints = [list(grid) for grid in grids]
        self.processor.image_grid_pinpoints = [list(grid) for grid in grids]

    def _tile_tokens(self, height: int, width: int, grid: tuple[int, int]) -> int:
        """Features left of a (height, width) grid after its padding is cut, plus one newline a row."""
        rows, columns = self.patches * grid[0] // self.side, self.patches * grid[1] // self.side
        if width / height > columns / rows:
            kept = int(round(height * (columns / width), 7))
            rows -= (rows - kept) // 2 * 2
        else:
            kept = int(round(width * (rows / height), 7))
            columns -= (columns - kept) // 2 * 2
        return rows * columns + rows

    def count(self, width: int, height: int) -> int:
        """Base view plus unpadded tiles."""
        from transformers.image_processing_utils import select_best_resolution

        width, height = self.fit(width, height)
        grid = select_best_resolution((height, width), self.config.image_grid_pinpoints)
        return self.patches**2 + self.extra + self._tile_tokens(height, width, grid)

    def join(self, pictures: Sequence[Pixels]) -> Pixels:
        """Pictures have different numbers of tiles: fill with empty ones, which the model skips by size."""
        most = max(one["pixel_values"].shape[1] for one in pictures)
        tiles = [
            torch.nn.functional.pad(one["pixel_values"], (0,) * 7 + (most - one["pixel_values"].shape[1],))
            for one in pictures
        ]
        return {"pixel_values": torch.cat(tiles), "image_sizes": torch.cat([one["image_sizes"] for one in pictures])}


class InternVL(Adapter):
    """InternVL: 1 to `max_tiles` square tiles by aspect ratio, and a thumbnail when there is more than one."""

    processor_type = "GotOcr2ImageProcessor"
    supports = ("max_pixels", "max_tiles")

    def __init__(self, processor: Any, config: Any, budget: ImageBudget) -> None:
        self.per_tile = config.image_seq_length
        super().__init__(processor, config, budget)

    def limit(self) -> None:
        """Fewer tiles: the thumbnail counts as one, except for a picture that is a single tile."""
        tiles = self.budget.max_tiles or self.processor.max_patches
        if self.budget.max_image_tokens is not None:
            views = self.budget.max_image_tokens // self.per_tile
            if views < 1:
                raise self.too_small(self.per_tile)
            tiles = min(tiles, max(views - 1, 1))
        self.processor.max_patches = tiles
        self.processor.min_patches = min(self.processor.min_patches, tiles)

    def count(self, width: int, height: int) -> int:
        """Tokens per tile times tiles."""
        width, height = self.fit(width, height)
        return self.per_tile * self.processor.get_number_of_image_patches(height, width, {})


class QwenVL(Adapter):
    """Qwen2-VL, 2.5-VL, 3-VL: any size, rounded to whole patches within `min_pixels` and `max_pixels`."""

    mrope = True
    processor_type = "Qwen2VLImageProcessor"
    supports = ("max_pixels", "min_pixels")
    joined = ("pixel_values", "image_grid_thw")

    def __init__(self, processor: Any, config: Any, budget: ImageBudget) -> None:
        self.merge = processor.merge_size
        self.factor = processor.patch_size * self.merge
        super().__init__(processor, config, budget)

    def limit(self) -> None:
        """Pixels and tokens are the same knob here: one token is `factor` squared pixels."""
        size = dict(self.processor.size)
        low = self.budget.min_pixels or size["shortest_edge"]
        high = self.budget.max_pixels or size["longest_edge"]
        if self.budget.max_image_tokens is not None:
            high = min(high, self.budget.max_image_tokens * self.factor**2)
        if high < self.factor**2:
            raise UserError(f"a picture needs at least {self.factor**2} pixels, one token; {high} are allowed")
        self.processor.size = {"shortest_edge": min(low, high), "longest_edge": high}
        self.most = high // self.factor**2  # tokens of a picture

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """The processor itself resizes."""
        return width, height

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of merged patches: the processor's, or fewer where it oversteps its own limit, which it
        does with long and narrow pictures and with ones that it enlarges."""
        rows, columns = self._processors_grid(width, height)
        if rows * columns <= self.most:
            return rows, columns
        shrink = math.sqrt(self.most / (rows * columns))
        if rows < columns:
            rows = max(1, int(rows * shrink))
            return rows, min(columns, self.most // rows)
        columns = max(1, int(columns * shrink))
        return min(rows, self.most // columns), columns

    def pixels(self, picture: Picture) -> Pixels:
        """The processor's tensors; where its grid is not taken, the picture is brought to size before.

        Read through qwen-vl-utils, as the family's own examples do, where it works; the numbers are the same without.
        """
        rows, columns = self.grid(*picture.size)
        if (rows, columns) == self._processors_grid(*picture.size):
            return super().pixels(self._read(picture))
        picture = picture.resize((columns * self.factor, rows * self.factor), resample=3)
        return dict(self.processor(images=[picture], do_resize=False, return_tensors="pt"))

    def _read(self, picture: Picture) -> Picture:
        if (read := _qwen_reader()) is None:
            return picture
        size = self.processor.size
        limits = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
        turn = {"role": "user", "content": [{"type": "image", "image": picture, **limits}]}
        (picture,), _ = read([turn], image_patch_size=self.processor.patch_size)
        return picture

    def _processors_grid(self, width: int, height: int) -> tuple[int, int]:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        size = self.processor.size
        rows, columns = smart_resize(
            height, width, factor=self.factor, min_pixels=size["shortest_edge"], max_pixels=size["longest_edge"]
        )
        return rows // self.factor, columns // self.factor

    def count(self, width: int, height: int) -> int:
        """Merged patches."""
        rows, columns = self.grid(width, height)
        return rows * columns


@functools.cache
def _qwen_reader() -> Any:
    """qwen-vl-utils' reader of pictures, None where it or the torchvision it needs cannot be imported."""
    try:
        from qwen_vl_utils import process_vision_info
    except (ImportError, RuntimeError):  # torchvision raises RuntimeError when it was built for another torch
        return None
    return process_vision_info


def load_adapter(card: VisionCard, folder: Path, config: Any, budget: ImageBudget, processor: Any = None) -> Adapter:
    """The adapter of a checkpoint folder. Pictures are processed with PIL: no torchvision needed, the same anywhere."""
    adapter: type[Adapter] = resolve(card.adapter)
    if processor is None:
        processor = _pil_class(folder, adapter.processor_type).from_pretrained(folder, local_files_only=True)
    return adapter(processor, config, budget)


def _pil_class(folder: Path, default: str) -> Any:
    """The PIL form of the image processor that a folder names. Found by name, because the auto class of some of the
    transformers that we support wants torchvision for any lookup."""
    import transformers

    name = default
    for file in ("preprocessor_config.json", "processor_config.json"):
        if (folder / file).is_file():
            saved = json.loads((folder / file).read_text(encoding="utf-8"))
            saved = saved.get("image_processor", saved)
            name = saved.get("image_processor_type", default).removesuffix("Fast").removesuffix("Pil")
            break
    return getattr(transformers, f"{name}Pil")

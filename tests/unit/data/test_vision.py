"""Adapters against transformers' own processors: the same number of placeholders, the same pixels, within a budget."""

from __future__ import annotations

import families
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swiftlike.core.errors import UserError
from swiftlike.data.vision import ImageBudget, load_adapter

SIZES = [*families.sizes(60), (28, 28), (1, 1), (3, 400), (500, 11)]
EXTREME = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def sides() -> st.SearchStrategy[tuple[int, int]]:
    """Sizes up to the aspect ratio that media.py lets through."""
    return st.tuples(st.integers(1, 3000), st.integers(1, 3000)).filter(lambda s: max(s) <= 200 * min(s))


@pytest.mark.parametrize("name", families.VISION)
def test_count_and_pixels_equal_the_official_processor(name: str) -> None:
    adapter, official = families.adapter(name), families.processor(name)
    mark = families.card(name).vision.placeholder
    counts = set()
    for i, size in enumerate(SIZES):
        picture = families.picture(*size, seed=i)
        if name == "llava_next" and min(size) < 4:  # its own processor fails on them
            continue
        whole = official(images=[picture], text=[f"a {mark} b"], return_tensors="pt")
        wanted = int((whole["input_ids"] == families.placeholder(name)).sum())
        assert adapter.count(*size) == wanted, size
        counts.add(wanted)
        pixels = adapter.pixels(picture)
        for part in adapter.joined:
            assert torch.equal(pixels[part], whole[part]), (size, part)
    assert (len(counts) == 1) == (name == "llava")


def run(name: str, model: torch.nn.Module, counts: list[int], pixels: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits of pictures with a word behind each."""
    ids = torch.tensor([[one for count in counts for one in (*[families.placeholder(name)] * count, 99)]])
    more = {"mm_token_type_ids": (ids != 99).int()} if name in families.MROPE else {}
    with torch.no_grad():
        return model(input_ids=ids, **pixels, **more).logits


@pytest.mark.parametrize("name", families.VISION)
def test_count_equals_the_features_of_the_model(name: str) -> None:
    """Several pictures in one batch: the model refuses a count that is not its own."""
    adapter, model = families.adapter(name), families.model(name)
    shapes = families.sizes(4, seed=5)
    counts = [adapter.count(*size) for size in shapes]
    joined = adapter.join([adapter.pixels(families.picture(*size)) for size in shapes])
    assert run(name, model, counts, joined).isfinite().all()
    with pytest.raises((ValueError, RuntimeError), match=r"tokens|size"):
        run(name, model, [counts[0] - 1, *counts[1:]], joined)


@pytest.mark.parametrize("name", families.MROPE)
def test_grid_is_the_processors(name: str) -> None:
    adapter = families.adapter(name)
    for size in SIZES[:20]:
        _, rows, columns = adapter.pixels(families.picture(*size))["image_grid_thw"][0].tolist()
        assert adapter.grid(*size) == (rows // 2, columns // 2)
        assert adapter.count(*size) == rows * columns // 4


def test_only_mrope_has_a_grid() -> None:
    assert [name for name in families.VISION if families.adapter(name).grid(40, 30)] == list(families.MROPE)
    for name in families.VISION:
        assert families.adapter(name).mrope == families.card(name).vision.mrope == (name in families.MROPE)


# -- budgets ---------------------------------------------------------------------------------------------------------

TIGHT = [("llava", 16), ("llava_next", 16 + 36), ("internvl", 4), ("internvl", 8), ("internvl", 13)]
TIGHT += [(name, tokens) for name in families.MROPE for tokens in (1, 3, 9)]


@pytest.mark.parametrize(("name", "tokens"), TIGHT)
def test_no_picture_takes_more_than_max_image_tokens(name: str, tokens: int) -> None:
    adapter, free = families.adapter(name, max_image_tokens=tokens), families.adapter(name)

    @EXTREME
    @given(sides())
    def respected(size: tuple[int, int]) -> None:
        assert 1 <= adapter.count(*size) <= tokens

    respected()
    if free.count(400, 200) > tokens:  # the budget is used, not just kept
        assert adapter.count(400, 200) >= tokens // 2


@pytest.mark.parametrize(("name", "tokens"), TIGHT)
def test_a_smaller_picture_still_fits_its_placeholders(name: str, tokens: int) -> None:
    adapter, model = families.adapter(name, max_image_tokens=tokens), families.model(name)
    if hasattr(model.config, "image_grid_pinpoints"):
        model.config.image_grid_pinpoints = adapter.config.image_grid_pinpoints
    shapes = [(200, 190), (13, 16), (390, 9), (9, 390)]
    count = [adapter.count(*size) for size in shapes]
    joined = adapter.join([adapter.pixels(families.picture(*size)) for size in shapes])
    assert run(name, model, count, joined).isfinite().all()
    if name in families.MROPE:
        grids = [adapter.grid(*size) for size in shapes]
        assert [[1, 2 * rows, 2 * columns] for rows, columns in grids] == joined["image_grid_thw"].tolist()


@pytest.mark.parametrize(("name", "tokens"), [("llava", 15), ("llava_next", 17), ("internvl", 3)])
def test_a_budget_that_no_picture_fits(name: str, tokens: int) -> None:
    with pytest.raises(UserError, match=f"max_image_tokens {tokens}.*needs at least"):
        families.adapter(name, max_image_tokens=tokens)


@pytest.mark.parametrize("name", families.MROPE)
def test_less_than_one_token_of_pixels(name: str) -> None:
    with pytest.raises(UserError, match="at least"):
        families.adapter(name, max_pixels=100)


@pytest.mark.parametrize("tiles", [1, 2, 3])
def test_max_tiles(tiles: int) -> None:
    adapter = families.adapter("internvl", max_tiles=tiles)
    most = 0
    for size in SIZES:
        views = adapter.pixels(families.picture(*size))["pixel_values"].shape[0]
        assert adapter.count(*size) == 4 * views
        most = max(most, views)
    assert most == (1 if tiles == 1 else tiles + 1)  # with the thumbnail


@pytest.mark.parametrize("name", families.VISION)
def test_max_pixels(name: str) -> None:
    limit = 3 * families.TILE**2
    adapter = families.adapter(name, max_pixels=limit)
    if name in families.MROPE:  # the processor's own knob, in whole tokens
        assert all(adapter.count(*size) * adapter.factor**2 <= limit for size in SIZES)
        return
    for width, height in SIZES:
        small = adapter.fit(width, height)
        assert small[0] * small[1] <= max(limit, 1)
        if width * height <= limit:
            assert small == (width, height)
        elif min(small) > 8:
            assert small[0] / small[1] == pytest.approx(width / height, rel=0.15)
    big = families.picture(200, 150)
    expected = families.adapter(name).pixels(big.resize(adapter.fit(200, 150), resample=3))
    assert torch.equal(adapter.pixels(big)["pixel_values"], expected["pixel_values"])


@pytest.mark.parametrize("name", families.MROPE)
def test_min_pixels_enlarges(name: str) -> None:
    adapter = families.adapter(name, min_pixels=9 * families.adapter(name).factor ** 2)
    assert adapter.count(20, 20) >= 9 > families.adapter(name).count(20, 20)


@pytest.mark.parametrize(
    ("name", "flag"), [("llava", "max_tiles"), ("qwen2_vl", "max_tiles"), ("internvl", "min_pixels")]
)
def test_a_flag_of_another_family_is_refused(name: str, flag: str) -> None:
    with pytest.raises(UserError, match=f"--{flag} does not apply to {name} models"):
        families.adapter(name, **{flag: 4})


@pytest.mark.parametrize("name", families.VISION)
def test_loads_from_a_folder(name: str, tmp_path) -> None:
    families.image_processor(name).save_pretrained(tmp_path)
    loaded = load_adapter(families.card(name).vision, tmp_path, families.config(name), ImageBudget())
    for size in SIZES[:8]:
        assert loaded.count(*size) == families.adapter(name).count(*size)
    picture = families.picture(60, 50)
    assert torch.equal(loaded.pixels(picture)["pixel_values"], families.adapter(name).pixels(picture)["pixel_values"])

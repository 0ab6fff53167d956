"""The shared layout, the split layout and transformers' own forward give the same numbers, for every family.

Three groups: of two, two and three completions, ragged; pictures in a prompt, in a completion, and none at all. The
rows are longer than the sliding windows of the families that have one.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import families
import numpy as np
import pytest
import torch
import transformers
from torch.nn.attention.flex_attention import create_mask
from transformers import modeling_flash_attention_utils

from swiftlike.data.collate import Collator, Item
from swiftlike.data.encode import Encoded, Span
from swiftlike.datasets_registry.row import Image
from swiftlike.models import attention, layout
from swiftlike.models.layout import TESTED, UNTOLD, allowed, end_to_end, group_mask, mask_mod, supports_shared
from swiftlike.models.logps import add_scoring, group_logps, model_inputs

EVERY = (*families.TEXT, *families.VISION)
WEIGHTS = torch.tensor([[1.0, -0.7, 0.0], [0.4, 0.6, 0.0], [-0.9, 0.8, 0.3]])
TOLERANCE = 2e-5
WINDOWED = [name for name in EVERY if "window" in name or name in ("gemma2", "gemma3_text")]
PICTURES = ("pixel_values", "image_sizes", "image_grid_thw")


def groups(name: str) -> list[Item]:
    """The same three groups for every family; `name` decides what a picture looks like."""
    chance, vocabulary = np.random.default_rng(3), len(families.tokenizer())
    adapter = families.adapter(name) if name in families.VISION else None

    def words(count: int) -> list[int]:
        return chance.integers(len(families.SPECIAL), vocabulary, count).tolist()

    def look(seen: list[Any], width: int, height: int) -> list[int]:
        seen.append(families.picture(width, height, len(seen)))
        return [families.placeholder(name)] * adapter.count(width, height)

    items = []
    for b, (before, *lengths) in enumerate([(9, 7, 4), (14, 8, 3), (6, 2, 9, 6)]):
        seen: list[Any] = []
        prompt, at = words(before), ()
        if adapter and b != 1:
            prompt[3:3], at = look(seen, 70 - 20 * b, 45 + 10 * b), (0,)
        completions = [span(words(n), n) for n in lengths]
        if adapter and b == 0:
            ids = [*words(2), *look(seen, 40, 75), *words(3)]
            completions[1] = span(ids, 3, (1,))
        grids = tuple(adapter.grid(*one.size) for one in seen) if name in families.MROPE else ()
        images = tuple(Image(f"{b}-{i}") for i in range(len(seen)))
        group = Encoded(span(prompt, 0, at), tuple(completions), images, grids)
        items.append(Item(group, tuple(adapter.pixels(one) for one in seen) if adapter else ()))
    return items


def span(ids: list[int], counted: int, images: tuple[int, ...] = ()) -> Span:
    """Tokens of which the last `counted` count."""
    flags = np.arange(len(ids)) >= len(ids) - counted
    return Span(np.array(ids, np.int32), flags, images)


@functools.cache
def batch(name: str, layout: str) -> dict[str, Any]:
    adapter = families.adapter(name) if name in families.VISION else None
    rows = {"layout": layout.partition(" ")[0], "end_to_end": 0 if "end to end" in layout else None}
    made = Collator(pad_id=0, adapter=adapter, placeholder=families.placeholder(name), **rows)(groups(name))
    if name in WINDOWED:
        assert made["input_ids"].shape[1] > 2 * families.WINDOW
    return made


@functools.cache
def ours(name: str, layout: str, kernel: str | None = None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Log-probabilities [3, 3] and the gradients of a weighted sum of them."""
    flash = kernel == "flash_attention_2"
    model = families.model(name, attention=None if flash else kernel)
    if flash:
        model.config.get_text_config()._attn_implementation = kernel
    add_scoring(model, chunk=8)
    made = batch(name, layout)
    policy = group_logps(model(**model_inputs(made)), made)["policy"]
    return policy.detach(), gradients(model, policy)


@functools.cache
def plain(name: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The same from the model's own forward on `[prompt | completion]` rows, positions left to the model."""
    model, made = families.model(name), batch(name, "split")
    more = {key: made[key] for key in PICTURES if key in made}
    if name in families.MROPE:
        more["mm_token_type_ids"] = (made["input_ids"] == families.placeholder(name)).long()
    logits = model(input_ids=made["input_ids"], attention_mask=made["attention_mask"], use_cache=False, **more).logits
    logps = logits.flatten(0, 1).log_softmax(-1)[made["predict"]].gather(1, made["targets"][:, None]).squeeze(1)
    policy = logps.new_zeros(9).index_add(0, made["slots"], logps).view(3, 3)
    return policy.detach(), gradients(model, policy)


def gradients(model: torch.nn.Module, policy: torch.Tensor) -> dict[str, torch.Tensor]:
    (policy * WEIGHTS).sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found: Any, wanted: Any) -> None:
    assert torch.isfinite(found[0]).all()
    assert (found[0] - wanted[0]).abs().max() <= TOLERANCE * wanted[0].abs().max().clamp(min=1)
    assert found[1].keys() == wanted[1].keys()
    scale = max(float(one.abs().max()) for one in wanted[1].values())
    assert scale > 1e-3
    worst = max((float((found[1][name] - one).abs().max()), name) for name, one in wanted[1].items())
    assert worst[0] <= TOLERANCE * max(scale, 1), worst


@pytest.mark.parametrize("name", EVERY)
def test_split_equals_plain_forward(name: str) -> None:
    assert_same(ours(name, "split"), plain(name))


@pytest.mark.parametrize("name", EVERY)
def test_shared_equals_split(name: str) -> None:
    assert_same(ours(name, "shared"), ours(name, "split"))


@pytest.mark.parametrize("rows", ["shared", "shared end to end"])
@pytest.mark.parametrize("name", [name for name in EVERY if families.model(name).config._attn_implementation == "sdpa"])
def test_piece_by_piece_equals_split(name: str, rows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What long rows take: the prompt and each completion by itself instead of a mask over all."""
    monkeypatch.setattr(layout, "LONG", 0)
    taken, mask = [], attention._mask
    monkeypatch.setattr(attention, "_mask", lambda *given: taken.append(given) or mask(*given))
    assert_same(ours.__wrapped__(name, rows), ours(name, "split"))
    windows = {window for _, _, window, _ in taken}
    assert windows, "no layer was computed piece by piece"
    assert any(windows) == (name in WINDOWED)


@pytest.mark.parametrize("name", [name for name in EVERY if name not in families.MROPE])
def test_flash_attention_finds_the_rows_of_the_split_layout(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_plain_kernel(monkeypatch)
    assert end_to_end(families.config(name), "split", "flash_attention_2") == 0
    assert_same(ours.__wrapped__(name, "split end to end", "flash_attention_2"), ours(name, "split"))


def with_plain_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' own code around flash_attention_2 with an ordinary kernel: the real one needs a card."""
    kernels = (None, var_len, None, None, None)
    monkeypatch.setattr(modeling_flash_attention_utils, "_loaded_implementation", None)
    monkeypatch.setattr(modeling_flash_attention_utils, "_lazy_imports", lambda *_, **__: kernels)


def var_len(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
) -> torch.Tensor:
    """[T, heads, d] of rows that begin at `cu_seqlens`."""
    assert causal
    assert dropout_p == 0
    assert len(cu_seqlens_q) > 2
    out = []
    for start, stop in itertools.pairwise(cu_seqlens_q.tolist()):
        mine, keys, values = (one[start:stop].transpose(0, 1) for one in (q, k, v))
        keys, values = (one.repeat_interleave(len(mine) // len(one), 0) for one in (keys, values))
        scores = mine @ keys.transpose(1, 2) * (mine.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale)
        scores = torch.tanh(scores / softcap) * softcap if softcap else scores
        far = torch.arange(stop - start)[:, None] - torch.arange(stop - start)
        seen = (far >= 0) & ((far <= window_size[0]) | (window_size[0] < 0))
        out.append((scores.masked_fill(~seen, -torch.inf).softmax(-1) @ values).transpose(0, 1))
    return torch.cat(out)


@pytest.mark.parametrize("rows", ["shared", "shared end to end"])
@pytest.mark.parametrize("name", EVERY)
def test_shared_equals_split_with_eager_attention(name: str, rows: str) -> None:
    assert_same(ours(name, rows, "eager"), ours(name, "split"))


@pytest.mark.parametrize("name", EVERY)
def test_an_ordinary_causal_mask_over_the_shared_row_is_wrong(name: str) -> None:
    made = dict(batch(name, "shared"))
    made["attention_mask"] = (made.pop("segments") >= 0).long()
    model = families.model(name)
    add_scoring(model)
    with torch.no_grad():
        policy = group_logps(model(**model_inputs(made)), made)["policy"]
    assert (policy - ours(name, "split")[0]).abs().max() > 0.01


@pytest.mark.parametrize("name", WINDOWED)
def test_windows_matter(name: str) -> None:
    """Otherwise the tests above would not see a wrong window."""
    model, made = families.model(name), batch(name, "split")
    text = model.config.get_text_config()
    wide = group_logps(_with_window(name, 4096, made), made)["policy"]
    assert text.sliding_window == families.WINDOW
    assert (wide - ours(name, "split")[0]).abs().max() > 0.01


def _with_window(name: str, size: int, made: dict[str, Any]) -> Any:
    model = families.model(name)
    for module in (model, *model.modules()):
        if getattr(getattr(module, "config", None), "sliding_window", None):
            module.config.sliding_window = size
        if getattr(module, "sliding_window", None):
            module.sliding_window = size
    add_scoring(model)
    with torch.no_grad():
        return model(**model_inputs(made))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("layout", ["shared", "split"])
def test_half_precision_is_close(name: str, layout: str) -> None:
    model = families.model(name).bfloat16()
    add_scoring(model, chunk=8)
    made = {key: _half(value) for key, value in batch(name, layout).items()}
    policy = group_logps(model(**model_inputs(made)), made)["policy"]
    assert policy.dtype == torch.float32
    (policy * WEIGHTS).sum().backward()
    wanted = ours(name, layout)[0]
    assert (policy.detach() - wanted).abs().max() < 0.15 * wanted.abs().max()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def _half(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


@pytest.mark.parametrize("name", families.MROPE)
def test_positions_equal_the_models_own(name: str) -> None:
    made, model = batch(name, "split"), families.model(name)
    kinds = (made["input_ids"] == families.placeholder(name)).int()
    wanted, _ = model.model.get_rope_index(
        made["input_ids"], kinds, image_grid_thw=made["image_grid_thw"], attention_mask=made["attention_mask"]
    )
    real = made["attention_mask"].bool()
    assert made["position_ids"].shape == wanted.shape
    assert torch.equal(made["position_ids"][:, real], wanted[:, real])
    assert not torch.equal(wanted[0][real], wanted[2][real])  # pictures do spread


# -- language models without a card of their own -----------------------------------------------------------------------

_MIXED = {"sliding_window": families.WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_experts": 4, "moe_intermediate_size": 16}
OPTIONS: dict[str, dict[str, Any]] = {
    "cohere2": {"logit_scale": 0.5, **_MIXED},
    "ernie4_5": {"head_dim": 16},
    "exaone4": _MIXED,
    "glm4": {"head_dim": 16},
    "gpt2": {"n_inner": 48},
    "gpt_oss": {**_EXPERTS, "head_dim": 16, "sliding_window": families.WINDOW},
    "gptj": {"rotary_dim": 8, "n_positions": 512},
    "ministral": {"head_dim": 16, **_MIXED},
    "mixtral": _EXPERTS,
    "olmo3": {"sliding_window": families.WINDOW},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": families.HIDDEN},
    "phimoe": _EXPERTS,
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3_moe": {**_EXPERTS, "head_dim": 16},
    "starcoder2": {"sliding_window": families.WINDOW},
    "xglm": {"d_model": families.HIDDEN, "ffn_dim": 48, "num_layers": 2, "attention_heads": 2},
}
OWN = {families.config(name).get_text_config().model_type for name in EVERY}


def test_every_tested_type_is_tested_here() -> None:
    assert OWN <= TESTED
    assert set(OPTIONS) <= TESTED - OWN


def other_model(kind: str) -> Any:
    """A small model of a type that has no card."""
    config = transformers.AutoConfig.for_model(kind, **families._text(**OPTIONS.get(kind, {})))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for weight in model.parameters():
        weight.data.mul_(4.0 if weight.ndim >= 2 else 1.0)
    return model


@pytest.mark.parametrize(
    ("rows", "long"), [("shared", 0), ("shared", 1 << 20), ("shared end to end", 0), ("shared end to end", 1 << 20)]
)
@pytest.mark.parametrize("kind", sorted(TESTED - OWN))
def test_shared_equals_plain_forward_of_other_models(
    kind: str, rows: str, long: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "LONG", long)
    model = other_model(kind)
    split, shared = batch("llama", "split"), batch("llama", rows)
    with torch.no_grad():
        made = model(input_ids=split["input_ids"], attention_mask=split["attention_mask"], use_cache=False).logits
        logps = made.flatten(0, 1).log_softmax(-1)[split["predict"]].gather(1, split["targets"][:, None]).squeeze(1)
        wanted = logps.new_zeros(9).index_add(0, split["slots"], logps).view(3, 3)
        add_scoring(model, chunk=8)
        found = group_logps(model(**model_inputs(shared)), shared)["policy"]
    assert (found - wanted).abs().max() <= TOLERANCE * wanted.abs().max()


def test_where_rows_must_be_padded() -> None:
    for config in (*map(transformers.AutoConfig.for_model, UNTOLD), *map(families.config, families.MROPE)):
        assert end_to_end(config, "split", "flash_attention_2") is None
    assert end_to_end(families.config("llama"), "split", "sdpa") is None
    assert end_to_end(families.config("llama"), "shared", "eager") is None


@pytest.mark.parametrize("kind", sorted(TESTED - OWN - UNTOLD))
def test_flash_attention_finds_the_rows_of_other_models(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_plain_kernel(monkeypatch)
    model = other_model(kind)
    add_scoring(model, chunk=8)
    policies = []
    for kernel, rows in (("sdpa", "split"), ("flash_attention_2", "split end to end")):
        model.config._attn_implementation = kernel
        made = batch("llama", rows)
        with torch.no_grad():
            policies.append(group_logps(model(**model_inputs(made)), made)["policy"])
    assert (policies[0] - policies[1]).abs().max() <= TOLERANCE * policies[0].abs().max()


# -- masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, 3])
def test_allowed_by_definition(window: int | None) -> None:
    segments = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, -1], [0, 0, 1, 1, 2, 0, 1, 1, 2]])
    positions = torch.tensor([[0, 1, 2, 3, 4, 3, 4, 5, 0], [0, 1, 2, 3, 2, 0, 1, 2, 1]])
    lines = torch.tensor([[0] * 9, [0] * 5 + [1] * 4])
    mask = allowed(segments, positions, window, lines)
    assert mask.shape == (2, 1, 9, 9)
    for r in range(2):
        for i in range(9):
            for j in range(9):
                a, b = int(segments[r, i]), int(segments[r, j])
                seen = j <= i and a != -1 and b != -1 and b in (0, a) and lines[r, i] == lines[r, j]
                near = window is None or int(positions[r, i] - positions[r, j]) < window
                assert bool(mask[r, 0, i, j]) == ((seen and near) or i == j), (r, i, j)


@pytest.mark.parametrize("layout", ["shared", "shared end to end"])
@pytest.mark.parametrize("window", [None, 3])
def test_flex_attention_sees_the_same(window: int | None, layout: str) -> None:
    made = batch("llama", layout)
    segments, positions, lines = made["segments"], made["position_ids"], made.get("lines")
    rows, length = segments.shape
    dense = create_mask(mask_mod(segments, positions, window, lines), rows, 1, length, length, device="cpu")
    assert torch.equal(dense, allowed(segments, positions, window, lines))


def test_one_mask_per_layer_type() -> None:
    segments, positions = torch.zeros(1, 4, dtype=torch.long), torch.arange(4)[None]
    mixed = group_mask(families.config("gemma3_text"), segments, positions, torch.float32)
    assert set(mixed) == {"full_attention", "sliding_attention"}
    config = families.config("qwen2")
    config.sliding_window, config.use_sliding_window = 2, False  # a size that is switched off
    config._attn_implementation = "eager"
    mask = group_mask(config, segments, positions, torch.bfloat16)
    assert mask.dtype == torch.bfloat16
    assert torch.equal(mask[0, 0] == 0, torch.ones(4, 4).tril().bool())


def test_what_cannot_be_shared_is_said() -> None:
    config = families.config("llama")
    assert supports_shared(config, "sdpa") == ""
    assert "flash_attention_2" in supports_shared(config, "flash_attention_2")
    assert "bloom" in supports_shared(transformers.BloomConfig(), "eager")
    config.layer_types = ["linear_attention", "full_attention"]
    assert "linear_attention" in supports_shared(config, "sdpa")

"""Which module goes to which card, over cards that are not there, for models of their published sizes."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from swiftlike.core.errors import UserError
from swiftlike.models.load import skeleton
from swiftlike.models.placement import Spread, module_sizes, plan

GIB = 1 << 30
QWEN = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}}
QWEN_7B = {
    **{"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28},
    **{"num_attention_heads": 28, "num_key_value_heads": 4},
}
CLIP = {
    **{"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    **{"image_size": 336, "patch_size": 14, "projection_dim": 768},
}


def config(name: str) -> Any:
    """Of the published 7B (InternVL: 8B) checkpoints; `tied` is Qwen2.5-1.5B's text model."""
    llama = transformers.LlamaConfig(vocab_size=32064)
    if name == "tied":
        sizes = QWEN_7B | {"hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12}
        return transformers.Qwen2Config(**sizes, tie_word_embeddings=True)
    if name == "llava":
        vision = transformers.CLIPVisionConfig(**CLIP)
        return transformers.LlavaConfig(vision_config=vision, text_config=llama, tie_word_embeddings=False)
    if name == "internvl":
        vision = transformers.InternVLVisionConfig()
        text = transformers.Qwen2Config(**QWEN_7B)
        return transformers.InternVLConfig(vision_config=vision, text_config=text, tie_word_embeddings=False)
    if name == "qwen2_5_vl":
        vision = {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584}
        return transformers.Qwen2_5_VLConfig(
            text_config={**QWEN_7B, **QWEN}, vision_config=vision, tie_word_embeddings=False
        )
    return llama


WHOLE = re.compile(r"(.*\.(layers|blocks|layer)\.\d+)(\..*)?")
TOWERS = {"llava": "model.vision_tower", "internvl": "model.vision_tower", "qwen2_5_vl": "model.visual"}
NAMES = ("llama", "tied", *TOWERS)


@pytest.fixture(scope="module")
def nets() -> dict[str, Any]:
    return {name: skeleton(config(name)).to(torch.bfloat16) for name in NAMES}


def asked(**more: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"device_map": None, "max_memory": {}, "quant_bits": 0, **more})


def device_of(spread: Spread, name: str) -> Any:
    """Where a module lies: at the longest name above it."""
    return spread.where[max((one for one in spread.where if f"{name}.".startswith(f"{one}." * bool(one))), key=len)]


@pytest.mark.parametrize("cards", [2, 3, 4, 8])
@pytest.mark.parametrize("name", NAMES)
def test_balanced(name: str, cards: int, nets: dict[str, Any]) -> None:
    net = nets[name]
    spread = plan(asked(), net, dict.fromkeys(range(cards), 80 * GIB))
    assert len(set(spread.where.values()) & set(range(cards))) >= cards - 1  # the last layers may not divide evenly
    for parameter, _ in net.named_parameters():
        device_of(spread, parameter)  # every weight has a place
    assert sum(spread.sizes.values()) == sum(one.numel() * 2 for one in net.parameters()) + sum(
        one.numel() * one.element_size() for one in net.buffers()
    )
    layers = sum(one.numel() * 2 for one in net.get_decoder().layers[0].parameters())
    embeddings = net.get_input_embeddings().weight.numel() * 2
    tower = sum(one.numel() * 2 for n, one in net.named_parameters() if n.startswith(TOWERS.get(name, "none")))
    share = sum(spread.sizes.values()) / cards
    assert max(spread.sizes.values()) <= max(share, tower + embeddings) + 2.5 * max(layers, embeddings)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_whole_and_in_order(name: str, nets: dict[str, Any]) -> None:
    spread = plan(asked(), nets[name], dict.fromkeys(range(4), 80 * GIB))
    assert not [one for one in spread.where if (block := WHOLE.fullmatch(one)) and block[3]]
    decoder = next(n for n, one in nets[name].named_modules() if one is nets[name].get_decoder())
    order = [device_of(spread, f"{decoder}.layers.{i}") for i in range(len(nets[name].get_decoder().layers))]
    assert order == sorted(order)
    assert set(order) == {0, 1, 2, 3}


@pytest.mark.parametrize("cards", [2, 4, 8])
@pytest.mark.parametrize("name", TOWERS)
def test_pictures_and_words_meet_on_one_card(name: str, cards: int, nets: dict[str, Any]) -> None:
    net = nets[name]
    spread = plan(asked(), net, dict.fromkeys(range(cards), 24 * GIB))
    decoder = next(n for n, one in net.named_modules() if one is net.get_decoder())
    inputs = [n for n, _ in net.named_parameters() if n.startswith((TOWERS[name], "model.multi_modal_projector"))]
    assert {device_of(spread, one) for one in (*inputs, f"{decoder}.embed_tokens", f"{decoder}.rotary_emb")} == {0}


def test_tied_weights_stay_together(nets: dict[str, Any]) -> None:
    spread = plan(asked(), nets["tied"], dict.fromkeys(range(3), 80 * GIB))
    assert device_of(spread, "lm_head") == device_of(spread, "model.embed_tokens") == 0
    apart = plan(asked(), nets["llama"], dict.fromkeys(range(3), 80 * GIB))
    assert (device_of(apart, "model.embed_tokens"), device_of(apart, "lm_head")) == (0, 2)


def test_a_large_tower_takes_the_first_card_and_the_rest_is_shared() -> None:
    """The tower is more than an eighth of InternVL3-1B."""
    text = transformers.Qwen2Config(
        **QWEN_7B | {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24}
    )
    text.num_attention_heads = 14
    vision = transformers.InternVLVisionConfig(num_hidden_layers=24)
    large = transformers.InternVLConfig(vision_config=vision, text_config=text, tie_word_embeddings=False)
    net = skeleton(large).to(torch.bfloat16)
    spread = plan(asked(), net, dict.fromkeys(range(8), 8 * GIB))
    assert device_of(spread, "model.vision_tower.encoder.layer.23") == device_of(
        spread, "model.language_model.embed_tokens"
    )
    first, *others = spread.sizes.values()
    assert first > max(others)
    assert max(others) < 1.5 * sum(others) / len(others)


def test_sequential_fills_one_card_after_another(nets: dict[str, Any]) -> None:
    spread = plan(asked(device_map="sequential"), nets["llama"], dict.fromkeys(range(4), 10 * GIB))
    assert set(spread.where.values()) == {0, 1}
    assert 8 * GIB < spread.sizes[0] < 10 * GIB


@pytest.mark.parametrize("requested", [None, "auto", "balanced"])
def test_limits_are_kept(requested: str | None, nets: dict[str, Any]) -> None:
    limits = {"0": "4GiB", "1": "11GiB"}
    spread = plan(asked(device_map=requested, max_memory=limits), nets["llama"], {0: 80 * GIB, 1: 80 * GIB})
    assert spread.sizes[0] <= 4 * GIB < spread.sizes[1] <= 11 * GIB


def test_other_processes_cards_get_nothing(nets: dict[str, Any]) -> None:
    """DDP and device map: process 1 of 2 owns cards 1 and 3."""
    limits = {str(card): "12GiB" for card in range(4)}
    for more in ({}, {"max_memory": limits}):
        spread = plan(asked(**more), nets["llama"], {1: 40 * GIB, 3: 40 * GIB}, rank=1)
        assert set(spread.where.values()) == {1, 3}


@pytest.mark.parametrize(("bits", "low", "high"), [(4, 0.27, 0.33), (8, 0.5, 0.54)])
def test_quantised_weights(bits: int, low: float, high: float, nets: dict[str, Any]) -> None:
    """The head and the embeddings stay as they are."""
    whole, packed = module_sizes(nets["llama"]), module_sizes(nets["llama"], bits)
    assert packed["lm_head"] == whole["lm_head"]
    assert low < packed[""] / whole[""] < high
    spread = plan(asked(quant_bits=bits), nets["llama"], {0: 80 * GIB, 1: 80 * GIB})
    assert sum(spread.sizes.values()) == packed[""]


def test_what_does_not_fit_is_refused_before_anything_is_loaded(nets: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"weights are 12.55 GiB, and may take 4.00 GiB \+ 4.00 GiB"):
        plan(asked(), nets["llama"], {0: 4 * GIB, 1: 4 * GIB})
    rest = plan(asked(max_memory={"0": "4GiB", "cpu": "40GiB"}), nets["llama"], {0: 4 * GIB})
    assert rest.sizes[0] < 4 * GIB < rest.sizes["cpu"]
    with pytest.raises(UserError, match="do not fit on the first card together"):
        plan(asked(max_memory={"0": "1GiB", "1": "40GiB"}), nets["internvl"], {0: 80 * GIB, 1: 80 * GIB})


def test_a_map_of_the_users_own(nets: dict[str, Any], tmp_path: Any) -> None:
    path = tmp_path / "map.json"
    path.write_text('{"model": 0, "lm_head": 2}')
    for requested in (str(path), path.read_text()):
        first, second = (plan(asked(device_map=requested), nets["llama"], {}, rank) for rank in (0, 1))
        assert (first.where, second.where) == ({"model": 0, "lm_head": 2}, {"model": 1, "lm_head": 3})
        assert first.sizes == {0: first.sizes[0], 2: 32064 * 4096 * 2}
    with pytest.raises(UserError, match="no device for model"):
        plan(asked(device_map='{"lm_head": 0}'), nets["llama"], {})
    with pytest.raises(UserError, match=r"no module is called model\.head"):
        plan(asked(device_map='{"": 0, "model.head": 0}'), nets["llama"], {})
    with pytest.raises(UserError, match=r"nothing\.json"):
        plan(asked(device_map="nothing.json"), nets["llama"], {})


def test_words(nets: dict[str, Any]) -> None:
    text = plan(asked(), nets["llava"], dict.fromkeys(range(2), 80 * GIB)).lines()
    assert re.fullmatch(
        r"cuda:0: model.vision_tower, model.multi_modal_projector, model.language_model.embed_tokens, "
        r"model.language_model.layers.0-\d+, model.language_model.rotary_emb \(\d\.\d\d GiB of weights\)",
        text[0],
    )
    assert re.fullmatch(
        r"cuda:1: model.language_model.layers.\d+-31, model.language_model.norm, lm_head \(\d\.\d\d GiB of weights\)",
        text[1],
    )

"""The value head, pooling, and what reward models look like on disk."""

from __future__ import annotations

import dataclasses as dc
import json
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from swiftlike.core.errors import UserError
from swiftlike.data.collate import Collator, Item
from swiftlike.data.encode import Encoded, Span
from swiftlike.datasets_registry.row import Image
from swiftlike.models.reward_files import (
    fill_head,
    is_classifier,
    no_classifier,
    read_head,
    save_head,
    save_reward_model,
    saved_pooling,
)
from swiftlike.models.reward_head import (
    ValueHead,
    add_value_head,
    freeze_language_head,
    group_rewards,
    hidden_size,
    pool,
    reward_inputs,
)

END = families.token("<|im_end|>")
POOLINGS = ("eos", "last", "mean", "max")


def test_the_seed_alone_decides_the_weights() -> None:
    torch.rand(7)
    one, other = ValueHead(16, seed=3), ValueHead(16, seed=4)
    torch.rand(5)
    assert torch.equal(one.summary.weight, ValueHead(16, seed=3).summary.weight)
    assert not torch.equal(one.summary.weight, other.summary.weight)
    assert one.summary.bias.item() == 0
    assert 0.01 < ValueHead(4096, std=0.02).summary.weight.std().item() < 0.03


def test_rewards_are_float32_under_autocast() -> None:
    head = ValueHead(64)
    hidden = torch.randn(5, 64, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head(hidden)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, hidden.float() @ head.summary.weight[0])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pool(pooling: str) -> None:
    hidden = torch.tensor([[1.0, 2.0], [3.0, 0.0], [-5.0, -6.0]])
    if pooling in ("eos", "last"):
        assert pool(hidden, torch.arange(3), 3, pooling).equal(hidden)
        return
    found = pool(hidden.bfloat16(), torch.tensor([0, 0, 1]), 2, pooling)
    assert found.dtype == torch.float32
    assert found.equal(torch.tensor([[2.0, 1.0] if pooling == "mean" else [3.0, 2.0], [-5.0, -6.0]]))


# -- every family, both layouts --------------------------------------------------------------------------------------


def groups(name: str) -> list[Item]:
    """Three prompts, with pictures where the family has them, and one to three answers of different lengths."""
    chance = np.random.default_rng(5)
    adapter = families.adapter(name) if name in families.VISION else None
    items = []
    for prompt, *lengths in [(9, 7, 4), (12, 5, 3, 8), (6, 2)]:
        ids, *answers = (chance.integers(len(families.SPECIAL), 340, n) for n in (prompt, *lengths))
        seen: list[Any] = []
        if adapter is not None:
            seen = [families.picture(40 + prompt, 60)]
            ids = np.insert(ids, 3, [families.placeholder(name)] * adapter.count(*seen[0].size))
        completions = tuple(Span(np.append(one, END).astype(np.int32), np.ones(len(one) + 1, bool)) for one in answers)
        grids = tuple(adapter.grid(*one.size) for one in seen) if adapter and name in families.MROPE else ()
        span = Span(ids.astype(np.int32), np.zeros(len(ids), bool), tuple(range(len(seen))))
        group = Encoded(span, completions, tuple(Image(str(prompt)) for _ in seen), grids)
        items.append(Item(group, tuple(adapter.pixels(one) for one in seen) if adapter else ()))
    return items


def rewarded(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    return group_rewards(model(**reward_inputs(batch)), batch)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen2", "llava_next", "internvl", "qwen2_5_vl"])
def test_layouts_give_the_same_rewards(name: str, pooling: str) -> None:
    """An answer's reward does not depend on what is computed beside it."""
    model = families.model(name).eval()
    add_value_head(model, ValueHead(hidden_size(model), seed=1), pooling)
    items = groups(name)
    found = {}
    for layout in ("shared", "split"):
        collate = Collator(
            pad_id=0,
            layout=layout,
            adapter=families.adapter(name) if name in families.VISION else None,
            placeholder=families.placeholder(name),
            pooling=pooling,
            ends=frozenset({END}),
        )
        with torch.no_grad():
            found[layout] = rewarded(model, collate(items))
            alone = [rewarded(model, collate([_only(item, 0)]))[0, 0] for item in items]
        torch.testing.assert_close(found[layout][:, 0], torch.stack(alone), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["shared"], found["split"], rtol=1e-4, atol=1e-4)
    assert found["split"].std() > 1e-4


def _only(item: Item, k: int) -> Item:
    group = dc.replace(item.group, completions=(item.group.completions[k],), scores=())
    return dc.replace(item, group=group)


# -- files ------------------------------------------------------------------------------------------------------------


def llama(**head: Any) -> Any:
    model = families.model("llama").eval()
    add_value_head(model, ValueHead(hidden_size(model), seed=1, **head), "eos")
    return model


@pytest.mark.parametrize(
    ("pooling", "bias", "pad", "reason"),
    [
        ("eos", False, 0, ""),
        ("last", False, 0, "--rm_pooling is last"),
        ("eos", True, 0, "no bias"),
        ("eos", False, 4, "pads with the token that ends answers"),
    ],
)
def test_what_cannot_be_a_classifier(pooling: str, bias: bool, pad: int, reason: str) -> None:
    found = no_classifier(llama(bias=bias), pooling, pad, frozenset({4}))
    assert reason in found
    assert bool(reason) == bool(found)


def test_a_model_that_sees_pictures_is_no_classifier() -> None:
    model = families.model("llava")
    add_value_head(model, ValueHead(hidden_size(model), bias=False), "eos")
    assert no_classifier(model, "eos", 0, frozenset()) == "it sees pictures"


def test_a_gathered_state_is_what_is_saved(tmp_path: Path) -> None:
    """Engines that shard a model hand over its state dict."""
    model = llama(bias=False)
    state = {name: weight + 1 for name, weight in model.state_dict().items()}
    for folder, pad in ((tmp_path / "head", None), (tmp_path / "classifier", 0)):
        save_reward_model(model, folder, dict(state), pad)
        assert read_head(folder)["summary.weight"].equal(model.v_head.summary.weight + 1)
        assert is_classifier(folder) == (pad is not None)
    assert (tmp_path / "head" / "value_head.safetensors").is_file()


def test_heads_that_others_wrote(tmp_path: Path) -> None:
    """ms-swift's value_head.bin, and classifiers with one label; one with several is no reward model."""
    assert read_head(tmp_path) is None
    torch.save(
        {"v_head.summary.weight": torch.ones(1, 4), "v_head.summary.bias": torch.ones(1)}, tmp_path / "value_head.bin"
    )
    assert {name: tuple(weight.shape) for name, weight in read_head(tmp_path).items()} == {
        "summary.weight": (1, 4),
        "summary.bias": (1,),
    }
    assert saved_pooling(tmp_path) == "eos"
    several = tmp_path / "several"
    several.mkdir()
    (several / "config.json").write_text(json.dumps({"architectures": ["LlamaForSequenceClassification"]}))
    save_file({"score.weight": torch.ones(3, 4)}, several / "model.safetensors")
    with pytest.raises(UserError, match="3 labels"):
        read_head(several)


def test_a_head_for_another_model_is_refused(tmp_path: Path) -> None:
    save_head(tmp_path, ValueHead(8).state_dict() | {})
    state = read_head(tmp_path)
    fill_head(ValueHead(8, seed=5), state, tmp_path)
    for other in (ValueHead(4), ValueHead(8, bias=False)):
        with pytest.raises(UserError, match="the reward head in"):
            fill_head(other, state, tmp_path)


@pytest.mark.parametrize(("name", "tied"), [("llama", False), ("gemma", True)])
def test_the_language_head_is_frozen_where_it_is_not_the_embedding(name: str, tied: bool) -> None:
    model = families.model(name)
    freeze_language_head(model)
    assert model.get_output_embeddings().weight.requires_grad == tied

"""What is trained: targets by word, name and expression, freeze groups, learning rates, no dropout."""

from __future__ import annotations

import re
from typing import Any

import families
import pytest
import torch
import transformers
from torch import nn

from swiftlike.args.lora import TunerArgs
from swiftlike.core.errors import UserError
from swiftlike.model_registry.generic import GENERIC
from swiftlike.models.tuning import add_lora, freeze, learning_rates, load_reference_adapter, no_dropout, target_names

PARTS = {"tower": ("vision_tower", "visual.blocks", "visual.patch_embed", "visual.pos_embed")}
PARTS["aligner"] = ("multi_modal_projector", "visual.merger", "visual.deepstack_merger_list", "image_newline")


def part(name: str) -> str:
    """Which part of a model a parameter or layer belongs to, by its name."""
    for kind, words in PARTS.items():
        if any(word in name for word in words):
            return kind
    return "head" if "lm_head" in name else "language"


def targets(name: str, **options: Any) -> set[str]:
    """Layers that get LoRA."""
    policy = add_lora(families.model(name), families.card(name), TunerArgs(**options), dropout=False)
    return {
        found[1]
        for key, _ in policy.named_parameters()
        if (found := re.fullmatch(r"base_model\.model\.(.*)\.lora_(?:A|embedding_A)\.default(?:\.weight)?", key))
    }


def linears(name: str, *parts: str) -> set[str]:
    model = families.model(name)
    return {key for key, module in model.named_modules() if isinstance(module, nn.Linear) and part(key) in parts}


EVERY = (*families.TEXT, *families.VISION)


# -- LoRA targets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_default_is_attention_of_the_language_model(name: str) -> None:
    found = targets(name)
    assert found == {key for key in linears(name, "language") if re.search(r"\.self_attn\.(q|k|v|qkv)_proj$", key)}
    assert found


@pytest.mark.parametrize("name", EVERY)
def test_all_is_every_linear_layer_but_the_head(name: str) -> None:
    assert targets(name, lora_target_modules=["ALL"]) == linears(name, "language")


@pytest.mark.parametrize("name", families.VISION)
@pytest.mark.parametrize("freeze_aligner", [True, False])
@pytest.mark.parametrize("freeze_vit", [True, False])
def test_all_with_unfrozen_parts(name: str, freeze_aligner: bool, freeze_vit: bool) -> None:
    parts = ["language", *(["aligner"] if not freeze_aligner else []), *(["tower"] if not freeze_vit else [])]
    found = targets(name, lora_target_modules=["ALL"], freeze_aligner=freeze_aligner, freeze_vit=freeze_vit)
    assert found == linears(name, *parts)
    assert {part(key) for key in found} == set(parts)


@pytest.mark.parametrize("name", ["llama", "qwen2_5_vl"])
def test_embedding(name: str) -> None:
    (found,) = targets(name, lora_target_modules=["EMBEDDING"])
    assert found.endswith("embed_tokens")
    assert len(targets(name, lora_target_modules=["EMBEDDING", "DEFAULT"])) == 1 + len(targets(name))


def test_names_and_expressions() -> None:
    every = {f"model.layers.{i}.{one}" for i in (0, 1) for one in ("self_attn.q_proj", "mlp.down_proj")}
    assert targets("llama", lora_target_modules=["q_proj", "mlp.down_proj"]) == every
    assert targets("llama", lora_target_modules=["model.layers.1.mlp.up_proj"]) == {"model.layers.1.mlp.up_proj"}
    assert targets("llama", lora_target_regex=r".*\.0\..*o_proj") == {"model.layers.0.self_attn.o_proj"}
    mixed = targets("llama", lora_target_modules=["DEFAULT", "down_proj"])
    assert mixed == targets("llama") | {f"model.layers.{i}.mlp.down_proj" for i in (0, 1)}
    dotted = target_names(
        families.model("llama"), families.card("llama"), TunerArgs(lora_target_modules=["mlp.up_proj"])
    )
    assert not re.fullmatch(dotted, "model.layers.0.mlpxup_proj")


@pytest.mark.parametrize("options", [{"lora_target_modules": ["lm_head"]}, {"lora_target_regex": ".*head"}])
def test_the_head_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="--modules_to_save lm_head"):
        targets("llama", **options)


@pytest.mark.parametrize("options", [{"lora_target_modules": ["qq_proj"]}, {"lora_target_regex": "q_proj"}])
def test_what_matches_nothing_is_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="matches no module") as caught:
        targets("llama", **options)
    assert "down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj" in caught.value.hint


@pytest.mark.parametrize("words", [["DEFAULT"], ["ALL"]])
def test_models_without_a_card(words: list[str]) -> None:
    config = transformers.GPTNeoXConfig(**families._text())
    model = transformers.AutoModelForCausalLM.from_config(config)
    policy = add_lora(model, GENERIC, TunerArgs(lora_target_modules=words), dropout=False)
    found = {key.split(".lora_A")[0].rpartition(".")[2] for key, _ in policy.named_parameters() if "lora_A" in key}
    wide = {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}
    assert found == ({"query_key_value"} if words == ["DEFAULT"] else wide)


def test_lora_options_reach_peft() -> None:
    options = {"lora_rank": 3, "lora_alpha": 7, "lora_dropout": 0.2, "use_rslora": True, "modules_to_save": ["lm_head"]}
    for dropout in (True, False):
        policy = add_lora(families.model("llama"), families.card("llama"), TunerArgs(**options), dropout=dropout)
        config = policy.peft_config["default"]
        assert (config.r, config.lora_alpha, config.use_rslora) == (3, 7, True)
        assert config.lora_dropout == (0.2 if dropout else 0.0)
        trained = {key for key, weight in policy.named_parameters() if weight.requires_grad}
        assert all("lora_" in key or "lm_head.modules_to_save" in key for key in trained)
        assert any("lm_head" in key for key in trained)


@pytest.mark.parametrize("start", ["true", "false", "gaussian", "pissa", "olora"])
def test_how_lora_starts(start: str) -> None:
    policy = add_lora(
        families.model("llama"), families.card("llama"), TunerArgs(init_lora_weights=start), dropout=False
    )
    ids = torch.arange(20, 29)[None]
    with torch.no_grad():
        found, wanted = policy(input_ids=ids).logits, families.model("llama")(input_ids=ids).logits
    changed = float((found - wanted).abs().max())
    assert (changed > 1e-3) == (start == "false")  # only "false" does not start at the model


def test_training_continues_from_an_adapter(tmp_path: Any) -> None:
    card = families.card("llama")
    first = add_lora(families.model("llama"), card, TunerArgs(lora_rank=2), dropout=False)
    for key, weight in first.named_parameters():
        if "lora_B" in key:
            weight.data.fill_(0.25)
    first.save_pretrained(tmp_path)
    again = add_lora(families.model("llama"), card, TunerArgs(adapters=[str(tmp_path)]), dropout=False)
    trained = {key: weight for key, weight in again.named_parameters() if weight.requires_grad}
    assert trained
    assert all("lora_" in key for key in trained)
    assert all(weight.eq(0.25).all() for key, weight in trained.items() if "lora_B" in key)
    load_reference_adapter(again, str(tmp_path))
    assert {key for key, weight in again.named_parameters() if weight.requires_grad} == set(trained)
    with pytest.raises(UserError, match=r"no adapter_config\.json"):
        add_lora(families.model("llama"), card, TunerArgs(adapters=[str(tmp_path.parent)]), dropout=False)


# -- freeze groups ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", families.VISION)
@pytest.mark.parametrize("frozen", [("tower",), ("aligner",), ("language",), ("tower", "aligner"), ()])
def test_freeze(name: str, frozen: tuple[str, ...]) -> None:
    model = families.model(name)
    tuner = TunerArgs(freeze_vit="tower" in frozen, freeze_aligner="aligner" in frozen, freeze_llm="language" in frozen)
    freeze(model, families.card(name), tuner)
    trained = {part(key) for key, weight in model.named_parameters() if weight.requires_grad}
    every = {"tower", "aligner", "language", "head"}
    assert trained == every - set(frozen) - ({"head"} if "language" in frozen else set())


@pytest.mark.parametrize("name", families.TEXT)
def test_text_models_have_no_vision_to_freeze(name: str) -> None:
    model = families.model(name)
    freeze(model, families.card(name), TunerArgs())
    assert all(weight.requires_grad for weight in model.parameters())
    with pytest.raises(UserError, match="nothing is left to train"):
        freeze(model, families.card(name), TunerArgs(freeze_llm=True))


def test_a_model_without_a_card_can_be_frozen() -> None:
    with pytest.raises(UserError, match="nothing is left to train"):
        freeze(families.model("llama"), GENERIC, TunerArgs(freeze_llm=True))


# -- learning rates --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", families.VISION)
def test_rates_of_the_vision_parts(name: str) -> None:
    model, card = families.model(name), families.card(name)
    tuner = TunerArgs(freeze_vit=False, freeze_aligner=False, vit_lr=1e-6, aligner_lr=1e-3)
    freeze(model, card, tuner)
    rates = learning_rates(model, card, tuner, 1e-5)
    wanted = {"tower": 1e-6, "aligner": 1e-3}
    assert rates == {key: wanted[part(key)] for key, _ in model.named_parameters() if part(key) in wanted}
    still = TunerArgs(freeze_aligner=False, vit_lr=1e-6)
    freeze(model, card, still)
    assert learning_rates(model, card, still, 1e-5) == {}


def test_rates_of_lora() -> None:
    tuner = TunerArgs(lora_target_modules=["ALL"], freeze_vit=False, lora_lr_ratio=16.0, vit_lr=1e-6)
    policy = add_lora(families.model("internvl"), families.card("internvl"), tuner, dropout=False)
    rates = learning_rates(policy, families.card("internvl"), tuner, 1e-4)
    for key, weight in policy.named_parameters():
        if weight.requires_grad and part(key) == "tower":
            assert rates.pop(key) == 1e-6
        elif "lora_B" in key:
            assert rates.pop(key) == pytest.approx(16e-4)
    assert rates == {}


# -- dropout ---------------------------------------------------------------------------------------------------------

DROPPING = {
    "llama": {"attention_dropout": 0.5},
    "gpt2": {"attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5, "n_inner": 48},
    "opt": {"dropout": 0.5, "attention_dropout": 0.5, "ffn_dim": 48, "word_embed_proj_dim": families.HIDDEN},
    "phi": {"attention_dropout": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5, "num_key_value_heads": 2},
    "phi3": {"attention_dropout": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5},
    "qwen2": {"attention_dropout": 0.5},
    "gemma2": {"attention_dropout": 0.5, "head_dim": 16},
}


@pytest.mark.parametrize("kind", DROPPING)
def test_no_dropout_is_left(kind: str) -> None:
    config = transformers.AutoConfig.for_model(kind, **families._text(**DROPPING[kind]))
    model = transformers.AutoModelForCausalLM.from_config(config).train()
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        assert not torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
        no_dropout(model)
        assert model.training
        found = model(input_ids=ids).logits
        assert torch.equal(found, model(input_ids=ids).logits)
        torch.testing.assert_close(found, model.eval()(input_ids=ids).logits)


def test_no_dropout_in_the_vision_tower_and_lora() -> None:
    config = families.config("llava")
    config.vision_config.attention_dropout = 0.5
    model = transformers.AutoModelForImageTextToText.from_config(config)
    policy = add_lora(
        model, families.card("llava"), TunerArgs(lora_dropout=0.5, init_lora_weights="false"), dropout=True
    )
    policy.train()
    no_dropout(policy)
    adapter = families.adapter("llava")
    pixels = adapter.pixels(families.picture(40, 40))
    ids = torch.tensor([[20, *[families.placeholder("llava")] * 16, 30]])
    with torch.no_grad():
        assert torch.equal(policy(input_ids=ids, **pixels).logits, policy(input_ids=ids, **pixels).logits)

"""From a name to config, tokenizer, image processor and weights, for every family; and what is refused."""

from __future__ import annotations

import dataclasses as dc
import json
import shutil
from pathlib import Path
from typing import Any

import families
import pytest
import torch

from swiftlike.args.model import ModelArgs
from swiftlike.core.errors import UserError
from swiftlike.models.load import (
    auto_class,
    choose_attention,
    choose_dtype,
    load_config,
    load_image_processor,
    load_model,
    load_template,
    load_tokenizer,
    locate,
    quantization,
    read_config,
    skeleton,
    weight_dtype,
)

EVERY = (*families.TEXT, *families.VISION)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One checkpoint folder per family."""
    root = tmp_path_factory.mktemp("models")
    for name in EVERY:
        families.save(name, root / name)
    return root


@pytest.mark.parametrize("name", EVERY)
def test_a_folder_is_recognised_and_loads(name: str, folders: Path) -> None:
    source = locate(ModelArgs(model=str(folders / name)))
    assert source.card is families.card(name)
    assert source.folder == folders / name
    config = load_config(source)
    assert config.model_type == families.family(name)
    tokenizer = load_tokenizer(source)
    assert tokenizer("What is it?")["input_ids"] == families.tokenizer()("What is it?")["input_ids"]
    assert load_image_processor(source) is None  # read from the folder
    model = load_model(source, dtype=torch.float32, attn_implementation=choose_attention(source, config, None))
    assert model.config.use_cache is False
    wanted = dict(families.model(name, scale=1.0).named_parameters())
    found = dict(model.named_parameters())
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    plan = dict(skeleton(config).named_parameters())
    assert {key: weight.shape for key, weight in plan.items()} == {key: weight.shape for key, weight in wanted.items()}
    assert all(weight.is_meta for weight in plan.values())


def test_what_the_user_names(folders: Path) -> None:
    with pytest.raises(UserError, match="no model given"):
        locate(ModelArgs())
    with pytest.raises(UserError, match=r"no config\.json"):
        read_config(folders)
    source = locate(ModelArgs(model=str(folders / "llama"), template="chatml"))
    assert source.template == "chatml"
    assert load_template(source).name == "chatml"
    own = dc.replace(source, template="chat_template")
    assert load_template(own) is None
    with pytest.raises(UserError, match="did you mean 'chatml'"):
        load_template(dc.replace(source, template="chatmll"))


def test_builtin_models_are_built_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWIFTLIKE_CACHE", str(tmp_path))
    source = locate(ModelArgs(model="tiny-llama"))
    assert source.folder.is_relative_to(tmp_path)
    assert (source.name, source.card.name, source.template) == ("tiny-llama", "llama", "chatml")
    assert locate(ModelArgs(model_type="tiny-llama")).folder == source.folder


def test_a_hub_that_does_not_answer_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route to host\nlong text")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(UserError, match=r"cannot fetch 'someone/model': no route to host\n") as caught:
        locate(ModelArgs(model="someone/model"))
    assert "--model" in caught.value.hint


@pytest.mark.parametrize("weights", [True, False])
def test_what_is_fetched(weights: bool, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fnmatch

    import huggingface_hub

    asked = {}

    def fetch(name: str, revision: str | None, ignore_patterns: list[str]) -> str:
        asked.update(name=name, revision=revision, ignore=ignore_patterns)
        return str(folders / "llama")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    source = locate(ModelArgs(model="someone/model", model_revision="v2"), weights)
    assert (asked["name"], asked["revision"]) == ("someone/model", "v2")
    assert source.card is families.card("llama")  # known from its config.json

    def fetched(file: str) -> bool:
        return not any(fnmatch.fnmatch(file, pattern) for pattern in asked["ignore"])

    assert all(map(fetched, ("config.json", "tokenizer.json", "tokenizer.model", "preprocessor_config.json")))
    assert fetched("model-00001-of-2.safetensors") == fetched("pytorch_model.bin") == weights
    assert not any(map(fetched, ("original/consolidated.00.pth", "model.gguf", "model.onnx", "tf_model.h5")))


def test_a_tokenizer_without_padding_gets_one(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "llama", tmp_path / "m")
    path = tmp_path / "m" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["pad_token"]
    path.write_text(json.dumps(settings))
    tokenizer = load_tokenizer(locate(ModelArgs(model=str(tmp_path / "m"))))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_code_that_comes_with_a_checkpoint_never_runs(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "llama", tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    settings = json.loads(path.read_text())
    settings |= {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    path.write_text(json.dumps(settings))
    (tmp_path / "m" / "evil.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: ...\nclass Model: ...\n"
    )
    source = locate(ModelArgs(model=str(tmp_path / "m")))
    assert type(load_model(source)).__module__.startswith("transformers.")
    assert load_config(source).model_type == "llama"
    assert not (tmp_path / "ran").exists()


# -- choices ---------------------------------------------------------------------------------------------------------


def test_attention(folders: Path) -> None:
    def choose(name: str, requested: str | None) -> str:
        source = locate(ModelArgs(model=str(folders / name)))
        return choose_attention(source, load_config(source), requested)

    assert choose("llama", None) == "sdpa"
    assert choose("llama", "flash_attention_2") == "flash_attention_2"
    assert choose("llama", "flex_attention") == "flex_attention"
    assert choose("gemma2", None) == choose("gemma2", "eager") == "eager"
    for other in ("sdpa", "flash_attention_2", "flex_attention"):
        with pytest.raises(UserError, match=f"--attn_impl {other} is not exact for gemma2; use eager"):
            choose("gemma2", other)


def test_soft_capped_attention_of_any_family_is_eager(folders: Path) -> None:
    source = locate(ModelArgs(model=str(folders / "llama")))
    config = load_config(source)
    config.attn_logit_softcapping = 30.0
    assert choose_attention(source, config, None) == "eager"
    with pytest.raises(UserError, match="not exact"):
        choose_attention(source, config, "sdpa")


@pytest.mark.parametrize(
    ("requested", "cards", "wanted"),
    [
        ("auto", "", torch.float32),
        ("auto", "old", torch.float16),
        ("auto", "new", torch.bfloat16),
        ("float16", "new", torch.float16),
        ("bfloat16", "", torch.bfloat16),
    ],
)
def test_dtype(requested: str, cards: str, wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cards))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: cards == "new")
    assert choose_dtype(requested) == wanted


def test_full_training_keeps_weights_in_float32() -> None:
    assert weight_dtype(torch.bfloat16, full=True) == torch.float32
    assert weight_dtype(torch.bfloat16, full=False) == torch.bfloat16


def test_quantization() -> None:
    assert quantization(0, "bnb", torch.float32) == {}
    pytest.importorskip("bitsandbytes")
    four = quantization(4, "bnb", torch.bfloat16)["quantization_config"]
    assert (four.load_in_4bit, four.bnb_4bit_quant_type, four.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert four.bnb_4bit_compute_dtype == torch.bfloat16
    assert quantization(8, "bnb", torch.bfloat16)["quantization_config"].load_in_8bit
    with pytest.raises(UserError, match="hqq"):
        quantization(4, "hqq", torch.bfloat16)


def test_the_auto_class(folders: Path) -> None:
    assert {name: auto_class(folders / name) for name in EVERY} == {name: families.auto_class(name) for name in EVERY}

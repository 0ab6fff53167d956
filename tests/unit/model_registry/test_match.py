"""What --model and --model_type mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swiftlike.core.errors import UserError
from swiftlike.model_registry import MODELS
from swiftlike.model_registry.internvl import CHAT_LAYOUT
from swiftlike.model_registry.match import card_for_config, find, settle

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
NEXT = {"architectures": ["LlavaNextForConditionalGeneration"], "model_type": "llava_next"}
MISTRAL_TEXT = {"model_type": "mistral", "vocab_size": 32064}


def folder(path: Path, config: dict[str, Any], file: str = "config.json") -> str:
    path.mkdir(parents=True, exist_ok=True)
    (path / file).write_text(json.dumps(config), encoding="utf-8")
    return str(path)


class TestNames:
    @pytest.mark.parametrize(
        ("name", "family", "source", "template"),
        [
            ("llama3-8b-instruct", "llama", "meta-llama/Meta-Llama-3-8B-Instruct", "llama3"),
            ("llava1_6-mistral-7b-instruct", "llava_next", "llava-hf/llava-v1.6-mistral-7b-hf", "llava-mistral"),
            ("internvl2-8b", "internvl", "OpenGVLab/InternVL2-8B", "internvl2"),
            ("qwen2_5-7b", "qwen2", "Qwen/Qwen2.5-7B", "default-generation"),
            ("qwen1half-0_5b-chat", "qwen2", "Qwen/Qwen1.5-0.5B-Chat", "qwen"),
        ],
    )
    @pytest.mark.parametrize("flag", ["model", "model_type"])
    def test_checkpoint(self, flag: str, name: str, family: str, source: str, template: str) -> None:
        found = find(name) if flag == "model" else find("", name)
        assert found.card is MODELS.get(family)
        assert (found.name, found.source(), found.template) == (name, source, template)
        assert found.loader

    def test_the_other_hub(self) -> None:
        assert find("llama3-8b-instruct").source(use_hf=False) == "LLM-Research/Meta-Llama-3-8B-Instruct"
        with pytest.raises(UserError, match="not on Hugging Face"):
            find("llava1_6-llama3_1-8b-instruct").source()

    @pytest.mark.parametrize("flags", [("tiny-llama", None), ("", "tiny-llama"), ("tiny-llama", "llama")])
    def test_builtin(self, flags: tuple[str, str | None]) -> None:
        found = find(*flags)
        assert found.builtin is not None
        assert (found.name, found.template, found.card) == ("tiny-llama", "chatml", MODELS.get("llama"))

    def test_weights_of_a_builtin_model(self, tmp_path: Path) -> None:
        found = find(folder(tmp_path, LLAMA), "tiny-llama")
        assert (found.builtin, found.name, found.template) == (None, "tiny-llama", "chatml")
        assert found.source() == str(tmp_path)


class TestHubIds:
    @pytest.mark.parametrize("text", ["Qwen/Qwen2-7B-Instruct", "qwen/qwen2-7b-instruct"])
    def test_any_case(self, text: str) -> None:
        found = find(text)
        assert (found.name, found.template) == ("qwen2-7b-instruct", "qwen")

    def test_id_of_the_other_hub_is_translated(self) -> None:
        found = find("LLM-Research/Meta-Llama-3-8B-Instruct")
        assert found.name == "llama3-8b-instruct"
        assert found.source(use_hf=True) == "meta-llama/Meta-Llama-3-8B-Instruct"

    def test_unknown_id_waits_for_its_config(self) -> None:
        found = find("someone/something")
        assert (found.card, found.template, found.source()) == (None, "", "someone/something")
        settled = settle(found, LLAMA)
        assert (settled.card, settled.template, settled.source()) == (
            MODELS.get("llama"),
            "chat_template",
            "someone/something",
        )

    def test_copy_of_a_known_checkpoint(self) -> None:
        found = settle(find("unsloth/Meta-Llama-3-8B-Instruct"), LLAMA)
        assert (found.name, found.template) == ("llama3-8b-instruct", "llama3")
        assert found.source() == "unsloth/Meta-Llama-3-8B-Instruct"

    def test_family_and_unknown_id(self) -> None:
        found = find("someone/my-vicuna", "llava1_6_vicuna_hf")
        assert (found.card, found.template) == (MODELS.get("llava_next"), "llava-vicuna")
        assert settle(found, {**NEXT, "text_config": MISTRAL_TEXT}).template == "llava-vicuna"

    def test_family_of_unknown_id_is_told_by_its_config(self) -> None:
        found = find("someone/my-llava", "llava_next")
        assert settle(found, {**NEXT, "text_config": MISTRAL_TEXT}).template == "llava-mistral"

    def test_type_and_unknown_id(self) -> None:
        found = find("NousResearch/Llama-3", "llama3-8b-instruct")
        assert (found.name, found.template, found.source()) == ("llama3-8b-instruct", "llama3", "NousResearch/Llama-3")

    def test_the_checkpoint_knows_better_than_the_family(self) -> None:
        assert find("mistralai/Mistral-Small-Instruct-2409", "mistral_nemo").template == "mistral-v3"


class TestFolders:
    def test_by_architecture(self, tmp_path: Path) -> None:
        found = find(folder(tmp_path, LLAMA))
        assert (found.card, found.name, found.local) == (MODELS.get("llama"), "llama", True)
        assert found.source(use_hf=False) == str(tmp_path)

    def test_by_model_type(self, tmp_path: Path) -> None:
        config = {"architectures": ["LlamaForSequenceClassification"], "model_type": "llama"}
        assert find(folder(tmp_path, config)).card is MODELS.get("llama")

    def test_by_its_own_name(self, tmp_path: Path) -> None:
        config = {**NEXT, "text_config": MISTRAL_TEXT}
        found = find(folder(tmp_path / "llava-v1.6-mistral-7b-hf", config))
        assert (found.name, found.template) == ("llava1_6-mistral-7b-instruct", "llava-mistral")

    @pytest.mark.parametrize(
        ("text_config", "template"),
        [
            (MISTRAL_TEXT, "llava-mistral"),
            ({"model_type": "llama", "vocab_size": 32064}, "llava-vicuna"),
            ({"model_type": "llama", "vocab_size": 64064}, "llava-yi"),
            ({"model_type": "llama", "vocab_size": 128320}, "llama3-llava-next-hf"),
            ({"model_type": "qwen2", "vocab_size": 152064}, "llama-qwen-hf"),
            ({"model_type": "mistral", "vocab_size": 704}, "chat_template"),
        ],
    )
    def test_llava_next_by_its_language_model(self, tmp_path: Path, text_config: dict, template: str) -> None:
        assert find(folder(tmp_path, {**NEXT, "text_config": text_config})).template == template

    @pytest.mark.parametrize(
        ("config", "loader", "template"),
        [
            ({"architectures": ["InternVLChatModel"], "template": "internvl2_5"}, CHAT_LAYOUT, "internvl2_5"),
            ({"architectures": ["InternVLChatModel"], "template": "internlm2-chat"}, CHAT_LAYOUT, "internvl2"),
            (
                {"architectures": ["InternVLForConditionalGeneration"]},
                "swiftlike.models.load:native",
                "chat_template",
            ),
        ],
    )
    def test_internvl_layouts(self, tmp_path: Path, config: dict, loader: str, template: str) -> None:
        found = find(folder(tmp_path, config))
        assert (found.card, found.loader, found.template) == (MODELS.get("internvl"), loader, template)

    def test_any_causal_model(self, tmp_path: Path) -> None:
        found = find(folder(tmp_path, {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}))
        assert (found.card, found.template) == (MODELS.get("generic"), "chat_template")

    def test_adapter(self, tmp_path: Path) -> None:
        path = folder(tmp_path, {"base_model_name_or_path": "Qwen/Qwen2-7B"}, "adapter_config.json")
        with pytest.raises(UserError, match=f"--model Qwen/Qwen2-7B --adapters {path}"):
            find(path)

    @pytest.mark.parametrize("path", ["./missing", "/no/such/folder", "~/no-such-folder", "../no", "a/b/c"])
    def test_missing(self, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError, match="there is no folder"):
            find(path)

    def test_empty(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"has no config\.json"):
            find(str(tmp_path))

    def test_a_file(self, tmp_path: Path) -> None:
        path = folder(tmp_path, LLAMA)
        with pytest.raises(UserError, match="is a file"):
            find(f"{path}/config.json")

    def test_broken_json(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{", encoding="utf-8")
        with pytest.raises(UserError, match="cannot be read"):
            find(str(tmp_path))

    def test_a_folder_goes_before_a_hub_id(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        folder(tmp_path / "Qwen" / "Qwen2-7B", LLAMA)
        assert find("Qwen/Qwen2-7B").card is MODELS.get("llama")


class TestRefused:
    def test_nothing(self) -> None:
        with pytest.raises(UserError, match="no model given"):
            find("")

    @pytest.mark.parametrize(
        ("flags", "near"),
        [
            (("", "llama3-8b-instuct"), "llama3-8b-instruct"),
            (("", "lava_next"), "llava_next"),
            (("tiny-lama", None), "tiny-llama"),
        ],
    )
    def test_misspelt(self, flags: tuple[str, str | None], near: str) -> None:
        with pytest.raises(UserError, match=f"did you mean '{near}'"):
            find(*flags)

    def test_family_alone(self) -> None:
        with pytest.raises(UserError, match=r"--model_type llama names a family: give --model too"):
            find("", "llama")
        with pytest.raises(UserError, match="--model llama is a family"):
            find("llama")

    def test_folder_of_another_family(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"llava1_5-7b-instruct is a llava model.*LlamaForCausalLM, a llama model"):
            find(folder(tmp_path, LLAMA), "llava1_5-7b-instruct")

    def test_id_of_another_family(self) -> None:
        with pytest.raises(UserError, match=r"is a llama model.*Qwen/Qwen2-7B, a qwen2 model"):
            find("Qwen/Qwen2-7B", "llama")

    def test_two_checkpoints(self) -> None:
        with pytest.raises(UserError, match=r"qwen2-7b and --model Qwen/Qwen2-72B \(qwen2-72b\) are two checkpoints"):
            find("Qwen/Qwen2-72B", "qwen2-7b")

    def test_downloaded_is_another_family(self) -> None:
        with pytest.raises(UserError, match=r"llama is a llama model.*a llava_next model"):
            settle(find("someone/something", "llama"), NEXT)

    def test_generic_is_for_text(self) -> None:
        generic = find("someone/something", "generic")
        assert settle(generic, LLAMA).card is MODELS.get("generic")
        with pytest.raises(UserError, match=r"generic is a generic model.*a llava_next model"):
            settle(generic, NEXT)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava"}, "layout of LLaVA's own code"),
            ({"architectures": ["MllamaForConditionalGeneration"], "vision_config": {}}, "is not supported"),
            ({"architectures": ["T5ForConditionalGeneration"]}, "not a causal language model"),
            ({"architectures": ["BertModel"]}, "not a causal language model"),
            ({}, "unknown is not a causal language model"),
        ],
    )
    def test_not_ours(self, config: dict, message: str) -> None:
        with pytest.raises(UserError, match=message):
            card_for_config(config)

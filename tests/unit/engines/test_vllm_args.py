"""Our flags in vLLM's words. No vLLM is needed for this."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from swiftlike.args.data import DataArgs
from swiftlike.args.generate import EngineArgs, GenerateArgs, UseArgs
from swiftlike.args.model import ModelArgs
from swiftlike.core.declare import Command
from swiftlike.core.errors import UserError
from swiftlike.core.merge import COMMAND_LINE, Given, merge
from swiftlike.data.template import Template
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import Image, Message, Turns
from swiftlike.engines.base import Request, Sampling
from swiftlike.engines.choosing import settle
from swiftlike.engines.vllm_args import command_line, engine_arguments, lora_limits, sampling_arguments
from swiftlike.engines.vllm_folder import generation_config, loadable
from swiftlike.engines.vllm_pictures import Pictures
from swiftlike.engines.vllm_serve import chat_template, serve_arguments
from swiftlike.model_registry import TEMPLATES
from swiftlike.models.published import is_published
from swiftlike.pipelines.serving import open_model, prompts_of
from tests import families

COMMAND = Command(
    name="test",
    summary="",
    target="",
    sections={"use": UseArgs, "generate": GenerateArgs, "engine": EngineArgs, "model": ModelArgs, "data": DataArgs},
)


def run_of(**flags: Any) -> Any:
    return merge(COMMAND, [[Given(name, value, COMMAND_LINE) for name, value in flags.items()]])


def adapter(folder: Path, **config: Any) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, **config}))
    return folder


def params(left: int = 100, **sampling: Any) -> dict[str, Any]:
    asked = Sampling(**sampling)
    return sampling_arguments(asked, settle(asked, GenerationConfig()), ends=(7, 2), left=left)


class TestEngine:
    def test_flags(self) -> None:
        run = run_of(
            max_model_len=512,
            gpu_memory_utilization=0.5,
            tensor_parallel_size=2,
            max_num_seqs=16,
            enforce_eager=True,
            limit_mm_per_prompt='{"image": 3}',
        )
        found = engine_arguments(run, Path("/m"), {}, "bfloat16")
        assert found == {
            "model": "/m",
            "dtype": "bfloat16",
            "gpu_memory_utilization": 0.5,
            "tensor_parallel_size": 2,
            "max_num_seqs": 16,
            "enforce_eager": True,
            "disable_log_stats": True,
            "max_logprobs": -1,
            "max_model_len": 512,
            "limit_mm_per_prompt": {"image": 3},
        }

    def test_further_arguments_go_before_all(self) -> None:
        run = run_of(max_num_seqs=16, vllm_engine_kwargs='{"max_num_seqs": 4, "block_size": 32}')
        found = engine_arguments(run, Path("/m"), {}, "float32")
        assert (found["max_num_seqs"], found["block_size"]) == (4, 32)

    def test_quantisation(self) -> None:
        assert engine_arguments(run_of(quant_bits=4), Path("/m"), {}, "float16")["quantization"] == "bitsandbytes"
        with pytest.raises(UserError, match="quant_bits 8"):
            engine_arguments(run_of(quant_bits=8), Path("/m"), {}, "float16")

    def test_as_words(self) -> None:
        words = command_line(
            {"model": "/m", "enforce_eager": True, "enable_lora": False, "max_logprobs": -1, "quantization": None}
            | {"limit_mm_per_prompt": {"image": 3}, "dtype": "float32", "names": ["a", "b"]}
        )
        assert words == [
            *("/m", "--enforce-eager", "--no-enable-lora", "--max-logprobs=-1"),
            *("--limit-mm-per-prompt", '{"image": 3}', "--dtype", "float32", "--names", "a", "b"),
        ]


class TestAdapters:
    @pytest.mark.parametrize(("rank", "room"), [(1, 1), (8, 8), (9, 16), (100, 128), (512, 512)])
    def test_room_for_the_largest_rank(self, rank: int, room: int, tmp_path: Path) -> None:
        folders = {"a": adapter(tmp_path / "a", r=rank), "b": adapter(tmp_path / "b", r=1)}
        assert lora_limits(folders) == {"max_lora_rank": room, "max_loras": 3}

    def test_ranks_of_single_modules(self, tmp_path: Path) -> None:
        assert lora_limits({"a": adapter(tmp_path / "a", rank_pattern={"q_proj": 40})})["max_lora_rank"] == 64

    @pytest.mark.parametrize(
        ("config", "reason"),
        [
            ({"use_dora": True}, "DoRA"),
            ({"bias": "all"}, "trained biases"),
            ({"modules_to_save": ["lm_head"]}, r"whole trained modules \(lm_head\)"),
            ({"peft_type": "IA3"}, "IA3 weights"),
            ({"r": 1024}, "rank 1024"),
        ],
    )
    def test_what_vllm_cannot_serve(self, config: dict[str, Any], reason: str, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=f"adapter mine.*{reason}") as refused:
            lora_limits({"mine": adapter(tmp_path / "a", **config)})
        assert "--merge_lora true" in str(refused.value.hint)


class TestSampling:
    def test_greedy(self) -> None:
        found = params(temperature=0.0, top_k=5, top_p=0.5)
        assert (found["temperature"], found["top_k"], found["top_p"], found["stop_token_ids"]) == (0.0, 0, 1.0, [2, 7])

    def test_drawn(self) -> None:
        found = params(temperature=0.7, top_k=-1, top_p=0.9, seed=3, n=4, logprobs=2, repetition_penalty=1.2)
        assert (found["temperature"], found["top_k"], found["top_p"]) == (0.7, 0, 0.9)
        assert (found["n"], found["logprobs"], found["repetition_penalty"]) == (4, 2, 1.2)

    def test_seeds_do_not_meet(self) -> None:
        """vLLM's n-th completion has the seed n further on."""
        seeds = [params(seed=seed)["seed"] for seed in range(100)]
        assert seeds == [params(seed=seed)["seed"] for seed in range(100)]
        assert len({seed + n for seed in seeds for n in range(100)}) == 100 * 100
        assert params()["seed"] is None

    @pytest.mark.parametrize(("asked", "left", "most"), [(None, 30, 30), (10, 30, 10), (50, 30, 30)])
    def test_length(self, asked: int | None, left: int, most: int) -> None:
        assert params(left=left, max_new_tokens=asked)["max_tokens"] == most

    def test_stop_texts(self) -> None:
        assert (params(stop=("a", ""))["stop"], params(stop=("a",))["detokenize"]) == (["a"], True)
        assert params()["detokenize"] is False

    def test_no_beams(self) -> None:
        with pytest.raises(BadRow, match="beam search"):
            params(num_beams=2)


class TestFolder:
    def test_own_folder_where_nothing_differs(self, tmp_path: Path) -> None:
        opened = open_model(run_of(model_type="tiny-llava1_6"))
        assert loadable(opened, tmp_path, merge=False) == opened.model_folder
        assert list(tmp_path.iterdir()) == []

    def test_other_spelling_of_names(self, tmp_path: Path) -> None:
        folder, scratch = families.save("llava_next", tmp_path / "saved"), tmp_path / "scratch"
        scratch.mkdir()
        opened = open_model(run_of(model=str(folder), template="chatml"))
        assert loadable(opened, scratch, merge=False) == scratch
        assert is_published(scratch)
        assert not is_published(folder)
        assert (scratch / "tokenizer.json").resolve() == (folder / "tokenizer.json").resolve()

    @pytest.mark.parametrize("name", ["tiny-llava1_6", "tiny-internvl3", "tiny-qwen2_5-vl"])
    def test_limits_of_pictures(self, name: str, tmp_path: Path) -> None:
        """The folder's own processor counts what training counts."""
        picture = tmp_path / "wide.png"
        families.picture(300, 200).save(picture)
        asked = Request(prompt=Turns((Message("user", "<image>?"),), (Image(str(picture)),)))
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        run = run_of(model_type=name, max_image_tokens=40)
        opened = open_model(run)
        wanted = len(prompts_of(run, opened).ids(asked).ids)
        again = run_of(model=str(loadable(opened, scratch, merge=False)), template="chatml")
        assert len(prompts_of(again, open_model(again)).ids(asked).ids) == wanted
        plain = run_of(model_type=name)
        assert len(prompts_of(plain, open_model(plain)).ids(asked).ids) > wanted


class TestPictures:
    @pytest.mark.parametrize("name", ["tiny-llava1_6", "tiny-internvl3", "tiny-qwen2_5-vl"])
    def test_one_placeholder_each(self, name: str, tmp_path: Path) -> None:
        files = []
        for i, size in enumerate([(90, 40), (40, 90), (64, 64)]):
            files.append(tmp_path / f"{i}.png")
            families.picture(*size).save(files[-1])
        turns = Turns((Message("user", "<image><image>a <image>\nb"),), tuple(Image(str(file)) for file in files))
        run = run_of(model_type=name)
        opened = open_model(run)
        prompts = prompts_of(run, opened)
        prepared = prompts.ids(Request(prompt=turns))
        found = Pictures(prompts).prompt(prepared)
        text = prompts.template.tokenizer.decode(found["prompt_token_ids"])
        vision = opened.checkpoint.source.card.vision
        shown = vision.unexpanded or vision.image_text
        gap = vision.after
        assert f"user\n{shown}{gap}{shown}{gap}a {shown}\nb<|im_end|>" in text
        assert text.count(vision.placeholder) == 3 < prepared.ids.count(prompts.placeholder)
        assert [one.mode for one in found["multi_modal_data"]["image"]] == ["RGB"] * 3

    def test_text_alone(self) -> None:
        run = run_of(model_type="tiny-internvl3")
        prompts = prompts_of(run, open_model(run))
        prepared = prompts.ids(Request(prompt="Hello"))
        assert Pictures(prompts).prompt(prepared) == {"prompt_token_ids": list(prepared.ids)}


class TestServer:
    def test_words(self, tmp_path: Path) -> None:
        run = run_of(model_type="tiny-llama", adapters=[f"mine={adapter(tmp_path / 'a')}"], max_model_len=256)
        words = serve_arguments(run, open_model(run), Sampling(max_new_tokens=9))
        folder = Path(words[0])
        settings = generation_config(folder)
        assert settings.to_dict() | {"temperature": 0.0, "max_new_tokens": 9} == settings.to_dict()
        assert settings.eos_token_id == [2]
        values = dict(itertools.pairwise(words))
        assert values["--max-model-len"] == "256"
        assert values["--lora-modules"] == f"mine={tmp_path / 'a'}"
        assert values["--chat-template-content-format"] == "openai"
        assert "--enable-lora" in words
        assert not {"--max-logprobs", "--disable-log-stats"} & set(words)
        assert "<|im_start|>user" in Path(values["--chat-template"]).read_text(encoding="utf-8")

    def test_end_that_is_no_token(self) -> None:
        run = run_of(model_type="tiny-llama", template="llama3")
        with pytest.raises(UserError, match="which is no token of it"):
            serve_arguments(run, open_model(run))


class TestChatTemplate:
    @pytest.mark.parametrize("scheme", ["first", "always"])
    @pytest.mark.parametrize("name", ["llama", "mistral", "llava1_5", "vicuna", "plain"])
    def test_space_at_the_beginning_of_a_text(self, scheme: str, name: str) -> None:
        """Tokenizers that begin a text with a space do not always do so behind the first token; the ids are equal."""
        tokenizer = families.prefix_space_tokenizer(scheme)
        used = Template(tokenizer, TEMPLATES.get(name))
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hi!"}],
            chat_template=chat_template(used),
            add_generation_prompt=True,
            tokenize=False,
        )
        wanted = used.ids(used.pieces(Turns((Message("user", "Hi!"),)), Turns((Message("assistant", "x"),))))[0][0]
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == wanted
        assert wanted.count(tokenizer.bos_token_id) <= 1

    @pytest.mark.parametrize("card", list(TEMPLATES), ids=lambda card: card.name)
    def test_every_format(self, card: Any) -> None:
        assert chat_template(Template(families.tokenizer(), card))

"""Where values come from, in order."""

import json
from pathlib import Path
from typing import Any

import pytest

from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run
from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run


def build(*words: str, env: dict[str, str] | None = None, command: str = "rlhf") -> Run:
    return build_run(load(command), ["--dataset", "d", *words], env or {})[0]


def checkpoint(folder: Path, **args: Any) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "args.json").write_text(json.dumps({"format": 1, "swiftlike": "0", "args": args}))
    return str(folder)


SAVED = {
    "model": "base",
    "model_type": "qwen2",
    "template": "qwen",
    "system": "be kind",
    "torch_dtype": "float32",
    "quant_bits": 4,
    "lora_rank": 64,
    "hub_token": None,
}


def test_a_continued_adapter_brings_its_model(tmp_path: Path) -> None:
    run = build("--adapters", checkpoint(tmp_path / "a", **SAVED), "--dry_run")
    assert (run.model.model, run.model.template, run.model.torch_dtype, run.model.quant_bits) == (
        "base",
        "qwen",
        "float32",
        4,
    )
    assert run.origin["template"] == str(tmp_path / "a" / "args.json")
    assert run.tuner.lora_rank == 8


def test_a_checkpoint_as_the_model_brings_only_its_template(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a", **SAVED)
    run = build("--model", folder)
    assert (run.model.model, run.model.model_type, run.model.system) == (folder, "qwen2", "be kind")
    assert (run.model.torch_dtype, run.model.quant_bits) == ("auto", 0)


def test_what_is_typed_wins_over_the_checkpoint(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a", **SAVED)
    run = build("--ckpt", folder, "--system", "be brief", "--dtype", "bf16", "--dry_run")
    assert (run.model.system, run.model.torch_dtype, run.model.model) == ("be brief", "bfloat16", "base")


def test_a_checkpoint_of_ms_swift_v2(tmp_path: Path) -> None:
    saved = {
        "model_type": "qwen2-7b-instruct",
        "model_id_or_path": "Qwen/Qwen2-7B-Instruct",
        "template_type": "AUTO",
        "dtype": "fp16",
        "quantization_bit": 0,
        "model_cache_dir": None,
        "use_flash_attn": None,
        "batch_size": 9,
    }
    (tmp_path / "sft_args.json").write_text(json.dumps(saved))
    run = build("--resume_from_checkpoint", str(tmp_path))
    assert (run.model.model, run.model.model_type) == ("Qwen/Qwen2-7B-Instruct", "qwen2-7b-instruct")
    assert (run.model.template, run.model.torch_dtype, run.train.batch_size) == (None, "float16", 1)


def test_later_configuration_files_win(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: a\nseed: 1\n")
    (tmp_path / "b.json").write_text('{"seed": 2, "eval_steps": 0.5}')
    run = build("--config", str(tmp_path / "a.yaml"), str(tmp_path / "b.json"))
    assert (run.model.model, run.train.seed, run.train.eval_steps) == ("a", 2, 0.5)


def test_problems_in_a_configuration_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: m\nrlhf_typ: dpo\n")
    with pytest.raises(UserError) as caught:
        build("--config", str(path))
    assert caught.value.problems == (f"{path}: 'rlhf_typ': unknown flag; did you mean --rlhf_type?",)


def test_training_arguments_of_transformers_land_in_hf() -> None:
    run = build("--model", "m", "--torch_empty_cache_steps", "4", "--dataloader_pin_memory")
    assert run.hf == {"torch_empty_cache_steps": 4, "dataloader_pin_memory": True}
    with pytest.raises(UserError, match="unknown flag"):
        build("--torch_empty_cache_steps", "4", command="check")


def test_typing_of_values() -> None:
    run = build(
        "--model", "m", "--eval_steps", "0.5", "--save_steps", "20", "--max_length", "none", "--rpo_alpha", "none"
    )
    assert (run.train.eval_steps, run.train.save_steps, run.data.max_length, run.loss.rpo_alpha) == (
        0.5,
        20,
        None,
        None,
    )
    assert isinstance(run.train.save_steps, int)
    assert build("--model", "m", "--report_to", "none").train.report_to == []


@pytest.mark.parametrize(
    ("words", "targets"),
    [
        ("DEFAULT", ["DEFAULT"]),
        ("AUTO", ["DEFAULT"]),
        ("ALL", ["ALL"]),
        ("all-linear", ["ALL"]),
        ("q_proj,k_proj", ["q_proj", "k_proj"]),
        ("q_proj k_proj", ["q_proj", "k_proj"]),
    ],
)
def test_lora_targets(words: str, targets: list[str]) -> None:
    assert build("--model", "m", "--lora_target_modules", *words.split()).tuner.lora_target_modules == targets


def test_the_environment_lies_between_files_and_words(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: a\nseed: 1\nlora_rank: 2\n")
    env = {"SWIFTLIKE_SEED": "2", "SWIFTLIKE_LORA_RANK": "3", "USE_HF": "0", "MAX_NUM": "6"}
    run = build("--config", str(tmp_path / "a.yaml"), "--lora_rank", "4", env=env)
    assert (run.train.seed, run.tuner.lora_rank, run.model.use_hf, run.data.max_tiles) == (2, 4, False, 6)

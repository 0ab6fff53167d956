"""What `swiftlike export` writes where, without a trained model: folders, names, flags."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run
from swiftlike.core.errors import UserError
from swiftlike.core.files import read_args
from swiftlike.core.merge import Run
from swiftlike.pipelines.export.folders import RECORD, copy_clean, keep_args, new_folder
from swiftlike.pipelines.export.layouts import to_peft, to_swift
from swiftlike.pipelines.export.samples import Measured, built_in


def asked(*words: Any) -> Run:
    return build_run(load("export"), [str(word) for word in words], {})[0]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A checkpoint folder with an adapter's and an optimiser's files."""
    folder = tmp_path / "checkpoint-3"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    stem = "base_model.model.model.layers.0.q_proj"
    names = (f"{stem}.lora_A.weight", f"{stem}.lora_B.weight", "base_model.model.model.embed.lora_embedding_A")
    save_file(
        {name: torch.full((2, 2), float(i)) for i, name in enumerate(names)}, folder / "adapter_model.safetensors"
    )
    for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "trainer_state.json", "objective_1.pt", "code.py"):
        (folder / name).touch()
    (folder / "tokenizer.json").write_text("{}")
    return folder


def write_record(folder: Path, **args: Any) -> None:
    record = {"format": 1, "swiftlike": "0.0.1", "command": "rlhf", "args": args, "origin": dict.fromkeys(args, "x")}
    (folder / "args.json").write_text(json.dumps(record))


# -- folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "model"
    with new_folder(target, replace=False) as draft:
        assert draft.parent == target.parent
        (draft / "a.txt").write_text("a")
        (draft / "a.txt").chmod(0o600)
        assert not target.exists()
    assert (target / "a.txt").read_text() == "a"
    assert (target / "a.txt").stat().st_mode & 0o777 == 0o666 & ~mask()
    assert list(target.parent.iterdir()) == [target]


def mask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


def fail(target: Path, error: BaseException) -> None:
    with new_folder(target, replace=True) as draft:
        (draft / "a.txt").touch()
        raise error


@pytest.mark.parametrize("error", [UserError("wrong"), KeyboardInterrupt()])
def test_what_fails_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error)):
        fail(tmp_path / "model", error)
    assert list(tmp_path.iterdir()) == []


def test_a_replaced_folder_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / RECORD).write_text("old")
    with pytest.raises(UserError):
        fail(target, UserError("wrong"))
    assert (target / RECORD).read_text() == "old"
    with new_folder(target, replace=True) as draft:
        (draft / RECORD).write_text("new")
    assert (target / RECORD).read_text() == "new"


def test_an_empty_folder_may_be_filled_and_a_full_one_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty", replace=False) as draft:
        (draft / "a").touch()
    for replace, reason in ((False, "--exist_ok"), (True, "was not written by an export")):
        with pytest.raises(UserError, match=reason), new_folder(tmp_path / "empty", replace=replace):
            pass


def test_what_killed_exports_left_is_removed_and_others_are_not(tmp_path: Path) -> None:
    dead, alive = tmp_path / ".model.4194304", tmp_path / f".model.{os.getppid()}"
    other = tmp_path / ".model-2.4194304"
    for one in (dead, alive, other):
        one.mkdir()
    with new_folder(tmp_path / "model", replace=False):
        pass
    assert sorted(tmp_path.iterdir()) == sorted([alive, other, tmp_path / "model"])


def test_copies_have_no_files_of_the_optimiser(adapter: Path, tmp_path: Path) -> None:
    draft = tmp_path / "draft"
    draft.mkdir()
    copy_clean(adapter, draft)
    kept = {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"}
    assert {path.name for path in draft.iterdir()} == kept


def test_the_record_of_flags_stays_with_what_is_said_otherwise(adapter: Path, tmp_path: Path) -> None:
    write_record(adapter, template="chatml", system="Old.", lora_rank=8)
    draft = tmp_path / "draft"
    draft.mkdir()
    run = asked("--ckpt_dir", adapter, "--output_dir", draft, "--model_type", "tiny-llama", "--system", "New.")
    keep_args(adapter, draft, run)
    found = read_args(draft)
    assert found is not None
    assert found[1] == {"template": "chatml", "system": "New.", "lora_rank": 8, "model_type": "tiny-llama"}
    assert json.loads((draft / "args.json").read_text())["command"] == "rlhf"


# -- comparisons ------------------------------------------------------------------------------------------------------


def test_differences_of_logits() -> None:
    one = Measured(outputs=[torch.tensor([[1.0, 2.0], [0.0, -3.0]]), torch.tensor([[5.0, 0.0]])])
    other = Measured(outputs=[torch.tensor([[1.0, 0.5], [0.0, -3.0]]), torch.tensor([[5.0, 0.25]])])
    assert one.difference(other) == 1.5
    assert one.other_tokens(other) == 1
    assert (one.largest, one.positions) == (5.0, 3)
    broken = Measured(outputs=[torch.tensor([[1.0, float("nan")], [0.0, -3.0]]), torch.tensor([[5.0, 0.0]])])
    assert one.difference(broken) == float("inf")


def test_built_in_conversations() -> None:
    text, pictures = built_in(pictures=False), built_in(pictures=True)
    assert pictures[: len(text)] == text
    assert [row.prompt.tags for row in pictures[len(text) :]] == [1, 1]
    assert len({row.origin for row in pictures}) == len(pictures)


# -- layouts ----------------------------------------------------------------------------------------------------------


def test_layouts_of_ms_swift_and_back(adapter: Path, tmp_path: Path) -> None:
    write_record(adapter, system="Stay.")
    swift, back = tmp_path / "swift", tmp_path / "back"
    swift.mkdir()
    back.mkdir()
    to_swift(adapter, swift)
    names = set(load_file(swift / "default" / "adapter_model.safetensors"))
    stem = "model.layers.0.q_proj"
    embedding = "model.embed.lora_embedding_A.default"
    assert names == {f"{stem}.lora_A.default.weight", f"{stem}.lora_B.default.weight", embedding}
    path = swift / "default" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_dtype": "fp32", "use_merged_linear": False}))
    to_peft(swift, back)
    assert json.loads((back / "adapter_config.json").read_text()) == {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    mine, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (back, adapter))
    assert {name: value.tolist() for name, value in mine.items()} == {n: v.tolist() for n, v in theirs.items()}
    for folder in (swift, back):
        assert (read_args(folder) or ("", {}))[1] == {"system": "Stay."}
        assert (folder / "tokenizer.json").is_file()


def test_several_adapters_in_one_folder_and_old_weights(adapter: Path, tmp_path: Path) -> None:
    folder, draft = tmp_path / "swift", tmp_path / "draft"
    draft.mkdir()
    for name in ("default", "second"):
        (folder / name).mkdir(parents=True)
        (folder / name / "adapter_config.json").write_text(json.dumps({"swift_type": "LORA", "r": 2}))
        state = {f"q.lora_A.{one}.weight": torch.ones(1) for one in ("default", "second")}
        torch.save(state, folder / name / "adapter_model.bin")
    to_peft(folder, draft)
    for place in (draft, draft / "second"):
        assert set(load_file(place / "adapter_model.safetensors")) == {"base_model.model.q.lora_A.weight"}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"swift_type": "LORA", "use_qa_lora": True}, "QA-LoRA"),
        ({"swift_type": "LORA", "use_merged_linear": True}, "merged linear"),
        ({"swift_type": "ADAPTER"}, "ADAPTER adapter"),
    ],
)
def test_kinds_that_peft_does_not_have(config: dict[str, Any], reason: str, adapter: Path, tmp_path: Path) -> None:
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=reason):
        to_peft(adapter, tmp_path)


def test_no_adapter_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no adapter"):
        to_peft(tmp_path, tmp_path)
    with pytest.raises(UserError, match="no LoRA adapter"):
        to_swift(tmp_path, tmp_path)


# -- flags ------------------------------------------------------------------------------------------------------------

CKPT = ("--ckpt_dir", "ADAPTER")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "no model"),
        (CKPT, "what is to be made"),
        (("--model_type", "tiny-llama", "--merge_lora", "true"), "there is no adapter"),
        ((*CKPT, "--merge_lora", "true", "--quant_bits", "4"), "go together"),
        ((*CKPT, "--merge_lora", "true", "--quant_bits", "4", "--quant_method", "gptq"), "needs --dataset"),
        ((*CKPT, "--merge_lora", "true", "--quant_bits", "4", "--quant_method", "awq"), "pip install gptqmodel"),
        ((*CKPT, "--merge_lora", "true", "--to_gguf", "true", "--llama_cpp", "ADAPTER"), "not a folder of llama.cpp"),
        ((*CKPT, "--quant_bits", "4", "--quant_method", "bnb"), "--merge_lora true"),
        ((*CKPT, "--torch_dtype", "bfloat16", "--output_dir", "x"), "--merge_lora true"),
        ((*CKPT, "--adapters", "other=ADAPTER", "--merge_lora", "true"), "--adapter_weights"),
        ((*CKPT, "--merge_lora", "true", "--adapter_weights", "1", "2"), "2 numbers for 1 adapters"),
        ((*CKPT, "--to_peft_format", "true", "--to_swift_format", "true"), "give one of them"),
        ((*CKPT, "--to_peft_format", "true", "--merge_lora", "true"), "only rewrite"),
        ((*CKPT, "--output_dir", "x", "--hub_model_id", "me/x"), "--push_to_hub true"),
        ((*CKPT, "--output_dir", "x", "--infer_backend", "vllm"), "nothing is generated"),
        ((*CKPT, "--output_dir", "x", "--plugin", "none.py"), "no file 'none.py'"),
    ],
)
def test_what_does_not_go_together_is_said_at_once(words: tuple[str, ...], reason: str, adapter: Path) -> None:
    with pytest.raises(UserError) as error:
        asked(*(word.replace("ADAPTER", str(adapter)) for word in words))
    assert reason in str(error.value)


def test_flags_of_ms_swift(adapter: Path) -> None:
    run = asked("--ckpt_dir", adapter, "--merge_lora", "true", "--merge_device_map", "cpu", "--max_shard_size", "2GB")
    assert (run.use.merge_lora, run.model.device_map, run.export.max_shard_size) == (True, None, "2GB")


def test_types_and_bits_are_not_those_of_the_training(adapter: Path) -> None:
    write_record(adapter, torch_dtype="float16", quant_bits=4, quant_method="bnb", model_type="tiny-llama")
    run = asked("--ckpt_dir", adapter, "--merge_lora", "true")
    assert (run.model.torch_dtype, run.model.quant_bits, run.model.quant_method) == ("auto", 0, None)
    assert run.model.model_type == "tiny-llama"

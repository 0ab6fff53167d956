"""What several values together show."""

import json
from pathlib import Path

import pytest

from swiftlike.args import consistency
from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run
from swiftlike.core.errors import UserError

MINIMAL = ["--model", "m", "--dataset", "d"]


def problems(*words: str, command: str = "rlhf", minimal: bool = True) -> tuple[str, ...]:
    try:
        build_run(load(command), [*(MINIMAL if minimal else ()), *words], {})
    except UserError as error:
        return error.problems
    return ()


def test_the_least_that_is_needed() -> None:
    assert problems() == ()
    assert problems(command="sft") == ()
    assert problems("--model_type", "qwen2-7b", "--dataset", "d", minimal=False) == ()
    both = problems(minimal=False)
    assert [text.partition(" is missing")[0] for text in both] == ["--model", "--dataset"]
    assert "--model_type" in both[0]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--interleave_prob 0.5 0.5", "2 numbers for 1 data sets"),
        ("--interleave_prob 0.5", "adds up to 0.5"),
        ("--min_pixels 10 --max_pixels 5", "--min_pixels 10 is more than"),
        ("--resume_from_checkpoint /no/such", "no folder '/no/such'"),
        ("--resume_only_model true", "needs --resume_from_checkpoint"),
        ("--ignore_data_skip true", "needs --resume_from_checkpoint"),
        ("--sft_type full --lora_rank 4", "--lora_rank: only for --sft_type lora"),
        ("--sft_type full --quant_bits 4 --dry_run", "cannot be trained in full"),
        ("--target_regex x --target_modules ALL", "give one of them"),
        ("--streaming", "needs --max_steps"),
        ("--deepspeed zero2 --fsdp fsdp2 --dry_run", "both shard the model"),
        ("--load_best_model_at_end --eval_strategy no", "need --eval_strategy"),
        ("--plugin /no/such.py", "no file '/no/such.py'"),
        ("--rlhf_type cpo --loss_type simpo", "--rlhf_type simpo"),
        ("--lr_scheduler_type cosinus", "did you mean 'cosine'?"),
        ("--optim adamwx", "'adamwx' is not one of adamw_torch, "),
        ("--deepspeed zero4 --dry_run", "'zero4' is not one of zero0, zero1"),
        ("--deepspeed /no/such.json --dry_run", "--deepspeed: no file '/no/such.json'"),
        ("--fsdp full_shar", "did you mean 'full_shard'?"),
        ("--fsdp hybrid_shard", "'hybrid_shard' is not one of fsdp2"),
        ("--report_to tensorbord", "did you mean 'tensorboard'?"),
        ("--init_lora_weights foo", "'foo' is not one of true, false"),
        ("--init_lora_weights pissa_niter_x", "is not one of"),
        ("--max_steps 0", "train nothing"),
        ("--num_train_epochs 0", "train nothing"),
        ("--load_best_model_at_end --dataset_test_ratio 0", "--val_dataset, or --dataset_test_ratio"),
        ("--early_stop_interval 2 --streaming --max_steps 5", "need rows to evaluate on: --val_dataset"),
        ("--load_best_model_at_end --eval_steps 4 --save_steps 6", "6 is not a multiple of --eval_steps 4"),
        ("--load_best_model_at_end --save_steps 70", "70 is not a multiple of --eval_steps 50"),
        ("--num_save_checkpoint 3 --save_steps 4", "--num_save_checkpoint 3 and --save_steps: give one of them"),
        ("--num_save_checkpoint 3 --save_total_limit 2", "and --save_total_limit: give one of them"),
        ("--num_save_checkpoint 3 --save_strategy epoch", "and --save_strategy epoch: give one of them"),
        ("--num_save_checkpoint 3 --early_stop_interval 2", "not with --early_stop_interval"),
        ("--num_save_checkpoint 3 --load_best_model_at_end", "not with --load_best_model_at_end"),
        ("--num_save_checkpoint 3 --max_steps 2", "--max_steps 2 are fewer steps than that"),
        ("--load_best_model_at_end --save_strategy epoch", "needs --save_strategy to be --eval_strategy"),
        (
            "--rlhf_type simpo --ref_model r",
            "--ref_model: simpo compares with no reference; those that do are aipo, beta_dpo, dpo, exo, kto",
        ),
        ("--rlhf_type orpo --ref_model_type qwen2", "--ref_model_type: orpo compares"),
        ("--rlhf_type cpo --ref_adapters a/b", "--ref_adapters: cpo compares"),
        ("--streaming --max_steps 5 --dataset_test_ratio 0.1", "nothing is held out of a stream"),
        ("--adapters a/b --lora_rank 4 --use_dora", "--lora_rank, --use_dora: not with --adapters"),
        ("--sft_type full --adapters a/b", "--adapters: only for --sft_type lora"),
        ("--adapters /no/such", "--adapters: no folder '/no/such'"),
        ("--dataloader_drop_last true", "set by training itself"),
    ],
)
def test_values_that_do_not_go_together(words: str, reason: str) -> None:
    found = problems(*words.split())
    assert len(found) == 1
    assert reason in found[0]


@pytest.mark.parametrize(
    "words",
    [
        "--lr_scheduler_type linear --optim sgd --report_to tensorboard",
        "--report_to all",
        "--init_lora_weights True",
        "--init_lora_weights pissa_niter_4",
        "--num_train_epochs 0 --max_steps 5",
        "--load_best_model_at_end",
        "--num_save_checkpoint 3 --max_steps 3",
        "--load_best_model_at_end --eval_steps 4 --save_steps 8",
        "--load_best_model_at_end --dataset_test_ratio 0 --val_dataset v",
        "--load_best_model_at_end --eval_strategy epoch --save_strategy epoch --save_steps 7",
        "--rlhf_type kto --ref_model r",
        "--streaming --max_steps 5 --dataset_test_ratio 0",
        "--adapters a/b --lora_dropout 0.1",
    ],
)
def test_values_that_go_together(words: str) -> None:
    assert problems(*words.split()) == ()


@pytest.mark.parametrize(
    ("words", "package"),
    [
        ("--report_to wandb", "wandb"),
        ("--report_to azure_ml", "azureml"),
        ("--deepspeed zero2", "deepspeed"),
        ("--attn_impl flash_attention_2", "flash_attn"),
        ("--quant_bits 4", "bitsandbytes"),
    ],
)
def test_packages_that_are_not_there(words: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consistency, "available", lambda name: name == "tensorboard")
    assert problems(*words.split()) == (f"{words} needs the package {package}, which is not installed",)
    assert problems(*words.split(), "--dry_run") == ()  # may be made on another machine
    monkeypatch.setattr(consistency, "available", lambda name: True)
    assert problems(*words.split()) == ()


def test_a_run_folder_is_not_a_checkpoint(tmp_path: Path) -> None:
    for number in (9, 10):
        (tmp_path / f"checkpoint-{number}").mkdir()
    newest = f"{tmp_path} is a run folder; its newest checkpoint is {tmp_path / 'checkpoint-10'}"
    assert problems("--ckpt", str(tmp_path)) == (f"--resume_from_checkpoint {newest}",)
    assert problems("--adapters", str(tmp_path)) == (f"--adapters {newest}",)
    (tmp_path / "trainer_state.json").write_text("{}")
    assert problems("--ckpt", str(tmp_path)) == ()


def test_a_folder_that_is_no_adapter(tmp_path: Path) -> None:
    found = problems("--adapters", str(tmp_path))
    assert len(found) == 1
    assert "has no adapter_config.json" in found[0]
    (tmp_path / "adapter_config.json").write_text("{}")
    assert problems("--adapters", str(tmp_path)) == ()
    shape = problems("--ckpt", str(tmp_path), "--resume_only_model", "--lora_alpha", "4")
    assert shape == ("--lora_alpha: not with --resume_only_model; the adapter's own shape is kept",)


def test_what_a_continued_run_remembers_is_not_given_anew(tmp_path: Path) -> None:
    saved = {"model": "m", "sft_type": "full", "lora_rank": 8, "dataset": ["d"]}
    (tmp_path / "args.json").write_text(json.dumps({"format": 1, "swiftlike": "0", "args": saved}))
    assert problems("--ckpt", str(tmp_path)) == ()


def test_a_run_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = problems("--output_dir", str(tmp_path / "file" / "out"))
    assert len(found) == 1
    assert f"{tmp_path / 'file'} is a file" in found[0]


def test_full_training_without_lora_flags_is_fine() -> None:
    assert problems("--sft_type", "full") == ()


def test_a_resumed_run_needs_no_model(tmp_path: Path) -> None:
    assert problems("--dataset", "d", "--ckpt", str(tmp_path), minimal=False) == ()

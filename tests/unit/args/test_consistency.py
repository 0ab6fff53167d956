"""What several values together show."""

from pathlib import Path

import pytest

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
        ("--trust_remote_code true", "code from a hub is never run"),
        ("--interleave_prob 0.5 0.5", "2 numbers for 1 data sets"),
        ("--interleave_prob 0.5", "adds up to 0.5"),
        ("--min_pixels 10 --max_pixels 5", "--min_pixels 10 is more than"),
        ("--resume_from_checkpoint /no/such", "no folder '/no/such'"),
        ("--resume_only_model true", "needs --resume_from_checkpoint"),
        ("--ignore_data_skip true", "needs --resume_from_checkpoint"),
        ("--sft_type full --lora_rank 4", "--lora_rank: only for --sft_type lora"),
        ("--sft_type full --quant_bits 4", "cannot be trained in full"),
        ("--target_regex x --target_modules ALL", "give one of them"),
        ("--streaming", "needs --max_steps"),
        ("--deepspeed zero2 --fsdp fsdp2", "both shard the model"),
        ("--load_best_model_at_end --eval_strategy no", "need --eval_strategy"),
        ("--plugin /no/such.py", "no file '/no/such.py'"),
        ("--rlhf_type cpo --loss_type simpo", "--rlhf_type simpo"),
    ],
)
def test_values_that_do_not_go_together(words: str, reason: str) -> None:
    found = problems(*words.split())
    assert len(found) == 1
    assert reason in found[0]


def test_full_training_without_lora_flags_is_fine() -> None:
    assert problems("--sft_type", "full") == ()


def test_a_resumed_run_needs_no_model(tmp_path: Path) -> None:
    assert problems("--dataset", "d", "--ckpt", str(tmp_path), minimal=False) == ()

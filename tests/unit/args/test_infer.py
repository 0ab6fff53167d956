"""What an `infer` command line can have wrong, said before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from swiftlike.args.infer import wants_rows
from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run
from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run

TINY = "--model_type tiny-llama"


def parsed(words: str) -> Run:
    return build_run(load("infer"), words.split(), {})[0]


@pytest.fixture(autouse=True)
def _checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder looks like a checkpoint."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "no model: give --ckpt_dir"),
        ("--ckpt_dir nowhere", "--ckpt_dir: no folder 'nowhere'"),
        ("--adapters a b --model m", "answers with one adapter"),
        (f"{TINY} --val_dataset d --train_dataset_sample 5", "--train_dataset_sample is for training"),
        (f"{TINY} --val_dataset d --max_length 5", "--max_length is for training"),
        (f"{TINY} --dataset d --dataset_test_ratio 0", "holds nothing of --dataset out"),
        ("--ckpt_dir . --load_data_args true --val_dataset d", "leave it or --val_dataset out"),
        (f"{TINY} --load_data_args true", "--load_data_args needs the --ckpt_dir"),
        (f"{TINY} --min_pixels 9 --max_pixels 8", "--min_pixels 9 is more than --max_pixels 8"),
        (f"{TINY} --top_logprobs 2", "--top_logprobs needs --logprobs true"),
        (f"{TINY} --num_beams 2 --logprobs true", "--logprobs: not with --num_beams"),
        (f"{TINY} --num_beams 2 --infer_backend vllm", "--num_beams: vllm has no beam search"),
        (f"{TINY} --do_sample true --temperature 0", "say opposite things"),
        (f"{TINY} --plugin none.py", "--plugin: no file 'none.py'"),
        (f"{TINY} --result_path .", "--result_path . is a folder"),
        (f"{TINY} --result_path a.csv", "give it the ending .jsonl"),
        (f"{TINY} --temperature -1 --top_p 2", "top_p"),
        (f"{TINY} --learning_rate 1", "not to `swiftlike infer`"),
    ],
)
def test_mistakes_are_said_at_once(words: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        parsed(words)
    assert said in str(caught.value)


def test_spellings_of_ms_swift() -> None:
    run = parsed(
        f"{TINY} --val_dataset d --show_dataset_sample 10 --stop_words a b --max_completion_tokens 7 "
        "--infer_backend transformers --top_k 5 --repetition_penalty 1.1 --stream true --result_path r.jsonl"
    )
    assert run.data.val_dataset_sample == 10
    assert (run.generate.stop, run.generate.max_new_tokens, run.use.infer_backend) == (["a", "b"], 7, "pt")
    assert wants_rows(run)
    assert parsed("--ckpt_dir . --load_dataset_config true").infer.load_data_args
    assert not wants_rows(parsed(TINY))


def test_what_a_checkpoint_remembers(tmp_path: Path) -> None:
    (tmp_path / "args.json").write_text(
        '{"model_type": "tiny-llama", "template": "chatml", "system": "Be kind.", "max_length": 50, "seed": 3}'
    )
    run = parsed(f"--ckpt_dir {tmp_path} --val_dataset d")
    assert (run.model.template, run.model.system) == ("chatml", "Be kind.")
    assert (run.data.max_length, run.generate.seed) == (None, None)

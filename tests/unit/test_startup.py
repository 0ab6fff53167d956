"""What a user sees before training starts comes from cold code: nothing heavy may be imported for it."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "datasets", "PIL", "numpy", "pydantic", "rich", "yaml", "peft", "accelerate")
CODE = """
import sys
from swiftlike.cli.main import main
try:
    main(sys.argv[2:])
except SystemExit as end:
    assert end.code == int(sys.argv[1]), end.code
found = [name for name in {heavy} if name in sys.modules]
assert not found, found
"""


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "--help"),
        (0, "--version"),
        (0, "rlhf --help"),
        (0, "rlhf --help simpo"),
        (0, "list models"),
        (0, "list datasets"),
        (0, "list losses --json"),
        (0, "list formats"),
        (0, "list flags"),
        (0, "convert --help"),
        (0, "env"),
        (0, "rlhf --model m --dataset d --show_config"),
        (2, "rlhf --lora_rnak 8 --eval_delay x"),
        (2, "rlfh"),
    ],
)
def test_cold_commands_import_nothing_heavy(code: int, words: str) -> None:
    script = CODE.format(heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", script, str(code), *words.split()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_only_the_chosen_command_is_imported() -> None:
    script = CODE.format(heavy=("swiftlike.cli.commands.rlhf", "swiftlike.losses", "swiftlike.model_registry"))
    done = subprocess.run([sys.executable, "-c", script, "0", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_training_imports_nothing_only_to_recognise_it(tmp_path: Path) -> None:
    """datasets, pandas and pyarrow cost half a second, DeepSpeed a third."""
    words = (
        "rlhf --rlhf_type dpo --model_type tiny-llama --dataset demo#8 --max_steps 1 --dataset_test_ratio 0 "
        f"--eval_strategy no --save_strategy no --report_to none --output_dir {tmp_path}"
    )
    heavy = ("datasets", "pandas", "pyarrow", "sklearn", "deepspeed")
    script = CODE.format(heavy=heavy)
    done = subprocess.run(
        [sys.executable, "-c", script, "0", *words.split()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

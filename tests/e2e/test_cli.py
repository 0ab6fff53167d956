"""The installed command as a user runs it: exit codes, messages, and what happens before any weight is read."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import swiftlike as package

from .conftest import Installed

TRAIN = ("--dataset_test_ratio", "0", "--batch_size", "4", "--report_to", "none", "--add_version", "false")
GOOD = {"query": "Which one is a fruit?", "response": "pear", "rejected_response": "saw"}
BAD = (
    ({**GOOD, "rejected_response": "pear"}, "chosen equals rejected: 'pear'"),
    ({**GOOD, "response": ""}, "empty answer: chosen"),
    ("{not json", "not JSON:"),
    ({**GOOD, "query": "<image>What is it?", "images": ["gone.png"]}, "image is missing:"),
    ({"query": "Which one?", "response": "pear"}, "no pair in it:"),
)


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A good row before each bad one: bad rows are on the even lines."""
    lines = [json.dumps({**GOOD, "query": f"Question {n}?"}) + "\n" + _line(bad) for n, (bad, _) in enumerate(BAD)]
    path = tmp_path / "planted.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def _line(row: object) -> str:
    return row if isinstance(row, str) else json.dumps(row)


@pytest.fixture
def poisoned(tiny: Callable[[str], Path], tmp_path: Path) -> Path:
    """A model folder whose weights cannot be read."""
    folder = shutil.copytree(tiny("tiny-llama"), tmp_path / "poisoned")
    (folder / "model.safetensors").write_bytes(b"poison")
    return folder


# -- without a model --------------------------------------------------------------------------------------------------


def test_exit_codes_and_messages_of_wrong_words(swiftlike: Installed) -> None:
    assert swiftlike("--version").out == f"swiftlike {package.__version__}\n"
    assert swiftlike("--help").code == 0
    unknown = swiftlike("tune")
    assert (unknown.code, unknown.out) == (2, "")
    wrong = swiftlike("rlhf", "--rlhf_type", "simop", "--lora_rnk", "8", "--beta", "much", "--packing", "true")
    assert (wrong.code, wrong.out) == (2, "")
    assert wrong.err.startswith("swiftlike: cannot start:\n")
    for text in ("did you mean 'simpo'?", "did you mean --lora_rank", "--beta", "--packing: not supported"):
        assert text in wrong.err
    assert "Traceback" not in wrong.err


def test_lists(swiftlike: Installed) -> None:
    losses = json.loads(swiftlike("list", "losses", "--json").out)
    assert {"dpo", "cpo", "simpo", "orpo", "kto", "sft"} <= {loss["name"] for loss in losses}
    assert "tiny-llama" in swiftlike("list", "models", "tiny").out
    assert "demo-vl" in swiftlike("list", "datasets").out
    assert swiftlike("list", "losses", "nothing-like-it").code == 2
    listed = swiftlike("list", "losses").out
    assert all(listed.count(f"{word}: ") == len(losses) for word in ("formula", "when", "defaults"))
    assert "swiftlike list losses exo" in listed.splitlines()[-1]


def test_env_names_the_software(swiftlike: Installed) -> None:
    words = swiftlike("env").out.split()
    assert words[words.index("swiftlike") + 1] == package.__version__
    assert {"torch", "transformers", "peft", "python"} <= set(words)


def test_show_config_says_where_values_come_from_and_stops(swiftlike: Installed) -> None:
    (swiftlike.folder / "run.yaml").write_text("model_type: tiny-llama\ndataset: demo\nlearning_rate: 1e-5\n")
    shown = swiftlike("rlhf", "run.yaml", "--rlhf-type=simpo", "--show_config", SWIFTLIKE_SEED="7")
    assert shown.code == 0
    table = {line.split()[0]: line.split(maxsplit=2)[1:] for line in shown.out.splitlines()}
    assert table["learning_rate"] == ["1e-05", "run.yaml"]
    assert table["seed"] == ["7", "environment SWIFTLIKE_SEED"]
    assert table["rlhf_type"] == ["simpo", "command line"]
    assert table["lora_rank"] == ["8", "default"]
    assert [path.name for path in swiftlike.folder.iterdir()] == ["run.yaml"]


def test_check_finds_every_planted_row(swiftlike: Installed, planted: Path) -> None:
    found = swiftlike("check", planted, "--rlhf_type", "dpo")
    assert found.code == 1
    for number, (_, reason) in enumerate(BAD, start=1):
        assert f"{planted}:{2 * number}: {reason}" in found.out
    report = json.loads(swiftlike("check", planted, "--json").out)
    assert report


def test_check_asks_the_objective_about_scores(swiftlike: Installed) -> None:
    row = {"prompt": "q", "completions": ["a", "b", "c"], "rewards": [1, 2, 3]}
    (swiftlike.folder / "three.jsonl").write_text(json.dumps(row) + "\n")
    words = ("check", "three.jsonl", "--rlhf_type", "exo")
    refused = swiftlike(*words)
    assert (refused.code, "three.jsonl:1: answers do not fill groups" in refused.out) == (1, True)
    assert swiftlike(*words, "--num_contrastive", "3").code == 0
    assert swiftlike("check", "three.jsonl", "--num_contrastive", "3").code == 2


def test_check_of_good_data(swiftlike: Installed) -> None:
    assert swiftlike("check", "demo#20", "demo-vl#20").code == 0
    assert swiftlike("check", "nowhere.jsonl").code == 2


# -- before weights ---------------------------------------------------------------------------------------------------


def test_dry_run_reads_no_weights_and_writes_nothing(swiftlike: Installed, poisoned: Path) -> None:
    words = ("rlhf", "--model", poisoned, "--dataset", "demo#40", *TRAIN)
    planned = swiftlike(*words, "--dry_run")
    assert planned.code == 0, planned.err
    for text in ("training groups: 40", "optimiser steps: 3", "parameters: 475,776", "peak memory"):
        assert text in planned.err
    assert list(swiftlike.folder.iterdir()) == []
    assert swiftlike(*words).code not in (0, 2)  # the poison is real


def test_bad_rows_stop_a_run_before_weights_are_read(swiftlike: Installed, poisoned: Path, planted: Path) -> None:
    stopped = swiftlike("rlhf", "--model", poisoned, "--dataset", planted, *TRAIN)
    assert stopped.code == 2
    for number, (_, reason) in enumerate(BAD, start=1):
        assert f"{planted}:{2 * number}: {reason}" in stopped.err
    assert "--on_bad_row drop" in stopped.err
    assert "Traceback" not in stopped.err
    assert list(swiftlike.folder.iterdir()) == []


def test_a_folder_that_is_not_there(swiftlike: Installed) -> None:
    for words in (("--model", "./gone"), ("--model_type", "tiny-lama")):
        result = swiftlike("rlhf", *words, "--dataset", "demo#4")
        assert result.code == 2
        assert "Traceback" not in result.err


# -- training ---------------------------------------------------------------------------------------------------------


def test_local_training_never_touches_the_network(
    swiftlike: Installed, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    """An own model folder and an own file; then DPO on the adapter, without naming the model again."""
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({**GOOD, "query": f"Question {n}?"}) + "\n" for n in range(8)))
    words = ("--dataset", data, *TRAIN, "--max_steps", "1")
    done = swiftlike("sft", *words, "--model", tiny("tiny-llama"), "--output_dir", "one")
    assert done.code == 0, done.err
    assert swiftlike.reached == ""
    run = swiftlike.folder / "one"
    assert {"args.json", "logging.jsonl", "images", "checkpoint-1"} <= {path.name for path in run.iterdir()}
    assert json.loads((run / "args.json").read_text())["args"]["model"] == str(tiny("tiny-llama"))
    again = swiftlike("rlhf", *words, "--adapters", run / "checkpoint-1", "--output_dir", "two")
    assert again.code == 0, again.err
    assert swiftlike.reached == ""


def test_the_block_would_be_noticed(swiftlike: Installed) -> None:
    result = swiftlike("rlhf", "--model", "somebody/some-model", "--dataset", "demo#4", *TRAIN)
    assert result.code == 2
    assert "cannot fetch 'somebody/some-model'" in result.err
    assert "snapshot_download" in swiftlike.reached


def several(processes: str) -> dict[str, str]:
    """Environment of that many processes without cards."""
    return {"NPROC_PER_NODE": processes, "CUDA_VISIBLE_DEVICES": ""}


def test_several_processes_report_an_error_once(swiftlike: Installed, planted: Path) -> None:
    words = ("rlhf", "--model_type", "tiny-llama", "--dataset", planted, *TRAIN)
    stopped = swiftlike(*words, **several("2"))
    assert stopped.code == 2, stopped.err
    assert stopped.err.count("swiftlike: the data has bad rows") == 1
    assert "Traceback" not in stopped.err
    assert "elastic" not in stopped.err


@pytest.mark.parametrize("processes", ["1", "2"])
def test_interrupted(processes: str, swiftlike: Installed) -> None:
    words = ("rlhf", "--model_type", "tiny-llama", "--dataset", "demo", *TRAIN, "--max_steps", "100000")
    argv = [swiftlike.path, *words, "--save_steps", "1", "--output_dir", "run"]
    # a shell's background jobs ignore Ctrl-C and hand that down: the command must not inherit it from the test runner
    heeding = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    where = {
        "env": swiftlike.env | several(processes),
        "cwd": swiftlike.folder,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    with subprocess.Popen(argv, **where, **heeding) as process:
        deadline = time.monotonic() + 200
        while process.poll() is None and not list(swiftlike.folder.glob("run/*/swiftlike.json")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, text = process.communicate(timeout=60)
    assert process.returncode == 130
    assert text.endswith("swiftlike: stopped\n")
    assert "Traceback" not in text

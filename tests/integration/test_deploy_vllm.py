"""The process that stands between a user and vLLM's own server, and what the model is called there and here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run
from swiftlike.core.errors import UserError
from swiftlike.pipelines.deploy import names_of, with_data
from swiftlike.pipelines.serving import open_model

from .test_deploy import adapter

# Says who it and its child are; ends with 7 at SIGTERM, or never when it is stubborn.
CHILD = """
import os, signal, subprocess, sys, time
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), other.pid, flush=True)
stubborn = "stubborn" in sys.argv
signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn else lambda *_: sys.exit(7))
print("ready", flush=True)
while True:
    time.sleep(0.1)
"""
OURS = """
import os, sys
from swiftlike.pipelines.deploy_vllm import supervise
sys.exit(supervise([sys.executable, "-c", *sys.argv[1:]], dict(os.environ)))
"""


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(*pids: int) -> bool:
    end = time.monotonic() + 30
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(alive, pids))


def supervised(*words: str) -> tuple[subprocess.Popen[str], tuple[int, int]]:
    """Our process, and the ids of its child and grandchild."""
    process = subprocess.Popen([sys.executable, "-c", OURS, CHILD, *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child, other = map(int, process.stdout.readline().split())
    assert process.stdout.readline() == "ready\n"
    return process, (child, other)


def test_a_signal_is_handed_on_and_nothing_is_left() -> None:
    process, pids = supervised()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert gone(*pids)


def test_a_second_signal_ends_the_whole_group() -> None:
    process, pids = supervised("stubborn")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGKILL
    assert gone(*pids)


def test_the_child_ends_when_we_are_killed() -> None:
    process, (child, other) = supervised()
    try:
        process.kill()
        assert gone(child)
    finally:
        os.kill(other, signal.SIGKILL)  # a program's own children are its own care


def test_an_exit_code_of_the_child_is_ours() -> None:
    done = subprocess.run([sys.executable, "-c", OURS, "raise SystemExit(3)"], check=False)
    assert done.returncode == 3


def test_flags_that_vllm_does_not_know_are_refused() -> None:
    words = ["--model_type", "tiny-llama", "--infer_backend", "vllm", "--max_queue", "5"]
    with pytest.raises(UserError, match="--max_queue says nothing"):
        build_run(load("deploy"), words, {})


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("", {"tiny-llama": ""}),
        ("--served_model_name a b", {"a": "", "b": ""}),
        ("--adapters x={one}", {"tiny-llama": "", "x": "x"}),
        ("--adapters {one}", {"one": "one"}),
        ("--adapters {one} --served_model_name a", {"a": "one"}),
        ("--ckpt_dir {one} --adapters x={one}", {"one": "one", "x": "x"}),
    ],
)
def test_names_of_the_model_and_its_adapters(tmp_path: Path, words: str, names: dict[str, str]) -> None:
    adapter(tmp_path / "one", 1)
    asked = ["--model_type", "tiny-llama", *words.format(one=tmp_path / "one").split()]
    run, _ = build_run(load("deploy"), asked, {})
    assert names_of(run, open_model(with_data(run))) == names

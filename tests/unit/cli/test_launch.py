"""Which process runs where."""

import sys
from pathlib import Path

import pytest

from swiftlike.cli import launch
from swiftlike.core.errors import UserError
from swiftlike.pipelines import elastic


def test_one_process_is_not_launched() -> None:
    assert launch.plan({}) is None
    assert launch.plan({"NPROC_PER_NODE": "1", "NNODES": "1"}) is None
    assert launch.plan({"NPROC_PER_NODE": "2", "LOCAL_RANK": "0"}) is None


def test_the_torchrun_command() -> None:
    env = {"NPROC_PER_NODE": "2", "NNODES": "3", "NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29501"}
    plan = launch.plan(env)
    assert plan is not None
    text = " ".join(plan.command(["rlhf", "--system", "a b"])[1:])
    assert text == (
        "-m swiftlike.pipelines.elastic --nproc_per_node 2 --nnodes 3 --node_rank 1 --master_addr 10.0.0.1 "
        "--master_port 29501 -m swiftlike rlhf --system a b"
    )


def test_where_processes_meet() -> None:
    words = {
        "--standalone": {"NPROC_PER_NODE": "2"},
        "--nnodes 1 --node_rank 0 --master_addr 127.0.0.1 --master_port 29501": {
            "NPROC_PER_NODE": "2",
            "MASTER_PORT": "29501",
        },
        "--nnodes 2 --node_rank 0 --master_addr 127.0.0.1 --master_port 29500": {"NNODES": "2"},
        "--standalone --max_restarts 3": {"MAX_RESTARTS": "3"},
        "--nnodes 2 --rdzv_backend c10d --rdzv_endpoint far:29500 --max_restarts 3": {
            "NNODES": "2",
            "MASTER_ADDR": "far",
            "MAX_RESTARTS": "3",
        },
    }
    for expected, env in words.items():
        plan = launch.plan(env)
        assert plan is not None
        assert f" {expected} -m swiftlike" in " ".join(plan.command(["sft"]))


@pytest.mark.parametrize(
    "env",
    [
        {"NPROC_PER_NODE": "two"},
        {"NPROC_PER_NODE": "0"},
        {"NPROC_PER_NODE": "2", "MASTER_PORT": "x"},
        {"NNODES": "2", "NODE_RANK": "2"},
    ],
)
def test_numbers_that_make_no_sense(env: dict[str, str]) -> None:
    with pytest.raises(UserError):
        launch.plan(env)


def test_start_becomes_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    class Replaced(BaseException):
        """execvp does not return."""

    def execvp(file: str, words: list[str]) -> None:
        raise Replaced(file, words)

    monkeypatch.setattr(launch.os, "execvp", execvp)
    with pytest.raises(Replaced) as caught:
        launch.start(["rlhf"], {"NPROC_PER_NODE": "2", "CUDA_VISIBLE_DEVICES": "0,1,2,3"})
    assert caught.value.args[0] == sys.executable
    launch.start(["rlhf"], {})  # one process: returns
    with pytest.raises(UserError, match="3 visible cards"):
        launch.start(["rlhf"], {"NPROC_PER_NODE": "2", "CUDA_VISIBLE_DEVICES": "0,1,2"})


@pytest.mark.parametrize(
    ("text", "names"), [("", []), ("-1", []), ("0, 2", ["0", "2"]), ("1,-1,2", ["1"]), ("GPU-a", ["GPU-a"])]
)
def test_visible_devices(text: str, names: list[str]) -> None:
    assert launch.visible_devices({"CUDA_VISIBLE_DEVICES": text}) == names


def test_one_of_several_processes_speaks(tmp_path: Path) -> None:
    env = {launch.SPOKEN: str(tmp_path / "spoken"), "RANK": "1"}
    assert [launch.speaks(env) for _ in range(3)] == [True, False, False]
    assert launch.speaks(env | {"TORCHELASTIC_RESTART_COUNT": "1"})
    assert launch.speaks(env | {"MASTER_PORT": "29501"})  # started again, and torchrun does not count it
    assert launch.speaks({"RANK": "1"})
    assert launch.speaks({launch.SPOKEN: str(tmp_path / "gone" / "spoken")})
    assert elastic.SPOKEN == launch.SPOKEN
    assert elastic.__name__ == launch.TORCHRUN

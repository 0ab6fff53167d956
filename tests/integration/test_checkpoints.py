"""Checkpoints that are checked before they are used, and disks that are full while one is written."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swiftlike.core.checksums import damaged
from swiftlike.core.errors import UserError
from swiftlike.core.files import latest, newest_checkpoint, whole_checkpoints

from .runs import Ran, start, started_by, train

COMMON = {"model_type": "tiny-llama", "rlhf_type": "dpo", "save_strategy": "steps", "save_steps": 1, "batch_size": 4}


@pytest.fixture(scope="module")
def ran(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A run with a checkpoint after each of its three steps."""
    out = tmp_path_factory.mktemp("ran")
    return train("rlhf", out, **COMMON, dataset=pairs, max_steps=3, save_total_limit=9, add_version=False)


@pytest.fixture
def copy(ran: Ran, tmp_path: Path) -> Path:
    """The run's folder, to do with as one likes."""
    return shutil.copytree(ran.folder, tmp_path / "copy")


def test_the_sums_are_what_another_program_computes(ran: Ran) -> None:
    for folder in whole_checkpoints(ran.folder):
        checked = subprocess.run(
            ["sha256sum", "--strict", "--check", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=True
        )
        names = {path.name for path in folder.iterdir()} - {"SHA256SUMS", "swiftlike.json"}
        assert {line.removesuffix(": OK") for line in checked.stdout.splitlines()} == names
        assert damaged(folder) == []


# -- damage -----------------------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "optimizer.pt": (cut, "truncated: "),
    "adapter_model.safetensors": (flip, "its content has changed"),
    "scheduler.pt": (Path.unlink, "missing"),
    "objective_0.pt": (flip, "its content has changed"),
    "args.json": (cut, "truncated: "),
    "trainer_state.json": (flip, "its content has changed"),
    "SHA256SUMS": (flip, "its content has changed"),
    "swiftlike.json": (cut, "its content has changed"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_the_one_before_is_offered(name: str, copy: Path, pairs: Path, tmp_path: Path) -> None:
    damage, words = DAMAGE[name]
    damage(copy / "checkpoint-3" / name)
    with pytest.raises(UserError, match="checkpoint-3 is damaged") as caught:
        train("rlhf", tmp_path / "rest", resume_from_checkpoint=copy / "checkpoint-3")
    assert [problem.startswith(f"{name}: {words}") for problem in caught.value.problems] == [True]
    assert caught.value.hint.endswith(f"--resume_from_checkpoint {copy / 'checkpoint-2'}")
    assert not (tmp_path / "rest").exists()


def test_a_damaged_one_is_not_offered_either(copy: Path, tmp_path: Path) -> None:
    for number in (2, 3):
        cut(copy / f"checkpoint-{number}" / "optimizer.pt")
    with pytest.raises(UserError) as caught:
        train("rlhf", tmp_path / "rest", resume_from_checkpoint=copy / "checkpoint-3")
    assert caught.value.hint.endswith(f"--resume_from_checkpoint {copy / 'checkpoint-1'}")


def test_weights_alone_are_checked_as_well(copy: Path, pairs: Path, tmp_path: Path) -> None:
    flip(copy / "checkpoint-3" / "adapter_model.safetensors")
    flags = {"dataset": pairs, "resume_from_checkpoint": copy / "checkpoint-3", "resume_only_model": True}
    with pytest.raises(UserError, match=r"adapter_model\.safetensors"):
        train("rlhf", tmp_path / "rest", **flags)


def test_one_of_two_processes_reads_it_and_both_leave(copy: Path, tmp_path: Path) -> None:
    cut(copy / "checkpoint-3" / "optimizer.pt")
    flags = {"batch_size": 2, "resume_from_checkpoint": copy / "checkpoint-3"}  # each: else that is refused as well
    process = start("rlhf", tmp_path / "rest", processes=2, **flags)
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 2
    assert text.count("checkpoint-3 is damaged") == 1
    assert "Traceback" not in text
    assert "training groups" not in text
    assert started_by(process) == []


def test_a_checkpoint_without_sums_is_still_continued(copy: Path, tmp_path: Path) -> None:
    """As older versions wrote them."""
    folder = copy / "checkpoint-2"
    mark = json.loads((folder / "swiftlike.json").read_text())
    (folder / "swiftlike.json").write_text(json.dumps({"step": mark["step"], "data": mark["data"]}))
    (folder / "SHA256SUMS").unlink()
    rest = train("rlhf", tmp_path / "rest", **COMMON, max_steps=3, resume_from_checkpoint=folder)
    assert [line["step"] for line in rest.lines] == ["3/3"]


def test_an_unfinished_one_is_passed_over_aloud(copy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (copy / "checkpoint-3" / "swiftlike.json").unlink()
    assert newest_checkpoint(copy) == copy / "checkpoint-2"
    assert "checkpoint-3 is not whole; checkpoint-2 is taken" in caplog.text
    with pytest.raises(UserError, match=r"is a run folder; its newest checkpoint is .*checkpoint-2"):
        train("rlhf", tmp_path / "rest", resume_from_checkpoint=copy)
    with pytest.raises(UserError, match="is not a whole checkpoint") as caught:
        train("rlhf", tmp_path / "rest", resume_from_checkpoint=copy / "checkpoint-3")
    assert f"--resume_from_checkpoint {copy / 'checkpoint-2'}" in caught.value.hint


# -- which ones are kept ----------------------------------------------------------------------------------------------


def test_the_oldest_goes_whatever_the_clock_says(pairs: Path, tmp_path: Path) -> None:
    """Files from the future are what a clock leaves that was set back."""
    flags = COMMON | {"dataset": pairs, "save_total_limit": 2, "add_version": False}
    train("rlhf", tmp_path, **flags, max_steps=2)
    later = time.time() + 1e8
    for path in [*tmp_path.glob("checkpoint-*"), *tmp_path.glob("checkpoint-*/*")]:
        os.utime(path, (later, later))
    train("rlhf", tmp_path, **flags, max_steps=4, resume_from_checkpoint=tmp_path / "checkpoint-2")
    assert [path.name for path in whole_checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-4"]


def test_an_unfinished_one_does_not_drive_out_a_whole_one(pairs: Path, tmp_path: Path) -> None:
    flags = COMMON | {"dataset": pairs, "save_total_limit": 1, "add_version": False}
    (tmp_path / "checkpoint-9").mkdir()
    (tmp_path / "checkpoint-9" / "optimizer.pt").write_bytes(b"half")
    train("rlhf", tmp_path, **flags, max_steps=2)
    assert [path.name for path in whole_checkpoints(tmp_path)] == ["checkpoint-2"]


# -- full disks -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 9 MiB: room for one checkpoint, not for two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_leaves_the_last_checkpoint(processes: int, small_disk: Path, pairs: Path, tmp_path: Path) -> None:
    """With one kept, the one before goes only when the next one is whole; nothing half is left to be taken for one."""
    flags = COMMON | {"dataset": pairs, "max_steps": 4, "save_total_limit": 1, "add_version": False}
    flags |= {"sft_type": "full", "learning_rate": 1e-4, "batch_size": 4 // processes}
    process = start("rlhf", small_disk, processes=processes, **flags)
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 2, text
    assert "Traceback" not in text, text
    assert text.count("checkpoint-2 cannot be written") == 1, text
    assert f"the newest whole checkpoint is {small_disk / 'checkpoint-1'}" in text
    assert [path.name for path in small_disk.glob("checkpoint-*")] == ["checkpoint-1"]
    assert started_by(process) == []
    assert damaged(small_disk / "checkpoint-1") == []
    if processes == 1:
        rest = train("rlhf", tmp_path / "rest", **flags | {"resume_from_checkpoint": small_disk / "checkpoint-1"})
        assert [line["step"] for line in rest.lines] == ["2/4", "3/4", "4/4"]


def test_a_file_that_may_not_grow(pairs: Path, tmp_path: Path) -> None:
    """What a quota does, in the middle of a run: files of more than 100 bytes fail from then on."""
    flags = COMMON | {"dataset": pairs, "max_steps": 2000, "add_version": False}
    process = start("rlhf", tmp_path, **flags)
    deadline = time.monotonic() + 240
    while not whole_checkpoints(tmp_path):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100, 100))
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 2, text
    assert "Traceback" not in text, text
    assert damaged(latest(tmp_path)) == []
    assert str(latest(tmp_path)) in text

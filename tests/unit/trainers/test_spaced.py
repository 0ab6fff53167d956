"""Links to checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from swiftlike.core.files import WHOLE
from swiftlike.trainers.spaced import name_checkpoints


def saved(folder: Path, *steps: int) -> Path:
    for step in steps:
        (folder / f"checkpoint-{step}").mkdir(parents=True)
        (folder / f"checkpoint-{step}" / WHOLE).write_text("{}")
    return folder


def links(folder: Path) -> dict[str, str]:
    return {one.name: str(one.readlink()) for one in folder.iterdir() if one.is_symlink()}


def test_only_whole_checkpoints_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path, 2, 4, 7)
    (tmp_path / "checkpoint-4" / WHOLE).unlink()
    name_checkpoints(tmp_path, [2, 4, 7])
    assert links(tmp_path) == {"ckpt1": "checkpoint-2", "ckpt3": "checkpoint-7"}
    assert (tmp_path / "ckpt3" / WHOLE).is_file()


def test_names_follow_the_steps_they_are_asked_for(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3)
    name_checkpoints(tmp_path, [1, 2, 3])
    (tmp_path / "ckpts").mkdir()
    name_checkpoints(tmp_path, [2])
    assert links(tmp_path) == {"ckpt1": "checkpoint-2"}
    assert (tmp_path / "ckpts").is_dir()
    assert not [one.name for one in tmp_path.iterdir() if one.name.startswith(".")]


def test_those_of_the_run_before_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, folder = saved(tmp_path / "a" / "v0", 2, 4), saved(tmp_path / "v1", 4, 6)
    monkeypatch.chdir(tmp_path)
    name_checkpoints(Path("v1"), [2, 4, 6], before)
    assert links(folder) == {"ckpt1": "../a/v0/checkpoint-2", "ckpt2": "checkpoint-4", "ckpt3": "checkpoint-6"}
    assert (folder / "ckpt1" / WHOLE).is_file()

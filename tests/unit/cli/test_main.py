"""The command as a user meets it: output, exit codes, nothing heavy."""

import json
from pathlib import Path

import pytest

import swiftlike
from swiftlike.cli.main import main

MINIMAL = ["--model", "m", "--dataset", "d"]


class Result:
    def __init__(self, code: object, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    for name in ("NPROC_PER_NODE", "NNODES", "LOCAL_RANK", "MAX_PIXELS"):
        monkeypatch.delenv(name, raising=False)

    def call(*words: str) -> Result:
        with pytest.raises(SystemExit) as caught:
            main(list(words))
        return Result(caught.value.code, *capsys.readouterr())

    return call


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("help",)])
def test_the_overview(run, words: tuple[str, ...]) -> None:
    result = run(*words)
    assert result.code == 0
    for name in ("sft", "rlhf", "check", "list", "env"):
        assert f"  {name} " in result.out
    assert max(map(len, result.out.splitlines())) <= 100


def test_version(run) -> None:
    assert run("--version").out == f"swiftlike {swiftlike.__version__}\n"


def test_an_unknown_command_gets_a_suggestion(run) -> None:
    result = run("rlfh", *MINIMAL)
    assert (result.code, result.out) == (2, "")
    assert "did you mean 'rlhf'?" in result.err
    assert run("--rlhf_type", "dpo").code == 2


def test_v2_commands_of_objectives(run) -> None:
    result = run("simpo", *MINIMAL, "--show_config")
    assert result.code == 0
    assert ["rlhf_type", "simpo", "command", "line"] in [line.split() for line in result.out.splitlines()]
    assert run("simpo", *MINIMAL, "--rlhf_type", "dpo").code == 2


def test_every_value_and_where_it_came_from(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWIFTLIKE_LORA_RANK", "4")
    monkeypatch.setenv("MAX_PIXELS", "1000")
    path = tmp_path / "run.yaml"
    path.write_text("model: m\nbatch-size: 3\nlora_rank: 2\nlearning_rate: 1e-5\n")
    lines = run("rlhf", str(path), "--dataset", "d", "--seed", "7", "--show-config").out.splitlines()
    table = {line.split()[0]: line.split(maxsplit=2)[1:] for line in lines}
    assert table["lora_rank"] == ["4", "environment SWIFTLIKE_LORA_RANK"]
    assert table["max_pixels"] == ["1000", "environment MAX_PIXELS"]
    assert table["batch_size"] == ["3", str(path)]
    assert table["learning_rate"] == ["1e-05", str(path)]
    assert table["seed"] == ["7", "command line"]
    assert table["lora_alpha"] == ["32", "default"]


def test_all_problems_at_once_and_no_traceback(run) -> None:
    result = run("rlhf", "--lora_rnak", "8", "--rlhf_type", "simop", "--dataset", "d", "--packing", "true")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("swiftlike: cannot start:\n  - ")
    for text in ("did you mean --lora_rank", "did you mean 'simpo'?", "--packing: not supported (yet)"):
        assert text in result.err
    assert "Traceback" not in result.err


def test_a_flag_of_another_objective_or_command_is_refused(run) -> None:
    assert (
        "--simpo_gamma belongs to rlhf_type=simpo, not rlhf_type=dpo" in run("rlhf", *MINIMAL, "--simpo_gamma", "1").err
    )
    assert "belongs to `swiftlike rlhf`" in run("sft", *MINIMAL, "--ref_model", "x").err
    assert "with rlhf_type=simpo" in run("sft", *MINIMAL, "--simpo_gamma", "1").err


def test_help_of_a_command_a_group_and_a_flag(run) -> None:
    whole = run("rlhf", "--help").out
    assert "loss, when rlhf_type=simpo:" in whole
    assert "loss, when rlhf_type=dpo:" in whole
    assert max(map(len, whole.splitlines())) <= 100
    chosen = run("simpo", "--help").out
    assert "loss, when rlhf_type=simpo:" in chosen
    assert "rlhf_type=dpo:" not in chosen
    group = run("rlhf", "--help", "simpo").out
    assert group.startswith("loss, when rlhf_type=simpo:\n  --beta FLOAT")
    assert run("rlhf", "--help", "loss").out.count("loss, when") >= 5
    assert run("rlhf", "-h", "--lora-rank").out.startswith("tuner:\n  --lora_rank INT")
    assert "did you mean 'model'?" in run("rlhf", "--help", "modle").err


def test_every_command_has_help_in_100_columns(run) -> None:
    for name in ("sft", "check", "list", "env"):
        result = run(name, "--help")
        assert result.out.startswith(f"Usage: swiftlike {name} ")
        assert max(map(len, result.out.splitlines())) <= 100


@pytest.mark.parametrize("kind", ["models", "datasets", "losses", "flags"])
def test_lists(run, kind: str) -> None:
    entries = json.loads(run("list", kind, "--json").out)
    assert entries
    first = entries[0]["name"]
    assert first in run("list", kind, first).out
    assert len(json.loads(run("list", kind, first, "--json").out)) < len(entries)
    assert run("list", kind, "no-such-name").code == 2


def test_lists_narrow_to_checkpoints_and_aliases(run) -> None:
    models = run("list", "models", "internvl2-2b").out
    assert "internvl2-2b " in models
    assert "internvl2-8b" not in models
    assert run("list", "flags", "per_device_train*").out.startswith("--batch_size")
    assert "2.0" in run("list", "flags", "beta").out


def test_list_without_a_kind(run) -> None:
    assert "models|datasets|losses|formats|flags" in run("list").err
    assert "did you mean 'losses'?" in run("list", "lossse").err


def test_env(run) -> None:
    found = json.loads(run("env", "--json").out)
    assert found["software"]["swiftlike"] == swiftlike.__version__
    assert found["hardware"]["cpus"] >= 1
    assert "typer" in run("env").out


def test_an_objective_and_a_flag_from_a_plugin(run, tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from __future__ import annotations\n"
        "from typing import Literal\n"
        "from swiftlike.core.declare import arg, section\n"
        "from swiftlike.losses import LOSSES\n"
        "from swiftlike.losses.base import LossCard\n"
        "@section\n"
        "class MineArgs:\n"
        "    mine_gamma: float = arg(3.0, 'of mine')\n"
        "    mine_kind: Literal['a', 'b'] = arg('a', 'of mine')\n"
        "LOSSES.add(LossCard(name='mine', fn=None, args=MineArgs, data='pair', paper='', summary='', words=str))\n"
    )
    words = ("rlhf", *MINIMAL, "--external_plugins", str(plugin), "--rlhf_type", "mine", "--mine_gamma", "4")
    try:
        assert "mine_gamma" in run(*words, "--show_config").out
        assert run("rlhf", "--plugin", str(plugin), "--help", "mine").out.startswith("loss, when rlhf_type=mine:")
    finally:
        _forget("mine")


def _forget(name: str) -> None:
    from swiftlike.losses import LOSSES

    LOSSES._cards.pop(name, None)
    LOSSES._extra[:] = [card for card in LOSSES._extra if card.name != name]


def test_a_broken_plugin_is_named_with_its_line(run, tmp_path: Path) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_text("x = 1\nraise RuntimeError('no')\n")
    result = run("rlhf", *MINIMAL, "--plugin", str(plugin))
    assert result.code == 2
    assert f"{plugin}:2: RuntimeError: no" in result.err


def test_interrupts_and_exit_codes_of_pipelines(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("swiftlike.cli.machine.run", interrupted)
    assert run("env").code == 130
    monkeypatch.setattr("swiftlike.cli.machine.run", lambda _: 3)
    assert run("env").code == 3

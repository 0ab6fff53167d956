"""`swiftlike iterate` with the recipes that are shipped: they expand, their flags exist, and AIPO's demo learns."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from swiftlike.cli.commands import COMMANDS
from swiftlike.cli.commands import load as command
from swiftlike.cli.recipes import problems_of
from swiftlike.pipelines.iterate.reading import BUILT_IN
from swiftlike.pipelines.iterate.recipe import PROGRAM, Recipe, load
from tests.e2e.conftest import Installed, Result

SHIPPED = sorted(BUILT_IN.glob("*.yaml"))
KINDS = {name: stage for name in COMMANDS if (stage := command(name).stage) is not None}
PUBLISHED = {
    "aipo": "ultrafeedback-self_instruct-pair_rm",
    "aipo_fixed_prompts": "ultrafeedback-pair_rm",
    "aipo_fixed_pairs": "ultrafeedback",
}
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "iterate.md"
WRITTEN = re.findall(r'^```yaml title="([^"]+)"\n(.*?)^```$', GUIDE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
ROUND = (
    *("self_instruct", "generate_responses", "pair_rm", "filter", "train", "dpo"),
    *("evaluation_answers", "evaluation_rewards", "evaluation"),
)
SMALLER = ("max_iter=1", "self_instruct.n_instructions_to_generate_total=96")


def shipped(name: str, *overrides: str) -> Recipe:
    return load(BUILT_IN / f"{name}.yaml", overrides, KINDS)


def value(recipe: Recipe, step: str, flag: str) -> str:
    words = next(one.words for one in recipe.steps if one.name == step)
    return words[words.index(f"--{flag}") + 1]


def wrong_flags(recipe: Recipe) -> list[str]:
    commands = [step for step in recipe.steps if step.kind != PROGRAM]
    return [f"{step.name}: {problem}" for step in commands for problem in problems_of(step.words)]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_recipe_expands_to_commands_that_exist(path: Path) -> None:
    recipe = load(path, [], KINDS)
    assert recipe.steps
    assert wrong_flags(recipe) == []


@pytest.mark.parametrize(("name", "text"), WRITTEN)
def test_recipes_of_the_guide_expand_to_commands_that_exist(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert wrong_flags(load(tmp_path / name, [], KINDS)) == []


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_environment_names_of_the_original(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for one in ("LOG_ROOT", "PROJECT_NAME", "EXPERIMENT_NAME", "MAX_ITER"):
        monkeypatch.delenv(one, raising=False)
    assert shipped(name).root == Path("output/aipo", PUBLISHED[name])
    assert {step.place for step in shipped(name).steps} == {(), *(((("iter", n)),) for n in range(3))}
    monkeypatch.setenv("LOG_ROOT", "/logs")
    monkeypatch.setenv("PROJECT_NAME", "project")
    monkeypatch.setenv("EXPERIMENT_NAME", "experiment")
    monkeypatch.setenv("MAX_ITER", "0")
    recipe = shipped(name)
    assert next(step.folder for step in recipe.steps if step.key == "dpo") == Path("/logs/project/experiment/iter0/dpo")
    assert {step.place for step in recipe.steps} == {(), (("iter", 0),)}


def test_every_iteration_goes_on_from_the_one_before() -> None:
    recipe = shipped("aipo", "model=mine", "output_dir=/out")
    for step in ("self_instruct", "generate_responses", "filter", "train"):
        models = [value(recipe, f"iter{n}/{step}", "model") for n in range(3)]
        assert models == ["mine", "/out/iter0/dpo", "/out/iter1/dpo"]
    assert value(recipe, "iter1/pair_rm", "dataset") == "/out/iter1/generate_responses/responses.jsonl"
    assert value(recipe, "iter1/train", "dataset") == "/out/iter1/filter/train.jsonl"


def test_what_the_fixed_recipes_leave_out() -> None:
    keys = {name: {step.key for step in shipped(name).steps} for name in PUBLISHED}
    assert keys["aipo"] - keys["aipo_fixed_prompts"] == {"self_instruct"}
    assert keys["aipo_fixed_prompts"] - keys["aipo_fixed_pairs"] == {"generate_responses", "pair_rm"}
    assert value(shipped("aipo_fixed_prompts", "prompts=p.jsonl"), "iter1/generate_responses", "dataset") == "p.jsonl"
    assert value(shipped("aipo_fixed_pairs", "pairs=p.jsonl"), "iter1/filter", "dataset") == "p.jsonl"


@pytest.mark.parametrize("rank", [["scorer=reward", "model=rm"], ["scorer=judge", "judge_model=gpt", "judge_url=u"]])
def test_another_ranker(rank: list[str]) -> None:
    recipe = shipped("aipo", *(f"rank.{one}" for one in rank))
    words = next(step.words for step in recipe.steps if step.name == "iter0/pair_rm")
    assert problems_of(words) == []
    assert {f"--{one.partition('=')[0]}" for one in rank} <= set(words)


def test_plain_dpo_as_the_original_trains_it() -> None:
    none = ("train.aipo_alpha=null", "train.aipo_lambda=null")
    recipe = shipped("aipo", "train.rlhf_type=dpo", "train.rpo_alpha=0", *none)
    words = next(step.words for step in recipe.steps if step.name == "iter0/train")
    assert problems_of(words) == []
    assert not any(word.startswith("--aipo") for word in words)


@pytest.mark.parametrize("sft_type", ["full", "lora"])
def test_an_adapter_is_merged(sft_type: str) -> None:
    recipe = shipped("aipo", f"train.sft_type={sft_type}")
    assert value(recipe, "iter0/dpo", "merge_lora") == str(sft_type == "lora").lower()


@pytest.mark.parametrize("name", PUBLISHED)
def test_dry_run_of_a_published_recipe(swiftlike: Installed, name: str) -> None:
    done = swiftlike("iterate", name, "--dry_run")
    assert done.code == 0, done.err
    assert "swiftlike rlhf --rlhf_type aipo --beta 0.1" in done.out
    assert "# report (run: not begun)" in done.out
    assert not list(swiftlike.folder.iterdir())


def iterate(swiftlike: Installed, *words: str) -> Result:
    """As `swiftlike(...)`, with the time that a whole pipeline takes."""
    argv = [str(swiftlike.path), "iterate", *words]
    done = subprocess.run(
        argv, env=swiftlike.env, cwd=swiftlike.folder, capture_output=True, text=True, timeout=2400, check=False
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.mark.slow
def test_the_demo_learns_and_is_done_once(swiftlike: Installed) -> None:
    done = iterate(swiftlike, "demo_aipo", *SMALLER)
    assert done.code == 0, done.err
    assert not swiftlike.reached
    root = swiftlike.folder / "output" / "demo" / "aipo"
    for n in range(2):
        assert {one.name for one in (root / f"iter{n}").iterdir()} == set(ROUND)
        assert (root / f"iter{n}" / "dpo" / "model.safetensors").is_file()
    assert (root / "report" / "plot.png").read_bytes().startswith(b"\x89PNG")
    rows = {row["name"]: row for row in json.loads((root / "report" / "table.json").read_text())}
    assert list(rows) == ["start", "iter0", "iter1"]
    rewards = [rows[name]["mean_reward"] for name in rows]
    assert rewards[1] > rewards[0] + 0.03
    assert rewards[2] > rewards[0] + 0.1
    assert rows["iter1"]["win_rate_lower"] > 0.5

    status = iterate(swiftlike, "status", "demo_aipo", *SMALLER)
    assert status.out.count(" done ") == 5 + 2 * len(ROUND) + 1, status.out
    assert re.findall("to do|failed|again", status.out) == []

    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file() and path.name != ".lock"}
    assert iterate(swiftlike, "demo_aipo", *SMALLER).code == 0
    after = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before

    other = (*SMALLER[1:], "max_iter=0", "train.learning_rate=1e-5")
    said = iterate(swiftlike, "demo_aipo", *other, "--dry_run").out
    assert "# iter0/filter (done)" in said
    assert "# iter0/train (run: --learning_rate 0.0005 -> 1e-05)" in said
    assert "# iter0/dpo (run: after iter0/train)" in said
    done = iterate(swiftlike, "demo_aipo", *other)
    assert done.code == 0, done.err
    again = {path for path, time in before.items() if not path.exists() or path.stat().st_mtime_ns != time}
    stages = {path.relative_to(root / "iter0").parts[0] for path in again if (root / "iter0") in path.parents}
    assert stages == set(ROUND[ROUND.index("train") :])

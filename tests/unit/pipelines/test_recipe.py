"""Recipes: what they expand to, and what is wrong with them."""

from pathlib import Path

import pytest

from swiftlike.core.declare import Stage
from swiftlike.core.errors import UserError
from swiftlike.pipelines.iterate.recipe import Recipe, load, words_of

KINDS = {
    "sample": Stage(output="responses.jsonl", flag="output", resumes=True, sharded=True),
    "rlhf": Stage(output=".", flag="output_dir", trains=True),
    "report": Stage(output=".", flag="output_dir"),
}
TEXT = """
model: base
output_dir: OUT
max_iter: 1
train: {learning_rate: 1.0e-6, report_to: []}
stages:
  seeds: {program: [make, "${out:seeds}", "${model}"], output: seeds.jsonl}
  iter:
    from: 0
    to: ${max_iter}
    stages:
      generate:
        command: sample
        args: {model: "${last:train,${model}}", dataset: "${out:seeds}#10", iteration: "${iter}"}
      train:
        command: rlhf
        nproc_per_node: 2
        options: ${train}
        args: {model: "${last:train,${model}}", dataset: "${out:generate}"}
  report:
    command: report
    args:
      results: ${named:train}
      model: ${last:train}
      all: ["${all:generate}", "${named:generate,of}"]
"""


def expanded(folder: Path, text: str = TEXT, *overrides: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(text.replace("OUT", str(folder / "out")), encoding="utf-8")
    return load(path, overrides, KINDS)


def refused(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        expanded(folder, text, *overrides)
    return str(error.value)


def test_rounds_refer_to_what_came_before(tmp_path: Path) -> None:
    recipe = expanded(tmp_path)
    out = f"{tmp_path}/out"
    assert [step.name for step in recipe.steps] == [
        "seeds", "iter0/generate", "iter0/train", "iter1/generate", "iter1/train", "report",
    ]  # fmt: skip
    words = {step.name: " ".join(step.words) for step in recipe.steps}
    inputs = {step.name: step.inputs for step in recipe.steps}
    assert words["seeds"] == f"make {out}/seeds/seeds.jsonl base"
    assert words["iter0/generate"] == (
        f"sample --model base --dataset {out}/seeds/seeds.jsonl#10 --iteration 0 "
        f"--output {out}/iter0/generate/responses.jsonl"
    )
    assert words["iter1/generate"].startswith(f"sample --model {out}/iter0/train --dataset {out}/seeds/seeds.jsonl#10")
    assert words["iter1/train"] == (
        f"rlhf --learning_rate 1e-06 --report_to none --model {out}/iter0/train "
        f"--dataset {out}/iter1/generate/responses.jsonl --output_dir {out}/iter1/train --add_version false"
    )
    assert inputs["iter0/generate"] == ("seeds",)
    assert inputs["iter1/train"] == ("iter0/train", "iter1/generate")
    assert f"--results iter0={out}/iter0/train iter1={out}/iter1/train --model {out}/iter1/train" in words["report"]
    generated = [f"{out}/iter{k}/generate/responses.jsonl" for k in range(2)]
    assert f"--all {' '.join(generated)} iter0:of={generated[0]} iter1:of={generated[1]}" in words["report"]
    assert [step.processes for step in recipe.steps] == [None, None, 2, None, 2, None]


def test_overrides_change_values_and_add_flags(tmp_path: Path) -> None:
    recipe = expanded(tmp_path, TEXT, "max_iter=0", "train.learning_rate=2e-6", "train.lora_rank=4", "model=other")
    train = recipe.steps[2].words
    assert len(recipe.steps) == 4
    assert train[train.index("--learning_rate") + 1] == "2e-06"
    assert train[train.index("--lora_rank") + 1] == "4"
    assert train[train.index("--model") + 1] == "other"


def test_of_several_options_later_ones_win_and_args_win_over_all(tmp_path: Path) -> None:
    text = TEXT.replace("options: ${train}", 'options: ["${train}", {beta: 1, learning_rate: 3, model: no}]')
    words = " ".join(expanded(tmp_path, text).steps[2].words)
    assert words.startswith("rlhf --learning_rate 3 --report_to none --beta 1 --model base ")


def test_options_that_are_no_flags(tmp_path: Path) -> None:
    assert "mappings of flags, not 'base'" in refused(tmp_path, TEXT.replace("options: ${train}", "options: ${model}"))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("max_iters=3", "did you mean 'max_iter'?"),
        ("trian.learning_rate=1", "there is no trian; did you mean 'train'?"),
        ("model.name=x", "there is no model"),
        ("model", "name=value"),
        ("max_iter=-1", "loop 'iter' has no round: from 0 to -1"),
        ("max_iter=many", "`to` is not a whole number"),
    ],
)
def test_a_wrong_override_is_named(tmp_path: Path, override: str, said: str) -> None:
    assert said in refused(tmp_path, TEXT, override)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('"${out:generate}"', '"${out:generat}"', "did you mean 'generate'?"),
        ('"${out:seeds}#10"', '"${out:train}"', "needs 'train', which does not come before it in its round"),
        ("${last:train,${model}}", "${last:train}", "has no round before"),
        ("command: rlhf", "comand: rlhf", "did you mean 'command'?"),
        ("command: rlhf", "command: rlfh", "did you mean 'rlhf'?"),
        ('"${model}"], o', '"${modle}"], o', "modle"),
        (", output: seeds.jsonl", "", "a program says what it writes"),
        ("output_dir: OUT", "", "`output_dir` is missing"),
        ("max_iter: 1", "max_iter: [", "cannot read"),
        ("model: base", "model: ${out:seeds}/${model}", "recipe.yaml"),
        ("from: 0", "from: zero", "`from` is not a whole number"),
        ("  report:", "  seeds:", "seeds"),
    ],
)
def test_a_broken_recipe_says_where(tmp_path: Path, before: str, after: str, said: str) -> None:
    assert before in TEXT
    assert said in refused(tmp_path, TEXT.replace(before, after, 1))


def test_a_stage_may_be_left_out(tmp_path: Path) -> None:
    extra = "stages:\n  extra: {when: '${equal:${model},other}', program: [x], output: x}\n"
    text = TEXT.replace("stages:\n", extra, 1)
    assert expanded(tmp_path, text).steps[0].name == "seeds"
    assert expanded(tmp_path, text, "model=other").steps[0].name == "extra"


def test_a_stage_that_is_switched_off_is_not_there(tmp_path: Path) -> None:
    off = TEXT.replace("seeds: {program", "seeds: {when: false, program", 1)
    assert "stage 'generate' needs 'seeds', which is switched off by `when`" in refused(tmp_path, off)


def test_words() -> None:
    args = {"a": None, "b": True, "c": [1, [2, "x y"]], "d": {"k": 1}, "e": "--x", "f": 1e-6, "g": []}
    expected = ["--b", "true", "--c", "1", "2", "x y", "--d", '{"k": 1}', "--e=--x", "--f", "1e-06", "--g", "none"]
    assert words_of(args) == expected

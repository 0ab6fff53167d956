"""Recipes that are based on another one."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from swiftlike.core.errors import UserError
from swiftlike.pipelines.iterate.reading import find, laid_over, read


def write(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder / "recipe.yaml"


@pytest.mark.parametrize(
    ("own", "order"),
    [
        ("new", "new a b c"),
        ("a new", "a new b c"),
        ("new c", "new a b c"),  # what is between keeps its place
        ("one b two", "one a b two c"),
        ("c new", "a b c new"),
        ("b a", "a b c"),
    ],
)
def test_a_new_key_stands_where_it_was_written(own: str, order: str) -> None:
    found = laid_over({"a": 1, "b": 2, "c": 3}, dict.fromkeys(own.split(), 0))
    assert list(found) == order.split()
    assert [key for key, value in found.items() if value == 0] == [key for key in order.split() if key in own.split()]


def test_mappings_are_merged_and_the_rest_replaced(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        bottom="a: {x: 1, y: [1, 2], z: '${b}'}\nb: 2",
        middle="base: bottom.yaml\na: {y: [3]}",
        recipe="base: middle.yaml\nb: 5\na: {x: {new: 1}}",
    )
    found = read(path)
    assert found == {"a": {"x": {"new": 1}, "y": [3], "z": 5}, "b": 5}


def test_a_built_in_recipe_as_base(tmp_path: Path) -> None:
    found = OmegaConf.to_container(read(write(tmp_path, recipe="base: aipo\nmodel: mine")))
    assert found == OmegaConf.to_container(OmegaConf.load(find("aipo"))) | {"model": "mine"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base: recipe.yaml", "its base recipe.yaml is based on it"),
        ("base: other.yaml", "its base recipe.yaml is based on it"),
        ("base: aipoo", "no recipe 'aipoo'; did you mean 'aipo'?"),
        ("base: [", "cannot read"),
        ("- a", "does not hold a mapping"),
    ],
)
def test_what_is_wrong_with_a_base(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        read(write(tmp_path, recipe=text, other="base: recipe.yaml"))
    assert said in str(error.value)

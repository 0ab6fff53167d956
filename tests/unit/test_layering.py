"""Who may import whom. Lazy imports count; those under TYPE_CHECKING do not."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "swiftlike"
REGISTRIES = {"losses", "model_registry", "datasets_registry"}
LOWER = {"core", "args", *REGISTRIES}
MAY = {
    "core": {"core"},
    "losses": {"core", "losses"},
    "model_registry": {"core", "model_registry"},
    "datasets_registry": {"core", "datasets_registry"},
    "args": {"core", "args"},
    "stages": {"core", "datasets_registry", "model_registry", "stages"},
    "data": {*LOWER, "data"},
    "models": {*LOWER, "models"},
    "trainers": {*LOWER, "data", "models", "trainers"},
    "engines": {*LOWER, "data", "models", "engines"},
    "pipelines": {*LOWER, "stages", "data", "models", "trainers", "engines", "pipelines"},
    "cli": {*LOWER, "stages", "cli"},
}
ALSO = {"args/rlhf.py": {"losses"}, "args/consistency.py": {"losses"}}  # an objective's flags are declared beside it
COLD = ("core", "args", "cli", "stages", *sorted(REGISTRIES))
HEAVY = {"torch", "transformers", "datasets", "PIL", "numpy", "pydantic", "rich", "yaml", "peft", "accelerate"}
OUTSIDE = {"core": {"yaml"}, "cli": {"typer"}, "args": set()}  # cold packages beyond the standard library
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


def imports(tree: ast.AST, *, lazy: bool = True) -> Iterator[tuple[str, ...]]:
    """Dotted parts of every imported module; without `lazy` only those that run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            parts = tuple((node.module or "").split("."))
            yield from ((*parts, alias.name) if parts == ("swiftlike",) else parts for alias in node.names)
        elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports(node, lazy=lazy)


def tree_of(path: Path) -> ast.AST:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def test_every_package_has_its_line_in_the_table() -> None:
    assert {file.parts[0] for file in FILES if len(file.parts) > 1} <= set(MAY)
    assert len(FILES) > 40


@pytest.mark.parametrize("package", sorted(MAY))
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    wrong = []
    for file in (file for file in FILES if file.parts[0] == package):
        allowed = MAY[package] | ALSO.get(file.as_posix(), set())
        ours = [parts for parts in imports(tree_of(file)) if parts[0] == "swiftlike" and len(parts) > 1]
        wrong += [f"{file} imports {'.'.join(parts)}" for parts in ours if parts[1] in MAY and parts[1] not in allowed]
    assert wrong == []


@pytest.mark.parametrize("package", COLD)
def test_a_cold_package_imports_nothing_heavy_when_it_is_imported(package: str) -> None:
    wrong = [
        f"{file} imports {parts[0]}"
        for file in FILES
        if file.parts[0] == package
        for parts in imports(tree_of(file), lazy=False)
        if parts[0] in HEAVY
    ]
    assert wrong == []


@pytest.mark.parametrize("package", sorted(OUTSIDE))
def test_core_args_and_cli_use_the_standard_library_even_lazily(package: str) -> None:
    known = {*sys.stdlib_module_names, "swiftlike", *OUTSIDE[package]}
    wrong = [
        f"{file} imports {parts[0]}"
        for file in FILES
        if file.parts[0] == package
        for parts in imports(tree_of(file))
        if parts[0] not in known
    ]
    assert wrong == []


def test_only_public_names_of_typer_are_used() -> None:
    public = {"Typer", "Option", "Argument", "Context", "Exit", "echo", "testing"}
    used = set()
    for file in (file for file in FILES if file.parts[0] == "cli"):
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "typer":
                used.add(node.attr)
            if isinstance(node, ast.ImportFrom):
                assert node.module is None or not node.module.startswith(("typer", "click"))
    assert used <= public
    assert {"Typer", "Exit"} <= used

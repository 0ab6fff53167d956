"""Recipe files: which one is meant, and what it takes over from the recipe that it is based on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError, suggestion

BUILT_IN = Path(__file__).resolve().parents[2] / "recipes"
_BASE = "base"  # the key that names another recipe


def find(name: str) -> Path:
    """The file of a recipe: a path, or the name of a built-in one."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    built_in = {found.stem: found for found in sorted(BUILT_IN.glob("*.yaml"))}
    if name in built_in:
        return built_in[name]
    raise UserError(
        f"there is no recipe {name!r}{suggestion(name, built_in)}",
        hint=f"give a YAML file, or one of {', '.join(sorted(built_in)) or 'none here'}",
    )


def read(path: Path) -> Any:
    """What a recipe says, laid over its `base`: a file beside it, or a built-in recipe. UserError without one."""
    from omegaconf import OmegaConf

    return OmegaConf.create(_whole(path, ()))


def _whole(path: Path, within: Sequence[Path]) -> dict[str, Any]:
    own = _mapping(path)
    base = own.pop(_BASE, None)
    if base is None:
        return own
    beside = path.parent / str(base)
    found = beside if beside.is_file() else find(str(base))
    if found.resolve() in (path.resolve(), *within):
        raise UserError(f"{path}: its base {base} is based on it")
    merged: dict[str, Any] = laid_over(_whole(found, (*within, path.resolve())), own)
    return merged


def _mapping(path: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        config = OmegaConf.load(path)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())}") from None
    if not OmegaConf.is_dict(config):
        raise UserError(f"{path} does not hold a mapping")
    found: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
    return found


def laid_over(base: Any, own: Any) -> Any:
    """Mappings key by key, all else as a whole."""
    if not (isinstance(base, Mapping) and isinstance(own, Mapping)):
        return own
    both = {key: laid_over(base[key], own[key]) for key in own if key in base}
    return {key: both[key] if key in both else {**base, **own}[key] for key in in_order(base, own)}


def in_order(base: Iterable[Any], own: Iterable[Any]) -> list[Any]:
    """A key that the base has keeps its place there; a new one comes where it stands among those, so that a recipe can
    put a stage before or behind one of its base."""
    left, found = list(base), []
    known = set(left)
    for key in own:
        if key in left:
            end = left.index(key) + 1
            found += left[:end]
            left = left[end:]
        elif key not in known:
            found.append(key)
    return found + left

"""Text, YAML, environment and saved JSON become typed values here and nowhere else, so the sources cannot disagree."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from swiftlike.core.errors import suggestion

TRUE = ("true", "1", "yes", "on")
FALSE = ("false", "0", "no", "off")
_NONE = ("none", "null")


def is_none(raw: Any) -> bool:
    """Whether `raw` says that there is no value."""
    return raw is None or (isinstance(raw, str) and raw.lower() in _NONE)


def coerce(kind: Any, raw: Any) -> Any:
    """The value of type `kind` that `raw` means: text, or what YAML and JSON give. ValueError when it means none."""
    if kind is Any:
        return raw
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        return _union(inner, raw)
    if origin is Literal:
        return _literal(inner, raw)
    return _READERS[origin](inner, raw)


def _union(members: tuple[Any, ...], raw: Any) -> Any:
    if NoneType in members and is_none(raw):
        return None
    *first, last = [member for member in members if member is not NoneType]
    for member in first:
        try:
            return coerce(member, raw)
        except ValueError:
            continue
    return coerce(last, raw)


def _literal(allowed: tuple[Any, ...], raw: Any) -> Any:
    if raw is False and "no" in allowed:
        return "no"  # YAML 1.1 reads a bare `no` as false
    for value in allowed:
        if str(raw).lower() == str(value).lower():
            return value
    known = [str(value) for value in allowed]
    raise ValueError(f"{raw!r} is not one of {', '.join(known)}{suggestion(str(raw).lower(), known)}")


def _bool(_: Any, raw: Any) -> bool:
    word = str(raw).lower()
    if word not in TRUE + FALSE:
        raise ValueError(f"{raw!r} is not true or false")
    return word in TRUE


def _int(_: Any, raw: Any) -> int:
    try:
        return int(raw) if isinstance(raw, str) else _whole(raw)
    except ValueError:
        return _whole(_float(_, raw))


def _whole(number: Any) -> int:
    if isinstance(number, bool) or not isinstance(number, int | float) or number != number // 1:
        raise ValueError(f"{number!r} is not a whole number")
    return int(number)


def _float(_: Any, raw: Any) -> float:
    """YAML 1.1 reads 1e-5 as text; this reads it back."""
    try:
        number = math.nan if isinstance(raw, bool) else float(raw)
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number):
        raise ValueError(f"{raw!r} is not a number")
    return number


def _text(_: Any, raw: Any) -> str:
    if isinstance(raw, bool):
        return str(raw).lower()
    if not isinstance(raw, str | int | float):
        raise ValueError(f"{raw!r} is not a single value")
    return str(raw)


def _list(inner: tuple[Any, ...], raw: Any) -> list[Any]:
    items = raw if isinstance(raw, list | tuple) else [raw]
    if len(items) == 1 and is_none(items[0]):
        return []
    return [coerce(inner[0], word) for item in items for word in _words(item)]


def _words(item: Any) -> list[Any]:
    """A comma list is split, unless it is JSON or a file that really has a comma in its name."""
    if not isinstance(item, str):
        return [item]
    if item.lstrip().startswith("["):
        return list(_json(item, list))
    if "," not in item or item.lstrip().startswith("{") or Path(item).exists():
        return [item]
    return [word for word in (part.strip() for part in item.split(",")) if word]


def _dict(inner: tuple[Any, ...], raw: Any) -> dict[str, Any]:
    if isinstance(raw, str):
        raw = _json(raw, dict) if raw.lstrip().startswith("{") else raw.split(",")
    if isinstance(raw, list | tuple) and len(raw) == 1 and str(raw[0]).lstrip().startswith("{"):
        raw = _json(raw[0], dict)
    if isinstance(raw, list | tuple):
        raw = dict(_pair(str(item)) for item in raw)
    if not isinstance(raw, dict):
        raise ValueError(f"{raw!r} is not a JSON object")
    return {str(key): coerce(inner[1], value) if inner else value for key, value in raw.items()}


def _pair(item: str) -> tuple[str, str]:
    key, equals, value = item.partition("=")
    if not equals:
        raise ValueError(f"{item!r} is neither a JSON object nor key=value")
    return key.strip(), value.strip()


def _json(text: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{text!r} is not valid JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(value, kind):
        raise ValueError(f"{text!r} is not a JSON {'list' if kind is list else 'object'}")
    return value


_READERS: dict[Any, Callable[[Any, Any], Any]] = {
    bool: _bool,
    int: _int,
    float: _float,
    str: _text,
    list: _list,
    dict: _dict,
}

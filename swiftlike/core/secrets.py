"""Keys, tokens, and passwords inside URLs: what is one, and how it stays out of all that is written or shown."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

HIDDEN = "(hidden)"
_NAME = re.compile(
    r"(?:^|_)(?:(?:api|auth|access|bearer|hub|hf|session)_token|api_?key|(?:secret|access)_key|secret|password|passwd"
    r"|authorization)$|^token$",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"(?:(?<!SEP_)TOKEN|API_?KEY|ACCESS_KEY|SECRET|PASSWORD)$")
_SHORTEST = 8  # characters of a secret that is looked for in texts: shorter ones are parts of ordinary words
_URL = (
    (re.compile(r"([a-z][a-z0-9+.-]*://)[^/\s@\"']+@", re.IGNORECASE), rf"\1{HIDDEN}@"),
    (
        re.compile(
            r"([?&](?:[\w-]*token|api_?key|key|secret|sig|[\w-]*signature|password)=)[^&#\s\"']+", re.IGNORECASE
        ),
        rf"\1{HIDDEN}",
    ),
)
_known: set[str] = set()


def is_secret(name: str) -> bool:
    """Whether what has this name is secret: `hub_token`, `api-key`; not `sep_token` or `max_new_tokens`."""
    return _NAME.search(name.replace("-", "_")) is not None


def remember(value: Any) -> None:
    """A secret that texts must not show from now on."""
    for one in value if isinstance(value, list | tuple) else (value,):
        if isinstance(one, str) and len(one) >= _SHORTEST:
            _known.add(one)


def scrub(text: str) -> str:
    """The text without the secrets that are known, in flags or the environment, and without passwords in URLs."""
    variables = {value for name, value in os.environ.items() if len(value) >= _SHORTEST and _VARIABLE.search(name)}
    for secret in sorted(_known | variables, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    for pattern, shown in _URL if "://" in text else ():
        text = pattern.sub(shown, text)
    return text


def public(value: Any, name: str = "") -> Any:
    """A value as it may be written: secrets by name are hidden, at any depth, and texts are scrubbed."""
    if value and is_secret(name) and not isinstance(value, bool | int | float):
        return HIDDEN
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Mapping):
        return {key: public(one, str(key)) for key, one in value.items()}
    return [public(one) for one in value] if isinstance(value, list) else value


def holds_hidden(value: Any) -> bool:
    """Whether something was hidden in a value that was written."""
    if isinstance(value, Mapping):
        value = list(value.values())
    return any(map(holds_hidden, value)) if isinstance(value, list) else isinstance(value, str) and HIDDEN in value


def apart(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """(words of a command line without its secrets, these by flag): everybody on a machine sees command lines."""
    kept: list[str] = []
    found: dict[str, str] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        flag, equals, value = word.partition("=")
        if not (flag.startswith("--") and is_secret(flag[2:])):
            kept.append(word)
        elif equals:
            found[flag[2:].replace("-", "_")] = value
        elif left and not left[0].startswith("--"):
            found[flag[2:].replace("-", "_")] = left.pop(0)
    for secret in found.values():
        remember(secret)
    return kept, found

"""Numbers that the environment gives, and this machine's place and start among those that work together."""

from __future__ import annotations

from collections.abc import Mapping

from swiftlike.core.errors import UserError


def number(env: Mapping[str, str], name: str, default: int, *, least: int = 0) -> int:
    """A whole number. UserError when it is another text, or below `least`."""
    text = env.get(name, "").strip()
    if not text:
        return default
    if not text.isdigit() or int(text) < least:
        raise UserError(f"{name}={text!r} is not a number of {least} or more")
    return int(text)


def this_start(env: Mapping[str, str]) -> str:
    """Tells apart the starts of processes that torchrun starts again. Its count of them leaves out those that another
    machine's failure made necessary, but for every start the processes meet at another port."""
    return f"{env.get('TORCHELASTIC_RESTART_COUNT', '0')}.{env.get('MASTER_PORT', '')}"


def place(env: Mapping[str, str], index: str, count: str) -> tuple[int, int]:
    """(index, count) of variables such as NODE_RANK and NNODES. UserError when there is no such place."""
    found, of = number(env, index, 0), number(env, count, 1, least=1)
    if found >= of:
        raise UserError(f"{index}={found} is not below {count}={of}")
    return found, of

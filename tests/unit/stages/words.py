"""Stand-ins that several tests share: a token is a word, and a template names the roles."""

from __future__ import annotations

from collections.abc import Sequence


def words(text: str) -> int:
    return len(text.split())


def roles(messages: Sequence[dict[str, str]]) -> str:
    return "".join(f"[{one['role']}]{one['content']}" for one in messages) + "[assistant]"


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def bot(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def system(content: str) -> dict[str, str]:
    return {"role": "system", "content": content}

"""Marks of a language model that is asked about each answer."""

from __future__ import annotations

import base64
import json
import math
import mimetypes
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run
from swiftlike.data.media import is_file
from swiftlike.datasets_registry.row import IMAGE_TAG, Image
from swiftlike.pipelines.judges.card import Done, Group, ScorerCard, Scores
from swiftlike.pipelines.judges.endpoint import Chat, Endpoint

PROMPT = """Below are a conversation and an answer to it. Judge how helpful, correct and clear the answer is.
Explain your judgement in one or two sentences, then give a mark from 1 (useless) to 10 (could not be better), in double
square brackets, as in [[5]].

# Conversation
{prompt}

# Answer
{answer}
"""
_NUMBER = r"[-+]?\d+(?:\.\d+)?"
_MARKS = (
    re.compile(rf"\[\[\s*({_NUMBER})\s*(?:/\s*\d+\s*)?\]\]"),
    re.compile(rf'"(?:score|rating|mark)"\s*:\s*"?({_NUMBER})', re.IGNORECASE),
    re.compile(rf"(?:score|rating|mark)\W{{0,4}}\s*({_NUMBER})", re.IGNORECASE),
)
_ALONE = re.compile(rf"\s*({_NUMBER})\s*(?:/\s*\d+)?\s*\.?\s*")
_PLACE = re.compile(r"\{(\w+)\}")


def mark_of(reply: str, pattern: re.Pattern[str] | None = None) -> float | None:
    """The mark in a reply: the last one in the first notation that is there, or the number that is all of it; None
    without any. With a pattern, the last match's first group."""
    for one in (pattern,) if pattern is not None else _MARKS:
        found = list(one.finditer(reply))
        if found:
            return _float(found[-1][1 if one.groups else 0])
    alone = _ALONE.fullmatch(reply) if pattern is None else None
    return _float(alone[1]) if alone else None


def _float(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


class JudgeScorer:
    """Every answer of every group is a question of its own."""

    def __init__(self, endpoint: Endpoint, args: Any) -> None:
        self.endpoint = endpoint
        self.system, self.prompt = args.judge_system, prompt_of(args.judge_prompt)
        self.pattern = compiled(args.judge_pattern)

    def score(self, groups: Sequence[Group], done: Done) -> None:
        """A group is an error when one of its answers got no mark: the others could not be compared with it."""
        chats: list[Chat] = []
        places: list[tuple[int, int]] = []
        for g, group in enumerate(groups):
            try:
                chats += [self._chat(group, k) for k in range(group.row.size)]
            except OSError as error:
                done(g, f"image is unreadable: {error.filename}: {error.strerror}")
                continue
            places += [(g, k) for k in range(group.row.size)]
        scores: list[Scores] = [[None] * group.row.size for group in groups]
        errors = [""] * len(groups)
        left = [group.row.size for group in groups]
        lock = threading.Lock()

        def take(place: int, reply: str, error: str) -> None:
            g, k = places[place]
            mark = None if error else mark_of(reply, self.pattern)
            with lock:
                scores[g][k] = mark
                if mark is None:
                    errors[g] = error or f"no mark in the judge's reply: {reply[:80]!r}"
                left[g] -= 1
                complete = not left[g]
            if complete:
                done(g, errors[g] or scores[g])

        self.endpoint.ask(chats, take)

    def _chat(self, group: Group, k: int) -> Chat:
        text = filled(self.prompt, group.record, {"prompt": group.prompt, "answer": group.answers[k]})
        content = content_of(text, group.conversation(k).images)
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": content}]

    def close(self) -> None:
        """Let go of the endpoint."""
        self.endpoint.close()


def filled(template: str, record: Mapping[str, Any], said: Mapping[str, str]) -> str:
    """A question: `{name}` stands for what is said, or for a column of the record; other braces stay."""
    known = {name: _text(value) for name, value in record.items()} | dict(said)
    return _PLACE.sub(lambda found: known.get(found[1], found[0]), template)


def content_of(text: str, images: Sequence[Image]) -> Any:
    """A question as OpenAI takes it: a text, or parts where it has pictures."""
    return _parts(text, images) if images else text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _parts(text: str, images: Sequence[Image]) -> list[Mapping[str, Any]]:
    """A question with pictures as OpenAI takes them; where the text has no place for one it stands in front."""
    pieces = text.split(IMAGE_TAG)
    if len(pieces) != len(images) + 1:
        pieces = [*([""] * len(images)), text]
    parts: list[Mapping[str, Any]] = []
    for piece, image in zip(pieces, [*images, None], strict=True):
        parts += [{"type": "text", "text": piece}] if piece else []
        parts += [{"type": "image_url", "image_url": {"url": _url(image)}}] if image is not None else []
    return parts


def _url(image: Image) -> str:
    """A URL as it is; files and bytes as a data URL."""
    source = image.source
    if isinstance(source, str) and source.startswith(("http://", "https://", "data:")):
        return source
    if isinstance(source, str) and not is_file(image):
        return f"data:image/png;base64,{source}"
    data = Path(source).read_bytes() if isinstance(source, str) else source
    kind = mimetypes.guess_type(source)[0] if isinstance(source, str) else None
    return f"data:{kind or 'image/png'};base64,{base64.b64encode(data).decode()}"


def prompt_of(given: str | None) -> str:
    """The question about one answer."""
    return template_of(given, PROMPT, ("{answer}",))


def template_of(given: str | None, usual: str, places: Sequence[str]) -> str:
    """`--judge_prompt`: a file's text, or the words themselves. UserError when it has no place for an answer."""
    if given is None:
        return usual
    path = Path(given).expanduser()
    try:
        text = path.read_text(encoding="utf-8") if len(given) < 4096 and path.is_file() else given
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--judge_prompt {given}: {error}") from error
    if missing := [place for place in places if place not in text]:
        raise UserError(
            f"--judge_prompt has no {' and no '.join(missing)} in it", hint="it is a text, or a file with one"
        )
    return text


def compiled(given: str | None) -> re.Pattern[str] | None:
    """`--judge_pattern`."""
    try:
        return None if given is None else re.compile(given)
    except re.error as error:
        raise UserError(f"--judge_pattern {given!r}: {error}") from error


def _open(run: Run) -> JudgeScorer:
    return JudgeScorer(Endpoint(run.judge), run.judge)


CARD = ScorerCard(name="judge", help="a model behind an OpenAI-style endpoint", open=_open)

"""Questions to a model behind an OpenAI-style endpoint: at the same time, tried again, and remembered."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from swiftlike.core.cache import cache_folder
from swiftlike.core.errors import UserError
from swiftlike.core.optional import require
from swiftlike.core.secrets import scrub
from swiftlike.pipelines.journal import digest

Chat = list[dict[str, Any]]
Replied = Callable[[int, str, str], None]  # place of the question, reply, or "" and the error
_NO_KEY = "EMPTY"  # what servers without keys take


class Replies:
    """Replies by question, in a file that several processes may share."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        try:
            self._file = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
            self._file.execute("CREATE TABLE IF NOT EXISTS replies (question TEXT PRIMARY KEY, reply TEXT NOT NULL)")
        except sqlite3.Error as error:
            raise UserError(f"--judge_cache {path}: {error}") from error

    def get(self, question: str) -> str | None:
        """The reply to a question that was asked before."""
        with self._lock:
            found = self._file.execute("SELECT reply FROM replies WHERE question = ?", (question,)).fetchone()
        return found[0] if found else None

    def put(self, question: str, reply: str) -> None:
        """Remember a reply."""
        with self._lock:
            self._file.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (question, reply))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class Endpoint:
    """`args` is a JudgeArgs. Failures of the network and of the server are tried again by the openai package, later
    each time."""

    def __init__(self, args: Any) -> None:
        self.openai = require("openai", because="--scorer judge", extra="judge")
        self.args = args
        self.client = self.openai.OpenAI(
            base_url=args.judge_url,
            api_key=args.judge_api_key or os.environ.get("OPENAI_API_KEY") or _NO_KEY,
            timeout=args.judge_timeout,
            max_retries=args.judge_retries,
        )
        self.replies = Replies(Path(args.judge_cache or cache_folder("judge") / "replies.sqlite").expanduser())

    def ask(self, chats: Sequence[Chat], replied: Replied) -> None:
        """Ask all; `replied` is called for each from any thread. UserError when going on makes no sense: the endpoint
        is not there, knows no such model, or wants another key."""
        with ThreadPoolExecutor(self.args.judge_concurrency) as pool:
            asked = [pool.submit(self._one, k, chat, replied) for k, chat in enumerate(chats)]
            try:
                for future in asked:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _one(self, place: int, chat: Chat, replied: Replied) -> None:
        body = {"model": self.args.judge_model, "messages": chat} | self._parameters()
        question = digest({"url": str(self.client.base_url), **body})
        reply = self.replies.get(question)
        if reply is None:
            reply, error = self._asked(body)
            if error:
                replied(place, "", error)
                return
            self.replies.put(question, reply)
        replied(place, reply, "")

    def _parameters(self) -> Mapping[str, Any]:
        return {"temperature": 0.0, "max_tokens": self.args.judge_max_tokens} | self.args.judge_params

    def _asked(self, body: Mapping[str, Any]) -> tuple[str, str]:
        """The reply, or why there is none."""
        openai, url = self.openai, self.client.base_url
        known = {"model", "messages", "temperature", "max_tokens"}
        more = {name: value for name, value in body.items() if name not in known}
        try:
            answer = self.client.chat.completions.create(
                **{name: body[name] for name in known if body.get(name) is not None}, extra_body=more or None
            )
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise UserError(f"the judge at {url} refuses: {_first_line(error)}", hint="see --judge_model") from error
        except openai.APITimeoutError:
            return "", f"the judge is silent: no reply in {self.args.judge_timeout:g} s"
        except (openai.APIConnectionError, openai.RateLimitError) as error:
            hint = "what is judged already is kept; the same command goes on"
            raise UserError(f"the judge at {url} does not answer: {_first_line(error)}", hint=hint) from error
        except (openai.OpenAIError, json.JSONDecodeError) as error:
            return "", f"the judge failed: {_first_line(error)}"
        choices = answer.choices if hasattr(answer, "choices") else None
        text = choices[0].message.content if choices else None
        return (scrub(text), "") if text else ("", "the judge said nothing")

    def close(self) -> None:
        """Let go of connections and of the file."""
        with contextlib.suppress(sqlite3.Error):
            self.replies.close()
        self.client.close()


def _first_line(error: Exception) -> str:
    """A server may repeat the key that it was sent."""
    return scrub(next(iter(str(error).strip().splitlines()), type(error).__name__))

"""`swiftlike infer` in a real terminal: keys, pasted lines, pictures, words that steer, Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

CTRL_C, CTRL_D, UP = "\x03", "\x04", "\x1b[A"
PASTED = "\x1b[200~{}\x1b[201~"
ESCAPES = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]|\r")
PATIENCE_S = 200


heeded = pytest.mark.skipif(
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN, reason="Ctrl-C is ignored here, as in a shell's background jobs"
)


class Screen:
    """A command in a terminal of its own. `until` gives what it showed since the last time."""

    def __init__(self, argv: list[str], folder: Path) -> None:
        main, side = pty.openpty()
        termios.tcsetwinsize(main, (40, 2000))  # nothing wraps
        env = os.environ | {"TERM": "xterm", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            argv, stdin=side, stdout=side, stderr=side, cwd=folder, env=env, start_new_session=True, preexec_fn=_own
        )
        os.close(side)
        self.fd, self.unread = main, ""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def until(self, pattern: str) -> str:
        """Everything up to and including the pattern."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := re.search(pattern, self.unread)):
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self.fd], [], [], max(left, 0))
            assert ready, f"no {pattern!r} in {self.unread!r}"
            self.unread += ESCAPES.sub("", os.read(self.fd, 65536).decode(errors="replace"))
        shown, self.unread = self.unread[: found.end()], self.unread[found.end() :]
        return shown

    def ask(self, text: str) -> str:
        """Type a line; what is shown between it and the next prompt."""
        self.type(text + "\r")
        self.until(r"\n")
        return self.until(r"(^|\n)(\[several lines\] )?(<<<|question <<<) ").rpartition("\n")[0]

    def rest(self) -> None:
        """Return once the program waits for keys: Python's line editor misses a signal on its way into that sleep."""
        stat = Path(f"/proc/{self.process.pid}/stat")
        while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "S":
            time.sleep(0.01)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.fd)


def _own() -> None:
    """Make the terminal the process's own, so that Ctrl-C reaches it, also behind a shell that ignores it."""
    import fcntl

    signal.signal(signal.SIGINT, signal.default_int_handler)

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def start(folder: Path, *words: object) -> Iterator[Screen]:
    screen = Screen([sys.executable, "-m", "swiftlike", "infer", *map(str, words)], folder)
    try:
        screen.until("<<< ")
        yield screen
    finally:
        screen.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a picture."""
    folder = tmp_path_factory.mktemp("here")
    Image.new("RGB", (64, 64), "red").save(folder / "red square.png")
    return folder


@pytest.fixture
def chat(folder: Path) -> Iterator[Screen]:
    """A conversation with a model that sees, whose answers are the same each time."""
    words = ("--model_type", "tiny-qwen2_5-vl", "--temperature", 0, "--max_new_tokens", 8)
    yield from start(folder, *words, "--result_path", folder / "kept.jsonl")


def kept(folder: Path) -> dict[str, Any]:
    """The last line of the file that keeps the conversation."""
    return json.loads((folder / "kept.jsonl").read_text().splitlines()[-1])


def test_it_remembers_until_it_is_told_to_forget(chat: Screen) -> None:
    first = chat.ask("hello")
    assert first.strip()
    assert chat.ask("hello") != first
    assert "(forgotten)" in chat.ask("clear")
    assert chat.ask("hello") == first
    assert "system: Be a poet." in chat.ask("reset-system: Be a poet.")
    poet = chat.ask("hello")
    assert poet != first
    chat.type("reset-system\r")
    chat.until("system <<< ")
    assert "as at the start" in chat.ask("")
    assert chat.ask("hello") == first


def test_history_and_keys(chat: Screen) -> None:
    chat.ask("clear")
    expected = chat.ask("hello you")
    chat.ask("clear")
    chat.ask("hello")
    chat.ask("clear")
    assert chat.ask(UP + UP + " you") == expected  # the second to last entry, and more behind it


def test_pasted_lines_and_typed_lines_are_one_entry(chat: Screen, folder: Path) -> None:
    chat.ask("clear")
    chat.ask(PASTED.format("one\ntwo"))
    pasted = kept(folder)
    assert pasted["messages"][0]["content"] == "one\ntwo"
    chat.ask("clear")
    assert "ends with #" in chat.ask("multi-line")
    chat.type("one\r")
    chat.until(r"\.\.\. ")
    chat.ask("two#")
    assert kept(folder) == pasted
    assert "is a line" in chat.ask("single-line")


def test_pictures_written_dragged_and_asked_for(chat: Screen, folder: Path) -> None:
    path = folder / "red square.png"
    for typed in (f"<image>{path}</image> What?", "<image>red square.png</image> What?", f"'{path}' What?", ""):
        chat.ask("clear")
        if not typed:
            chat.type("<image> What?\r")
            chat.until("image path or URL <<< ")
        chat.ask(typed or str(path))
        record = kept(folder)
        assert record["messages"][0]["content"] == "<image> What?"
        assert [folder / source for source in record["images"]] == [path]
    chat.ask("clear")
    chat.ask(" What?")
    assert kept(folder)["response"] != record["response"]


def test_a_missing_picture_and_a_long_prompt_are_said_and_leave_no_trace(chat: Screen, folder: Path) -> None:
    chat.ask("clear")
    chat.ask("hello")
    expected = chat.ask("and now?")
    chat.ask("clear")
    chat.ask("hello")
    assert "error: image is missing" in chat.ask("<image>none.png</image>What?")
    (folder / "text.png").write_text("no picture")
    assert "error: image is unreadable" in chat.ask("<image>text.png</image>What?")
    assert "error: placeholder in text" in chat.ask("<|image_pad|>")
    assert chat.ask("and now?") == expected


@heeded
def test_ctrl_c_breaks_off_a_line_and_the_program_goes_on(chat: Screen) -> None:
    chat.ask("clear")
    expected = chat.ask("hello")
    chat.ask("clear")
    chat.type("half a li")
    chat.until("half a li")
    chat.rest()
    chat.type(CTRL_C)
    assert "exit or Ctrl-D leaves" in chat.until("\n<<< ")
    assert chat.ask("hello") == expected


@heeded
def test_ctrl_c_stops_the_answer_not_the_program(folder: Path) -> None:
    for screen in start(folder, "--model_type", "tiny-qwen2_5-vl", "--temperature", 0, "--max_new_tokens", 2000):
        screen.type("hello\r")
        screen.until(r"hello\n.{20}")
        screen.type(CTRL_C)
        assert "(stopped)" in screen.until("<<< ")
        screen.ask("clear")  # after half an answer the next one may be short
        screen.type("hello\r")
        screen.until(r"hello\n.{20}")
        screen.type(CTRL_C)
        screen.until(r"\(stopped\)\n<<< ")
        screen.type("exit\r")
        assert screen.process.wait(60) == 0


def test_the_conversation_is_kept_and_ctrl_d_leaves(chat: Screen, folder: Path) -> None:
    chat.ask("clear")
    chat.ask(f"<image>{folder}/red square.png</image>last words")
    chat.type(CTRL_D)
    assert chat.process.wait(60) == 0
    last = kept(folder)
    assert last["messages"][0] == {"role": "user", "content": "<image>last words"}
    assert last["messages"][1] == {"role": "assistant", "content": last["response"]}
    assert last["images"] == [f"{folder}/red square.png"]

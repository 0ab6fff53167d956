"""A conversation in a terminal: with a model that answers, or with one that judges answers."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from swiftlike.core.files import append_jsonl
from swiftlike.core.merge import Run
from swiftlike.data.load import max_bytes
from swiftlike.datasets_registry.row import Image, Message, Turns
from swiftlike.engines.base import Completion, Engine, Request, Sampling, Scorer
from swiftlike.pipelines.infer.batch import adapter_of
from swiftlike.pipelines.infer.records import messages_of, source_text
from swiftlike.pipelines.infer.terminal import HELP, PROMPT, QUESTION, Terminal, word_of
from swiftlike.pipelines.infer.typed import with_pictures
from swiftlike.pipelines.serving import Opened, open_engine, open_scorer


class Talk(Protocol):
    """What the loop of a terminal drives."""

    prompt: str

    def ask(self, text: str) -> None:
        """Answer what was typed. ValueError says why it cannot be."""
        ...

    def forget(self) -> None: ...

    def steer(self, word: str, rest: str) -> None: ...


def run_chat(run: Run, opened: Opened, sampling: Sampling) -> int:
    """Load the weights, then talk until the user leaves."""
    terminal = Terminal()
    terminal.edit()
    with open_talk(run, opened, sampling, terminal) as talk:
        say(f"{opened.checkpoint.source.name}: help lists what can be typed, exit or Ctrl-D leaves")
        loop(terminal, talk)
    return 0


@contextlib.contextmanager
def open_talk(run: Run, opened: Opened, sampling: Sampling, terminal: Terminal) -> Iterator[Talk]:
    """The weights, loaded, and what talks with them."""
    sees, limit = opened.checkpoint.adapter is not None, max_bytes(run.data)
    if opened.reward:
        yield Judging(terminal, open_scorer(run, opened), sees, limit)
        return
    keep = Path(run.infer.result_path).expanduser() if run.infer.result_path else None
    engine = open_engine(run, opened)
    try:
        yield Conversation(
            terminal, Answering(engine, sampling, adapter_of(opened), run.infer.stream), sees, limit, keep
        )
    finally:
        engine.close()


def loop(terminal: Terminal, talk: Talk) -> None:
    """Until the user leaves. Ctrl-C breaks off what is typed; what cannot be answered is said."""
    while True:
        try:
            text = terminal.entry(talk.prompt)
            word = word_of(text)
            if word is None and text.strip():
                talk.ask(text)
            elif word is not None and word[0] in ("exit", "quit"):
                return
            elif word is not None:
                talk.steer(*word)
        except EOFError:
            say("")
            return
        except KeyboardInterrupt:
            say("\n(exit or Ctrl-D leaves)")
        except ValueError as error:  # a picture or a prompt that cannot be
            say(f"error: {error}")


class Answering:
    """Shows an answer while it is made. Ctrl-C ends it; what was said until then counts."""

    def __init__(self, engine: Engine, sampling: Sampling, adapter: str, stream: bool = True) -> None:
        self.engine, self.sampling, self.adapter = engine, sampling, adapter
        self.stream = stream and sampling.num_beams == 1  # beams are known when all are done

    def __call__(self, turns: Turns) -> str | None:
        """The answer; None when it was stopped before it began. ValueError when there can be none."""
        request = Request(prompt=turns, sampling=self.sampling, adapter=self.adapter)
        said: list[str] = []
        finish = "cancelled"
        try:
            for text, ended in self._streamed(request) if self.stream else [self._whole(request)]:
                said.append(text)
                write(text)
                finish = ended or finish
        except KeyboardInterrupt:
            finish = "cancelled"
        say("")
        if finish == "cancelled":
            note("(stopped)")
        elif finish == "length":
            note("(cut off: --max_new_tokens is reached, or the context is full)")
        return "".join(said) or (None if finish == "cancelled" else "")

    def _streamed(self, request: Request) -> Iterator[tuple[str, str | None]]:
        with contextlib.closing(self.engine.stream(request)) as deltas:  # type: ignore[type-var]
            for delta in deltas:
                yield delta.text, delta.finish

    def _whole(self, request: Request) -> tuple[str, str | None]:
        (answer,) = self.engine.generate([request])
        if not answer.completions:
            raise ValueError(answer.error)
        done: Completion = answer.completions[0]
        return done.text, done.finish


class Conversation:
    """Remembers what was said and shown. What cannot be answered leaves no trace."""

    prompt = PROMPT

    def __init__(self, terminal: Terminal, answer: Answering, sees: bool, limit: int, keep: Path | None = None) -> None:
        self.terminal, self.answer, self.sees, self.limit, self.keep = terminal, answer, sees, limit, keep
        self.system: tuple[Message, ...] = ()
        self.messages: tuple[Message, ...] = ()
        self.images: tuple[Image, ...] = ()

    def ask(self, text: str) -> None:
        """One question, its answer shown, remembered and, where a file was given, kept."""
        text, images = with_pictures(text, self.sees, self.terminal.line, self.limit)
        turns = Turns((*self.system, *self.messages, Message("user", text)), (*self.images, *images))
        said = self.answer(turns)
        if said is None:
            return
        whole = Turns((*turns.messages, Message("assistant", said)), turns.images)
        self.messages, self.images = whole.messages[len(self.system) :], whole.images
        if self.keep is not None:
            self.keep.parent.mkdir(parents=True, exist_ok=True)
            sources = [source_text(image) for image in whole.images]
            append_jsonl(self.keep, {"messages": messages_of(whole), "response": said, "images": sources})

    def forget(self) -> None:
        """Begin anew."""
        self.messages, self.images = (), ()

    def steer(self, word: str, rest: str) -> None:
        """Do what a word says."""
        if word == "help":
            say(HELP)
        elif word in ("multi-line", "single-line"):
            self.terminal.several = word == "multi-line"
            say("(an entry ends with #)" if self.terminal.several else "(an entry is a line)")
        elif word == "reset-system":
            text = rest or self.terminal.line("system <<< ").strip()
            self.system = (Message("system", text),) if text else ()
            self.forget()
            say(f"(forgotten; system: {text or 'as at the start'})")
        else:
            self.forget()
            say("(forgotten)")


class Judging:
    """Asks for a question and an answer, and shows the reward of the answer."""

    prompt = QUESTION

    def __init__(self, terminal: Terminal, scorer: Scorer, sees: bool, limit: int) -> None:
        self.terminal, self.scorer, self.sees, self.limit = terminal, scorer, sees, limit

    def ask(self, text: str) -> None:
        """The reward of the answer that is asked for next."""
        text, images = with_pictures(text, self.sees, self.terminal.line, self.limit)
        answer = self.terminal.line("answer <<< ")
        (reward,) = self.scorer.score([Turns((Message("user", text), Message("assistant", answer)), images)])
        if isinstance(reward, str):
            raise ValueError(reward)
        say(f"reward: {reward:.4f}")

    def forget(self) -> None:
        """Every question is a new one."""

    def steer(self, word: str, rest: str) -> None:
        """There is nothing to steer."""
        say("  a question, then its answer; exit, quit or Ctrl-D leaves")


def say(text: Any) -> None:
    """A line on standard output."""
    write(f"{text}\n")


def note(text: str) -> None:
    """A line about an answer, kept apart from it where answers go to a file."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def write(text: str) -> None:
    """Shown at once."""
    sys.stdout.write(text)
    sys.stdout.flush()

"""The only thing between files and tokens: one prompt and K completions, with their images."""

from __future__ import annotations

import dataclasses as dc
import re

IMAGE_TAG = "<image>"
_TAG = re.compile(re.escape(IMAGE_TAG))


@dc.dataclass(frozen=True, slots=True)
class Image:
    """Where a picture comes from, before anything is read: a path, URL, data URL, base64 text, or raw bytes."""

    source: str | bytes


@dc.dataclass(frozen=True, slots=True)
class Message:
    """One turn. `role` is system, user, assistant or tool; `<image>` tags in `content` mark pictures in order.

    `trained` is False for assistant turns that must not count in an SFT loss (a `loss: false` key in the data).
    `written` is the stretch of a transcript that the turn was read from, white space and words for roles included: the
    stretches of all turns make up the transcript, and an answer begins right after its `Assistant:`.
    """

    role: str
    content: str
    trained: bool = True
    written: str = dc.field(default="", compare=False, repr=False)

    @property
    def tags(self) -> int:
        """Number of `<image>` tags."""
        return len(_TAG.findall(self.content))


@dc.dataclass(frozen=True, slots=True)
class Turns:
    """Messages and the pictures of their `<image>` tags, in order."""

    messages: tuple[Message, ...]
    images: tuple[Image, ...] = ()

    @property
    def tags(self) -> int:
        """Number of `<image>` tags over all messages."""
        return sum(message.tags for message in self.messages)


@dc.dataclass(frozen=True, slots=True)
class Row:
    """A group before tokens: one prompt, K completions.

    `completions` holds K `Turns`, each ending in an assistant message (usually its only one), best first for pairs.
    `prompts` is empty except when completions answer *different* prompts (`rejected_images`, `rejected_messages`):
    then it holds K of them and `prompt` equals the first. `scores` holds K numbers for ranked data, `label` the
    verdict of a single answer (KTO), `margin` a reward margin. `origin` is "file:line" for messages to the user.
    """

    prompt: Turns
    completions: tuple[Turns, ...]
    prompts: tuple[Turns, ...] = ()
    scores: tuple[float, ...] = ()
    label: bool | None = None
    margin: float | None = None
    tools: str = ""  # JSON of tool definitions, handed to chat templates that take them
    origin: str = ""
    mark: str = ""  # APO's `type`: "apo" for golden answer against sample, empty for annotated pairs
    prompt_id: str = ""  # APO's `query_id`: rows with one id belong to one prompt

    def prompt_of(self, k: int) -> Turns:
        """The prompt that completion k answers."""
        return self.prompts[k] if self.prompts else self.prompt

    @property
    def size(self) -> int:
        """K, the number of completions."""
        return len(self.completions)

"""Messages to text pieces, and text pieces to token ids, by a family's TemplateCard or the checkpoint's own Jinja."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from swiftlike.core.errors import UserError
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import IMAGE_TAG, Message, Turns
from swiftlike.model_registry.card import TemplateCard, VisionCard
from swiftlike.model_registry.render import bind, segments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dc.dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of templated text. `counted` pieces are what the loss is over."""

    text: str
    counted: bool


class Template:
    """Chat format of one checkpoint. `card` None means the checkpoint's own Jinja template.

    `system` None keeps the row's system message or else the card's default; any text, the empty one included,
    replaces the default where a row has no system message of its own.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        card: TemplateCard | None,
        vision: VisionCard | None = None,
        system: str | None = None,
    ) -> None:
        self.tokenizer, self.vision, self.system = tokenizer, vision, system
        self.card = card and bind(card, tokenizer.eos_token or "", self._adds_bos(), tokenizer.sep_token or "")
        if card is None and not tokenizer.chat_template:
            raise UserError(
                "this checkpoint has no chat template of its own",
                hint="name one: --template chatml (swiftlike list models)",
            )
        self._opening: tuple[str | None, list[int]] = (None, [])
        self._backend = _backend(tokenizer)
        self._adds_space = self._prefix_space()

    # -- messages to text -------------------------------------------------------------------------------------------

    def pieces(self, prompt: Turns, completion: Turns, every: bool = False, tools: str = "") -> list[Piece]:
        """Templated text of a prompt and one completion.

        Counted are the completion's assistant turns with their stop text; with `every`, all assistant turns of the
        prompt too, unless the data says `loss: false` or the template takes transcripts verbatim.
        """
        prompt, completion = self._as_written(prompt), self._as_written(completion)
        messages = self._with_system([*prompt.messages, *completion.messages])
        first = len(messages) - len(completion.messages)
        counts = [m.trained and (every or i >= first) for i, m in enumerate(messages) if m.role == "assistant"]
        messages = [self._marked(message) for message in messages]
        if self.card is None:
            return self._jinja(messages, counts, tools)
        if tools:
            raise BadRow("tools", f"template {self.card.name} has no place for tool definitions")
        pieces, answer = [], 0
        for text, is_answer in self._segments(messages):
            pieces.append(Piece(text, is_answer and counts[answer]))
            answer += is_answer
        return pieces

    def prompt_text(self, turns: Turns, tools: str = "") -> str:
        """Text that a model continues: the turns and the opening of an answer."""
        messages = [self._marked(message) for message in self._with_system(self._as_written(turns).messages)]
        if self.card is None:
            return self._render(messages, tools, opened=True)
        return "".join(text for text, _ in segments(self.card, messages, add_generation_prompt=True))

    def _segments(self, messages: Sequence[Message]) -> list[tuple[str, bool]]:
        assert self.card is not None
        try:
            return segments(self.card, messages)
        except UserError as error:  # a conversation that this template cannot show is that row's fault
            raise BadRow("template", error.message) from error

    def _with_system(self, messages: Sequence[Message]) -> list[Message]:
        own = bool(messages) and messages[0].role == "system"
        default = self.system if self.system is not None else (self.card.default_system if self.card else "")
        return list(messages) if own or not default else [Message("system", default), *messages]

    def _as_written(self, turns: Turns) -> Turns:
        """A transcript as the text it was, in one message from whom its last turn is from; system messages stay."""
        if not (self.card and self.card.verbatim and any(message.written for message in turns.messages)):
            return turns
        system = [message for message in turns.messages if message.role == "system"]
        said = [message for message in turns.messages if message.role != "system"]
        text = "".join(message.written or message.content for message in said)
        role = "user" if said[-1].role != "assistant" else "assistant"
        return dc.replace(turns, messages=(*system, dc.replace(said[-1], role=role, content=text, written="")))

    def _marked(self, message: Message) -> Message:
        """`<image>` tags replaced by the family's own picture text, one placeholder each."""
        if self.vision is None:
            return message
        if self.vision.placeholder != IMAGE_TAG and self.vision.placeholder in message.content:
            raise BadRow("placeholder in text", f"the text contains {self.vision.placeholder}")
        before, *rest = message.content.split(IMAGE_TAG)
        for text in rest:
            gap = "" if text.startswith(self.vision.after) else self.vision.after
            before += self.vision.image_text + gap + text
        return dc.replace(message, content=before)

    # -- the checkpoint's own template ------------------------------------------------------------------------------

    def _render(self, messages: Sequence[Message], tools: str, opened: bool) -> str:
        import json

        chat = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self.tokenizer.apply_chat_template(
                chat, tools=json.loads(tools) if tools else None, add_generation_prompt=opened, tokenize=False
            )
        except Exception as error:
            raise BadRow("chat template", f"{type(error).__name__}: {error}") from error

    def _jinja(self, messages: list[Message], counts: list[bool], tools: str) -> list[Piece]:
        """Cut the rendered conversation at every counted answer: what the answer's turn adds to an opened prompt."""
        pieces, done, answer = [], "", 0
        for end, message in enumerate(messages, 1):
            if message.role != "assistant":
                continue
            answer += 1
            if not counts[answer - 1]:
                continue
            before = self._render(messages[: end - 1], tools, opened=True)
            after = self._render(messages[:end], tools, opened=False)
            if not (before.startswith(done) and after.startswith(before)):
                raise BadRow("chat template", "it rewrites earlier turns, so an answer cannot be told from its prompt")
            pieces += [Piece(before[len(done) :], False), Piece(self._through_stop(after[len(before) :]), True)]
            done = before + pieces[-1].text
        return pieces

    def _through_stop(self, text: str) -> str:
        """An answer ends with its stop token: white space that a template puts after it is not the model's to say."""
        eos = self.tokenizer.eos_token
        end = text.rfind(eos) if eos else -1
        return text if end < 0 or text[end + len(eos) :].strip() else text[: end + len(eos)]

    # -- text to ids ------------------------------------------------------------------------------------------------

    def ids(self, pieces: Sequence[Piece]) -> list[tuple[list[int], bool]]:
        """Token ids of pieces, each encoded on its own so that no token spans the border of prompt and answer.

        Neighbours that count alike are joined first. A space at the end of a prompt moves to the answer, where
        tokenizers expect it, unless the card says otherwise. Pictures are still single placeholders.
        """
        joined: list[Piece] = []
        for piece in pieces:
            if joined and joined[-1].counted == piece.counted:
                joined[-1] = Piece(joined[-1].text + piece.text, piece.counted)
            else:
                joined.append(piece)
        for i in range(len(joined) - 1 if self.card is None or self.card.moves_space else 0):
            if joined[i].text.endswith(" ") and joined[i + 1].counted:
                joined[i] = Piece(joined[i].text[:-1], joined[i].counted)
                joined[i + 1] = Piece(" " + joined[i + 1].text, True)
        out: list[tuple[list[int], bool]] = []
        for piece in joined:
            out.append((self._encode(piece.text, out[-1][0]) if out else self._first(piece.text), piece.counted))
        bos = self.tokenizer.bos_token_id
        if self.card is not None and self.card.bos and bos is not None:
            ids, counted = out[0]
            out[0] = ([bos, *ids], counted) if not counted else out[0]
            if counted:
                out.insert(0, ([bos], False))
        return out

    @property
    def kept_bos(self) -> int | None:
        """Id of the token that stays in front of a prompt whose beginning is cut; None where nothing does."""
        return self.tokenizer.bos_token_id if self.card is None or self.card.bos_stays else None

    def _adds_bos(self) -> bool:
        """Whether the tokenizer itself starts a text with BOS."""
        bos = self.tokenizer.bos_token_id
        return bos is not None and self.tokenizer("x")["input_ids"][:1] == [bos]

    def _prefix_space(self) -> bool:
        """Whether the tokenizer puts a space before text that it is given alone (sentencepiece)."""
        alone, after = self._raw("x"), self._raw("\nx")
        return after[len(self._raw("\n")) :] != alone

    def _raw(self, text: str) -> list[int]:
        core = self._backend
        if core is None or core.padding or core.truncation or core.encode_special_tokens:
            return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return core.encode(text, add_special_tokens=False).ids

    def _first(self, text: str) -> list[int]:
        """Ids of a text that begins a sequence: the prompt of a row begins each of its sequences."""
        known, ids = self._opening
        if known != text:
            ids = self._raw(text)
            self._opening = text, ids  # in one step: servers ask from several threads
        return ids

    def _encode(self, text: str, before: Sequence[int]) -> list[int]:
        """Ids of a text that follows the ids `before`: the space of a text's beginning is put where the whole
        conversation would have it, which some tokenizers do after special tokens too."""
        if not before or not self._adds_space:
            return self._raw(text)
        special = self.tokenizer.added_tokens_decoder.get(before[-1])
        for lead in (special.content,) if special else ("\n", "x", "1"):
            context, both = self._raw(lead), self._raw(lead + text)
            if both[: len(context)] == context:  # else the lead has merged into the text
                return both[len(context) :]
        return self._raw(text)


def _backend(tokenizer: PreTrainedTokenizerBase) -> Any:
    """What a tokenizer's call hands its text to, when it does nothing else with it; None where it may. Being asked
    directly saves a fifth of the time."""
    from transformers import PreTrainedTokenizerFast

    plain = getattr(type(tokenizer), "_encode_plus", None) is getattr(PreTrainedTokenizerFast, "_encode_plus", ())
    return tokenizer.backend_tokenizer if plain else None  # type: ignore[attr-defined]  # fast tokenizers have it

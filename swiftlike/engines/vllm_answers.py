"""What vLLM gives back, as the answers of an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from swiftlike.datasets_registry.row import Turns
from swiftlike.engines.base import Answer, Completion, Delta, Request, Token
from swiftlike.engines.prompts import Prepared, Prompts
from swiftlike.engines.pt import CONTEXT
from swiftlike.engines.text import Text, whole

FINISH = {"stop": "stop", "length": "length", "repetition": "stop"}  # everything else was cancelled


class Answers:
    """Texts and tokens, read as the pt engine reads them. `own` is the model's generation configuration."""

    def __init__(self, prompts: Prompts, own: Any) -> None:
        self.prompts = prompts
        known = own.eos_token_id
        self.ends = prompts.ends | frozenset(known if isinstance(known, list) else [] if known is None else [known])

    def answer(self, request: Request, prepared: Prepared | None, output: Any) -> Answer:
        """All completions of a request that has ended, or why there are none."""
        if isinstance(output, Exception) or prepared is None:
            return Answer(error=str(output))
        try:
            same_prompt(output, prepared.ids)
        except ValueError as error:
            return Answer(error=str(error))
        found = tuple(
            Completion(
                text=self._text(request, prepared, one),
                ids=tuple(one.token_ids),
                finish=_finish(one) or "cancelled",
                tokens=self._tokens(request, one),
            )
            for one in sorted(output.outputs, key=lambda one: one.index)
        )
        return Answer(completions=found, prompt_tokens=len(prepared.ids))

    def _text(self, request: Request, prepared: Prepared, one: Any) -> str:
        """An answer's text up to its stop text, decoded as the pt engine decodes it."""
        ids, before = self._without_end(one.token_ids), context(request, prepared)
        text = whole(self.prompts.template.tokenizer, ids, before)
        found = (text.find(stop) for stop in (*self.prompts.stops, *request.sampling.stop) if stop)
        return text[: min((at for at in found if at >= 0), default=None)]

    def _without_end(self, ids: Sequence[int]) -> list[int]:
        return list(ids[:-1] if ids and ids[-1] in self.ends else ids)

    def _tokens(self, request: Request, one: Any) -> tuple[Token, ...]:
        if request.sampling.logprobs is None or not one.logprobs:
            return ()
        return tuple(
            self._token(token, line, request.sampling.logprobs)
            for token, line in zip(one.token_ids, one.logprobs, strict=True)
        )

    def _token(self, token: int, line: Mapping[int, Any], count: int) -> Token:
        best = sorted((value.rank, other, value.logprob) for other, value in line.items() if value.rank <= count)
        top = tuple((other, self._show(other), logprob) for _, other, logprob in best[:count])
        return Token(token, self._show(token), line[token].logprob, top)

    def _show(self, token: int) -> str:
        return self.prompts.template.tokenizer.decode([token], clean_up_tokenization_spaces=False)

    def delta(self, request: Request, prepared: Prepared, one: Any, text: Text) -> Delta:
        """What one step of vLLM's adds to a completion."""
        ids, finish = tuple(one.token_ids), _finish(one)
        new = "".join(text.add(token) for token in self._without_end(ids))
        return Delta(
            index=one.index,
            text=new + text.end() if finish else new,
            ids=ids,
            tokens=self._tokens(request, one),
            finish=finish,
            prompt_tokens=len(prepared.ids),
        )


def _finish(one: Any) -> str | None:
    return one.finish_reason and FINISH.get(one.finish_reason, "cancelled")


def context(request: Request, prepared: Prepared) -> list[int]:
    """Tokens that a text goes on from, where a space between them and the answer is part of the answer."""
    goes_on = request.continue_last or not isinstance(request.prompt, Turns)
    return list(prepared.ids[-CONTEXT:]) if goes_on else []


def same_prompt(output: Any, ids: Sequence[int]) -> None:
    """ValueError when vLLM has expanded pictures otherwise than training did."""
    if list(output.prompt_token_ids) != list(ids):
        raise ValueError(
            f"vLLM made {len(output.prompt_token_ids)} tokens of this prompt, training {len(ids)}: its picture "
            "processing differs; use --infer_backend pt"
        )

"""Which token comes next: greedy, or drawn from what temperature, top-k, top-p and penalties leave."""

from __future__ import annotations

import dataclasses as dc
import hashlib
import secrets
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from swiftlike.engines.base import Sampling

GREEDY = 1e-5  # temperatures below this divide logits beyond what floats hold


@dc.dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """How tokens are chosen, nothing left open. Temperature 0 is greedy, `top_k` 0 and `top_p` 1 cut nothing."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    @property
    def penalised(self) -> bool:
        """Whether tokens that were there already are treated differently."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


def settle(sampling: Sampling, own: Any) -> Choice:
    """What a request leaves open is as the model's generation_config.json says; where that is silent, greedy."""
    temperature = sampling.temperature
    if temperature is None:
        temperature = (1.0 if own.temperature is None else own.temperature) if own.do_sample else 0.0
    repetition = own.repetition_penalty if sampling.repetition_penalty is None else sampling.repetition_penalty
    top_k = own.top_k if sampling.top_k is None else sampling.top_k
    top_p = own.top_p if sampling.top_p is None else sampling.top_p
    drawn = temperature >= GREEDY
    return Choice(
        temperature=temperature if drawn else 0.0,
        top_k=max(top_k or 0, 0) if drawn else 0,
        top_p=1.0 if top_p is None or not drawn else top_p,
        min_p=(own.min_p or 0.0) if drawn else 0.0,
        repetition_penalty=repetition or 1.0,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
    )


def generator(seed: int | None, index: int, device: torch.device) -> torch.Generator:
    """The random numbers of completion `index`: the same for the same seed, whatever is computed beside it."""
    if seed is None:
        seed = secrets.randbits(63)
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big") >> 1)


def penalised(logits: Tensor, choice: Choice, prompt: Sequence[int], made: Sequence[int]) -> Tensor:
    """[V] logits, less those of tokens that were there: repetition counts prompt and answer (Keskar et al. 2019,
    section 4.1), presence and frequency the answer, as OpenAI defines them."""
    logits = logits.clone()
    if choice.repetition_penalty != 1:
        seen = torch.tensor(sorted({*prompt, *made}), device=logits.device)
        score = logits[seen]
        logits[seen] = torch.where(score < 0, score * choice.repetition_penalty, score / choice.repetition_penalty)
    if made and (choice.presence_penalty or choice.frequency_penalty):
        ids, counts = torch.tensor(made, device=logits.device).unique(return_counts=True)
        logits[ids] -= choice.presence_penalty + choice.frequency_penalty * counts
    return logits


def probabilities(logits: Tensor, choice: Choice) -> Tensor:
    """[N, V] logits to what is drawn from, by transformers' own warpers, in its order."""
    from transformers import LogitsProcessorList, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    warpers = LogitsProcessorList()
    if choice.top_k:
        warpers.append(TopKLogitsWarper(top_k=choice.top_k))
    if choice.top_p < 1:
        warpers.append(TopPLogitsWarper(top_p=choice.top_p))
    if choice.min_p:
        warpers.append(MinPLogitsWarper(min_p=choice.min_p))
    return torch.softmax(warpers(None, logits / choice.temperature), -1)


@dc.dataclass(frozen=True, slots=True)
class Wish:
    """One line of logits: how its token is chosen, from which random numbers, after what."""

    choice: Choice
    generator: torch.Generator | None
    prompt: Sequence[int]
    made: Sequence[int]


def choose(logits: Tensor, wishes: Sequence[Wish]) -> list[int]:
    """A token for each line of [N, V] float32 logits. Lines that draw alike are warped together."""
    lines = {
        i: penalised(logits[i], one.choice, one.prompt, one.made)
        for i, one in enumerate(wishes)
        if one.choice.penalised
    }
    if lines:
        logits = torch.stack([lines.get(i, logits[i]) for i in range(len(wishes))])
    chosen = logits.argmax(-1).tolist()
    alike: dict[Choice, list[int]] = {}
    for i, one in enumerate(wishes):
        if one.choice.temperature:
            key = dc.replace(one.choice, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0)
            alike.setdefault(key, []).append(i)
    for choice, places in alike.items():
        for i, line in zip(places, probabilities(logits[places], choice), strict=True):
            chosen[i] = int(torch.multinomial(line, 1, generator=wishes[i].generator))
    return chosen

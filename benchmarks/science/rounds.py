"""What both iterative games are played with: a language of 12 words, a tiny language model, sampling, our training step.

A prompt names three different words. An answer is any sequence of words that ends with the end token; one that reaches
the limit has none. Models are Llama of 2 layers x 64; log-probabilities, rewards and losses are swiftlike's own.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from swiftlike.data.collate import Collator, Item
from swiftlike.data.encode import Encoded, Span
from swiftlike.losses import LOSSES
from swiftlike.losses.base import GroupLogps, GroupRewards, Loss
from swiftlike.models.logps import add_scoring, group_logps, model_inputs
from swiftlike.models.reward_head import ValueHead, add_value_head, group_rewards, reward_inputs

PAD, BOS, SEP, END, *WORDS = range(16)
ASKED = 3  # words in a prompt
HIDDEN = 64

Ids = list[int]
Objective = Callable[[Any], Loss]


class Training(NamedTuple):
    """How long and how fast: AdamW, constant after a warm-up over a tenth of the steps."""

    rate: float
    batch: int
    epochs: int = 1


def language_model(seed: int) -> LlamaForCausalLM:
    """An untrained one that can be sampled from and scored."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=24,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=END,
        initializer_range=0.1,  # of the order of 1 / sqrt(64): from 0.02 these few steps learn little
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config)
    add_scoring(model)
    return model


def twin(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Another one with the same weights."""
    other = language_model(0)
    other.load_state_dict(model.state_dict())
    return other


def reward_model(trunk: LlamaForCausalLM, seed: int) -> LlamaForCausalLM:
    """A copy of the trunk with a new head, read where --rm_pooling last reads."""
    model = twin(trunk)
    torch.manual_seed(seed)
    add_value_head(model, ValueHead(HIDDEN, bias=False), "last")
    return model


def prompts(count: int, chance: random.Random) -> list[Ids]:
    """Begin, three different words, separator."""
    return [[BOS, *chance.sample(WORDS, ASKED), SEP] for _ in range(count)]


def words_of(answer: Ids) -> Ids:
    """The answer without its end token."""
    return answer[:-1] if answer and answer[-1] == END else answer


@torch.no_grad()
def sample(
    model: LlamaForCausalLM, given: Sequence[Ids], count: int, limit: int, chance: torch.Generator
) -> list[list[Ids]]:
    """`count` answers to each prompt, at temperature 1. An answer stops at its end token or at `limit` tokens."""
    ids = torch.tensor(given).repeat_interleave(count, 0)
    answers: list[Ids] = [[] for _ in ids]
    going, cache = torch.arange(len(ids)), None
    for _ in range(limit):
        out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        ids, cache = torch.multinomial(out.logits[:, -1].softmax(-1), 1, generator=chance), out.past_key_values
        for row, token in zip(going.tolist(), ids[:, 0].tolist(), strict=True):
            answers[row].append(token)
        alive = (ids[:, 0] != END).nonzero()[:, 0]
        if not len(alive):
            break
        if len(alive) < len(going):
            cache.batch_select_indices(alive)
            ids, going = ids[alive], going[alive]
    return [answers[i : i + count] for i in range(0, len(answers), count)]


def item(prompt: Ids, answers: Sequence[Ids], scores: Sequence[float] = (), mark: str = "") -> Item:
    """A group as training sees it: only the answers' tokens count."""
    lines = tuple(Span(np.array(one), np.ones(len(one), bool)) for one in answers)
    start = Span(np.array(prompt), np.zeros(len(prompt), bool))
    return Item(Encoded(start, lines, scores=tuple(scores), mark=mark, prompt_id=str(prompt)))


def batches(items: Sequence[Item], size: int, order: Sequence[int]) -> Iterator[list[int]]:
    """Consecutive parts of the order; the last may be smaller."""
    return (list(order[start : start + size]) for start in range(0, len(items), size))


def logps(model: LlamaForCausalLM, batch: dict[str, Any]) -> Tensor:
    """[B, K] summed log-probabilities of the answers."""
    return group_logps(model(**model_inputs(batch)), batch)["policy"]


def rewards(model: LlamaForCausalLM, batch: dict[str, Any]) -> Tensor:
    """[B, K] rewards of the answers."""
    return group_rewards(model(**reward_inputs(batch)), batch)


PAIRS = Collator(pad_id=PAD, layout="split")
LISTS = Collator(pad_id=PAD, layout="split", pooling="last", ends=frozenset([END]))


def objective(name: str, **flags: Any) -> Objective:
    """A loss of swiftlike's registry with its flags."""
    card = LOSSES.get(name)
    args = card.args(**flags)
    assert not args.problems() if hasattr(args, "problems") else True
    return lambda record: card.fn(record, args)


def train_policy(
    model: LlamaForCausalLM, items: Sequence[Item], loss: Objective, training: Training, chance: random.Random
) -> list[float]:
    """Train against the model it starts from. Gives the loss of each step."""
    with torch.no_grad():
        parts = batches(items, 256, range(len(items)))
        reference = torch.cat([logps(model, PAIRS([items[i] for i in part])) for part in parts])

    def step(part: list[int]) -> Loss:
        batch = PAIRS([items[i] for i in part])
        return loss(GroupLogps(logps(model, batch), batch["tokens"], reference[part], present=batch["present"]))

    return train(model, len(items), step, training, chance)


def train_reward(
    model: LlamaForCausalLM, items: Sequence[Item], loss: Objective, training: Training, chance: random.Random
) -> list[float]:
    """Train on lists of scored answers. Gives the loss of each step."""

    def step(part: list[int]) -> Loss:
        batch = LISTS([items[i] for i in part])
        facts = {name: batch.get(name) for name in ("scores", "adversarial")}
        return loss(GroupRewards(rewards(model, batch), batch["present"], **facts))

    return train(model, len(items), step, training, chance)


def train(
    model: LlamaForCausalLM,
    count: int,
    step: Callable[[list[int]], Loss],
    training: Training,
    chance: random.Random,
) -> list[float]:
    """Epochs over `count` items in an order drawn anew for each; `step` gives the loss of some of them."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=training.rate, weight_decay=0.0)
    total = training.epochs * -(-count // training.batch)
    warm = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda done: min(1.0, (done + 1) / max(1, total // 10)))
    found = []
    for _ in range(training.epochs):
        order = chance.sample(range(count), count)
        for part in batches(order, training.batch, order):
            value = step(part).value
            optimiser.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            warm.step()
            found.append(value.item())
    return found

"""What both iterative games are played with: a language of 12 words, a tiny model of it, sampling, our training step.

A prompt names one of three topics; each has four words of its own. An answer is any sequence of tokens that ends with
the end token; one that reaches the limit has none. Models are Llama of 2 layers x 64; log-probabilities, rewards and
losses are swiftlike's own.
"""

from __future__ import annotations

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

PAD, BOS, SEP, END, *_REST = range(19)
TOPICS, WORDS = _REST[:3], _REST[3:]
OWN = len(WORDS) // len(TOPICS)  # words of a topic
HIDDEN = 64

Ids = list[int]
Objective = Callable[[Any], Loss]


class Training(NamedTuple):
    """How long and how fast: AdamW, constant after a warm-up over a tenth of the steps."""

    rate: float
    batch: int
    epochs: int


# -- the language ---------------------------------------------------------------------------------------------------


def prompts(count: int, chance: random.Random) -> list[Ids]:
    """Begin, a topic, separator."""
    return [[BOS, chance.choice(TOPICS), SEP] for _ in range(count)]


def asked(prompt: Ids) -> Ids:
    """The words of the prompt's topic."""
    first = TOPICS.index(prompt[1]) * OWN
    return WORDS[first : first + OWN]


def words_of(answer: Ids) -> Ids:
    """The answer without its end token."""
    return answer[:-1] if answer and answer[-1] == END else answer


def ordinary(prompt: Ids, length: float, limit: int, chance: random.Random) -> Ids:
    """An answer as the data have it: about `length` words, a share of them on topic that differs from answer to answer
    (Beta(2, 2)), the others from other topics."""
    share, own = chance.betavariate(2, 2), asked(prompt)
    others = [word for word in WORDS if word not in own]
    count = 1
    while count < limit - 1 and chance.random() > 1 / length:
        count += 1
    return [chance.choice(own if chance.random() < share else others) for _ in range(count)] + [END]


# -- models ---------------------------------------------------------------------------------------------------------


def language_model(seed: int) -> LlamaForCausalLM:
    """An untrained one that can be sampled from and scored."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=4 + len(TOPICS) + len(WORDS),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        initializer_range=0.1,  # of the order of 1 / sqrt(64): from 0.02 so few steps learn little
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=END,
    )
    model = LlamaForCausalLM(config)
    add_scoring(model)
    return model


def twin(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Another one with the same weights, without a reward head."""
    other = language_model(0)
    other.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith("v_head")})
    return other


def reward_model(trunk: LlamaForCausalLM, seed: int) -> LlamaForCausalLM:
    """A copy of the trunk with a head, read where --rm_pooling last reads: the trunk's own head, or a new one."""
    model = twin(trunk)
    torch.manual_seed(seed)
    head = ValueHead(HIDDEN, bias=False)
    if hasattr(trunk, "v_head"):
        head.load_state_dict(trunk.v_head.state_dict())
    add_value_head(model, head, "last")
    return model


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
    return [answers[start : start + count] for start in range(0, len(answers), count)]


# -- training -------------------------------------------------------------------------------------------------------

ANSWERS = Collator(pad_id=PAD, layout="split")
JUDGED = Collator(pad_id=PAD, layout="split", pooling="last", ends=frozenset([END]))


def item(prompt: Ids, answers: Sequence[Ids], scores: Sequence[float] = (), mark: str = "", query: str = "") -> Item:
    """A group as training sees it: only the answers' tokens count. `query` tells equal prompts apart."""
    spans = tuple(Span(np.array(one), np.ones(len(one), bool)) for one in answers)
    start = Span(np.array(prompt), np.zeros(len(prompt), bool))
    return Item(Encoded(start, spans, scores=tuple(scores), mark=mark, prompt_id=query))


def objective(name: str, **flags: Any) -> Objective:
    """A loss of swiftlike's registry with its flags; ValueError when they do not go together."""
    card = LOSSES.get(name)
    args = card.args(**flags)
    if problems := getattr(args, "problems", list)():
        raise ValueError("; ".join(problems))
    return lambda record: card.fn(record, args)


def parts(order: Sequence[int], size: int) -> Iterator[list[int]]:
    """Consecutive pieces; the last may be smaller."""
    return (list(order[start : start + size]) for start in range(0, len(order), size))


def logps(model: LlamaForCausalLM, batch: dict[str, Any]) -> Tensor:
    """[B, K] summed log-probabilities of the answers."""
    return group_logps(model(**model_inputs(batch)), batch)["policy"]


def rewards(model: LlamaForCausalLM, batch: dict[str, Any]) -> Tensor:
    """[B, K] rewards of the answers."""
    return group_rewards(model(**reward_inputs(batch)), batch)


@torch.no_grad()
def scores(model: LlamaForCausalLM, given: Sequence[Ids], answers: Sequence[Sequence[Ids]]) -> list[list[float]]:
    """What a reward model says of each prompt's answers, equally many to each."""
    items = [item(prompt, some) for prompt, some in zip(given, answers, strict=True)]
    pieces = parts(range(len(items)), 64)
    return [row for piece in pieces for row in rewards(model, JUDGED([items[i] for i in piece])).tolist()]


def train_policy(
    model: LlamaForCausalLM, items: Sequence[Item], loss: Objective, training: Training, chance: random.Random
) -> list[float]:
    """Train with the model it starts from as the reference. Gives the loss of each step."""
    with torch.no_grad():
        pieces = parts(range(len(items)), 256)
        reference = torch.cat([logps(model, ANSWERS([items[i] for i in piece])) for piece in pieces])

    def step(part: list[int]) -> Loss:
        batch = ANSWERS([items[i] for i in part])
        return loss(GroupLogps(logps(model, batch), batch["tokens"], reference[part], present=batch["present"]))

    return _train(model, len(items), step, training, chance)


def train_reward(
    model: LlamaForCausalLM, items: Sequence[Item], loss: Objective, training: Training, chance: random.Random
) -> list[float]:
    """Train on lists of scored answers. Gives the loss of each step."""

    def step(part: list[int]) -> Loss:
        batch = JUDGED([items[i] for i in part])
        facts = {name: batch.get(name) for name in ("scores", "adversarial")}
        return loss(GroupRewards(rewards(model, batch), batch["present"], **facts))

    return _train(model, len(items), step, training, chance)


def _train(
    model: LlamaForCausalLM,
    count: int,
    step: Callable[[list[int]], Loss],
    training: Training,
    chance: random.Random,
) -> list[float]:
    """Epochs over `count` items, each in a new order; `step` gives the loss of some of them."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=training.rate, weight_decay=0.0)
    warm_up = max(1, training.epochs * -(-count // training.batch) // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda done: min(1.0, (done + 1) / warm_up))
    found = []
    for _ in range(training.epochs):
        for part in parts(chance.sample(range(count), count), training.batch):
            value = step(part).value
            optimiser.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            found.append(value.item())
    return found


def fitted(answers: int, length: float, limit: int, training: Training, seed: int) -> LlamaForCausalLM:
    """A language model trained on ordinary answers: what both games start from."""
    chance = random.Random(seed)
    rows = [item(prompt, [ordinary(prompt, length, limit, chance)]) for prompt in prompts(answers, chance)]
    model = language_model(seed)
    train_policy(model, rows, objective("sft"), training, chance)
    return model

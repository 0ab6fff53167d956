"""What transformers' own generate does as a whole: beam search, and models that keep more than keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteriaList

from swiftlike.engines.batch import Model, padded
from swiftlike.engines.row import Row


def alike(one: Row, other: Row) -> bool:
    """Whether two rows may be searched together. Drawn answers are searched alone, each from its own seed."""
    same = (one.adapter, one.limit, one.ends, one.choice) == (other.adapter, other.limit, other.ends, other.choice)
    kind, others = one.request.sampling, other.request.sampling
    drawn = one.choice.temperature and _search_of(one) != _search_of(other)
    return same and not drawn and (kind.num_beams, kind.n) == (others.num_beams, others.n)


def _search_of(row: Row) -> int:
    """Beams of one search are the answers to one request; without beams each answer is a search of its own."""
    return id(row.request if row.request.sampling.num_beams > 1 else row)


def search(model: Model, rows: Sequence[Row]) -> None:
    """Answer rows that are alike."""
    prompts = {_search_of(row): row.prepared for row in rows}
    ids, mask, inputs = padded(model, list(prompts.values()))
    if model.adapter is not None and model.adapter.mrope:
        inputs["mm_token_type_ids"] = (ids == model.placeholder).int()  # the model numbers positions by these
    model.switch(rows[0].adapter)
    with torch.random.fork_rng():
        if (numbers := rows[0].generator) is not None:
            torch.manual_seed(numbers.initial_seed())
        out = model.base.generate(
            ids,
            attention_mask=mask,
            generation_config=_config(model, rows[0]),
            stopping_criteria=StoppingCriteriaList([lambda *_, **__: _stopped(rows, ids)]),
            **inputs,
        )
    made = out[:, ids.shape[1] :].view(len(prompts), -1, out.shape[1] - ids.shape[1])
    place = {key: i for i, key in enumerate(prompts)}
    for row in rows:
        beams = made[place[_search_of(row)]]
        for token in beams[row.index if len(beams) > 1 else 0].tolist():
            if not row.finish:
                row.take(token, None)
        row.cancel()  # only where it was cancelled on the way


def _stopped(rows: Sequence[Row], ids: Tensor) -> Tensor:
    return torch.full((1,), all(row.cancelled for row in rows), device=ids.device)


def _config(model: Model, row: Row) -> GenerationConfig:
    kind, choice = row.request.sampling, row.choice
    drawn: dict[str, Any] = {"do_sample": False}
    if choice.temperature:
        drawn = {"do_sample": True, "temperature": choice.temperature, "top_k": choice.top_k, "top_p": choice.top_p}
    return GenerationConfig(
        max_new_tokens=row.limit,
        num_beams=kind.num_beams,
        num_return_sequences=kind.n if kind.num_beams > 1 else 1,
        repetition_penalty=choice.repetition_penalty,
        eos_token_id=sorted(row.ends),
        pad_token_id=model.pad_id,
        use_cache=True,
        **drawn,
    )

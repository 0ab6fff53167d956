"""`swiftlike verify DATASET`: tokens and log-probabilities of the same rows, as training computes them and as each
engine does, with the adapter and with merged weights."""

from __future__ import annotations

import dataclasses as dc
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run
from swiftlike.core.optional import available
from swiftlike.data.collate import Collator, Item
from swiftlike.data.encode import Encoded
from swiftlike.data.load import load_rows, max_bytes
from swiftlike.data.media import open_image
from swiftlike.data.prepared import encode_rows
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import Row
from swiftlike.engines.base import Request
from swiftlike.engines.batch import Model, padded
from swiftlike.engines.prompts import Prepared, Prompts
from swiftlike.models.load import choose_dtype
from swiftlike.models.logps import add_scoring, model_inputs
from swiftlike.pipelines.prepare import encoder, settle
from swiftlike.pipelines.serving import Opened, open_engine, open_model, prompts_of

SINGLE, HALF = 1e-3, 0.2  # nats
BATCH = 4  # sequences that the pt engine's forward pass pads to one length
SEED = 42


@dc.dataclass(frozen=True, kw_only=True)
class Encoding:
    """A prompt with one answer, as training encodes it, and the request for that answer."""

    origin: str
    prepared: Prepared
    counted: np.ndarray  # bool [T]
    asked: Request

    def opens_with(self, ids: Sequence[int]) -> bool:
        """Whether these are the tokens that stand before an answer."""
        return (
            tuple(ids) == self.prepared.ids[: len(ids)]
            and len(ids) < len(self.counted)
            and bool(self.counted[len(ids)])
        )


@dc.dataclass(frozen=True, kw_only=True)
class Result:
    """How one way of computing compares with training: its prompts that differ, its picture tokens, the absolute
    differences of log-probabilities in nats. `reason`: why there are none."""

    name: str
    prompts: int
    pictures: int
    worst: float = float("inf")
    mean: float = float("inf")
    reason: str = ""


def run(run: Run) -> int:
    """Compare and print. Exit code 1: tokens differ, or log-probabilities by more than the bound."""
    opened = open_model(run)
    if opened.reward:
        raise UserError(f"{opened.head_folder} is a reward model: there are no log-probabilities to compare")
    prompts = prompts_of(run, opened)
    rows = _rows(run, opened)
    groups, problems = encode_rows(encoder(opened.run, opened.checkpoint, every=prompts.every), rows)
    settle(problems, opened.run, "data")
    known = {row.origin: row for row in rows}
    encodings = [one for group in groups for one in _encodings(group, known[group.origin], prompts)]
    names = run.verify.engines or ["pt", *(["vllm"] if available("vllm") else [])]
    results = _compared(run, opened, groups, encodings, names)
    dtype = choose_dtype(opened.run.model.torch_dtype)
    usual = SINGLE if dtype == torch.float32 else HALF
    bound = usual if run.verify.bound is None else run.verify.bound
    pictures = _picture_tokens((one.prepared.ids for one in encodings), prompts)
    equal = all(one.worst <= bound and not one.prompts and one.pictures == pictures for one in results)
    counted = sum(int(one.counted.sum()) for one in encodings)
    title = f"{len(rows)} rows, {len(encodings)} answers of {counted} tokens, {pictures} picture tokens"
    lines = [title, *_table(results), f"bound {bound:g}: {'equal' if equal else 'NOT EQUAL'}"]
    sys.stdout.write("\n".join([*lines, *_first_prompt(encodings, prompts), ""]))
    return 0 if equal else 1


def _rows(run: Run, opened: Opened) -> list[Row]:
    data = dc.replace(opened.run.data, dataset_test_ratio=0.0)
    loaded = load_rows(data, "auto", SEED, "hf" if run.model.use_hf else "ms")
    return [*loaded.train, *loaded.val][: run.verify.rows]


def _encodings(group: Encoded, row: Row, prompts: Prompts) -> list[Encoding]:
    found = []
    for k, span in enumerate(group.completions):
        images = (*group.prompt.images, *span.images)
        prepared = Prepared(
            ids=(*group.prompt.ids.tolist(), *span.ids.tolist()),
            images=tuple(group.images[i] for i in images),
            grids=tuple(group.grids[i] for i in images) if group.grids else (),
            reader=prompts,
        )
        counted = np.concatenate([group.prompt.counted, span.counted])
        found.append(
            Encoding(
                origin=group.origin,
                prepared=prepared,
                counted=counted,
                asked=Request(prompt=row.prompt_of(k), tools=row.tools),
            )
        )
    return found


# -- ways of computing ------------------------------------------------------------------------------------------------


def _compared(
    run: Run, opened: Opened, groups: Sequence[Encoded], encodings: Sequence[Encoding], names: Sequence[str]
) -> list[Result]:
    """Training first, on the weights that the pt engine loads; then each engine, before and after merging."""
    merged = [False, True] if opened.served and not run.use.merge_lora else [run.use.merge_lora]
    wanted: list[Tensor] = []
    results = []
    for merge in merged:
        if wanted and "pt" not in names:
            break
        engine: Any = open_engine(run.replace("verify", merge_lora=merge, infer_backend="pt"), opened)
        try:
            engine.model.switch(engine.known_as.get(engine.served, engine.served))
            found = _forward(engine.model, encodings)
            wanted = wanted or _training(opened, engine.model, groups)
        finally:
            engine.close()
        if "pt" in names:
            results.append(_result("pt", merge, engine.prompts, encodings, wanted, found))
    for merge in merged if "vllm" in names else []:
        engine = open_engine(run.replace("verify", merge_lora=merge, infer_backend="vllm"), opened)
        try:
            results.append(_result("vllm", merge, engine.prompts, encodings, wanted, _vllm(engine, encodings)))
        finally:
            engine.close()
    return results


def _training(opened: Opened, model: Model, groups: Sequence[Encoded]) -> list[Tensor]:
    """Log-probabilities of each sequence's counted tokens, by the collator, layout and scoring of training."""
    checkpoint = opened.checkpoint
    add_scoring(model.base)
    collate = Collator(
        pad_id=checkpoint.tokenizer.pad_token_id,
        layout=checkpoint.layout,
        adapter=model.adapter,
        placeholder=model.placeholder,
    )
    found = []
    for group in groups:
        pictures = tuple(model.adapter.pixels(picture) for picture in _pictures(opened, group)) if model.adapter else ()
        batch = _on(model, collate([Item(group, pictures)]))
        with torch.no_grad():
            logps, _ = model.net(**model_inputs(batch))
        found += [logps[batch["slots"] == k].cpu() for k in range(len(group.completions))]
    return found


def _pictures(opened: Opened, group: Encoded) -> list[Any]:
    return [open_image(image, max_bytes=max_bytes(opened.run.data)) for image in group.images]


def _forward(model: Model, encodings: Sequence[Encoding]) -> list[Tensor]:
    """The same by the model's own forward pass, on batches padded as the pt engine pads them."""
    found = []
    for start in range(0, len(encodings), BATCH):
        part = encodings[start : start + BATCH]
        ids, mask, pixels = padded(model, [one.prepared for one in part])
        places = model.places([one.prepared for one in part], ids.shape[1])
        with torch.no_grad():
            logits = model.net(input_ids=ids, attention_mask=mask, position_ids=places, **pixels).logits.float()
        logps = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1).cpu()
        for line, one in zip(logps, part, strict=True):
            found.append(line[len(line) + 1 - len(one.counted) :][torch.from_numpy(one.counted[1:])])
    return found


def _vllm(engine: Any, encodings: Sequence[Encoding]) -> list[Tensor] | str:
    try:
        found = engine.logps([(one.prepared.ids, one.prepared.images) for one in encodings], engine.served)
    except ValueError as error:  # it cannot read a prompt, or makes other tokens of it
        return str(error)
    return [torch.tensor(line)[torch.from_numpy(one.counted[1:])] for line, one in zip(found, encodings, strict=True)]


def _on(model: Model, batch: dict[str, Any]) -> dict[str, Any]:
    """The batch where the model is, pixels in its type."""
    return {
        name: value.to(model.device, model.base.dtype if value.is_floating_point() else None)
        if isinstance(value, Tensor)
        else value
        for name, value in batch.items()
    }


# -- what comes out ---------------------------------------------------------------------------------------------------


def _result(
    name: str,
    merged: bool,
    prompts: Prompts,
    encodings: Sequence[Encoding],
    wanted: Sequence[Tensor],
    found: Sequence[Tensor] | str,
) -> Result:
    asked = [_asked(one, prompts) for one in encodings]
    facts: dict[str, Any] = {
        "name": f"{name}, merged" if merged else name,
        "prompts": sum(not one.opens_with(ids) for one, ids in zip(encodings, asked, strict=True)),
        "pictures": _picture_tokens(asked, prompts),
    }
    if isinstance(found, str):
        return Result(**facts, reason=found)
    differences = torch.cat([(mine - theirs).abs() for mine, theirs in zip(found, wanted, strict=True)])
    return Result(**facts, worst=float(differences.max()), mean=float(differences.mean()))


def _asked(one: Encoding, prompts: Prompts) -> tuple[int, ...]:
    """The prompt that an engine gets when it is asked for the answer; empty where it refuses."""
    try:
        return prompts.ids(one.asked).ids
    except BadRow:
        return ()


def _first_prompt(encodings: Sequence[Encoding], prompts: Prompts) -> list[str]:
    """How the first prompt that an engine gets otherwise differs, and why that may be."""
    for one in encodings:
        asked = _asked(one, prompts)
        if not one.opens_with(asked):
            known = int(np.argmax(one.counted))
            cut = " (rows that are too long are cut for training only)" * (len(asked) > known)
            theirs = f"has {len(asked)}{cut}" if asked else "is refused: it is longer than the context"
            return [f"{one.origin}: training's prompt has {known} tokens, the engine's {theirs}"]
    return []


def _picture_tokens(prompts_ids: Any, prompts: Prompts) -> int:
    return sum(ids.count(prompts.placeholder) for ids in prompts_ids) if prompts.placeholder is not None else 0


def _table(results: Sequence[Result]) -> list[str]:
    lines = [f"{'compared with training':<24}{'prompts differ':>16}{'picture tokens':>16}{'largest':>12}{'mean':>12}"]
    for one in results:
        numbers = one.reason or f"{one.worst:>12.2g}{one.mean:>12.2g}"
        lines.append(f"{one.name:<24}{one.prompts:>16}{one.pictures:>16}{' ' if one.reason else ''}{numbers}")
    return lines

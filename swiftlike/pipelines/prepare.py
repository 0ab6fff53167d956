"""Everything before weights: the checkpoint's facts, the rows, the groups. Training and `check` share it."""

from __future__ import annotations

import dataclasses as dc
import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger
from swiftlike.core.merge import Run
from swiftlike.data.check import Problem
from swiftlike.data.encode import Encoder
from swiftlike.data.load import max_bytes
from swiftlike.data.packed import Packed
from swiftlike.data.template import Template
from swiftlike.data.vision import Adapter, ImageBudget, load_adapter
from swiftlike.models.layout import end_to_end, supports_shared
from swiftlike.models.load import (
    Source,
    choose_attention,
    load_config,
    load_image_processor,
    load_template,
    load_tokenizer,
    locate,
)

log = get_logger(__name__)
UNLIMITED = 1 << 30  # tokens: no row is longer
SHOWN = 20  # bad rows listed in full in an error


@dc.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint without its weights."""

    source: Source
    config: Any
    tokenizer: Any
    template: Template
    adapter: Adapter | None
    image_processor: Any
    attention: str
    layout: str
    layout_reason: str
    end_to_end: int | None


def open_checkpoint(run: Run, weights: bool) -> Checkpoint:
    """Read configuration, tokenizer and image processing of the model that the run names."""
    source = locate(run.model, weights)
    config, tokenizer = load_config(source), load_tokenizer(source)
    vision, processor = source.card.vision, load_image_processor(source)
    data = run.data
    budget = ImageBudget(data.max_pixels, data.min_pixels, data.max_image_tokens, data.max_tiles)
    adapter = load_adapter(vision, source.folder, config, budget, processor) if vision else None
    if vision is None and any(dc.astuple(budget)):
        raise UserError(f"--max_pixels and its like are for vision models; {source.name} reads text only")
    attention = choose_attention(source, config, run.model.attn_impl)
    requested, free = (run.train.layout, run.train.padding_free) if "train" in run.sections else ("auto", False)
    layout, reason = choose_layout(requested, source, config, attention)
    template = Template(tokenizer, load_template(source), vision, run.model.system)
    return Checkpoint(
        source=source,
        config=config,
        tokenizer=tokenizer,
        template=template,
        adapter=adapter,
        image_processor=processor,
        attention=attention,
        layout=layout,
        layout_reason=reason,
        end_to_end=choose_end_to_end(free, config, layout, attention),
    )


def choose_layout(requested: str, source: Source, config: Any, attention: str) -> tuple[str, str]:
    """(layout, why)."""
    against = supports_shared(config, attention)
    if "shared" not in source.card.layouts:
        against = f"{source.card.name} models cannot take it"
    if requested == "shared" and against:
        raise UserError(f"--layout shared is not possible: {against}", hint="use --layout auto")
    if requested != "auto":
        return requested, "--layout"
    return ("split", against) if against else ("shared", "each prompt is computed once for all its completions")


def choose_end_to_end(requested: bool | None, config: Any, layout: str, attention: str) -> int | None:
    """The length of a batch's longest row from which its rows are laid end to end; None: they are padded."""
    longest = end_to_end(config, layout, attention)
    if requested and longest is None:
        raise UserError(
            f"--padding_free is not possible with {attention} attention and --layout {layout}",
            hint="use --attn_impl sdpa --layout auto, or --padding_free false",
        )
    return {None: longest, True: 0, False: None}[requested]


def encoder(run: Run, checkpoint: Checkpoint, every: bool) -> Encoder:
    """What turns this run's rows into groups. `every`: all assistant turns count, as in SFT."""
    data = run.data
    return Encoder(
        template=checkpoint.template,
        adapter=checkpoint.adapter,
        max_length=UNLIMITED if data.max_length == -1 else data.max_length,
        max_prompt_length=data.max_prompt_length,
        max_completion_length=data.max_completion_length,
        truncation=data.truncation_strategy or "delete",
        every=every,
        max_bytes=max_bytes(data),
    )


def settle(problems: Sequence[Problem], run: Run, what: str) -> None:
    """Stop because of bad rows, or say how many are left out and why."""
    if not problems:
        return
    counts = Counter(problem.kind for problem in problems)
    first = {problem.kind: problem for problem in reversed(problems)}
    lines = [f"{count} x {kind}, first: {first[kind].as_text()}" for kind, count in counts.most_common()]
    chosen = run.data.truncation_strategy == "delete" and set(counts) == {"longer than max_length"}
    if run.data.on_bad_row == "error" and not chosen:
        hint = "leave them out with --on_bad_row drop"
        if "longer than max_length" in counts:
            cut = run.data.truncation_strategy
            cuts = f"; --truncation_strategy {cut} cannot cut these enough" if cut else ""
            hint += f", or raise --max_length{cuts or ', or cut text with --truncation_strategy left|right'}"
        raise UserError(f"{len(problems)} {what} rows cannot be used:", hint=hint, problems=lines[:SHOWN])
    for line in lines:
        log.warning("%s rows left out: %s", what, line)


def digest(groups: Packed, *settings: Any) -> str:
    """What a checkpoint remembers of its data: tokens and labels, in order, and the settings that decide the order."""
    out = hashlib.blake2b(repr(settings).encode(), digest_size=16)
    groups.fold(out)
    return out.hexdigest()

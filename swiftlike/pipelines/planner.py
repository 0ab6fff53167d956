"""`swiftlike plan`, and the memory that `--dry_run` shows: from flags and rows to bytes per device. Needs no GPU."""

from __future__ import annotations

import dataclasses as dc
import json
import os
import sys
from typing import Any

import torch

from swiftlike.core.devices import amount, own_devices, visible_devices
from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger, world_size
from swiftlike.core.merge import Run
from swiftlike.data.bucketing import Pick
from swiftlike.data.collate import Collator
from swiftlike.losses.base import LossCard
from swiftlike.models.load import DTYPES, skeleton, weight_dtype
from swiftlike.models.placement import (
    CARE,
    Spread,
    beside,
    local_processes,
    module_sizes,
    needs_map,
    plan,
)
from swiftlike.models.rehearsal import Batch, Step, Way, rehearse
from swiftlike.models.reward_head import base_of
from swiftlike.pipelines.budget import Facts, Placement, as_json, cheapest, placements, table
from swiftlike.pipelines.plan import as_json as plan_as_json
from swiftlike.pipelines.plan import make_plan, trained, tuned
from swiftlike.pipelines.prepare import Checkpoint, encoder
from swiftlike.pipelines.rewards import end_tokens, is_reward, pooling_of
from swiftlike.pipelines.rows import Data, decided, read_data

log = get_logger(__name__)
GIB = 1 << 30
STATE = {"sgd": 0, "adafactor": 0, "8bit": 2}  # bytes of an optimiser's state per trained number; others: Adam's 8


@dc.dataclass(frozen=True)
class Cards:
    """The cards that are planned for: how many, and bytes of each (None: not known, as on a CPU)."""

    count: int
    size: int | None

    def free(self, mine: list[int]) -> dict[int, int]:
        """What weights may fill of each."""
        size = self.size if self.size is not None else 1 << 60
        return dict.fromkeys(mine, size * CARE[0] // CARE[1])


def cards_of(run: Run) -> Cards:
    """Those that the flags describe, else those of this machine."""
    train, here = run.train, torch.cuda.device_count()
    count = train.gpus or len(visible_devices(os.environ)) or 1
    if train.gpu_memory is not None:
        return Cards(count, int(train.gpu_memory * GIB))
    sizes = [torch.cuda.get_device_properties(one).total_memory for one in range(here)]
    return Cards(count, min(sizes) if sizes else None)


# -- the command ------------------------------------------------------------------------------------------------------


def run(run: Run) -> int:
    """Estimate every placement, of LoRA and of full training. Exit code 1: what was asked for fits nowhere."""
    from swiftlike.pipelines.prepare import open_checkpoint
    from swiftlike.pipelines.settings import seeded
    from swiftlike.pipelines.train import loss_card, quiet_transformers, settled

    quiet_transformers()
    run = run.replace("plan", dry_run=True)
    card, checkpoint, run = loss_card(run), open_checkpoint(run, weights=False), seeded(run)
    data = read_data(run, checkpoint, card)
    run, data = settled(run, card, data), decided(data, card)
    cards, found = cards_of(run), {}
    for kind in _kinds(run):
        asked = run.replace("plan", sft_type=kind)
        found[kind] = estimates(asked, checkpoint, card, data, cards)
    counted = make_plan(run, checkpoint, card, data.train, {})
    if run.plan.json:
        tables = {kind: as_json(rows, cards.size) for kind, rows in found.items()}
        shown = {"plan": plan_as_json(counted), "cards": dc.asdict(cards), "placements": tables}
        sys.stdout.write(json.dumps(shown, ensure_ascii=False, indent=2) + "\n")
    else:
        sys.stdout.write("\n".join([*counted.lines(), *_words(run, found, cards)]) + "\n")
    best = cheapest(found[run.tuner.sft_type], cards.size)
    return 0 if best is not None or cards.size is None else 1


def _kinds(run: Run) -> list[str]:
    """What was asked for, then the other one where these flags leave it open."""
    kind = run.tuner.sft_type
    bound = run.model.quant_bits or run.tuner.adapters or run.train.resume_from_checkpoint
    return [kind] if bound else [kind, "full" if kind == "lora" else "lora"]


def _words(run: Run, found: dict[str, list[Placement]], cards: Cards) -> list[str]:
    many = "1 card" if cards.count == 1 else f"{cards.count} cards"
    lines = [f"{many}, {amount(cards.size) + ' each' if cards.size else 'memory not known: give --gpu_memory 80'}"]
    for kind, rows in found.items():
        lines += ["", f"--sft_type {kind}", *table(rows, cards.size)]
        best = cheapest(rows, cards.size)
        if best is not None:
            lines.append(f"cheapest that fits: {best.name}: {typed(best, run, kind)}")
        elif cards.size is not None:
            lines.append(f"nothing fits; {advice(run, kind)}")
    return lines


def typed(best: Placement, run: Run, kind: str) -> str:
    """The command of a placement, in short."""
    words = best.flags.split()
    variables = [word for word in words if "=" in word]
    objective = run.rlhf.rlhf_type
    command = "sft" if objective == "sft" else f"rlhf --rlhf_type {objective}"
    return " ".join([*variables, "swiftlike", command, f"--sft_type {kind} ...", *words[len(variables) :]])


def advice(run: Run, kind: str) -> str:
    """What makes a run smaller, by how little it costs."""
    train, words = run.train, []
    if not train.gradient_checkpointing or train.checkpointing_every_n_layers > 1:
        words.append("--gradient_checkpointing true --checkpointing_every_n_layers 1")
    if train.batch_size > 1:
        words.append("--batch_size 1")
    if kind == "full":
        words.append("--sft_type lora")
    elif not run.model.quant_bits:
        words.append("--quant_bits 4")
    return "what makes it smaller: " + ", ".join([*words, "a smaller --max_length"])


# -- estimates --------------------------------------------------------------------------------------------------------


def estimate_run(run: Run, checkpoint: Checkpoint, card: LossCard, data: Data) -> tuple[dict[str, int], list[str]]:
    """Memory of one device by part as the flags place this run, and the lines of its device map."""
    cards = cards_of(run)
    rank, processes = local_processes()
    mine = own_devices(cards.count, processes, rank) if cards.count >= processes else [0]
    name = _placed(run, len(mine), world_size())
    mapped = name == "device map"
    spread = _spread(run, checkpoint, cards, mine) if mapped else None
    try:
        facts = facts_of(run, checkpoint, card, data)
    except UserError as error:
        log.warning("%s", error)
        return {}, spread.lines() if spread is not None else []
    count = len(mine) if mapped else max(world_size(), 1)
    found = {one.name: one.memory for one in placements(facts, count, spread, bool(run.model.quant_bits))}
    return found.get(name, {}), spread.lines() if spread is not None else []


def _placed(run: Run, own: int, ranks: int) -> str:
    """The name of the placement that the flags ask for."""
    engine = run.train.deepspeed or ""
    if engine in ("zero2_offload", "zero3_offload") or (engine in ("zero1", "zero2", "zero3") and ranks > 1):
        return engine
    if run.train.fsdp and ranks > 1:
        return "fsdp full_shard"
    if own > 1 and not engine:
        return "device map"
    return "ddp" if ranks > 1 else "single"


def estimates(run: Run, checkpoint: Checkpoint, card: LossCard, data: Data, cards: Cards) -> list[Placement]:
    """Every placement on these cards. A model that no device map can hold has none."""
    facts = facts_of(run, checkpoint, card, data)
    try:
        spread = _spread(run, checkpoint, cards, list(range(cards.count))) if cards.count > 1 else None
    except UserError as error:
        log.info("no device map: %s", str(error).splitlines()[0])
        spread = None
    return placements(facts, cards.count, spread, bool(run.model.quant_bits))


def _spread(run: Run, checkpoint: Checkpoint, cards: Cards, mine: list[int]) -> Spread | None:
    if not needs_map(run.model, len(mine)) or run.model.device_map == "cpu":
        return None
    return plan(run.model, skeleton(checkpoint.config).to(_stored(run)), cards.free(mine), local_processes()[0])


def _stored(run: Run) -> torch.dtype:
    return weight_dtype(DTYPES[run.model.torch_dtype], run.tuner.sft_type == "full")


def facts_of(run: Run, checkpoint: Checkpoint, card: LossCard, data: Data) -> Facts:
    """What one process needs that holds a whole copy."""
    whole, model = tuned(run, checkpoint, card, checkpoint.config)
    count, full = trained(model, card), run.tuner.sft_type == "full"
    bare = skeleton(checkpoint.config).to(_stored(run))
    sizes = module_sizes(bare, run.model.quant_bits)
    layers = bare.get_decoder().layers if hasattr(bare.get_decoder(), "layers") else []
    block = max((sum(p.numel() for p in one.parameters()) for one in layers), default=0)
    copies = 2 if _second_model(run, card, full) else 1
    width = 2 if run.tuner.lora_dtype in ("bfloat16", "float16") and not full else 4
    base = base_of(model)
    if any(one.requires_grad for name in beside(base) for one in base.get_submodule(name).parameters()):
        log.warning("the vision tower or projector is trained: what they keep for it is not in the estimate")
    step, layer = _step(run, checkpoint, card, data, _stored(run))
    compute = DTYPES[run.model.torch_dtype]
    engine = _step(run, checkpoint, card, data, compute)[0] if full and _stored(run) != compute else step
    return Facts(
        weights=sizes[""] * copies + (0 if full else count * width),
        whole=whole,
        trained=count,
        gradient=width,
        optimiser=_state(run.train.optim) * width // 4,
        compute=compute.itemsize,
        stored=compute.itemsize if run.model.quant_bits else _stored(run).itemsize,
        step=step,
        engine=engine,
        layer=layer,
        layers=len(layers),
        block=block,
        root=max(whole - sum(p.numel() for one in layers for p in one.parameters()), 0),
        foreach=run.train.optim == "adamw_torch" and (torch.cuda.is_available() or run.train.gpus is not None),
    )


def _second_model(run: Run, card: LossCard, full: bool) -> bool:
    other = run.rlhf.ref_model or run.rlhf.ref_model_type if "rlhf" in run.sections else None
    return bool(card.needs_reference(run.loss) and (full or other))


def _state(optimiser: str) -> int:
    return next((size for word, size in STATE.items() if word in optimiser), 8)


def _step(run: Run, checkpoint: Checkpoint, card: LossCard, data: Data, weights: torch.dtype) -> tuple[Step, Step]:
    """The peak of the largest micro-batch with weights of a type, and what each layer adds to it."""
    full, compute = run.tuner.sft_type == "full", DTYPES[run.model.torch_dtype]
    train = run.train
    way = Way(
        weights=weights,
        trained=weights if full else DTYPES[run.tuner.lora_dtype or "float32"],
        compute=compute,
        accumulates=train.gradient_accumulation_steps > 1,
        every=train.checkpointing_every_n_layers if train.gradient_checkpointing else 0,
        reference=card.needs_reference(run.loss),
        head=not is_reward(card),
        chunk=train.logprob_chunk,
    )
    batch = _largest(run, checkpoint, card, data)
    try:
        return rehearse(lambda config: tuned(run, checkpoint, card, config)[1], checkpoint.config, batch, way)
    except RuntimeError as error:  # what it computes depends on numbers, as a choice of experts may
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"the memory of {checkpoint.source.name} is not estimated: {reason}") from error


def _largest(run: Run, checkpoint: Checkpoint, card: LossCard, data: Data) -> Batch:
    """The longest groups together, as the loader would make them: batches are of like lengths."""
    from swiftlike.pipelines.train import groups

    collate = Collator(
        pad_id=checkpoint.tokenizer.pad_token_id,
        layout=checkpoint.layout,
        adapter=checkpoint.adapter,
        placeholder=encoder(run, checkpoint, False).placeholder,
        pooling=pooling_of(run, card),
        ends=end_tokens(checkpoint),
        end_to_end=checkpoint.end_to_end,
    )
    longest = data.train.shared_lengths.argsort()[::-1][: run.train.batch_size].tolist()
    partners = card.record == "labelled"
    rows = groups(data.train, checkpoint, run)
    made: dict[str, Any] = collate([rows[Pick(one, longest[0] if partners else None)] for one in longest])
    made["predict"] = made["pool_at"] if "pool_at" in made else made["predict"]
    return Batch(**{field.name: made[field.name] for field in dc.fields(Batch) if field.name in made})

"""The planner's memory of a training step beside what torch's allocator really gave out: `python memory_plan.py`.

Models of about 30 million weights (random, no download), text and vision, LoRA and full, gradient checkpointing on and
off, both layouts. One micro-batch each goes forward and backward on the CPU under torch's profiler, which sees every
allocation and release; the planner sees configuration and batch only. Writes results/memory_plan.json.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses as dc
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent / "tests" / "unit" / "models")]

import families  # noqa: E402 - found by the path above
import numpy as np  # noqa: E402
import torch  # noqa: E402

from swiftlike.args.lora import TunerArgs  # noqa: E402
from swiftlike.data.collate import Collator, Item  # noqa: E402
from swiftlike.data.encode import Encoded, Span  # noqa: E402
from swiftlike.datasets_registry.row import Image  # noqa: E402
from swiftlike.models.load import skeleton  # noqa: E402
from swiftlike.models.logps import add_scoring, group_logps, model_inputs  # noqa: E402
from swiftlike.models.rehearsal import Batch, Step, Way, recompute, rehearse  # noqa: E402
from swiftlike.models.tuning import add_lora, freeze, no_dropout  # noqa: E402

SIZE = {
    **{"vocab_size": 16000, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8},
    **{"num_attention_heads": 6, "num_key_value_heads": 2},
}
LENGTHS = [(60, 50, 30), (90, 40, 70)]  # of two groups: prompt, then answers


@dc.dataclass(frozen=True)
class Case:
    """What is measured."""

    family: str
    full: bool = False
    every: int = 1
    layout: str = "shared"
    dtype: str = "float32"
    accumulates: bool = False
    tiny: bool = False

    @property
    def name(self) -> str:
        """In words."""
        how = "full" if self.full else "LoRA"
        kept = f"every {self.every} recomputed" if self.every else "nothing recomputed"
        more = ", accumulated" if self.accumulates else ""
        size = "tiny " * self.tiny
        return f"{size}{self.family}, {how}, {kept}, {self.layout}, {self.dtype}{more}"


CASES = [
    Case("llama", every=0),
    Case("llama"),
    Case("llama", full=True, every=0),
    Case("llama", full=True),
    Case("llava"),
    Case("qwen2_5_vl", every=0),
    Case("internvl", full=True),
    Case("llama", every=0, tiny=True),
    Case("llava", tiny=True),
    Case("llama", layout="split"),
    Case("llama", full=True, every=0, layout="split"),
    Case("llama", full=True, accumulates=True),
    Case("llama", every=2),
    Case("gemma2", every=0),
    Case("phi3", every=0),
    Case("llava", every=0),
    Case("llama", every=0, dtype="bfloat16"),
    Case("llama", dtype="bfloat16"),
    Case("llama", full=True, dtype="bfloat16"),
    Case("llama", full=True, every=0, dtype="bfloat16"),
]
QUICK = [Case("llama"), Case("llama", full=True, every=0), Case("llava", every=0)]


def configuration(case: Case) -> Any:
    """A family's test configuration, its language model as large as SIZE unless the case is tiny."""
    config = families.config(case.family)
    if case.tiny:
        return config
    text = config.get_text_config()
    for key, value in SIZE.items():
        setattr(text, key, value)
    text.head_dim = 64
    if "mrope_section" in (getattr(text, "rope_parameters", None) or {}):
        text.rope_parameters["mrope_section"] = [8, 12, 12]
    if getattr(text, "layer_types", None):
        text.layer_types = (text.layer_types * 8)[:8]
    vision = getattr(config, "vision_config", None)
    if vision is not None and hasattr(vision, "out_hidden_size"):
        vision.out_hidden_size = SIZE["hidden_size"]
    return config


def batch(case: Case) -> dict[str, Any]:
    """Two groups, with a picture each where the family has them."""
    chance = np.random.default_rng(0)
    adapter = families.adapter(case.family) if case.family in families.VISION else None
    items = []
    for at, (before, *answers) in enumerate(LENGTHS):
        ids = chance.integers(len(families.SPECIAL), 340, before * 2)
        seen = [families.picture(120, 90, at)] if adapter else []
        for one in seen:
            ids = np.insert(ids, 3, [families.placeholder(case.family)] * adapter.count(*one.size))
        spans = [chance.integers(len(families.SPECIAL), 340, n * 2) for n in answers]
        completions = tuple(Span(one.astype(np.int32), np.ones(len(one), bool)) for one in spans)
        grids = tuple(adapter.grid(*one.size) for one in seen) if case.family in families.MROPE else ()
        prompt = Span(ids.astype(np.int32), np.zeros(len(ids), bool), tuple(range(len(seen))))
        group = Encoded(prompt, completions, tuple(Image(f"{at}-{i}") for i in range(len(seen))), grids)
        items.append(Item(group, tuple(adapter.pixels(one) for one in seen) if adapter else ()))
    return Collator(pad_id=0, layout=case.layout, adapter=adapter, placeholder=families.placeholder(case.family))(items)


def tuned(case: Case, model: Any) -> Any:
    """The model with what is trained."""
    card = families.card(case.family)
    if case.full:
        freeze(model, card, TunerArgs(sft_type="full"))
    else:
        model = add_lora(model, card, TunerArgs(lora_target_modules=["ALL"]), dropout=False)
    no_dropout(model)
    return model


def estimate(case: Case, made: dict[str, Any]) -> Step:
    """The planner's numbers."""
    compute = getattr(torch, case.dtype)
    names = [field.name for field in dc.fields(Batch)]
    way = Way(
        weights=torch.float32 if case.full else compute,
        trained=torch.float32,
        compute=compute,
        accumulates=case.accumulates,
        every=case.every,
        reference=False,
        head=True,
        chunk=256,
    )
    shapes = Batch(**{name: made[name] for name in names if name in made})
    return rehearse(lambda config: tuned(case, skeleton(config)), configuration(case), shapes, way)[0]


def measure(case: Case, made: dict[str, Any]) -> int:
    """Bytes that the allocator held at most, beyond what it held before the step."""
    compute = getattr(torch, case.dtype)
    with torch.random.fork_rng():
        model = families.auto_class(case.family).from_config(
            configuration(case), dtype=torch.float32 if case.full else compute
        )
    add_scoring(model, 256)
    model.config.use_cache = False
    base, model = model, tuned(case, model).train()
    if case.every:
        recompute(base, case.every)

    def step() -> None:
        with torch.autocast("cpu", compute, enabled=compute != torch.float32):
            policy = group_logps(model(**model_inputs(copy.copy(made))), made)["policy"]
        policy.sum().backward()

    step()
    held = sum(one.grad.numel() * one.grad.element_size() for one in model.parameters() if one.grad is not None)
    if not case.accumulates:
        held = 0
        for one in model.parameters():
            one.grad = None
    gc.collect()  # what the first step left in cycles would be released during the second
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    return held + highest(seen)


def highest(seen: Any) -> int:
    """The largest running sum of allocations less releases."""
    events = [one for one in seen.profiler.kineto_results.events() if one.name() == "[memory]"]
    now = peak = 0
    for one in sorted(events, key=lambda event: event.start_ns()):
        now += one.nbytes()
        peak = max(peak, now)
    return peak


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three cases, nothing written")
    parser.add_argument("--only", default="", help="cases whose name has this in it, nothing written")
    parser.add_argument("--more", action="store_true", help="keep the cases that the file has")
    asked = parser.parse_args()
    torch.manual_seed(0)
    whole, path = not asked.quick and not asked.only, HERE / "results" / "memory_plan.json"
    rows = json.loads(path.read_text())["rows"] if whole and asked.more and path.is_file() else []
    there = {row["case"] for row in rows}
    for case in QUICK if asked.quick else [one for one in CASES if asked.only in one.name]:
        if case.name in there:
            continue
        made, start = batch(case), time.perf_counter()
        planned = estimate(case, made)
        seconds, measured = time.perf_counter() - start, measure(case, made)
        off = planned.total / measured - 1
        rows.append(
            {"case": case.name, **dc.asdict(planned), "planned": planned.total, "measured": measured, "off": off}
        )
        print(f"{case.name:60} planned {planned.total / 2**20:8.1f} MiB, measured {measured / 2**20:8.1f} MiB, "
              f"{off:+.1%} ({seconds:.1f} s)", flush=True)  # fmt: skip
        worst = max(abs(row["off"]) for row in rows)
        if whole:
            path.write_text(json.dumps({"torch": torch.__version__, "worst": worst, "rows": rows}, indent=1) + "\n")
    print(f"worst: {max((abs(row['off']) for row in rows), default=0):.1%}")


if __name__ == "__main__":
    main()

"""A policy and its reference, able to score answers by the forward pass of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.files import read_args
from swiftlike.core.merge import COMMAND_LINE, Run
from swiftlike.data.collate import Collator
from swiftlike.losses.base import LossCard
from swiftlike.models.logps import add_scoring
from swiftlike.models.reference import AdapterOff, FrozenCopy, Reference
from swiftlike.pipelines.evaluate.rows import Measure
from swiftlike.pipelines.infer.batch import adapter_of
from swiftlike.pipelines.serving import ADAPTER, Opened, open_engine, open_model, whole_checkpoint


def measure_of(run: Run, opened: Opened, card: LossCard, args: Any, reference: Reference | None) -> Measure:
    """The policy with its weights loaded, to be measured by `card`, whose temperature divides its logits."""
    checkpoint, model = opened.checkpoint, _loaded(run, opened, card.temperature(args))
    collate = Collator(
        pad_id=checkpoint.tokenizer.pad_token_id,
        layout=checkpoint.layout,
        adapter=checkpoint.adapter,
        placeholder=model.placeholder,
    )
    return Measure(card=card, args=args, model=model.net, collate=collate, reference=reference)


def reference_of(run: Run, opened: Opened, temperature: float = 1.0) -> Reference | None:
    """`--ref_model`, or the policy without its adapter; None for a whole model alone."""
    name = run.eval.ref_model
    if not name:
        return AdapterOff() if opened.adapters and not run.use.merge_lora else None
    other = open_model(run.replace("--ref_model", adapters=[], merge_lora=False, **_named(run, name)))
    if other.checkpoint.tokenizer.get_vocab() != opened.checkpoint.tokenizer.get_vocab():
        raise UserError(f"--ref_model {name} has another tokenizer than {opened.model_folder}")
    return FrozenCopy(_loaded(other.run, other, temperature).net)


def _named(run: Run, name: str) -> dict[str, Any]:
    """Flags that open the reference. An adapter's base is the one it was trained on, not the policy's, unless --model
    names it."""
    if not Path(name).expanduser().is_dir():
        return {"ckpt_dir": None, "model": name, "model_type": None}
    folder = whole_checkpoint(name)
    if not (folder / ADAPTER).is_file() or run.origin.get("model") == COMMAND_LINE:
        return {"ckpt_dir": str(folder)}
    found = read_args(folder)
    saved = found[1] if found else {}
    return {
        "ckpt_dir": str(folder),
        "model": saved.get("model") or "",
        "model_type": saved.get("model_type"),
    }


def _loaded(run: Run, opened: Opened, temperature: float) -> Any:
    """The weights, as the pt engine loads them, able to score tokens."""
    engine: Any = open_engine(run.replace("eval", infer_backend="pt"), opened)
    name = adapter_of(opened)
    engine.model.switch(engine.known_as.get(name, name))
    add_scoring(engine.model.base, temperature=temperature)
    return engine.model

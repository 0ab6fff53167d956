"""DeepSpeed and FSDP: what they are told, and what accelerate leaves undone on a CPU."""

from __future__ import annotations

import os
from typing import Any

import torch

from swiftlike.args.hf import FSDP, ZERO
from swiftlike.core.errors import UserError
from swiftlike.core.log import world_size
from swiftlike.core.merge import Run
from swiftlike.models.reference import FrozenCopy, Reference, Stored


def refuse_without_cards(train: Any) -> None:
    """UserError for what needs a card: FSDP2's offloading asks for one before it moves anything."""
    if not train.dry_run and "offload" in (train.fsdp or "").split() and not torch.cuda.is_available():
        raise UserError("--fsdp offload needs a card, and there is none", hint="leave offload out: --fsdp full_shard")


def connect(train: Any) -> None:
    """Let the engine's processes find each other, before weights are loaded into their shards.

    accelerate starts torch's process group, but not DeepSpeed's view of it (ZeRO-3 would believe in one process), and
    it turns FSDP on for processes with cards only: on CPUs it would train with DDP and say nothing.
    """
    if train.deepspeed and not torch.cuda.is_available():
        import deepspeed

        # compiled at the first start, for a minute; gloo sums as well
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend="gloo")
    if train.fsdp and not torch.cuda.is_available() and world_size() > 1:
        from accelerate import PartialState
        from accelerate.utils import DistributedType

        PartialState().distributed_type = DistributedType.MULTI_GPU


def share(model: Any, reference: Reference | None, accelerator: Any) -> None:
    """Say what FSDP's units are, and spread a second model as the policy will be: ZeRO-3 has loaded it in shards that
    need its hooks, FSDP has it whole."""
    if accelerator.is_fsdp2 and accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap is None:
        there = {type(module).__name__ for module in model.modules()}  # transformers names those of all towers
        units = [name for name in model._no_split_modules if name in there]
        accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = units
    copy = reference.inner if isinstance(reference, Stored) else reference
    if not isinstance(copy, FrozenCopy):
        return
    if accelerator.state.deepspeed_plugin is not None and accelerator.state.deepspeed_plugin.zero_stage == 3:
        import deepspeed

        config = {**accelerator.state.deepspeed_plugin.deepspeed_config}
        zero = {name: value for name, value in config["zero_optimization"].items() if name != "offload_optimizer"}
        unused = ("optimizer", "scheduler", "zero_optimization")
        config = {name: value for name, value in config.items() if name not in unused} | {"zero_optimization": zero}
        copy.model, *_ = deepspeed.initialize(model=copy.model, config=config)
    elif accelerator.is_fsdp2:
        from accelerate.utils.fsdp_utils import fsdp2_prepare_model

        accelerator.state.fsdp_plugin.set_auto_wrap_policy(copy.model)
        copy.model = fsdp2_prepare_model(accelerator, copy.model)
    copy.model.eval()


def engine(run: Run) -> dict[str, Any]:
    """DeepSpeed or FSDP keywords."""
    values: dict[str, Any] = {}
    if run.train.deepspeed:
        if not torch.cuda.is_available():  # else DeepSpeed looks for drivers
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        values["deepspeed"] = deepspeed_config(run.train.deepspeed, run.train.max_grad_norm)
    if run.train.fsdp:
        values |= {"fsdp": True, "fsdp_config": fsdp_config(run.train.fsdp)}
    return values


def fsdp_config(words: str) -> dict[str, Any]:
    """transformers' settings for words as in "full_shard offload"."""
    return {"version": 2} | {name: value for word in words.split() for name, value in FSDP[word].items()}


def deepspeed_config(name: str, clip: float) -> dict[str, Any] | str:
    """A preset by name, or the file as it is. Clipping is set: DeepSpeed's own default is 1.0 whatever you ask."""
    if name.endswith(".json"):
        return name
    zero: dict[str, Any] = {"stage": ZERO[name]}
    if ZERO[name] == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    if name.endswith("offload"):
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        if ZERO[name] == 3:
            zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "zero_optimization": zero,
        "gradient_clipping": clip,
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "zero_allow_untested_optimizer": True,
    }

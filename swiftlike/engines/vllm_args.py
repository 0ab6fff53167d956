"""Our flags in vLLM's words: engine arguments, sampling parameters, command line. Needs no vLLM."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swiftlike.core.errors import UserError
from swiftlike.datasets_registry.card import BadRow
from swiftlike.engines.base import Sampling

if TYPE_CHECKING:
    from swiftlike.engines.choosing import Choice

MERGE = "merge it first: --merge_lora true, or swiftlike export --merge_lora true"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM has kernels for
QUANTS = {"bnb": "bitsandbytes"}


def engine_arguments(run: Any, folder: Path, adapters: Mapping[str, Path], dtype: str) -> dict[str, Any]:
    """Keywords of vLLM's EngineArgs. `--vllm_engine_kwargs` goes before everything else.

    `dtype` is what weights and computation are in: vLLM's own choice would halve float32 weights.
    """
    engine = run.engine
    found: dict[str, Any] = {
        "model": str(folder),
        "dtype": dtype,
        "gpu_memory_utilization": engine.gpu_memory_utilization,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "max_num_seqs": engine.max_num_seqs,
        "enforce_eager": engine.enforce_eager,
        "disable_log_stats": True,
        "max_logprobs": -1,  # any number
    }
    if engine.max_model_len is not None:
        found["max_model_len"] = engine.max_model_len
    if engine.limit_mm_per_prompt:
        found["limit_mm_per_prompt"] = dict(engine.limit_mm_per_prompt)
    if run.model.quant_bits:
        found["quantization"] = _quantization(run.model)
    if adapters:
        found |= {"enable_lora": True, **lora_limits(adapters)}
    return found | dict(engine.vllm_engine_kwargs)


def _quantization(model: Any) -> str:
    if model.quant_bits != 4:
        raise UserError(f"--quant_bits {model.quant_bits} is not for --infer_backend vllm", "4 bits, or --quant_bits 0")
    if model.quant_method not in QUANTS:
        hint = "weights that are stored quantised need no flag"
        raise UserError(f"--quant_method {model.quant_method} does not quantise while loading", hint)
    return QUANTS[model.quant_method]


def lora_limits(adapters: Mapping[str, Path]) -> dict[str, int]:
    """What vLLM must know of the adapters before it starts. UserError for an adapter that it cannot serve."""
    ranks = [_rank(name, folder) for name, folder in adapters.items()]
    room = next(one for one in RANKS if one >= max(ranks))
    # One more than there are: vLLM's CPU kernels read the last place for requests without an adapter, so that must
    # stay empty.
    return {"max_lora_rank": room, "max_loras": len(ranks) + 1}


def _rank(name: str, folder: Path) -> int:
    """The largest rank of an adapter's matrices."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    wrong = {
        "DoRA": config.get("use_dora"),
        "trained biases": config.get("bias", "none") != "none",
        f"whole trained modules ({', '.join(config.get('modules_to_save') or ())})": config.get("modules_to_save"),
        f"{config.get('peft_type')} weights": config.get("peft_type", "LORA") != "LORA",
    }
    if reasons := [what for what, found in wrong.items() if found]:
        raise UserError(f"vLLM cannot serve the adapter {name}: it has {' and '.join(reasons)}", hint=MERGE)
    rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    if rank > RANKS[-1]:
        raise UserError(f"the adapter {name} has rank {rank}; vLLM takes up to {RANKS[-1]}", hint=MERGE)
    return rank


def sampling_arguments(
    sampling: Sampling, choice: Choice, *, ends: Sequence[int] = (), stops: Sequence[str] = (), left: int
) -> dict[str, Any]:
    """Keywords of vLLM's SamplingParams for one request.

    `choice` is the sampling with the model's own settings where it leaves something open, `ends` and `stops` are
    tokens and texts that end an answer, `left` the tokens that the context leaves. BadRow for beam search.
    """
    if sampling.num_beams > 1:
        raise BadRow("num_beams", "vLLM has no beam search; use --infer_backend pt")
    texts = [one for one in (*stops, *sampling.stop) if one]
    most = left if sampling.max_new_tokens is None else min(sampling.max_new_tokens, left)
    return {
        "n": sampling.n,
        "temperature": choice.temperature,
        "top_p": choice.top_p,
        "top_k": choice.top_k,
        "min_p": choice.min_p,
        "repetition_penalty": choice.repetition_penalty,
        "presence_penalty": choice.presence_penalty,
        "frequency_penalty": choice.frequency_penalty,
        "seed": None if sampling.seed is None else _apart(sampling.seed),
        "stop": texts,
        "detokenize": bool(texts),  # only to know where to end: we decode ourselves, as for every engine
        "stop_token_ids": sorted(ends),
        "max_tokens": most,
        "logprobs": sampling.logprobs,
    }


def _apart(seed: int) -> int:
    """A seed for vLLM, which gives the n-th completion the n-th seed after it: neighbours shall share none."""
    digest = hashlib.blake2b(str(seed).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2


def command_line(arguments: Mapping[str, Any]) -> list[str]:
    """Engine arguments as the words behind `vllm serve`: the model, then options."""
    words = [arguments["model"]]
    return words + [word for name, value in arguments.items() if name != "model" for word in _option(name, value)]


def _option(name: str, value: Any) -> list[str]:
    """One option as the command line takes it. Absent: None and empty ones."""
    flag = f"--{name.replace('_', '-')}"
    if value is None or value == "":
        return []
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    if isinstance(value, Mapping):
        return [flag, json.dumps(value)]
    if isinstance(value, list | tuple):
        return [flag, *(str(one) for one in value)]
    return [f"{flag}={value}"] if str(value).startswith("-") else [flag, str(value)]

"""What is made of a trained model: merged, quantised or converted weights, here or on a hub."""

from pathlib import Path
from typing import Any, Literal

from swiftlike.args import consistency
from swiftlike.args.model import DTYPES, ModelArgs
from swiftlike.core.declare import arg, section
from swiftlike.core.merge import DEFAULT
from swiftlike.core.optional import available

_CONVERTER = "convert_hf_to_gguf.py"


@section
class ExportArgs:
    output_dir: str | None = arg(
        None, "folder to write; none: the checkpoint's name with -merged, -bnb-int4, -gguf, -peft or -swift behind it"
    )
    exist_ok: bool = arg(False, "replace a folder that an export wrote before")
    max_shard_size: str = arg("5GB", "most bytes of one weight file")
    bound: float | None = arg(
        None,
        "largest difference of a logit (reward models: of a reward) between the model before and after that passes; "
        "none: a share of the largest logit by type, 0.0001 in float32, 0.01 in float16, 0.05 in bfloat16",
        ge=0,
    )
    rows: int = arg(8, "rows of --dataset that logits are compared on; without --dataset a few built-in ones", ge=1)
    adapter_weights: list[float] = arg([], "merge several --adapters, each times its number")
    to_peft_format: bool = arg(False, "rewrite an adapter of ms-swift's own tuners as peft's files")
    to_swift_format: bool = arg(False, "rewrite peft's files as ms-swift's own tuners read them")
    plugin: list[str] = arg(
        [], "Python files that add models or data sets", aliases=("custom_register_path", "external_plugins")
    )


@section
class ExportModelArgs(ModelArgs):
    torch_dtype: Literal["auto", "bfloat16", "float16", "float32"] = arg(
        "auto", "type of the weights that are written; auto: that of the base", aliases=("dtype",), values=DTYPES
    )
    device_map: str | None = arg(
        None,
        "where layers go while they are merged: auto, a file or JSON; none: cpu",
        aliases=("device_map_config", "device_map_config_path", "merge_device_map"),
        values={"cpu": "none"},
    )
    quant_bits: Literal[0, 4, 8] = arg(0, "bits of the quantised weights that are written; 0: not quantised")
    quant_method: Literal["bnb", "gptq", "awq"] | None = arg(
        None, "what quantises: bitsandbytes (bnb), or gptqmodel's GPTQ or AWQ, which read rows of --dataset"
    )


@section
class QuantArgs:
    quant_n_samples: int = arg(256, "gptq, awq: rows of --dataset that are read", ge=1)
    quant_seqlen: int = arg(2048, "gptq, awq: most tokens of a row", ge=1)
    quant_batch_size: int = arg(1, "gptq, awq: rows at a time", ge=1)
    group_size: int = arg(128, "gptq, awq: weights that share a scale; -1: a whole column", ge=-1)
    to_gguf: bool = arg(False, "write a GGUF file with llama.cpp's converter")
    gguf_type: Literal["f32", "f16", "bf16", "q8_0"] = arg("f16", "gguf: type of the weights")
    llama_cpp: str | None = arg(None, f"gguf: folder of llama.cpp; none: {_CONVERTER} on the PATH")


@section
class HubArgs:
    push_to_hub: bool = arg(False, "upload what is written")
    hub_model_id: str | None = arg(None, "repository on the hub; none: the folder's name")
    hub_token: str | None = arg(None, "token of the hub; none: the one you are logged in with", secret=True)
    hub_private_repo: bool = arg(False, "make that repository private")
    commit_message: str = arg("update files", "message of the commit on the hub")


def problems(run: Any) -> list[str]:
    """What only several values together show."""
    layout = run.export.to_peft_format or run.export.to_swift_format
    bare = run.replace("export", merge_lora=False, quant_method="bnb")
    found = _layout(run) if layout else consistency.using(bare) + _merging(run)
    found += _quantising(run) + _hub(run)
    for flag in ("infer_backend", "val_dataset"):
        if run.origin.get(flag, DEFAULT) != DEFAULT:
            found.append(f"--{flag}: nothing is generated here")
    missing: list[Any] = [name for name in run.export.plugin if not Path(name).is_file()]
    return found + [f"--plugin: no file {name!r}" for name in missing]


def changes_weights(run: Any) -> bool:
    """Whether weights are written anew even where there is nothing to merge."""
    return any(run.origin.get(flag, DEFAULT) != DEFAULT for flag in ("torch_dtype", "max_shard_size"))


def _layout(run: Any) -> list[str]:
    if run.export.to_peft_format and run.export.to_swift_format:
        return ["--to_peft_format and --to_swift_format: give one of them"]
    given = [*filter(None, [run.use.ckpt_dir]), *run.use.adapters]
    found = [] if len(given) == 1 else ["which adapter? give --ckpt_dir or one of --adapters"]
    found += [f"--ckpt_dir: no folder {name!r}" for name in given if not Path(name).expanduser().is_dir()]
    if run.use.merge_lora or run.model.quant_bits or run.quant.to_gguf:
        found.append("--to_peft_format and --to_swift_format only rewrite an adapter; merge what they write")
    return found


def _merging(run: Any) -> list[str]:
    use, found = run.use, []
    whole = bool(use.ckpt_dir) and not _holds_adapter(use.ckpt_dir)
    count = len(use.adapters) + bool(use.ckpt_dir and not whole)
    weights = run.export.adapter_weights
    if use.merge_lora and not count:
        found.append("--merge_lora: there is no adapter; name one with --ckpt_dir or --adapters")
    if weights and len(weights) != count:
        found.append(f"--adapter_weights has {len(weights)} numbers for {count or 'no'} adapters")
    elif count > 1 and not weights:
        found.append(f"{count} adapters: name one, or say how much of each with --adapter_weights, as in 0.5 0.5")
    if count and not use.merge_lora and (run.model.quant_bits or run.quant.to_gguf or changes_weights(run) or weights):
        found.append("an adapter is written as it is; other weights need --merge_lora true")
    makes = use.merge_lora or run.model.quant_bits or run.quant.to_gguf
    if not makes and run.export.output_dir is None and not run.hub.push_to_hub:
        found.append("what is to be made? --merge_lora true, --output_dir for a clean copy, or --push_to_hub")
    return found


def _holds_adapter(name: str) -> bool:
    """Whether a checkpoint, or some checkpoint of a run folder, is an adapter."""
    folder, file = Path(name).expanduser(), "adapter_config.json"
    return (folder / file).is_file() or (
        not (folder / "config.json").is_file() and any(folder.glob(f"checkpoint-*/{file}"))
    )


def _quantising(run: Any) -> list[str]:
    bits, method, found = run.model.quant_bits, run.model.quant_method, []
    if bool(bits) != (method is not None):
        found.append("--quant_bits and --quant_method go together, as in --quant_bits 4 --quant_method gptq")
    elif method in ("gptq", "awq") and not run.data.dataset:
        found.append(f"--quant_method {method} needs --dataset: rows like those that the model will be asked")
    if method == "awq" and bits == 8:
        found.append("--quant_method awq has 4 bits only")
    if run.quant.to_gguf and bits:
        found.append("--to_gguf has a --gguf_type of its own; leave out --quant_bits")
    package = {"bnb": "bitsandbytes", "gptq": "gptqmodel", "awq": "gptqmodel"}.get(method or "")
    if package and not available(package):
        found.append(f"--quant_method {method} needs the package {package}: pip install {package}")
    if run.quant.to_gguf and not available("gguf"):
        found.append("--to_gguf needs the package gguf: pip install gguf")
    if run.quant.llama_cpp and not (Path(run.quant.llama_cpp).expanduser() / _CONVERTER).is_file():
        found.append(f"--llama_cpp {run.quant.llama_cpp} has no {_CONVERTER}: it is not a folder of llama.cpp")
    return found


def _hub(run: Any) -> list[str]:
    if not run.hub.push_to_hub:
        return ["--hub_model_id goes with --push_to_hub true"] if run.hub.hub_model_id else []
    if run.model.use_hf is False and run.origin.get("use_hf") == "command line":
        return ["--push_to_hub: only to the Hugging Face hub (or a server like it: HF_ENDPOINT)"]
    return []

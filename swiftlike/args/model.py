"""Which model, and how it is loaded."""

from typing import Any, Literal

from swiftlike.core.declare import arg, section

DTYPES = {"AUTO": "auto", "bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def by_position(raw: Any) -> dict[str, str]:
    """ms-swift v2's `--device_max_memory 10GB 10GB`: one word per card."""
    words = raw if isinstance(raw, list) else str(raw).split(",")
    return {str(card): str(word) for card, word in enumerate(words)}


@section
class ModelArgs:
    model: str = arg(
        "",
        "model id on the hub, or folder",
        restore="adapter",
        aliases=("model_id_or_path", "model_name_or_path", "model_cache_dir"),
    )
    model_type: str | None = arg(
        None, "registered name (`swiftlike list models`); read from the model's config.json when absent", restore=True
    )
    model_revision: str | None = arg(
        None, "branch, tag or commit on the hub", restore="adapter", aliases=("revision",), values={"master": "none"}
    )
    torch_dtype: Literal["auto", "bfloat16", "float16", "float32"] = arg(
        "auto",
        "type of the weights; auto: bfloat16 where the card can, else float16, float32 on CPU",
        restore="adapter",
        aliases=("dtype",),
        values=DTYPES,
        old={"bf16": {"true": "bfloat16", "false": ...}, "fp16": {"true": "float16", "false": ...}},
    )
    attn_impl: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] | None = arg(
        None,
        "attention code; none: the best one that the model and the layout allow",
        aliases=("attn_implementation",),
        values={"flash_attn": "flash_attention_2", "auto": "none"},
        old={"use_flash_attn": {"true": "flash_attention_2", "false": ..., "none": ...}},
    )
    use_hf: bool = arg(True, "take ids from the Hugging Face hub; false: from ModelScope", restore="adapter")
    device_map: str | None = arg(
        None,
        "where layers go: auto, sequential, cpu, a file or JSON; none: decided from the visible cards and processes",
        aliases=("device_map_config", "device_map_config_path"),
    )
    max_memory: dict[str, str] = arg(
        {}, "most memory per card, as JSON or 0=10GiB 1=20GiB", old={"device_max_memory": by_position}
    )
    quant_bits: Literal[0, 4, 8] = arg(
        0,
        "load the base in 4 or 8 bits (LoRA only); 0: not quantised",
        restore="adapter",
        aliases=("quantization_bit",),
        old={"load_in_4bit": {"true": 4, "false": ...}, "load_in_8bit": {"true": 8, "false": ...}},
    )
    quant_method: Literal["bnb", "gptq", "awq"] = arg(
        "bnb", "what quantises: bitsandbytes (bnb); gptq and awq are for `swiftlike export`", restore="adapter"
    )
    use_safetensors: bool = arg(
        True, "weights that are pickles (*.bin) are refused; false: read them, numbers only", restore="adapter"
    )
    model_kwargs: dict[str, Any] = arg({}, "further arguments of from_pretrained, as JSON")
    template: str | None = arg(
        None,
        "chat template by name; none: the one of the model type",
        restore=True,
        aliases=("template_type",),
        values={"AUTO": "none", "auto": "none"},
    )
    add_sep_token: bool = arg(
        True,
        "with --template apo, put the separator token between query and answer; a tokenizer without one gets <sep>",
        restore=True,
    )
    system: str | None = arg(
        None, "system prompt of rows that have none; none: the template's own, '' for no system prompt", restore=True
    )
    trust_remote_code: bool = arg(
        False, "true: run code that comes with a checkpoint, where transformers lacks its architecture"
    )

"""Using a model: which checkpoint, which engine, how tokens are chosen."""

from typing import Any, Literal

from swiftlike.core.declare import arg, section


@section
class UseArgs:
    ckpt_dir: str | None = arg(
        None, "checkpoint of a training run: a LoRA adapter or a whole model; its args.json gives model and template"
    )
    adapters: list[str] = arg(
        [],
        "LoRA adapters: folders, or name=folder to choose one by name in a request",
        aliases=("lora_modules", "lora_module"),
    )
    merge_lora: bool = arg(False, "merge the (only) adapter into the weights before use")
    infer_backend: Literal["pt", "vllm", "auto"] = arg(
        "pt",
        "what generates: transformers (pt), vllm, or vllm where it is installed and can (auto)",
        values={"AUTO": "auto", "transformers": "pt"},
    )


@section
class GenerateArgs:
    max_new_tokens: int | None = arg(
        None,
        "most tokens of an answer; none: what the context leaves",
        ge=1,
        aliases=("max_completion_tokens",),
    )
    temperature: float | None = arg(None, "0: always the likeliest token; none: the model's own setting", ge=0)
    top_p: float | None = arg(None, "sample from the likeliest tokens that make up this probability", ge=0, le=1)
    top_k: int | None = arg(None, "sample from this many likeliest tokens; 0: all", ge=-1)
    repetition_penalty: float | None = arg(None, "above 1: tokens that were there already become less likely", ge=0)
    num_beams: int = arg(1, "beam search with so many beams (pt)", ge=1)
    do_sample: bool | None = arg(None, "false: greedy, whatever the temperature")
    stop: list[str] = arg([], "texts that end an answer", aliases=("stop_words",))
    seed: int | None = arg(None, "seed of the sampling; none: another one each time (sample: 42)", ge=0)


@section
class EngineArgs:
    max_batch_size: int | None = arg(
        None, "pt: most prompts that are computed together; none: as many as memory allows", ge=1
    )
    max_model_len: int | None = arg(None, "tokens of prompt and answer together; none: the model's own limit", ge=1)
    gpu_memory_utilization: float = arg(0.9, "vllm: share of the card's memory it may take", ge=0, le=1)
    tensor_parallel_size: int = arg(1, "vllm: cards that share one model", ge=1, aliases=("tp",))
    max_num_seqs: int = arg(256, "most answers that are generated at the same time", ge=1)
    enforce_eager: bool = arg(False, "vllm: no CUDA graphs")
    limit_mm_per_prompt: dict[str, int] = arg({}, 'vllm: most pictures of a prompt, as JSON {"image": 5}')
    vllm_engine_kwargs: dict[str, Any] = arg({}, "vllm: further engine arguments, as JSON")

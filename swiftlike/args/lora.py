"""Which weights are trained: adapters or all of them, and which parts of a vision-language model."""

from typing import Literal

from swiftlike.args.model import DTYPES
from swiftlike.core.declare import arg, section


@section
class TunerArgs:
    sft_type: Literal["lora", "full"] = arg(
        "lora", "train adapters, or every weight", aliases=("train_type", "tuner_type")
    )
    lora_rank: int = arg(8, "rank of the LoRA update", ge=1, aliases=("lora_r",))
    lora_alpha: int = arg(32, "scale of the LoRA update, over the rank", ge=1)
    lora_dropout: float = arg(0.05, "dropout before the LoRA update", ge=0, le=1, aliases=("lora_dropout_p",))
    lora_bias: Literal["none", "all", "lora_only"] = arg(
        "none", "which biases are trained", aliases=("lora_bias_trainable",)
    )
    lora_target_modules: list[str] = arg(
        ["DEFAULT"],
        "layers that get LoRA: DEFAULT (attention q, k, v), ALL (every linear layer of the language model), or names",
        aliases=("target_modules",),
        values={"AUTO": "DEFAULT", "all-linear": "ALL"},
    )
    lora_target_regex: str | None = arg(
        None, "regular expression over full layer names, instead of names", aliases=("target_regex",)
    )
    modules_to_save: list[str] = arg([], "layers trained in full beside LoRA", aliases=("lora_modules_to_save",))
    use_dora: bool = arg(False, "weight-decomposed LoRA (DoRA)")
    use_rslora: bool = arg(False, "scale by alpha / sqrt(rank) (rsLoRA)")
    init_lora_weights: str = arg(
        "true", "how LoRA starts: true (update is zero), gaussian, pissa, olora", aliases=("init_weights",)
    )
    lora_dtype: Literal["bfloat16", "float16", "float32"] | None = arg(
        None, "type of the LoRA weights; none: float32 for half-precision training", values={**DTYPES, "AUTO": "none"}
    )
    lora_lr_ratio: float | None = arg(
        None, "learning rate of LoRA's B over that of A (LoRA+; 16 is usual)", ge=0, aliases=("lorap_lr_ratio",)
    )
    adapters: list[str] = arg([], "adapters that training continues from")
    ref_adapters: list[str] = arg([], "adapters of the reference; none: the base without adapters")
    freeze_vit: bool = arg(True, "do not train the vision tower")
    freeze_aligner: bool = arg(True, "do not train the projector between tower and language model")
    freeze_llm: bool = arg(False, "do not train the language model")
    vit_lr: float | None = arg(None, "learning rate of the vision tower; none: --learning_rate", ge=0)
    aligner_lr: float | None = arg(None, "learning rate of the projector; none: --learning_rate", ge=0)

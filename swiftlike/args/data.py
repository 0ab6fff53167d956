"""Which rows, how they are split and mixed, and how long they and their pictures may be."""

from typing import Literal

from swiftlike.core.declare import arg, section

KEPT_PROMPT = 256  # tokens that keep_end and keep_start leave of a prompt when --max_prompt_length is not given


@section
class DataArgs:
    dataset: list[str] = arg(
        [],
        "training data: [hf::|ms::]NAME, hub id or file, each with an optional :subset and #N rows",
        aliases=("custom_train_dataset_path", "dataset_name"),
    )
    val_dataset: list[str] = arg([], "validation data, written the same way", aliases=("custom_val_dataset_path",))
    dataset_test_ratio: float = arg(
        0.01,
        "share of each data set that is held out when there is no --val_dataset",
        ge=0,
        le=1,
        aliases=("split_dataset_ratio",),
    )
    dataset_seed: int | None = arg(None, "seed of sampling and splitting; none: --seed", aliases=("data_seed",))
    train_dataset_sample: int = arg(-1, "most training rows in all; -1: every row", ge=-1)
    val_dataset_sample: int = arg(
        -1, "most validation rows in all; -1: every row", ge=-1, aliases=("show_dataset_sample",)
    )
    dataset_shuffle: bool = arg(True, "new order of the training rows in every epoch")
    interleave_prob: list[float] = arg([], "draw from each data set with these probabilities; none: one after another")
    stopping_strategy: Literal["first_exhausted", "all_exhausted"] = arg("first_exhausted", "when interleaving ends")
    streaming: bool = arg(False, "read while training, never as a whole; needs --max_steps")
    shuffle_buffer_size: int = arg(
        1000, "rows shuffled at a time when streaming", ge=1, aliases=("streaming_buffer_size",)
    )
    columns: dict[str, str] = arg({}, 'rename columns first: \'{"question": "query"}\' or question=query')
    custom_dataset_info: list[str] = arg([], "files that register further data sets (ms-swift's dataset_info.json)")
    on_bad_row: Literal["error", "drop"] = arg(
        "error",
        "a row that cannot be used stops the run, or is dropped and counted by reason",
        old={
            "strict": {"true": "error", "false": "drop"},
            "check_dataset_strategy": {"none": ..., "error": "error", "discard": "drop", "warning": "drop"},
        },
    )
    max_length: int | None = arg(
        None,
        "most tokens of prompt and completion, pictures included; none: 2048 of text, pictures on top; -1: no limit",
        ge=-1,
    )
    max_prompt_length: int | None = arg(
        None,
        "most tokens of the prompt; with keep_end and keep_start it is what a prompt of a longer row is cut to (256)",
        ge=1,
    )
    max_completion_length: int | None = arg(
        None,
        "most tokens of each answer, its end token included: what is longer loses its end",
        ge=1,
        aliases=("max_gen_len", "max_target_length"),
    )
    truncation_strategy: Literal["delete", "left", "right", "left_each", "keep_end", "keep_start"] | None = arg(
        None,
        "what becomes of longer rows: left out and counted (delete), or their text cut (never a picture): the prompt's "
        "beginning (left; left_each: for each answer by itself, as EXO does), the answers' end (right), or the prompt "
        "to --max_prompt_length, keeping its end or start, and then the answers (keep_end, keep_start: beta-DPO); "
        "none: they are bad rows",
        aliases=("truncation_mode",),
        values={"truncation_left": "left", "truncation_right": "right"},
    )
    max_image_tokens: int | None = arg(None, "most tokens one picture may take; it is made smaller to fit", ge=1)
    max_pixels: int | None = arg(None, "most pixels of one picture (Qwen-VL)", ge=1, aliases=("image_max_pixels",))
    min_pixels: int | None = arg(None, "fewest pixels of one picture (Qwen-VL)", ge=1, aliases=("image_min_pixels",))
    max_tiles: int | None = arg(
        None, "most tiles that one picture is cut into (InternVL: max_num)", ge=1, aliases=("max_num",)
    )
    max_image_size_mb: float = arg(64.0, "picture files above this size are bad rows", ge=0)
    image_root: str | None = arg(None, "folder that relative picture paths start from; none: the data file's own")
    dataset_num_proc: int = arg(
        1,
        "processes that prepare rows; when it is not given, training takes all cores for thousands of rows",
        ge=1,
        aliases=("preprocess_num_proc", "dataset_map_nproc"),
    )
    load_from_cache_file: bool = arg(
        True,
        "in training, take rows as an earlier start prepared them while all that decides them is the same",
        aliases=("dataset_enable_cache",),
    )

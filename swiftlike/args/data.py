"""Which rows, how they are split and mixed, and how long they and their pictures may be."""

from typing import Literal

from swiftlike.core.declare import arg, section


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
    val_dataset_sample: int = arg(-1, "most validation rows in all; -1: every row", ge=-1)
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
    truncation_strategy: Literal["delete", "left", "right"] | None = arg(
        None,
        "what becomes of longer rows: left out and counted (delete), or their text cut (never a picture); none: they "
        "are bad rows",
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
        1, "processes that prepare rows", ge=1, aliases=("preprocess_num_proc", "dataset_map_nproc")
    )

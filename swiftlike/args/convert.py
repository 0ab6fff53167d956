"""Data files from one format into another."""

from typing import Literal

from swiftlike.core.declare import arg, section


@section
class ConvertArgs:
    from_to_input: list[str] = arg(
        [],
        "the format to read, the format to write, and data sets as in --dataset. Formats: auto (read only), swift_v2, "
        "swift_v4, trl, sharegpt, sft, kto, chat_pair, exo_sft, exo_preference, exo_reward, exo_generated, "
        "apo_comparison, apo_golden, apo_sample, hh, tldr (read only); `swiftlike list formats` says what they are",
    )
    output: str | None = arg(
        None,
        "file (.jsonl or .json, also with .gz), or folder when the input is one; none: a name made of the input's, "
        "beside it",
    )
    overwrite: bool = arg(False, "replace an output that exists")
    on_bad_row: Literal["error", "drop"] = arg(
        "drop", "a row that cannot be read or written is dropped and counted by reason, or stops the conversion"
    )
    samples: list[str] = arg([], "apo_golden to apo_comparison: the sampled answers that lose against the golden ones")
    sampling: bool = arg(False, "apo_golden to apo_comparison: one random sample per query instead of all")
    scores: list[str] = arg([], "apo_sample: files of {query_id:column: score} that rank the samples")
    seed: int = arg(42, "seed of the #N draw and of --sampling", ge=0)
    columns: dict[str, str] = arg({}, 'rename columns first: \'{"question": "query"}\' or question=query')
    image_root: str | None = arg(None, "folder that relative picture paths start from; none: the data file's own")
    custom_dataset_info: list[str] = arg([], "files that register further data sets (ms-swift's dataset_info.json)")
    use_hf: bool = arg(True, "take ids from the Hugging Face hub; false: from ModelScope")
    plugin: list[str] = arg([], "Python files that add data sets", aliases=("custom_register_path", "external_plugins"))

"""New prompts that a model comes up with when it is shown old ones."""

from typing import Any, Literal

from swiftlike.args import consistency
from swiftlike.args.generate import GenerateArgs
from swiftlike.args.sample import output_problems, training_flags
from swiftlike.args.shards import shard_problems
from swiftlike.core.declare import arg, section
from swiftlike.core.merge import DEFAULT
from swiftlike.core.optional import available

OF_SEEDS = frozenset(
    ("dataset", "dataset_seed", "columns", "custom_dataset_info", "image_root", "max_image_size_mb")  # others: pictures
)
_CLUSTERS = ("embedding_type", "embedding_model", "n_clusters", "prompts_per_cluster")
_STREAMS = ("streams", "n_instructions_to_generate_total")
_EXTRA = "pip install 'swiftlike[self_instruct]'"


@section
class SelfInstructArgs:
    n_instructions_to_generate_total: int = arg(20000, "new prompts in all, divided among the streams", ge=1)
    n_prompt_instructions: int = arg(8, "prompts that the model is shown at a time", ge=1)
    n_machine_instructions: int = arg(0, "of those, how many are new ones, once there are any", ge=0)
    max_n_generate_instructions: int = arg(2, "new prompts that one answer may hold", ge=1)
    mini_group_size: int = arg(128, "answers of a round, for each stream or cluster that is still short", ge=1)
    streams: int = arg(
        8, "lines of work without --clustering; shards share them, none beyond this number has any", ge=1
    )
    prompt_min_length: int | None = arg(4, "new prompts of fewer tokens are left out", ge=0)
    prompt_max_length: int | None = arg(512, "new prompts of more tokens are left out", ge=1)
    length_tokenizer: Literal["model", "cl100k"] = arg(
        "model", "whose tokens those are: the model's, or AIPO's (cl100k, by the package tiktoken)"
    )
    additional_filtering: bool = arg(True, "leave out what begins as a task definition, and cut off answers")
    prompt_parser: Literal["v1", "v2"] = arg(
        "v2", "v2: keeps case and cuts at whole words; v1: AIPO's own, which stops an item early and lowers case"
    )
    dedup: bool = arg(True, "leave out what is among the seeds or the new prompts word for word")
    dedup_rouge: float | None = arg(
        None, "leave out what has a ROUGE-L above this to a seed or a new prompt; self-instruct: 0.7", ge=0, le=1
    )
    clustering: bool = arg(False, "show seeds of one cluster at a time, and make as many new ones for each")
    embedding_type: Literal["tf-idf", "bert", "sentence_transformers"] = arg("tf-idf", "what clusters are found in")
    embedding_model: str | None = arg(
        None, "id or folder; none: bert-base-uncased, sentence-transformers/all-MiniLM-L6-v2"
    )
    n_clusters: int = arg(128, "clusters of the seeds (k-means)", ge=1)
    prompts_per_cluster: int = arg(64, "new prompts for each cluster", ge=1)
    output: str | None = arg(None, "file to write: .jsonl or .json, also with .gz")
    overwrite: bool = arg(False, "start over, and replace an output that exists; without it a stopped run goes on")
    iteration: int = arg(0, "round of an iterative training: each has seeds of its own", ge=0)
    plugin: list[str] = arg(
        [], "Python files that add models or data sets", aliases=("custom_register_path", "external_plugins")
    )


@section
class SelfInstructGenerateArgs(GenerateArgs):
    max_new_tokens: int | None = arg(
        1024, "most tokens of an answer; none: what the context leaves", ge=1, aliases=("max_completion_tokens",)
    )
    temperature: float | None = arg(0.5, "0: always the likeliest token; none: the model's own setting", ge=0)
    top_p: float | None = arg(0.9, "sample from the likeliest tokens that make up this probability", ge=0, le=1)
    top_k: int | None = arg(50, "sample from this many likeliest tokens; 0: all", ge=-1)


def problems(run: Any) -> list[str]:
    """What only several values together show, and packages that are not there."""
    args = run.self_instruct
    found = [] if run.data.dataset else ["--dataset: whose prompts are the seeds?"]
    found += consistency.using(run)
    found += output_problems(args.output) + training_flags(run, OF_SEEDS)
    if args.prompt_max_length is not None and (args.prompt_min_length or 0) > args.prompt_max_length:
        found.append("--prompt_min_length is above --prompt_max_length: no prompt would be left")
    if args.n_machine_instructions > args.n_prompt_instructions:
        found.append("--n_machine_instructions is above --n_prompt_instructions, which it is a part of")
    if len(run.use.adapters) > 1:
        found.append("--adapters: one adapter comes up with prompts; give one")
    return found + _pools(run) + _packages(args) + shard_problems(run.shards)


def _pools(run: Any) -> list[str]:
    """Flags of the way that the work is not divided."""
    args = run.self_instruct
    wrong, reason = (_STREAMS, "not with --clustering") if args.clustering else (_CLUSTERS, "only with --clustering")
    found = [f"--{name}: {reason}" for name in wrong if run.origin.get(name, DEFAULT) != DEFAULT]
    if args.clustering and args.embedding_type == "tf-idf" and args.embedding_model is not None:
        found.append("--embedding_model: tf-idf has no model; see --embedding_type")
    return found


def _packages(args: Any) -> list[str]:
    needs = [("--clustering", "sklearn", "scikit-learn", _EXTRA)] if args.clustering else []
    if args.clustering and args.embedding_type == "sentence_transformers":
        package = "sentence-transformers"
        needs.append(
            ("--embedding_type sentence_transformers", "sentence_transformers", package, f"pip install {package}")
        )
    if args.dedup_rouge is not None:
        needs.append((f"--dedup_rouge {args.dedup_rouge}", "rouge_score", "rouge-score", _EXTRA))
    if args.length_tokenizer == "cl100k":
        needs.append(("--length_tokenizer cl100k", "tiktoken", "tiktoken", _EXTRA))
    return [
        f"{flag} needs the package {package}, which is not installed: {install}"
        for flag, module, package, install in needs
        if not available(module)
    ]

"""Judging answers, and what is written of the verdicts."""

from typing import Any, Literal

from swiftlike.args import consistency
from swiftlike.args.sample import OF_PROMPTS, output_problems, training_flags
from swiftlike.args.shards import shard_problems
from swiftlike.core.declare import arg, section

RULES = ("rule", "regex", "exact_answer")


@section
class ScoreArgs:
    scorer: str | None = arg(
        None,
        "what judges: reward (a reward model), pairwise (a classifier of two answers), pairrm (llm-blender's PairRM), "
        "rule (--rule, --regex or --exact_answer), judge (a model behind an OpenAI-style endpoint: --judge_model), "
        "compare (the same, shown two answers), recorded (the rewards, scores or ratings that the rows have); "
        "none: the one that the other flags belong to, else reward",
    )
    write: Literal["rewards", "best_of_n", "rejection", "pairs"] = arg(
        "rewards",
        "rewards: the rows with `rewards` (EXO); best_of_n: query and best response; rejection: APO's sample rows with "
        "target and scores; pairs: prompt, chosen (best) and rejected (worst)",
    )
    output: str | None = arg(None, "file to write: .jsonl or .json, also with .gz")
    overwrite: bool = arg(False, "start over, and replace an output that exists; without it a stopped run goes on")
    length_penalty: float = arg(
        0.0, "taken off a score for each token of the answer (tokenizer: that of --model or --ckpt_dir)"
    )
    pair_system: Literal["keep", "add", "empty"] = arg(
        "keep", "pairs: the row's own system message (keep), an empty one where it has none (add), an empty one (empty)"
    )
    seed: int | None = arg(None, "seed of the #N draw; none: 42", ge=0)
    plugin: list[str] = arg(
        [], "Python files that add models, data sets or scorers", aliases=("custom_register_path", "external_plugins")
    )


@section
class RuleArgs:
    rule: str | None = arg(
        None, "rule: file.py:function or module:function, called with (prompt, answer, row); gives a number or a truth"
    )
    regex: str | None = arg(
        None, "rule: 1 when it is found in the answer; with --exact_answer its (first) group is what is compared"
    )
    exact_answer: str | None = arg(
        None,
        "rule: column with the right answer; 1 when the answer is the same, case, white space, a full stop at the end "
        "and the way a number is written aside",
    )


@section
class JudgeArgs:
    judge_url: str | None = arg(
        None, "judge: endpoint, such as http://127.0.0.1:8000/v1; none: OPENAI_BASE_URL, else OpenAI's"
    )
    judge_model: str | None = arg(None, "judge: name of the model there")
    judge_api_key: str | None = arg(None, "judge: none: OPENAI_API_KEY", secret=True)
    judge_prompt: str | None = arg(
        None,
        "judge: a text or a file with {prompt} and {answer}, and {column} for columns of the row; none: a mark from 1 "
        "to 10 as [[mark]]",
    )
    judge_system: str | None = arg(None, "judge: system message")
    judge_pattern: str | None = arg(
        None, "judge: regular expression whose group is the mark; none: [[mark]], or a reply that is only a number"
    )
    judge_max_tokens: int = arg(512, "judge: most tokens of a reply", ge=1)
    judge_concurrency: int = arg(8, "judge: questions at the same time", ge=1)
    judge_timeout: float = arg(120.0, "judge: seconds to wait for a reply", ge=0)
    judge_retries: int = arg(4, "judge: further tries after a failure, each later than the one before", ge=0)
    judge_params: dict[str, Any] = arg({}, "judge: further fields of the request, as JSON")
    judge_cache: str | None = arg(None, "judge: file that remembers replies; none: one in the cache folder")


@section
class PairwiseArgs:
    pair_template: str = arg(
        "<|source|>{prompt}<|candidate1|>{first}<|candidate2|>{second}",
        "pairwise: the text that the classifier reads; with two labels the first one says that the first is better",
    )
    pair_max_length: int | None = arg(None, "pairwise: most tokens; none: what the model can read", ge=8)
    pair_batch_size: int = arg(8, "pairwise: comparisons at the same time", ge=1)


def chosen_scorer(run: Any) -> str:
    """The scorer that is named, or that the other flags belong to."""
    if run.score.scorer:
        return run.score.scorer
    if any(getattr(run.rule, name) is not None for name in RULES):
        return "rule"
    return "judge" if run.judge.judge_model else "reward"


def problems(run: Any) -> list[str]:
    """What only several values together show."""
    found = [] if run.data.dataset else ["--dataset: whose answers are judged?"]
    found += output_problems(run.score.output) + training_flags(run, OF_PROMPTS)
    found += scorer_problems(run, chosen_scorer(run))
    if run.score.pair_system != "keep" and run.score.write != "pairs":
        found.append("--pair_system goes with --write pairs")
    return found + shard_problems(run.shards)


def scorer_problems(run: Any, scorer: str) -> list[str]:
    """What a scorer lacks, and flags that belong to another one."""
    found = []
    if scorer == "reward":
        found += [f"{one} (or see --scorer)" for one in consistency.using(run)]
    if scorer == "pairwise" and not run.model.model:
        found.append("--model: which classifier compares the answers?")
    rules = [f"--{name}" for name in RULES if getattr(run.rule, name) is not None]
    if rules and scorer != "rule":
        found.append(f"{' and '.join(rules)}: --scorer rule, not {scorer}")
    if scorer == "rule" and (not rules or ("--rule" in rules and len(rules) > 1)):
        found.append("--scorer rule: --rule, or --regex, or --exact_answer, or the last two")
    if scorer in ("judge", "compare") and not run.judge.judge_model:
        found.append("--judge_model: which model judges?")
    missing = [name for name in ("{prompt}", "{first}", "{second}") if name not in run.pairwise.pair_template]
    if missing:
        found.append(f"--pair_template has no {' and no '.join(missing)}")
    return found

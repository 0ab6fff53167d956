"""Measuring: a reward model, a policy, two files of answers, or benchmarks."""

from typing import Any, Literal

from swiftlike.args import consistency
from swiftlike.args.sample import OF_PROMPTS
from swiftlike.args.score import RULES, scorer_problems
from swiftlike.core.declare import arg, section
from swiftlike.core.merge import COMMAND_LINE
from swiftlike.core.optional import available

MODEL = ("reward", "preference")  # how good a model is on answers that are there
OWN = ("kl",)  # how far a policy is from a reference, on answers of its own
BENCHMARKS = ("alpaca_eval", "mt_bench", "arena_hard")  # answers are made, and judged
OF_ROWS = OF_PROMPTS | {
    *("val_dataset", "val_dataset_sample", "on_bad_row", "max_length", "max_prompt_length", "max_completion_length"),
    *("truncation_strategy", "dataset_num_proc"),
}
_USE = ("ckpt_dir", "adapters", "merge_lora", "infer_backend")
_GENERATE = (
    *("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "num_beams", "do_sample", "stop"),
)
_JUDGE = (
    *("judge_url", "judge_model", "judge_api_key", "judge_system", "judge_max_tokens", "judge_concurrency"),
    *("judge_timeout", "judge_retries", "judge_params", "judge_cache"),
)
_PAIRWISE = ("pair_template", "pair_max_length", "pair_batch_size")
USED = {  # flag -> the kinds of evaluation that read it; others refuse it
    **dict.fromkeys(("calibration_bins",), ("reward",)),
    **dict.fromkeys(("beta",), ("preference",)),
    **dict.fromkeys(("ref_model",), ("preference", *OWN)),
    **dict.fromkeys(("eval_batch_size",), (*MODEL, *OWN, "lm_eval")),
    **dict.fromkeys(("results", "scorer", "tie_threshold", *RULES, *_PAIRWISE), ("win_rate",)),
    **dict.fromkeys(("bootstrap_rounds",), ("win_rate", "arena_hard")),
    **dict.fromkeys(("questions", "model_id", "overwrite", *_GENERATE), BENCHMARKS),
    **dict.fromkeys(("temperature",), (*BENCHMARKS, *OWN)),
    **dict.fromkeys(("num_choices", "judge_mode"), ("mt_bench",)),
    **dict.fromkeys(("first_game_only", "clear_win_weight"), ("arena_hard",)),
    **dict.fromkeys(("baseline",), BENCHMARKS),
    **dict.fromkeys(("limit",), (*BENCHMARKS, "lm_eval")),
    **dict.fromkeys(("seed",), (*BENCHMARKS, "win_rate")),
    **dict.fromkeys(("log_folder", "all_columns"), ("summary",)),
    **dict.fromkeys(("tasks", "num_fewshot", "lm_eval_kwargs"), ("lm_eval",)),
    **dict.fromkeys(_JUDGE, (*BENCHMARKS, "win_rate")),
    **dict.fromkeys(("judge_prompt",), ("win_rate", "alpaca_eval")),
    **dict.fromkeys(("judge_pattern",), ("win_rate", "alpaca_eval", "arena_hard")),
    **dict.fromkeys(_USE, (*MODEL, *OWN, *BENCHMARKS, "win_rate", "lm_eval")),
    **dict.fromkeys(OF_ROWS, (*MODEL, *OWN)),
    **dict.fromkeys(("val_dataset", "val_dataset_sample"), MODEL),
    **dict.fromkeys(("columns", "image_root", "max_image_size_mb"), (*MODEL, *OWN, "win_rate")),
    **dict.fromkeys(("max_pixels", "min_pixels", "max_image_tokens", "max_tiles"), (*MODEL, *OWN, "win_rate")),
}


@section
class EvalArgs:
    eval_type: (
        Literal[
            *("reward", "preference", "kl", "win_rate", "alpaca_eval", "mt_bench", "arena_hard", "summary", "lm_eval")
        ]
        | None
    ) = arg(
        None,
        "reward: a reward model on pairs or scored answers; preference: a policy's log-probabilities on pairs; "
        "kl: how far a policy is from --ref_model, on answers that it wrote itself; "
        "win_rate: one file of answers against another; alpaca_eval, mt_bench, arena_hard: answers to their questions, "
        "and verdicts with --judge_model; summary: the table of a log folder; lm_eval: standard benchmarks, by the "
        "package of that name",
    )
    output_dir: str = arg("eval_output", "folder of results", aliases=("eval_output_dir",))
    overwrite: bool = arg(False, "make answers anew that are there already")
    eval_batch_size: int = arg(8, "rows that are computed together", ge=1, aliases=("per_device_eval_batch_size",))
    calibration_bins: list[int] = arg([10], "reward: numbers of bins that calibration is measured with")
    ref_model: str | None = arg(
        None, "preference, kl: model, or checkpoint folder, to compare with; none: the model without its adapter"
    )
    beta: float = arg(0.1, "preference: factor of implicit rewards, which are beta (log p - log p of the reference)")
    results: list[str] = arg(
        [], "win_rate: two files of answers (infer, sample, AlpacaEval); the share that the first one wins is measured"
    )
    scorer: str | None = arg(
        None,
        "win_rate: what judges, as in `swiftlike score`; none: the one that the other flags belong to, compare with "
        "--judge_model, else reward",
    )
    tie_threshold: float = arg(0.0, "win_rate: scores that differ by no more are a tie", ge=0)
    bootstrap_rounds: int | None = arg(None, "draws of the confidence interval; none: 1000, Arena-Hard: 100", ge=1)
    questions: str | None = arg(None, "benchmarks: file of questions, JSON or JSON lines", aliases=("question_file",))
    limit: int | None = arg(None, "only the first questions (lm_eval: of each task)", ge=1, aliases=("eval_limit",))
    model_id: str | None = arg(None, "benchmarks: name in rows and file names; none: that of the checkpoint")
    num_choices: int = arg(1, "mt_bench: conversations to each question", ge=1)
    baseline: str | None = arg(
        None, "benchmarks: file of the answers that the model's are judged against; MT-Bench needs it in pairs only"
    )
    judge_mode: Literal["single", "pairwise-baseline", "pairwise-all"] = arg(
        "single",
        "mt_bench: marks from 1 to 10, games against --baseline, or games of all models that have answers",
    )
    first_game_only: bool = arg(False, "arena_hard: do not count the game with swapped sides")
    clear_win_weight: int = arg(3, "arena_hard: how often a clear win ([[A>>B]]) counts", ge=1)
    log_folder: str | None = arg(None, "summary: folder with evaluation/*.txt; none: --output_dir")
    all_columns: bool = arg(False, "summary: all columns")
    tasks: list[str] = arg([], "lm_eval: names of tasks, or YAML files")
    num_fewshot: int | None = arg(None, "lm_eval: examples in front of each question; none: what the task says", ge=0)
    lm_eval_kwargs: dict[str, Any] = arg({}, "lm_eval: further arguments of simple_evaluate, as JSON")
    plugin: list[str] = arg(
        [], "Python files that add models, data sets or scorers", aliases=("custom_register_path", "external_plugins")
    )


def chosen_scorer(run: Any) -> str:
    """The scorer that is named, or that the other flags belong to."""
    if run.eval.scorer:
        return run.eval.scorer
    if any(getattr(run.rule, name) is not None for name in RULES):
        return "rule"
    return "compare" if run.judge.judge_model else "reward"


def names_model(run: Any) -> bool:
    """Whether a model is named in any way."""
    return bool(run.use.ckpt_dir or run.use.adapters or run.model.model or run.model.model_type)


def problems(run: Any) -> list[str]:
    """What only several values together show."""
    kind = run.eval.eval_type
    if kind is None:
        return [
            "--eval_type: what is measured? (reward, preference, kl, win_rate, alpaca_eval, mt_bench, arena_hard ...)"
        ]
    found = [*_unused(run, kind), *_CHECKS[kind](run)]
    if names_model(run) or kind in (*MODEL, *OWN, "lm_eval"):
        found += consistency.using(run)
    if run.use.infer_backend == "vllm" and not available("vllm"):
        found.append("--infer_backend vllm needs the package vllm, which is not installed in this environment")
    several = [*run.use.adapters, *([run.use.ckpt_dir] if run.use.ckpt_dir else [])]
    if len(run.use.adapters) > 1 or (len(several) > 1 and kind != "win_rate"):
        found.append("--adapters: one model is measured at a time; give one")
    return found


def _unused(run: Any, kind: str) -> list[str]:
    """Flags that were given and that this kind of evaluation would not read."""
    given = [name for name, origin in run.origin.items() if origin == COMMAND_LINE]
    unread = vars(run.data).keys() - OF_ROWS
    return [
        f"--{name} is for training" if name in unread else f"--{name} goes with --eval_type {' or '.join(USED[name])}"
        for name in sorted(given)
        if name in unread or kind not in USED.get(name, (kind,))
    ]


def _rows(run: Any) -> list[str]:
    found = [] if run.data.dataset or run.data.val_dataset else ["--dataset: on which rows?"]
    found += [f"--calibration_bins {n}: give at least 1" for n in run.eval.calibration_bins if n < 1]
    return found + _only_pt(run)


def _kl(run: Any) -> list[str]:
    found = [] if run.data.dataset else ["--dataset: the answers of the policy, as `swiftlike sample` writes them"]
    if run.generate.temperature == 0:
        found.append("--temperature 0: greedy answers have no distribution; give what the answers were sampled with")
    return found + _only_pt(run)


def _only_pt(run: Any) -> list[str]:
    return ["--infer_backend vllm: rewards and log-probabilities are computed by pt"] * (
        run.use.infer_backend == "vllm"
    )


def _win_rate(run: Any) -> list[str]:
    found = [] if len(run.eval.results) == 2 else ["--results: give two files, FIRST SECOND"]
    return found + scorer_problems(run, chosen_scorer(run)) + _only_pt(run)


def _benchmark(run: Any) -> list[str]:
    args, found = run.eval, []
    if args.questions is None:
        found.append(f"--questions: the file of {args.eval_type}'s questions")
    if not names_model(run) and not args.model_id:
        found.append("which model answers? give --ckpt_dir, --adapters or --model; or --model_id of answers to judge")
    judged = bool(run.judge.judge_model)
    pairs = args.eval_type != "mt_bench" or args.judge_mode == "pairwise-baseline"
    if judged and pairs and args.baseline is None:
        found.append("--baseline: the file of the answers that the judge compares with")
    if not judged:
        found += [f"--{name}: give --judge_model too" for name in ("baseline", "judge_url") if _value(run, name)]
    elif args.baseline and not pairs:
        found.append("--baseline goes with --judge_mode pairwise-baseline")
    return found


def _value(run: Any, name: str) -> Any:
    return getattr(run.eval, name, None) or getattr(run.judge, name, None)


def _lm_eval(run: Any) -> list[str]:
    return [] if run.eval.tasks else ["--tasks: which tasks of lm-eval?"]


_CHECKS = {
    **dict.fromkeys(MODEL, _rows),
    "kl": _kl,
    "win_rate": _win_rate,
    **dict.fromkeys(BENCHMARKS, _benchmark),
    "summary": lambda run: [],
    "lm_eval": _lm_eval,
}

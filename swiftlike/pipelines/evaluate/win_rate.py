"""How often the answers of one file beat those of another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from swiftlike.args.eval import chosen_scorer
from swiftlike.core.errors import UserError
from swiftlike.core.files import write_jsonl
from swiftlike.core.log import get_logger
from swiftlike.core.merge import Run
from swiftlike.pipelines.evaluate.answers import Answers, matched, mean_length, read_answers, said
from swiftlike.pipelines.evaluate.games import Played, interval, play
from swiftlike.pipelines.evaluate.results import Values, folder_of, publish
from swiftlike.pipelines.judges import SCORERS, Group

log = get_logger(__name__)


def run(run: Run) -> int:
    """Match, judge, count. Exit code 1: no pair was judged."""
    card = SCORERS.get(chosen_scorer(run))
    first, second = (read_answers(run, name) for name in run.eval.results)
    pairs = matched(first, second)
    if not pairs:
        raise UserError(f"{first.name} and {second.name} have no prompt in common")
    scorer = card.open(run)
    try:
        played = play(scorer, card, pairs, run.eval.tie_threshold)
    finally:
        scorer.close()
    write_jsonl(folder_of(run) / "win_rate.jsonl", map(_line, pairs, played))
    values: Values = {
        "first": first.name,
        "second": second.name,
        "scorer": card.name,
        **_account(first, second, len(pairs)),
        **counted(played, run.eval.bootstrap_rounds, run.generate.seed),
        "mean_length_first": mean_length(said(pairs, 0)),
        "mean_length_second": mean_length(said(pairs, 1)),
    }
    publish(run, values)
    return 0 if values["judged"] else 1


def _account(first: Answers, second: Answers, pairs: int) -> Values:
    bad = Counter(first.bad.counts) + Counter(second.bad.counts)
    return {
        "pairs": pairs,
        "only_first": len(first) - pairs,
        "only_second": len(second) - pairs,
        "bad_rows": dict(bad),
    }


def counted(played: Sequence[Played], rounds: int | None, seed: int | None) -> Values:
    """Wins, ties and losses of the first side; its win rate, a tie being half a win, with its 95 % interval."""
    judged = [one for one in played if not one.error]
    errors = [one.error for one in played if one.error]
    for reason, count in Counter(errors).most_common(3):
        log.warning("%d pairs have no verdict: %s", count, reason)
    outcomes = Counter(one.outcome for one in judged)
    values: Values = {"judged": len(judged), "errors": len(errors)}
    values |= {"wins": outcomes["win"], "ties": outcomes["tie"], "losses": outcomes["loss"]}
    if judged:
        shares = [one.value for one in judged]
        low, high = interval(shares, rounds=rounds, seed=seed)
        values |= {"win_rate": sum(shares) / len(shares), "lower": low, "upper": high}
    return values


def _line(pair: Group, played: Played) -> dict[str, Any]:
    first, second = pair.answers
    line: dict[str, Any] = {"prompt": pair.prompt, "first": first, "second": second}
    if played.error:
        return line | {"error": played.error}
    return line | {"games": list(played.games), "value": played.value, "outcome": played.outcome}

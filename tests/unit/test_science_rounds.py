"""The iterative games of benchmarks/science: their rewards and judges, sampling, and a small run of each script."""

import importlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks" / "science"
MODULES = ("aipo_length", "apo_game", "rounds", "rounds_report", "common")


@pytest.fixture(scope="module")
def science() -> Iterator[dict[str, ModuleType]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        threads = torch.get_num_threads()
        yield {name: importlib.import_module(name) for name in MODULES}
        torch.set_num_threads(threads)
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def rounds(science: dict[str, ModuleType]) -> ModuleType:
    return science["rounds"]


def test_true_reward_knows_no_length_and_the_judge_does(science, rounds) -> None:
    game = science["aipo_length"]
    prompt = [rounds.BOS, rounds.TOPICS[1], rounds.SEP]
    own, other = rounds.asked(prompt)[0], rounds.WORDS[0]
    assert other not in rounds.asked(prompt)
    for times in (1, 3, 10):
        answer = [own, own, own, other] * times + [rounds.END]
        assert game.true_reward(prompt, answer) == 0.75
        assert game.judged(prompt, answer, 0.02) == pytest.approx(0.75 + 0.02 * 4 * times)
        assert game.judged(prompt, answer, 0.0) == 0.75
    assert game.true_reward(prompt, [rounds.END]) == 0
    assert game.extremes([2.0, 5.0, 1.0, 5.0, 1.0]) == (1, 2)


def test_golden_answers_are_best_and_repeats_are_worth_nothing(science, rounds) -> None:
    game, chance = science["apo_game"], random.Random(0)
    for prompt in rounds.prompts(20, chance):
        best = game.golden(prompt, chance)
        assert game.true_reward(prompt, best) == 1
        others = [game.true_reward(prompt, rounds.ordinary(prompt, 6.0, 24, chance)) for _ in range(20)]
        assert max(others) <= 1
        assert min(others) < 1
        assert game.true_reward(prompt, [best[0]] * 4 + [rounds.END]) == 0.25


def test_ordinary_answers_are_as_long_and_as_often_on_topic_as_said(science, rounds) -> None:
    chance = random.Random(0)
    answers = [(p, rounds.ordinary(p, 6.0, 48, chance)) for p in rounds.prompts(4000, chance)]
    assert all(answer[-1] == rounds.END and rounds.END not in answer[:-1] for _, answer in answers)
    assert sum(len(answer) - 1 for _, answer in answers) / 4000 == pytest.approx(6, rel=0.05)
    share = [science["aipo_length"].true_reward(*both) for both in answers]
    assert sum(share) / 4000 == pytest.approx(0.5, abs=0.02)


def test_sampling_stops_at_the_end_token_or_the_limit(rounds) -> None:
    model, limit = rounds.language_model(0), 20
    given = rounds.prompts(40, random.Random(0))
    answers = rounds.sample(model, given, 3, limit, torch.Generator().manual_seed(0))
    assert [len(some) for some in answers] == [3] * 40
    every = [one for some in answers for one in some]
    assert all(rounds.END not in one[:-1] and len(one) <= limit for one in every)
    assert all(one[-1] == rounds.END or len(one) == limit for one in every)
    assert {one[-1] == rounds.END for one in every} == {True, False}  # both kinds are seen


def test_sampling_follows_the_model_when_some_rows_have_ended(rounds) -> None:
    """A model that is nearly certain of each token: its answers are what a forward pass over each one alone says."""
    model = rounds.language_model(2)
    with torch.no_grad():
        model.lm_head.weight *= 30
    given = [[rounds.BOS, topic, rounds.SEP, word] for topic in rounds.TOPICS for word in rounds.WORDS]
    answers = [one for (one,) in rounds.sample(model, given, 1, 40, torch.Generator().manual_seed(0))]
    assert len({len(one) for one in answers}) > 4
    for prompt, answer in zip(given, answers, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        assert logits.log_softmax(-1)[torch.arange(len(answer)), answer].mean() > -1  # another row's token: about -25


@pytest.mark.parametrize(("sign", "accuracy"), [(1, 1.0), (-1, 0.0)])
def test_accuracy_is_of_the_true_preference_and_ties_are_left_out(science, rounds, sign: int, accuracy: float) -> None:
    game = science["apo_game"]
    prompt = [rounds.BOS, rounds.TOPICS[0], rounds.SEP]
    a, b, c, d = rounds.asked(prompt)
    answers = [[a, rounds.END], [a, b, rounds.END], [c, d, rounds.END], [a, b, c, d, rounds.END]]
    said = [[sign * 20 * game.true_reward(prompt, one) for one in answers]]
    found = game.measure([prompt], [answers], said, 1e-3, seed=0)
    assert found["pairs"] == 5  # of 6: two answers are equally good
    assert found["accuracy"] == accuracy
    assert found["ece"] == found["ece_truth"]  # annotators without noise
    assert (found["ece"] < 0.05) == (accuracy == 1)


def test_adversarial_items_with_factor_0_teach_nothing(science, rounds) -> None:
    """The control arm: their only effect is on the count of pairs, which scales the loss."""
    game, chance = science["apo_game"], random.Random(0)
    model = rounds.reward_model(rounds.language_model(0), 0)
    annotated, given = game.annotate(game.QUICK, chance)[:4], rounds.prompts(2, chance)
    items = game.against(given, [[rounds.ordinary(p, 6.0, 24, chance) for _ in range(2)] for p in given], 0, chance)
    assert [one.group.mark for one in items] == ["apo"] * 4
    assert len({one.group.prompt_id for one in items}) == 2

    def slope(rows: list, **flags: float) -> torch.Tensor:
        model.zero_grad()
        batch = rounds.JUDGED(rows)
        record = rounds.GroupRewards(
            rounds.rewards(model, batch), batch["present"], batch["scores"], adversarial=batch.get("adversarial")
        )
        rounds.objective("apo_rm", **flags)(record).value.backward()
        return model.v_head.summary.weight.grad.clone()

    assert torch.allclose(2 * slope(annotated + items, apo_loss_coeff=0.0), slope(annotated), atol=1e-6)
    assert not torch.allclose(2 * slope(annotated + items, apo_loss_coeff=1.0), slope(annotated), atol=1e-3)


@pytest.mark.parametrize("name", ["aipo_length", "apo_game"])
def test_small_run_writes_its_results(science, tmp_path: Path, name: str) -> None:
    script = science[name]
    assert script.main(["--quick", "--seeds", "0", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert list(found["arms"]) == list(script.ARMS)
    turns = getattr(script.QUICK, "iterations", 0) or script.QUICK.rounds
    assert all(len(run) == turns + 1 for runs in found["arms"].values() for run in runs)
    text = (tmp_path / f"{name}.md").read_text()
    assert all(f"| {arm} | {turns} | " in text for arm in script.ARMS)
    assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"

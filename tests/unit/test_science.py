"""The science scripts: their closed forms, and a small run of each that writes its files."""

import importlib
import json
import math
import sys
from pathlib import Path

import pytest
import torch

from swiftlike.losses import LOSSES

FOLDER = Path(__file__).parents[2] / "benchmarks" / "science"
SEEDS = [0, 1]


@pytest.fixture
def science(monkeypatch: pytest.MonkeyPatch):
    """Imports a script by name and forgets it afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def world(science):
    return science("enumerated").make_world(SEEDS, prompts=3, width=5, rough=0.3, steps=40)


def test_a_table_has_means_and_errors(science) -> None:
    common = science("common")
    assert str(common.mean_and_error([1.0, 2.0, 3.0])) == f"2.000 ± {1 / math.sqrt(3):.3f}"
    assert common.mean_and_error([4.0]) == (4.0, 0.0)
    assert common.table([["a", 1]], ["x", "y"]) == "| x | y |\n| --- | --- |\n| a | 1 |"


def test_all_answers_are_counted_and_seeds_do_not_meet(science, world) -> None:
    enumerated = science("enumerated")
    policy = world.start()()
    assert policy.shape == (2, 3, enumerated.ANSWERS)
    torch.testing.assert_close(policy.exp().sum(-1), torch.ones(2, 3))
    alone = enumerated.make_world(SEEDS[1:], prompts=3, width=5, rough=0.3, steps=40)
    torch.testing.assert_close(world.reference[1:], alone.reference, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(world.rewards.std(-1), torch.ones(2, 3))


def test_an_answer_is_scored_letter_by_letter(science, world) -> None:
    letters, blank = science("enumerated").LETTERS, science("enumerated").BLANK
    policies, answer = world.start(), (4, 0, 3)
    total = 0.0
    for place, letter in enumerate(answer):
        seen = [*world.prompts[0, 1].tolist(), *answer[:place], *[blank] * (2 - place)]
        one_hot = torch.nn.functional.one_hot(torch.tensor(seen), letters + 1).flatten().float()
        logits = (one_hot @ policies.lower[0]).tanh() @ policies.upper[0] + policies.bias[0, 0]
        total = total + logits.log_softmax(-1)[letter]
    place = answer[0] * letters**2 + answer[1] * letters + answer[2]
    torch.testing.assert_close(policies()[0, 1, place], total)


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_the_optimum(science, world, beta: float) -> None:
    """No divergence from itself; `E r - beta KL(policy || reference) = beta log Z - beta KL(policy || optimum)`."""
    kl, optimum = science("enumerated").kl, world.optimum(beta)
    assert kl(optimum, optimum).abs().max() == 0
    assert (world.reward(optimum) > world.reward(world.reference)).all()
    assert (world.reward(world.optimum(beta / 2)) > world.reward(optimum)).all()
    policy = torch.randn(world.reference.shape, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    value = world.reward(policy) - beta * kl(policy, world.reference)
    log_z = (world.reference + world.rewards / beta).logsumexp(-1).mean(-1)
    torch.testing.assert_close(value, beta * (log_z - kl(policy, optimum)))
    assert (value < world.reward(optimum) - beta * kl(optimum, world.reference)).all()


@pytest.mark.parametrize("kind", ["exo-rw", "dpo-rw"])
@pytest.mark.parametrize("beta_pi", [0.25, 0.5, 1.0])
def test_the_objectives_rest_at_the_optimum_of_beta_pi_times_beta_r(science, world, kind: str, beta_pi: float) -> None:
    runs, beta = science("exo_runs"), 0.25
    loss = runs.sampled_loss(world, runs.Method(kind, 4, beta, beta_pi))
    answers = torch.multinomial(world.reference.exp().flatten(0, 1), 8, replacement=False).view(2, 3, 8)
    slopes = []
    for place in (world.optimum(beta), world.optimum(2 * beta)):
        policy = place.clone().requires_grad_()
        loss(policy, answers, torch.Generator()).backward()
        slopes.append(policy.grad.abs().max())
    assert slopes[0] < 1e-5 < 1e-3 < slopes[1]


def test_large_groups_become_the_divergence(science, world) -> None:
    """At beta_pi 1 and K = 8192: KL(policy || optimum), and KL(optimum || policy) plus a constant."""
    runs, kl, beta = science("exo_runs"), science("enumerated").kl, 1.0
    generator = torch.Generator().manual_seed(0)
    answers = torch.multinomial(world.reference.exp().flatten(0, 1), 8192, replacement=True, generator=generator)
    policy, optimum = world.optimum(3.0), world.optimum(beta)
    for kind, exact in (("exo-rw", kl(policy, optimum)), ("dpo-rw", kl(optimum, policy))):
        loss = runs.sampled_loss(world, runs.Method(kind, 8192, beta, 1.0))
        here, there = (loss(place, answers.view(2, 3, -1), generator) for place in (policy, optimum))
        assert (here - there).item() == pytest.approx(exact.sum().item(), rel=0.1)


def test_the_target_of_exo_pref_agrees_with_the_reward_where_answers_are_nearly_as_good(science) -> None:
    method = science("exo_runs").usual("exo-pref", 2, 0.3)
    win = 1 / (1 + math.exp(-0.01))  # rewards 0.01 apart
    assert -math.log(LOSSES.get("exo").args().exo_label_smoothing) * (2 * win - 1) / method.beta_pi == pytest.approx(
        0.01 / 0.3, rel=1e-3
    )


def test_the_line_between_points(science) -> None:
    script = science("exo_frontier")
    points = torch.tensor([[0.0, 1.0], [1.0, 3.0], [0.5, 5.0], [2.0, 5.0]])
    assert script.at_level(points, 0.5) == 2.0
    assert script.at_level(points, 1.5) == 5.0
    assert script.at_level(points, 2.5) is None


def test_pairs(science, world) -> None:
    script = science("beta_dpo_noise")
    pairs = script.make_pairs(world, script.QUICK, SEEDS)
    settings, half = script.QUICK, script.QUICK.pairs // 2
    for seed in range(2):
        prompts, better, worse = pairs.train[seed].unbind(-1)
        gaps = world.rewards[seed][prompts, better] - world.rewards[seed][prompts, worse]
        assert gaps[:half].min() >= settings.informative
        assert gaps[half:].max() <= settings.near
        assert gaps.min() >= 0
        seen = {tuple(row) for row in pairs.train[seed].tolist()}
        assert seen.isdisjoint(tuple(row) for row in pairs.held_out[seed].tolist())
    noisy = script.flipped(pairs.train, 0.4, SEEDS)
    swapped = (noisy[..., 1] == pairs.train[..., 2]).float().mean()
    assert 0.25 < swapped < 0.55
    torch.testing.assert_close(script.flipped(pairs.train, 0.0, SEEDS), pairs.train)
    assert script.accuracy(world, world.reference + world.rewards, pairs.held_out) == [1.0, 1.0]


@pytest.mark.parametrize("name", ["exo_frontier", "beta_dpo_noise"])
def test_a_quick_run_writes_its_files(science, name: str, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        science(name).main(["--quick", "--seeds", "0", "1", "--out", str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
    found = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert found["seeds"] == SEEDS
    assert len(found["runs"]) > 10
    assert "What showed and what did not" in (tmp_path / f"{name}.md").read_text(encoding="utf-8")
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000

"""The fused scorer against plain log_softmax: values and gradients, and only what is needed is computed."""

from __future__ import annotations

import families
import pytest
import torch
import transformers

from swiftlike.models.logps import add_scoring, group_logps, model_inputs, token_logps

N, HIDDEN, VOCABULARY = 13, 8, 37
HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "cap": {"cap": 1.7},
    "scale": {"scale": 0.3},
    "all": {"bias": True, "cap": 2.0, "scale": 1.6},
}


def inputs(dtype: torch.dtype = torch.float32, bias: bool = False, rows: int = N) -> list[torch.Tensor]:
    torch.manual_seed(1)
    hidden, weight = torch.randn(rows, HIDDEN) * 2, torch.randn(VOCABULARY, HIDDEN)
    made = [hidden, weight, torch.randn(VOCABULARY)] if bias else [hidden, weight]
    return [one.to(dtype).requires_grad_() for one in made]


def targets(rows: int = N) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (rows,), generator=torch.Generator().manual_seed(2))


def naive(hidden, weight, bias=None, cap=None, scale=1.0):
    """Log-probabilities of the targets and mean logits, nothing fused, in the precision of the scorer's softmax."""
    logits = torch.nn.functional.linear(hidden, weight, bias)
    logits = (logits if logits.dtype == torch.float64 else logits.float()) * scale
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    return logits.log_softmax(-1).gather(1, targets(len(hidden))[:, None]).squeeze(1), logits.mean(-1)


def fused(hidden, weight, bias=None, chunk=5, **options):
    return token_logps(hidden, weight, targets(len(hidden)), bias=bias, chunk=chunk, **options)


@pytest.mark.parametrize("chunk", [1, 5, 13, 256])
@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize("kind", HEADS)
def test_values_and_gradients(kind: str, frozen: bool, chunk: int) -> None:
    options = dict(HEADS[kind])
    made = inputs(bias=options.pop("bias", False))
    for one in made[1:]:
        one.requires_grad_(not frozen)
    upstream = torch.linspace(-1, 2, N)
    wanted, mean = naive(*made, **options)
    found, found_mean = fused(*made, chunk=chunk, **options)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)
    torch.testing.assert_close(found_mean, mean, rtol=0, atol=2e-5)
    assert not found_mean.requires_grad
    learn = made[:1] if frozen else made
    for one, two in zip(
        torch.autograd.grad(found, learn, upstream), torch.autograd.grad(wanted, learn, upstream), strict=True
    ):
        torch.testing.assert_close(one, two, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_gradcheck_in_double(kind: str, frozen: bool) -> None:
    options = dict(HEADS[kind])
    made = inputs(torch.float64, options.pop("bias", False))
    for one in made[1:]:
        one.requires_grad_(not frozen)
    assert torch.autograd.gradcheck(lambda *parts: fused(*parts, **options)[0], made)


@pytest.mark.parametrize("part", [0, 1, 2], ids=["hidden", "weight", "bias"])
def test_any_single_part_can_be_trained(part: int) -> None:
    made = inputs(bias=True)
    for i, one in enumerate(made):
        one.requires_grad_(i == part)
    (found,) = torch.autograd.grad(fused(*made)[0].sum(), made[part])
    (wanted,) = torch.autograd.grad(naive(*made)[0].sum(), made[part])
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_half_precision_keeps_the_softmax_in_single(frozen: bool) -> None:
    made = inputs(torch.bfloat16)
    made[1].requires_grad_(not frozen)
    found, _ = fused(*made)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, naive(*made)[0], rtol=0, atol=1e-5)  # the same bf16 logits
    learn = made[:1] if frozen else made
    wanted = torch.autograd.grad(naive(*made)[0].sum(), learn)
    for one, two in zip(torch.autograd.grad(found.sum(), learn), wanted, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one.float() - two.float()).abs().max() < 0.02 * two.abs().max()


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_no_tokens(frozen: bool) -> None:
    made = inputs(rows=0)
    made[1].requires_grad_(not frozen)
    logps, mean = fused(*made)
    assert logps.shape == mean.shape == (0,)
    logps.sum().backward()
    assert made[0].grad.shape == (0, HIDDEN)


@pytest.mark.parametrize("grad", [False, True])
def test_without_gradient(grad: bool) -> None:
    hidden, weight = inputs()
    if grad:
        hidden.requires_grad_(False)
        weight.requires_grad_(False)
        found = fused(hidden, weight)[0]
    else:
        with torch.no_grad():
            found = fused(hidden, weight)[0]
    assert not found.requires_grad
    torch.testing.assert_close(found, naive(hidden, weight)[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_never_more_than_a_chunk_of_logits(frozen: bool) -> None:
    """No tensor of [N, V] is made, forward or backward: the largest one is a chunk."""
    made = inputs(rows=64)
    made[1].requires_grad_(not frozen)
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            largest.extend(one.numel() for one in torch.utils._pytree.tree_leaves(out) if hasattr(one, "numel"))
            return out

    with Watch():
        fused(*made, chunk=4)[0].sum().backward()
    assert max(largest) <= max(4 * VOCABULARY, 64 * HIDDEN, VOCABULARY * HIDDEN)


# -- on a model ------------------------------------------------------------------------------------------------------

SCALED = {
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 4.0},
    "hyperclovax": {"logits_scaling": 4.0},
}


def batch(rows: int = 2, length: int = 9) -> dict[str, torch.Tensor]:
    ids = torch.randint(20, 300, (rows, length), generator=torch.Generator().manual_seed(3))
    predict = torch.tensor([2, 3, 4, length + 5, length + 7])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "position_ids": torch.arange(length).expand(rows, -1),
        "predict": predict,
        "targets": ids.flatten()[predict + 1],
        "slots": torch.tensor([0, 0, 0, 1, 1]),
        "tokens": torch.tensor([[3], [2]]),
    }


@pytest.mark.parametrize("name", ["llama", "gemma2", *SCALED])
def test_logits_are_the_models_own(name: str) -> None:
    """Caps and scales that a family applies after its head are part of the score."""
    if name in SCALED:
        size = families._text(**SCALED[name], head_dim=16)
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(name, **size)).eval()
        model.get_output_embeddings().weight.data *= 20
    else:
        model = families.model(name)
    made = batch()
    with torch.no_grad():
        logits = model(input_ids=made["input_ids"], use_cache=False).logits
        add_scoring(model, chunk=2)
        logps, mean = model(**model_inputs(made))
    rows = logits.flatten(0, 1)[made["predict"]]
    wanted = rows.log_softmax(-1).gather(1, made["targets"][:, None]).squeeze(1)
    assert wanted.std() > 0.1
    torch.testing.assert_close(logps, wanted, rtol=0, atol=2e-5)
    torch.testing.assert_close(mean, rows.mean(-1), rtol=0, atol=2e-5)


def test_without_targets_nothing_changes() -> None:
    model, other = families.model("llama"), families.model("llama")
    add_scoring(model)
    ids = batch()["input_ids"]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, other(input_ids=ids).logits)
        greedy = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
        assert torch.equal(model.generate(ids, **greedy), other.generate(ids, **greedy))
    model(input_ids=ids, labels=ids).loss.backward()


def test_only_one_instance_is_changed() -> None:
    add_scoring(families.model("llama"))
    with pytest.raises(TypeError):
        families.model("llama").get_output_embeddings()(torch.zeros(1, families.HIDDEN), torch.zeros(1).long())


def test_sums_by_slot() -> None:
    logps, logits = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([1.0, 3.0, 5.0, 7.0])
    made = {"tokens": torch.tensor([[3, 0], [0, 1]]), "slots": torch.tensor([0, 0, 0, 3])}
    out = group_logps((logps, logits), made)
    assert out["policy"].tolist() == [[7, 0], [0, 8]]
    assert out["logits"].tolist() == [[3, 0], [0, 7]]


def test_prompt_tokens_ride_along() -> None:
    made = batch() | {
        "prompt_predict": torch.tensor([0, 1, 9]),
        "prompt_targets": torch.tensor([30, 31, 32]),
        "prompt_rows": torch.tensor([0, 0, 1]),
    }
    model = families.model("llama")
    with torch.no_grad():
        rows = model(input_ids=made["input_ids"], use_cache=False).logits.flatten(0, 1).log_softmax(-1)
        add_scoring(model)
        with_prompt = group_logps(model(**model_inputs(made)), made)
        without = group_logps(model(**model_inputs(batch())), batch())
    wanted = -torch.stack([rows[0, 30] + rows[1, 31], rows[9, 32]])
    torch.testing.assert_close(with_prompt["prompt_nll"], wanted, rtol=0, atol=2e-5)
    assert with_prompt["prompt_tokens"].tolist() == [2, 1]
    torch.testing.assert_close(with_prompt["policy"], without["policy"], rtol=0, atol=1e-5)
    assert "prompt_nll" not in without

"""Reference log-probabilities: the right weights, no gradient, stored once and the same ever after."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import families
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from swiftlike.models.logps import add_scoring, group_logps, model_inputs
from swiftlike.models.reference import AdapterOff, FrozenCopy, OtherAdapter, Stored, fingerprint
from swiftlike.models.tuning import load_reference_adapter


def batch(seed: int = 0) -> dict[str, Any]:
    """Two pairs in split layout."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(20, 300, (4, 7), generator=generator)
    predict = torch.tensor([r * 7 + t for r in range(4) for t in (3, 4, 5)])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "position_ids": torch.arange(7).expand(4, -1),
        "predict": predict,
        "targets": ids.flatten()[predict + 1],
        "slots": torch.arange(4).repeat_interleave(3),
        "tokens": torch.full((2, 2), 3),
        "present": torch.ones(2, 2, dtype=torch.bool),
        "real": torch.ones(2, dtype=torch.bool),
        "keys": [[f"{seed}-{b}-{k}".encode() for k in range(2)] for b in range(2)],
    }


def scoring(seed: int = 0) -> torch.nn.Module:
    model = families.model("llama", seed=seed)
    add_scoring(model)
    return model


def lora(base: torch.nn.Module, fill: float = 0.3, dropout: float = 0.5) -> Any:
    """A policy whose adapter does something."""
    policy = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=dropout))
    for name, weight in policy.named_parameters():
        if "lora_B" in name:
            weight.data.fill_(fill)
    return policy.train()


@torch.no_grad()
def logps(model: torch.nn.Module) -> torch.Tensor:
    return group_logps(model.eval()(**model_inputs(batch())), batch())["policy"]


# -- the four references ---------------------------------------------------------------------------------------------


def test_adapter_off_is_the_base_model() -> None:
    base = logps(scoring())
    policy = lora(scoring())
    found = AdapterOff()(policy, batch())
    assert torch.equal(found, base)
    assert not found.requires_grad
    assert policy.training  # left as it was
    policy.eval()
    assert (logps(policy) - base).abs().max() > 0.01


def test_other_adapter(tmp_path: Path) -> None:
    sft = lora(scoring(), fill=0.2)
    sft.save_pretrained(tmp_path)
    wanted, base = logps(sft), logps(scoring())
    policy = lora(scoring(), fill=-0.4)
    load_reference_adapter(policy, str(tmp_path))
    policy.train()
    before = logps(policy)
    policy.train()
    trained = {name for name, weight in policy.named_parameters() if weight.requires_grad}
    found = OtherAdapter()(policy, batch())
    assert (found - wanted).abs().max() < 1e-5
    assert (found - base).abs().max() > 0.01
    assert not found.requires_grad
    assert {name for name, weight in policy.named_parameters() if weight.requires_grad} == trained
    assert trained
    assert all(".default." in name for name in trained)
    assert policy.training
    assert torch.equal(logps(policy), before)


def test_other_adapter_is_put_back_after_an_error(tmp_path: Path) -> None:
    lora(scoring()).save_pretrained(tmp_path)
    policy = lora(scoring())
    load_reference_adapter(policy, str(tmp_path))
    with pytest.raises(TypeError):
        OtherAdapter()(policy, {"targets": torch.zeros(1, dtype=torch.long)})
    assert policy.active_adapter == "default"


def test_frozen_copy() -> None:
    copy, policy = scoring(1).train(), scoring(0)
    reference = FrozenCopy(copy)
    assert torch.equal(reference(policy, batch()), logps(scoring(1)))
    assert not any(weight.requires_grad for weight in copy.parameters())
    assert not copy.training


def test_prompt_tokens_are_not_computed() -> None:
    extra = {"prompt_predict": torch.tensor([0]), "prompt_targets": torch.tensor([9]), "prompt_rows": torch.tensor([0])}
    assert torch.equal(FrozenCopy(scoring())(scoring(), batch() | extra), logps(scoring()))


# -- stored ----------------------------------------------------------------------------------------------------------


class Counting:
    """Another number at every call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, policy: Any, made: dict[str, Any]) -> torch.Tensor:
        self.calls += 1
        return torch.tensor([[1.1, 2.2], [3.3, 4.4]]) + self.calls


def test_stored_gives_the_first_numbers_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.sqlite"
    inner = Counting()
    stored = Stored(inner, path)
    first = stored(None, batch())
    assert torch.equal(first, torch.tensor([[1.1, 2.2], [3.3, 4.4]]) + 1)
    assert torch.equal(stored(None, batch()), first)
    assert (inner.calls, stored.hits, stored.misses) == (1, 2, 2)
    mixed = batch()
    mixed["keys"] = [mixed["keys"][0], [b"new", b"newer"]]
    second = stored(None, mixed)  # computed for the unknown; the known keep what they had
    assert inner.calls == 2
    assert torch.equal(second[0], first[0])
    assert torch.equal(second[1], torch.tensor([3.3, 4.4]) + 2)
    reopened = Stored(Counting(), path)
    assert torch.equal(reopened(None, batch()), first)
    assert torch.equal(reopened(None, mixed), second)
    assert reopened.inner.calls == 0


def test_stored_rows_of_different_length(tmp_path: Path) -> None:
    made = batch() | {"keys": [[b"a"], [b"b", b"c"]]}
    stored = Stored(Counting(), tmp_path / "a.sqlite")
    for _ in range(2):
        assert stored(None, made).tolist()[0][1] == 0
        assert stored(None, made)[1].tolist() == pytest.approx([4.3, 5.4])


def test_stored_numbers_survive_single_precision(tmp_path: Path) -> None:
    value = torch.randn(2, 2) * 1e3
    stored = Stored(lambda policy, made: value.double(), tmp_path / "a.sqlite")
    assert torch.equal(stored(None, batch()), value)
    assert torch.equal(stored(None, batch()), value)


@pytest.mark.parametrize("together", [True, False])
def test_ranks_compute_together(tmp_path: Path, together: bool) -> None:
    """Where one rank must compute all do, and what is known stays known."""
    stored = Stored(Counting(), tmp_path / "a.sqlite")
    first = stored(None, batch())
    asked = []
    stored.together = lambda known: asked.append(known) or together
    assert torch.equal(stored(None, batch()), first)
    assert asked == [True]
    assert stored.inner.calls == (1 if together else 2)


WRITER = """
import sys, torch
from pathlib import Path
from swiftlike.models.reference import Stored
number = float(sys.argv[2])
stored = Stored(lambda policy, batch: torch.full((4, 2), number), Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for i in range(60):
    keys = [[f"{i}-{b}-{k}".encode() for k in range(2)] for b in range(4)]
    stored(None, {"keys": keys, "tokens": torch.ones(4, 2)})
"""


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(n)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in (1, 2)
    ]
    assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * 2
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert writer.returncode == 0, errors
    stored = Stored(Counting(), path)
    for i in range(60):
        made = {"keys": [[f"{i}-{b}-{k}".encode() for k in range(2)] for b in range(4)], "tokens": torch.ones(4, 2)}
        assert set(stored(None, made).flatten().tolist()) <= {1.0, 2.0}
    assert stored.inner.calls == 0


# -- fingerprint -----------------------------------------------------------------------------------------------------


def test_fingerprint_knows_weights_and_how_they_are_run(tmp_path: Path) -> None:
    families.save("llama", tmp_path)
    weights = tmp_path / "model.safetensors"
    first = fingerprint([tmp_path], dtype="float32")
    assert fingerprint([tmp_path], dtype="float32") == first
    seen = {first, fingerprint([tmp_path], dtype="bfloat16"), fingerprint([tmp_path, tmp_path], dtype="float32")}
    tensors = load_file(weights)
    for name in list(tensors)[::5]:  # any one number of any tensor
        changed = {key: value.clone() for key, value in tensors.items()}
        changed[name].view(-1)[-1] += 0.5
        save_file(changed, weights, metadata={"format": "pt"})
        found = fingerprint([tmp_path], dtype="float32")
        assert found not in seen, name
        seen.add(found)
    save_file(tensors, weights, metadata={"format": "pt"})
    assert fingerprint([tmp_path], dtype="float32") == first


def test_fingerprint_of_an_adapter_knows_its_scale(tmp_path: Path) -> None:
    lora(scoring()).save_pretrained(tmp_path)
    first = fingerprint([tmp_path])
    path = tmp_path / "adapter_config.json"
    path.write_text(path.read_text().replace('"lora_alpha": 8', '"lora_alpha": 16'))
    assert fingerprint([tmp_path]) != first


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_fingerprint_knows_the_settings_beside_the_weights(tmp_path: Path, file: str) -> None:
    """Rope scaling, soft caps, picture normalisation: the same weights give other numbers."""
    families.save("llava", tmp_path)
    first = fingerprint([tmp_path])
    path = tmp_path / file
    path.write_text(
        path.read_text().replace("0.26862954", "0.25").replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 0.1')
    )
    assert fingerprint([tmp_path]) != first

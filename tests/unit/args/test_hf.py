"""TrainingArguments fields, read from text."""

import subprocess
import sys

import pytest

from swiftlike.args import hf


def test_fields_are_read_without_importing_transformers() -> None:
    code = (
        "import sys; from swiftlike.args import hf; assert len(hf.fields()) > 80 and 'transformers' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_fields_are_those_of_the_real_class() -> None:
    import dataclasses

    from transformers import TrainingArguments

    assert set(hf.fields()) == {field.name for field in dataclasses.fields(TrainingArguments) if field.init}


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("torch_empty_cache_steps", "4", 4),
        ("dataloader_pin_memory", "true", True),
        ("eval_delay", "0.5", 0.5),
        ("lr_scheduler_kwargs", '{"a": 1}', {"a": 1}),
        ("ddp_backend", "none", None),
        ("ddp_backend", "gloo", "gloo"),
        ("hub_strategy", "end", "end"),
        ("optim_target_modules", ["a", "b"], ["a", "b"]),
    ],
)
def test_values_have_the_type_of_their_field(name: str, raw: object, value: object) -> None:
    found = hf.read(name, raw)
    assert found == value
    assert type(found) is type(value)


def test_fields_that_training_sets_itself_are_refused() -> None:
    with pytest.raises(ValueError, match="set by training itself"):
        hf.read("remove_unused_columns", "false")
    with pytest.raises(ValueError, match="not a whole number"):
        hf.read("torch_empty_cache_steps", "4.5")
    with pytest.raises(KeyError):
        hf.read("no_such_field", "1")


def test_names_are_those_of_transformers() -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    assert set(hf.schedules()) == {one.value for one in SchedulerType}
    assert set(hf.optimisers()) == {one.value for one in OptimizerNames}
    assert set(INTEGRATION_TO_CALLBACK) <= set(hf.TRACKERS)


def test_managed_fields_are_not_our_flags() -> None:
    from swiftlike.cli.commands import load
    from swiftlike.core.flags import Flags

    assert not set(hf.MANAGED) & set(Flags(load("rlhf")).spellings())

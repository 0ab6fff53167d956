"""Variables that are read, refused, or a slip of the fingers."""

import pytest

from swiftlike.args.environment import READ, environment_problems, environment_values
from swiftlike.core.merge import Given

KNOWN = (*READ.values(), "lora_rank")


def read(env: dict[str, str], known: tuple[str, ...] = KNOWN) -> tuple[list[Given], list[str]]:
    return environment_values(env, known), environment_problems(env, known, lambda flag: flag == "elsewhere")


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("MAX_PIXELS", "max_pixels"),
        ("MAX_NUM", "max_tiles"),
        ("USE_HF", "use_hf"),
        ("SWIFTLIKE_LORA_RANK", "lora_rank"),
    ],
)
def test_names_that_are_read(name: str, flag: str) -> None:
    assert read({name: "4", "HOME": "/root"}) == ([Given(flag, "4", f"environment {name}")], [])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("MAX_PIXLES", "did you mean MAX_PIXELS?"),
        ("MIN_PIXEL", "did you mean MIN_PIXELS?"),
        ("NPROC_PER_NODES", "did you mean NPROC_PER_NODE?"),
        ("SIZE_FACTOR", "use --max_image_tokens"),
        ("VIDEO_MAX_PIXELS", "video is not supported"),
        ("SWIFTLIKE_LORA_RNK", "did you mean --lora_rank?"),
    ],
)
def test_names_that_would_be_ignored_are_problems(name: str, reason: str) -> None:
    found, problems = read({name: "4"})
    assert found == []
    assert problems[0].startswith(f"environment {name}: ")
    assert reason in problems[0]


def test_variables_of_others_are_left_alone() -> None:
    ambient = {
        "NPROC_PER_NODE": "2",
        "NNODES": "1",
        "MASTER_PORT": "29500",
        "PATH": "/bin",
        "MAX_JOBS": "4",
        "SWIFTLIKE_CACHE": "x",
        "SWIFTLIKE_SHARED": "x",
        "SWIFTLIKE_ELSEWHERE": "x",
    }
    assert read(ambient) == ([], [])


def test_a_command_without_pictures_does_not_mind_their_names() -> None:
    assert read({"MAX_PIXELS": "4", "MAX_PIXLES": "4"}, ("json",)) == ([], [])

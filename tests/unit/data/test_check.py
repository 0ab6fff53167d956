from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swiftlike.data import check
from swiftlike.data.check import Pictures, fingerprint, problems
from swiftlike.datasets_registry.row import Image, Message, Row, Turns
from swiftlike.datasets_registry.shapes import to_row

from .conftest import picture


def row(record: dict[str, Any]) -> Row:
    return to_row(record)[0]


def kinds(record: dict[str, Any], **options: Any) -> list[str]:
    return [problem.kind for problem in problems(row(record), Pictures(**options))]


PAIR = {"query": "q", "response": "a", "rejected_response": "b"}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, []),
        ({"response": " \n"}, ["empty answer"]),
        ({"response": "", "rejected_response": ""}, ["empty answer", "empty answer", "chosen equals rejected"]),
        ({"rejected_response": "a "}, ["chosen equals rejected"]),
        ({"query": ""}, ["empty prompt"]),
        ({"query": "\ud800"}, ["broken unicode"]),
        ({"response": "x" * 10_000_001}, ["text is too long"]),
        ({"images": ["nowhere.png"]}, ["image is missing"]),
        ({"images": [b""]}, ["image is empty"]),
        ({"images": [b"text"]}, ["image is unreadable"]),
    ],
)
def test_what_is_wrong_with_a_pair(change: dict[str, Any], found: list[str]) -> None:
    assert kinds({**PAIR, **change}) == found


def test_no_user_turn() -> None:
    assert kinds({"messages": [{"role": "system", "content": "s"}, {"role": "assistant", "content": "a"}]}) == [
        "no user turn"
    ]


def test_tags_without_pictures_in_a_row_made_by_hand() -> None:
    made = Row(Turns((Message("user", "<image>q"),)), (Turns((Message("assistant", "a"),)),), origin="x:1")
    (problem,) = problems(made, Pictures())
    assert problem.as_text() == "x:1: image tags do not match images: 1 tags, 0 images"


def test_equal_answers_behind_different_pictures_are_a_pair(tmp_path: Path) -> None:
    one, two = str(picture(tmp_path / "a.png")), str(picture(tmp_path / "b.png"))
    assert kinds({"query": "q", "response": "a", "images": [one], "rejected_images": [two]}) == []


@pytest.mark.parametrize(("name", "kept"), [("a.jpg", 0.6), ("a.png", 0.6), ("a.webp", 0.6), ("a.bmp", 0.6)])
def test_cut_off_pictures_are_found_from_their_ends(tmp_path: Path, name: str, kept: float) -> None:
    path = picture(tmp_path / name, (200, 150))
    record = {**PAIR, "images": [str(path)]}
    assert kinds(record) == []
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    assert kinds(record) == ["image is broken"]


def test_damage_in_the_middle_is_found_by_decoding(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", (200, 150))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 50] = b"\0" * 50
    path.write_bytes(bytes(data))
    record = {**PAIR, "images": [str(path)]}
    assert kinds(record) == []  # a header and an end as they should be
    assert kinds(record, decode=1) == ["image is broken"]


def test_each_picture_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Image] = []
    real = check.image_size
    monkeypatch.setattr(check, "image_size", lambda image, **options: seen.append(image) or real(image, **options))
    pictures = Pictures()
    good = row({**PAIR, "images": [str(picture(tmp_path / "a.png"))]})
    bad = row({**PAIR, "images": ["nowhere.png"]})
    for _ in range(3):
        assert not problems(good, pictures)
        assert len(problems(bad, pictures)) == 1
    assert len(seen) == 2
    assert list(pictures.sizes.values()) == [(32, 24)]


def test_web_pictures_are_not_fetched() -> None:
    pictures = Pictures()
    assert not problems(row({**PAIR, "images": ["https://example.invalid/a.png"]}), pictures)
    assert pictures.not_looked_at == 1


def test_fingerprints_tell_content_apart() -> None:
    same = row(PAIR)
    others = [
        {**PAIR, "query": "r"},
        {**PAIR, "rejected_response": "c"},
        {"query": "q", "response": "b", "rejected_response": "a"},
        {"query": "q", "response": "a", "label": True},
        {"query": "q", "response": "a", "label": False},
        {**PAIR, "images": ["x"]},
        {**PAIR, "system": "s"},
    ]
    marks = {fingerprint(row(record)) for record in others} | {fingerprint(same)}
    assert len(marks) == len(others) + 1
    assert fingerprint(same) == fingerprint(row({**PAIR, "idx": 7}))

"""What a person types: pictures in it, words that steer, several lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image as Pillow

from swiftlike.datasets_registry.card import BadRow
from swiftlike.pipelines.infer.terminal import Terminal, word_of
from swiftlike.pipelines.infer.typed import dropped, with_pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("red.png", "my cat (1).png", "it's.PNG"):
        Pillow.new("RGB", (30, 20), "red").save(tmp_path / name)
    return tmp_path


def never(prompt: str) -> str:
    raise AssertionError(prompt)


WRITTEN: list[tuple[str, str, list[str]]] = [
    ("<image>{f}/red.png</image>What is it?", "<image>What is it?", ["red.png"]),
    (
        "Is <img>{f}/red.png</img> like <image>{f}/my cat (1).png</image>?",
        "Is <image> like <image>?",
        ["red.png", "my cat (1).png"],
    ),
    ("{f}/red.png", "<image>", ["red.png"]),
    ("What is {f}/red.png then?", "What is <image> then?", ["red.png"]),
    ("'{f}/my cat (1).png' What?", "<image> What?", ["my cat (1).png"]),
    ('"{f}/it\'s.PNG"', "<image>", ["it's.PNG"]),
    (r"{f}/my\ cat\ \(1\).png what?", "<image> what?", ["my cat (1).png"]),
    ("file://{f}/my%20cat%20(1).png", "<image>", ["my cat (1).png"]),
    ("<image>file://{f}/red.png</image>", "<image>", ["red.png"]),
    ("two {f}/red.png\n{f}/red.png", "two <image>\n<image>", ["red.png", "red.png"]),
    ("no {f}/none.png here", "no {f}/none.png here", []),
    ("/etc/passwd and {f}", "/etc/passwd and {f}", []),
    ("the word image, 3 < 4", "the word image, 3 < 4", []),
]


@pytest.mark.parametrize(("typed", "text", "names"), WRITTEN)
def test_pictures_in_what_is_typed(folder: Path, typed: str, text: str, names: list[str]) -> None:
    found, images = with_pictures(typed.replace("{f}", str(folder)), True, never)
    assert found == text.replace("{f}", str(folder))
    assert [image.source for image in images] == [str(folder / name) for name in names]


def test_a_bare_tag_asks_for_its_picture(folder: Path) -> None:
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return f"  '{folder}/my cat (1).png' "

    text, images = with_pictures(f"<image>{folder}/red.png</image> or <image>?", True, ask)
    assert text == "<image> or <image>?"
    assert [image.source for image in images] == [str(folder / "red.png"), str(folder / "my cat (1).png")]
    assert asked == ["image path or URL <<< "]


def test_a_relative_path_starts_from_the_working_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    _, (image,) = with_pictures("<image>red.png</image>", True, never)
    assert Path(str(image.source)).is_file()


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "image is missing"), (b"", "image is empty"), (b"text", "image is unreadable")]
)
def test_a_picture_that_cannot_be_read_is_an_error(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadRow, match=reason):
        with_pictures(f"<image>{path}</image>", True, never)


def test_a_picture_that_is_cut_off_is_an_error(folder: Path) -> None:
    whole = (folder / "red.png").read_bytes()
    (folder / "red.png").write_bytes(whole[:60])
    with pytest.raises(BadRow, match="image is broken"):
        with_pictures(f"what is {folder}/red.png", True, never)


def test_a_text_model_is_shown_no_picture(folder: Path) -> None:
    with pytest.raises(BadRow, match="images for a text model"):
        with_pictures(f"<image>{folder}/red.png</image>", False, never)
    text = f"what is in {folder}/red.png"
    assert with_pictures(text, False, never) == (text, ())


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (" a b ", "a b"),
        ("'a b'", "a b"),
        (r"a\ b", "a b"),
        ("file:///a%20b", "/a b"),
        ("http://a/b%20c", "http://a/b%20c"),
    ],
)
def test_paths_as_terminals_write_them(text: str, path: str) -> None:
    assert dropped(text) == path


def typing(*lines: str) -> Callable[[str], str]:
    """Somebody who types these lines and then closes the terminal."""
    left = list(lines)

    def read(prompt: str) -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    return read


def test_an_entry_is_a_line_or_all_lines_up_to_the_mark() -> None:
    terminal = Terminal(
        typing("one", "two\npasted", "a", "", "b #", "exit", "reset-system: x", "# at the start", "end#")
    )
    assert [terminal.entry(), terminal.entry()] == ["one", "two\npasted"]
    terminal.several = True
    assert terminal.entry() == "a\n\nb"
    assert [terminal.entry(), terminal.entry()] == ["exit", "reset-system: x"]
    assert terminal.entry() == "# at the start\nend"
    with pytest.raises(EOFError):
        terminal.entry()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("clear", ("clear", "")),
        (" EXIT ", ("exit", "")),
        ("reset-system", ("reset-system", "")),
        ("reset-system: You are: a poet.", ("reset-system", "You are: a poet.")),
        ("clear the table", None),
        ("exit?", None),
        ("help me", None),
        ("", None),
    ],
)
def test_words_that_steer(text: str, word: tuple[str, str] | None) -> None:
    assert word_of(text) == word

"""Runs every command that an error message or docs/data.md gives for a text, then trains on it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.text import DataError, read_text
from fundamentallm.training.loop import train

ENGLISH = "\u201cDon\u2019t,\u201d she said, \u2014 \u20ac5 for a cr\u00e8me?\n" * 20
GERMAN = "\u00dcber die Stra\u00dfe, \u00e4\u00f6\u00fc\n" * 20 + "Der Gru\u00df\u201c\n"
FRENCH = (
    "\u00ab \u00catre ou ne pas \u00eatre \u00bb, l\u2019\u0153uvre d\u2019\u00e9t\u00e9\n" * 20
)
RUSSIAN = "\u0412\u0441\u0435 \u0441\u0435\u043c\u044c\u0438.\n" * 40
MIXED = ENGLISH.encode("utf-8") + FRENCH.encode("cp1252")
LATIN_1 = "na\u00efve cr\u00e8me, d\u00e9j\u00e0 vu \u00a3 \u00bd\n" * 20

FILES = {
    "Windows-1252": (ENGLISH.encode("cp1252"), ENGLISH),
    "German, with a Windows-1252 quote that forms valid UTF-8": (GERMAN.encode("cp1252"), GERMAN),
    "Latin-1": (LATIN_1.encode("latin-1"), LATIN_1),
    "UTF-8, then Windows-1252": (MIXED, ENGLISH + FRENCH),
    "UTF-8 with one Windows-1252 word": (
        ENGLISH.encode() + b"\xe9t\xe9",
        ENGLISH + "\u00e9t\u00e9",
    ),
    "Latin-1 with one UTF-8 character": (
        "\u2019".encode() + LATIN_1.encode("latin-1"),
        "\u2019" + LATIN_1,
    ),
    **{
        f"{name}, {language}": (text.encode(name), text)
        for language, text in (("English", ENGLISH), ("Russian", RUSSIAN))
        for name in ("UTF-16", "UTF-32", "UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE")
    },
    "UTF-16 with a big-endian mark": (b"\xfe\xff" + ENGLISH.encode("utf-16-be"), ENGLISH),
    "UTF-32 with a big-endian mark": (b"\x00\x00\xfe\xff" + ENGLISH.encode("utf-32-be"), ENGLISH),
}
COMMAND = re.compile(r"(?:iconv|python3) .* > ([^\s;]+)")


def refusal_of(path: Path) -> str:
    with pytest.raises(DataError) as error:
        read_text(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def bash(command: str, folder: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"


def check_trains(path: Path, expected: str, tiny: Config) -> None:
    text = read_text(path)
    assert text.content == expected
    assert train(tiny, text.content).status == "done"


@pytest.mark.parametrize("name", FILES)
def test_the_command_in_the_message_converts_the_text(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Config
) -> None:
    raw, expected = FILES[name]
    monkeypatch.chdir(tmp_path)
    path = Path("far away/-it's.txt")
    path.parent.mkdir()
    path.write_bytes(raw)
    command = COMMAND.search(refusal_of(path))
    assert command is not None, refusal_of(path)
    bash(command[0], tmp_path)
    (converted,) = tmp_path.glob("*.txt")
    check_trains(converted, expected, tiny)
    assert path.read_bytes() == raw


def test_the_command_overwrites_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.txt").write_bytes(b"\xe9t\xe9 " * 10)
    Path("x.utf8.txt").write_text("mine")
    command = COMMAND.search(refusal_of(Path("x.txt")))
    assert command is not None
    assert command[1] == "x.utf8-2.txt"


@pytest.mark.parametrize("name", ["shift-jis", "cp437"])
def test_the_message_names_no_impossible_encoding(name: str, tmp_path: Path) -> None:
    content = {
        "shift-jis": "\u3042\u3044\u3046 \u65e5\u672c\u8a9e\u3002\n",
        "cp437": "na\u00efve \u00fcber \u00ec\u00e5\n",
    }
    (tmp_path / "x.txt").write_bytes(content[name].encode(name) * 20)
    message = refusal_of(tmp_path / "x.txt")
    assert "1252" not in message
    assert "iconv -f ENCODING -t UTF-8" in message


def test_binary_data_is_refused_as_binary(tmp_path: Path) -> None:
    for raw in (bytes(range(256)) * 20, b"\x01\x00\x00\x00\x02\x00\x00\x00" * 50, b"ab\x00c"):
        (tmp_path / "x.txt").write_bytes(raw)
        assert "so this is binary; give a UTF-8 text file" in refusal_of(tmp_path / "x.txt")


def test_the_command_for_a_pipe_names_no_file(tmp_path: Path) -> None:
    script = f"printf '\\351t\\351 %.0s' 1 2 3 | {sys.executable} -m fundamentallm train /dev/stdin"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "convert it: iconv -f WINDOWS-1252 -t UTF-8; else" in done.stderr
    assert ">" not in done.stderr


def page_commands() -> list[str]:
    page = (ROOT / "docs/data.md").read_text("utf-8")
    inline = re.findall(r"`([^`\n]* > data\.txt)`", page)
    return inline + re.findall(r"^```bash\n(.*? > data\.txt)\n```$", page, flags=re.M | re.S)


@pytest.mark.parametrize("command", page_commands())
def test_a_command_of_the_page_prepares_a_text(command: str, tmp_path: Path, tiny: Config) -> None:
    encoding = re.search(r"iconv -f (\S+)", command)
    if "texts/*.txt" in command:
        (tmp_path / "texts").mkdir()
        for name, text in (("a b", "One.\n" * 99), ("c", "Two.\n" * 99)):
            (tmp_path / f"texts/{name}.txt").write_text(text, "utf-8-sig")
        bash(command, tmp_path)
        bash(command, tmp_path)  # the second time, data.txt must not be one of the texts
        check_trains(tmp_path / "data.txt", "One.\n" * 99 + "\n" + "Two.\n" * 99 + "\n", tiny)
        return
    if encoding is not None:
        raw, expected = ENGLISH.encode(encoding[1]), ENGLISH
    elif command.startswith("sed"):
        raw, expected = ENGLISH.encode(), ENGLISH.replace("\u2019", "'")
    else:
        raw, expected = MIXED, ENGLISH + FRENCH
    (tmp_path / "old.txt").write_bytes(raw)
    bash(command, tmp_path)
    check_trains(tmp_path / "data.txt", expected, tiny)


def test_the_page_has_commands() -> None:
    assert len(page_commands()) == 6


def test_byte_order_marks_of_joined_files_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_bytes("one\n".encode("utf-8-sig") + "two\n".encode("utf-8-sig"))
    assert read_text(path).content == "one\ntwo\n"

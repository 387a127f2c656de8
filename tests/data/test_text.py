"""Reading texts from files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fundamentallm.data import text as text_module
from fundamentallm.data.text import DataError, Text, read_text


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "no text in it"),
        (b" \n\t", "no text in it"),
        (b"ab\x00c", "zero byte at offset 2"),
        ("hello".encode("utf-16"), "UTF-16"),
        (b"abc\xff\xfe", "byte 0xff at offset 3"),
        (b"abc\xe9", "byte 0xe9 at offset 3"),
    ],
)
def test_binary_empty_and_misencoded_files_are_refused(
    raw: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=message) as error:
        read_text(path)
    assert str(path) in str(error.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_text(tmp_path / "none.txt")
    with pytest.raises(DataError, match="Is a directory"):
        read_text(tmp_path)


def test_byte_order_marks_and_windows_newlines_are_normalized(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert read_text(path).content == "one\ntwo\nthree\n"


@given(st.text(st.sampled_from("aé€\U0001f600\r\n\ufeff")), st.integers(1, 7))
def test_a_file_read_in_pieces_has_the_same_content(
    tmp_path_factory: pytest.TempPathFactory, content: str, piece: int
) -> None:
    path = tmp_path_factory.mktemp("long") / "x.txt"
    path.write_bytes(b"x" + content.encode())
    expected = path.read_text("utf-8").replace("\ufeff", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_module, "PIECE", piece)
        patch.setattr(text_module, "HELD", 0)
        text = read_text(path)
        assert text.content == expected
        assert (text.length, text.sha256) == (len(expected), Text.of(expected).sha256)


def test_an_error_late_in_a_long_file_names_its_offset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "PIECE", 5)
    path = tmp_path / "x.txt"
    path.write_bytes(b"0123456789\xe2\x82")  # a character that never ends
    with pytest.raises(DataError, match="byte 0xe2 at offset 10"):
        read_text(path)
    path.write_bytes("ééééé".encode() + b"\xe9xxxxxx")
    with pytest.raises(DataError, match="byte 0xe9 at offset 10"):
        read_text(path)
    path.write_bytes(b"0123456789\x00")
    with pytest.raises(DataError, match="zero byte at offset 10"):
        read_text(path)

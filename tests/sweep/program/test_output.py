"""Output of a program: stored up to a size, with its last lines."""

from __future__ import annotations

from pathlib import Path

from fundamentallm.sweep.program.output import TAIL, Output


def test_output_stays_below_a_size_and_ends_with_the_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "output.txt"
    path.write_bytes(b"of an earlier attempt\n")
    with path.open("ab") as file:
        output = Output(file.fileno(), largest=1000)
        for number in range(100_000):
            output.write(b"line %d\n" % number)
        output.finish()
    text = path.read_text()
    assert text.startswith("of an earlier attempt\nline 0\nline 1\n")
    assert "bytes left out; the last lines:" in text
    assert text.endswith("line 99998\nline 99999\n")
    assert len(text) < 1000 + 2 * TAIL


def test_all_of_a_short_output_is_stored(tmp_path: Path) -> None:
    with (tmp_path / "output.txt").open("ab") as file:
        output = Output(file.fileno())
        output.write(b"step 1\rstep 2\n\nValueError: no \xff\n")
        output.finish()
    assert (tmp_path / "output.txt").read_bytes() == b"step 1\rstep 2\n\nValueError: no \xff\n"
    assert output.last_lines() == ["step 2", "ValueError: no \ufffd"]


def test_last_lines_are_what_a_terminal_shows_without_those_of_wandb(tmp_path: Path) -> None:
    with (tmp_path / "output.txt").open("ab") as file:
        output = Output(file.fileno())
        output.write(b"wandb: Tracking run\n")
        assert output.last_lines() == ["wandb: Tracking run"]
        output.write(b"\x1b]0;title\x07\r 1%|\r\x1b[32m99%|\x1b[0m\r\n")
        output.write(b"\x1b[1;31mValueError\x1b[0m: no\n")
        output.write(b"\x1b[1;34mwandb\x1b[0m: Find logs at: wandb/x\nwandb: ERROR lost\n")
        assert output.last_lines() == ["99%|", "ValueError: no", "wandb: ERROR lost"]
        assert output.reason() == "wandb: ERROR lost"
        output.write("╭─ Error ──╮\n│ No such option: --x │\n╰───╯\n".encode())
    assert output.reason() == "No such option: --x"

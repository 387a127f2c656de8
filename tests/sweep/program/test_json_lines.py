"""Rows from lines of JSON: steps, numbers, lines in pieces, and files that grow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fundamentallm.sweep.program import json_lines
from fundamentallm.sweep.program.json_lines import JsonFile, JsonLines


def rows_of(text: str) -> list[tuple[int, dict[str, float]]]:
    return [(row.step, row.metrics) for row in JsonLines().feed(text.encode()).rows]


@pytest.mark.parametrize(
    ("line", "step", "metrics"),
    [
        ('{"loss": 1.5}', 0, {"loss": 1.5}),
        ('{"step": 7, "loss": 1.5}', 7, {"loss": 1.5}),
        ('{"_step": 7, "step": 3, "loss": 1.5}', 7, {"loss": 1.5}),
        ('{"step": 7.0, "loss": 1}', 7, {"loss": 1}),
        ('{"step": -1, "loss": 1}', 0, {"loss": 1}),
        ('{"eval": {"loss": 2, "by": {"x": 3}}}', 0, {"eval.loss": 2, "eval.by.x": 3}),
        ('{"0": 1, "größe": 2}', 0, {"0": 1, "größe": 2}),
        ('{"n": 9007199254740993}', 0, {"n": 9007199254740993}),
        ('{"loss": NaN, "acc": 0.5, "done": true, "note": "x"}', 0, {"acc": 0.5}),
        (' 50%|#####  | 5/10 [00:01<00:01]{"loss": 1}\r', 0, {"loss": 1}),
    ],
)
def test_a_line_becomes_a_row(line: str, step: int, metrics: dict[str, float]) -> None:
    assert rows_of(line + "\n") == [(step, metrics)]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "loss: 1.5",
        "{'loss': 1.5}",
        '{"loss": 1.5',
        '{"loss": 1.5} done',
        "[1, 2]",
        '{"loss": "1.5"}',
        '{"loss": 1e999}',
        '{"step": 3}',
        '{"a":' * 5000 + "1" + "}" * 5000,
        '{"a": ' + "9" * 5000 + "}",
        '{"a": 1, "b": "' + "x" * json_lines.LONGEST_LINE + '"}',
    ],
)
def test_other_lines_are_ignored(line: str) -> None:
    assert rows_of(f'{line}\n{{"loss": 2}}\n') == [(0, {"loss": 2})]


def test_a_row_without_a_step_follows_the_row_before() -> None:
    assert [step for step, _ in rows_of('{"a": 1}\n{"a": 1}\n{"step": 9, "a": 1}\n{"a": 1}\n')] == [
        *(0, 1, 9, 10)
    ]


def test_pieces_of_any_size_give_the_same_rows() -> None:
    text = "".join(json.dumps({"step": i, "verlust": i / 7, "ö": i}) + "\n" for i in range(20))
    data = text.encode()
    for size in (1, 2, 7, 1000):
        lines = JsonLines()
        rows = [
            row for at in range(0, len(data), size) for row in lines.feed(data[at : at + size]).rows
        ]
        assert [(row.step, row.metrics) for row in rows] == rows_of(text)


def test_a_line_that_never_ends_takes_no_memory() -> None:
    lines = JsonLines()
    for _ in range(5):
        assert lines.feed(b'{"a": 1, "x' + b"x" * json_lines.LONGEST_LINE).rows == []
        assert sum(map(len, lines.lines.partial)) <= json_lines.LONGEST_LINE
    assert lines.feed(b'"}\n').rows == []
    assert [row.metrics for row in lines.feed(b'{"a": 2}\n').rows] == [{"a": 2}]


def test_the_last_line_needs_no_line_end() -> None:
    lines = JsonLines()
    assert lines.feed(b'{"a": 1}').rows == []
    assert [row.metrics for row in lines.finish().rows] == [{"a": 1}]


def write(path: Path, *rows: dict[str, Any], mode: str = "a") -> None:
    with path.open(mode) as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def test_a_file_is_read_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = JsonFile(path)
    assert file.read().rows == []
    write(path, {"a": 1}, {"a": 2})
    assert [row.metrics["a"] for row in file.read().rows] == [1, 2]
    assert file.read().rows == []
    with path.open("a") as opened:
        opened.write('{"a": 3}\n{"a": 4')
    assert [row.metrics["a"] for row in file.read().rows] == [3]
    with path.open("a") as opened:
        opened.write("0}")
    assert [(row.step, row.metrics["a"]) for row in file.finish().rows] == [(3, 40)]


def test_rows_from_before_the_start_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, {"a": 1}, {"a": 2})
    file = JsonFile(path)
    assert file.read().rows == []
    write(path, {"a": 3})
    assert [row.metrics["a"] for row in file.read().rows] == [3]


@pytest.mark.parametrize("rows", [[{"a": 5}], [{"a": 5}, {"a": 6}]], ids=["shorter", "as long"])
def test_a_rewritten_file_is_read_from_its_start(tmp_path: Path, rows: list[Any]) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, {"a": 1}, {"a": 2})
    file = JsonFile(path)
    write(path, *rows, mode="w")
    assert [row.metrics for row in file.read().rows] == rows


def test_a_replaced_file_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, {"a": 1})
    file = JsonFile(path)
    for number in (1, 2, 3):
        write(tmp_path / "new", *({"a": i} for i in range(number + 1)))
        (tmp_path / "new").replace(path)
        assert [row.metrics["a"] for row in file.read().rows] == [*range(number + 1)]


def test_a_pipe_or_folder_in_place_of_the_file_is_no_hang(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "missing/file"):
        assert JsonFile(tmp_path / name).finish().rows == []


def test_a_large_file_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "LARGEST_READ", 100)
    path = tmp_path / "metrics.jsonl"
    file = JsonFile(path)
    write(path, *({"a": i} for i in range(1000)))
    assert len(file.read().rows) < 20
    file.finish()
    assert file.lines.next_step == 1000

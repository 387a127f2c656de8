"""`export`: tables whose values survive the trip, models that plain PyTorch reads, safe files."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from results_on_disk import write_foreign_run, write_run, write_sweep
from tiny_sweep import metric_rows

from fundamentallm.cli.main import main
from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.vocabulary import Vocabulary
from fundamentallm.model.transformer import Transformer
from fundamentallm.report.export import ExportError, csv_text, parquet_bytes
from fundamentallm.report.tables import Table
from fundamentallm.training.checkpoint import Checkpoint

Export = Callable[..., str]
THIRD = 1.0 / 3.0
TABLE = Table(
    ("run", "whole", "part", "mixed", "flag", "list", "text", "nothing"),
    [
        ("run-0001", 2**62, THIRD, 1, True, [1, "é"], 'a "b",\r\nc', None),
        ("run-0002", None, 5e-324, "1", False, {"a": None}, "\ud800=\x00", None),
    ],
)


@pytest.fixture
def export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Export:
    """Return what `fundamentallm export WORDS` prints on stdout, or on stderr if it fails."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object, code: int = 0) -> str:
        with pytest.raises(SystemExit) as end:
            main(["export", *map(str, words)])
        printed = capsys.readouterr()
        assert end.value.code == code, printed.err
        return printed.err if code else printed.out

    return run


def rows_of(text: str) -> list[list[str]]:
    """Return the rows of a CSV as Python's reader gives them."""
    return list(csv.reader(io.StringIO(text, newline="")))


def test_csv_has_a_row_per_run_with_exact_numbers(export: Export, tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "s", {0.001: [THIRD, 1.5]})
    heads, first, second = rows_of(export("s", "--csv"))
    assert heads == ["run", "status", "learning_rate", "seed", "val_loss", "seconds"]
    assert first[:4] == ["run-0001", "done", "0.001", "0"]
    rows = metric_rows(folder / "run-0001")
    assert float(first[4]) == min(row["val_loss"] for row in rows)
    assert float(second[4]) == 1.5


def test_history_has_a_row_per_step(export: Export, tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "s", {0.001: [THIRD, 1.5]})
    heads, *found = rows_of(export("s", "--csv", "--history"))
    assert heads == ["run", "step", "train_loss", "val_loss", "optim/grad_norm"]
    expected = [
        [run, row["step"], row["train_loss"], row["val_loss"], row["optim/grad_norm"]]
        for run in ("run-0001", "run-0002")
        for row in metric_rows(folder / run)
    ]
    assert [[row[0], int(row[1]), *map(float, row[2:])] for row in found] == expected
    document = json.loads(export("s", "--json", "--history"))
    assert [list(row.values()) for row in document["history"]] == expected


def test_names_that_are_taken_and_texts_like_formulas(
    export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f/sweep.yaml").write_text(
        "program: o.py\nmethod: grid\nmetric: {name: status}\n"
        "parameters: {run: {values: ['=1+1', b]}, layers: {values: [[1, 2], [3]]}}\n"
    )
    for number, (name, layers) in enumerate((("=1+1", [1, 2]), ("b", [3])), 1):
        logged = [{"status": 0.5, "run": 2.0}]
        write_foreign_run(tmp_path / f"f/run-000{number}", {"run": name, "layers": layers}, logged)
    with pytest.raises(SystemExit):
        main(["export", "f", "--csv"])
    printed = capsys.readouterr()
    heads, first, _ = rows_of(printed.out)
    assert heads == ["run", "status", "layers", "config.run", "metric.status", "seconds"]
    assert first[2:5] == ["[1, 2]", "=1+1", "0.5"]
    assert "a text begins like a formula, which a spreadsheet may run: '=1+1'" in printed.err
    assert rows_of(export("f", "--csv", "--history"))[0] == ["run", "step", "status", "metric.run"]


def test_json_has_types_and_what_all_runs_share(export: Export, tmp_path: Path) -> None:
    write_sweep(tmp_path / "s", {0.001: [THIRD, 1.5]})
    document = json.loads(export("s", "--json"))
    assert document["metric"] == {"name": "val_loss", "goal": "minimize"}
    assert document["fixed"] == {"learning_rate": 0.001, "gradient_clip": 1.0}
    first = document["runs"][0]
    assert (first["run"], first["learning_rate"], first["seed"]) == ("run-0001", 0.001, 0)


def test_csv_gives_every_value_back() -> None:
    heads, first, second = rows_of(csv_text(TABLE))
    assert heads == list(TABLE.columns)
    assert first == [
        "run-0001", str(2**62), repr(THIRD), "1", "true", '[1, "é"]', 'a "b",\r\nc', "",
    ]  # fmt: skip
    assert float(first[2]) == THIRD
    assert float(second[2]) == 5e-324
    assert second[5:7] == ['{"a": null}', "\\ud800=\x00"]


@given(st.lists(st.tuples(st.text(), st.floats(allow_nan=False)), max_size=4))
def test_any_text_and_number_survives_csv(rows: list[tuple[str, float]]) -> None:
    table = Table(("text", "number"), rows)
    found = rows_of(csv_text(table))[1:]
    assert [(text, float(number)) for text, number in found] == [
        (text.encode("utf-8", "backslashreplace").decode(), number) for text, number in rows
    ]


def test_parquet_has_types(export: Export, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(io.BytesIO(parquet_bytes(TABLE)))
    assert list(frame.columns) == list(TABLE.columns)
    assert frame["part"].tolist() == [THIRD, 5e-324]
    assert frame["flag"].tolist() == [True, False]
    assert frame["mixed"].tolist() == ["1", "1"]
    assert frame["list"].tolist() == ['[1, "é"]', '{"a": null}']
    assert frame["text"].tolist() == ['a "b",\r\nc', "\\ud800=\x00"]
    whole = Table(("n", "m"), [(1, 1), (None, 2.5)])
    assert pandas.read_parquet(io.BytesIO(parquet_bytes(whole)))["m"].tolist() == [1.0, 2.5]
    assert list(pandas.read_parquet(io.BytesIO(parquet_bytes(Table(("a",), [])))).columns) == ["a"]
    write_sweep(tmp_path / "s", {0.001: [1.5, 1.6]})
    assert "--parquet is binary; give -o FILE" in export("s", "--parquet", code=2)
    export("s", "--parquet", "-o", "runs.parquet")
    assert pandas.read_parquet(tmp_path / "runs.parquet")["val_loss"].tolist() == [1.5, 1.6]


def test_missing_packages_are_named(
    export: Export, tmp_path: Path, tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("pyarrow", "pyarrow.parquet", "safetensors.torch"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ExportError, match=r"pip install 'fundamentallm\[parquet\]'"):
        parquet_bytes(TABLE)
    path = random_model(tmp_path, tiny)
    done = export(path, "--safetensors", "m.safetensors", code=2)
    assert "pip install 'fundamentallm[safetensors]'" in done
    assert not (tmp_path / "m.safetensors").exists()


def test_no_file_is_overwritten_unasked(export: Export, tmp_path: Path) -> None:
    write_sweep(tmp_path / "s", {0.001: [1.5, 1.6]})
    mine, part = tmp_path / "runs.csv", tmp_path / "runs.csv.part"
    for file in (mine, part):
        file.write_text("mine")
    done = export("s", "--csv", "-o", mine, code=2)
    assert "this file exists; add --force to replace it" in done
    assert mine.read_text() == "mine"
    assert export("s", "--csv", "-o", mine, "--force") == ""
    assert mine.read_text() == export("s", "--csv")
    assert part.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs.csv", "runs.csv.part", "s"]
    assert "this is a folder" in export("s", "--csv", "-o", "s", "--force", code=2)
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in export("s", "--csv", "-o", "pipe", "--force", code=2)
    (tmp_path / "link").symlink_to("target.csv")
    assert "this file exists" in export("s", "--csv", "-o", "link", code=2)
    assert "cannot be written" in export("s", "--csv", "-o", "no/x.csv", code=1)


def test_flags_that_do_not_go_together(export: Export) -> None:
    for words in ([], ["--csv", "--json"], ["--csv", "--safetensors=x"]):
        assert "give one of --csv, --json, --parquet" in export("s", *words, code=2)
    for words in (["s", "t"], ["s", "--history"], ["s", "-o", "x"]):
        assert "writes one model" in export(*words, "--safetensors=x", code=2)
    assert "--force needs" in export("s", "--csv", "--force", code=2)


def random_model(folder: Path, config: Config) -> Path:
    """Save a checkpoint whose weights are all random."""
    vocabulary = Vocabulary.of(["Some characters: é\n\u2028"], "char")
    torch.manual_seed(0)
    model = Transformer(len(vocabulary), config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3)
    path = folder / "random.pt"
    Checkpoint(config, vocabulary, {}, model.state_dict(), {}, {}).save(path)
    return path


@pytest.mark.parametrize("shape", [{}, {"model_dim": 15, "num_heads": 5, "num_layers": 3}])
def test_the_pytorch_of_the_docs_computes_the_same(
    export: Export, tmp_path: Path, tiny: Config, shape: dict[str, Any]
) -> None:
    path = random_model(tmp_path, replace(tiny, **shape))
    export(path, "--safetensors", "model.safetensors")
    page = (ROOT / "docs/export.md").read_text("utf-8")
    code = re.search(r"^```python\n(.*?)^```", page, re.M | re.S)
    assert code is not None
    assert "fundamentallm" not in code[1]
    found: dict[str, Any] = {}
    exec(compile(code[1], "docs/export.md", "exec"), found)
    checkpoint = Checkpoint.load(path)
    assert found["vocabulary"] == vars(checkpoint.vocabulary)
    assert found["config"] | vars(checkpoint.config) == found["config"]
    tokens = torch.randint(len(checkpoint.vocabulary), (3, tiny.max_seq_len))
    with torch.no_grad():
        expected = checkpoint.build_model()(tokens)
        assert torch.allclose(found["logits"](tokens), expected, atol=1e-4)
        assert expected.std() > 0.1


def test_runs_side_by_side_are_one_table(export: Export, tmp_path: Path) -> None:
    write_run(tmp_path / "a", {"dropout": 0.1}, [2.0])
    write_run(tmp_path / "b", {"dropout": 0.2}, [1.5])
    rows = rows_of(export("a", "b", "--csv"))
    assert [row[:3] for row in rows[1:]] == [["a", "done", "0.1"], ["b", "done", "0.2"]]

"""The examples of docs/python.md run, and the notebook in a real Jupyter kernel."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Run, need_program
from tiny_sweep import FLAGS, grid

from fundamentallm.data.builtin_corpus import builtin_corpus

BIN = Path(sys.executable).parent
# W&B's client leaves a file of parameters open.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Current folder with the text that the examples read."""
    (tmp_path / "data.txt").write_text(builtin_corpus()[:20_000], "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("PATH", str(BIN), prepend=":")
    return tmp_path


def test_the_examples_of_the_page_run(
    folder: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "lr.yaml").write_text(grid(rates=2, seeds=1))
    assert run("sweep", "lr.yaml", "data.txt", "--workers=1", "--", *FLAGS).returncode == 0
    page = (ROOT / "docs/python.md").read_text("utf-8")
    names: dict[str, Any] = {}
    for code in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S):
        exec(compile(code, "docs/python.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "runs/mine" in printed
    assert "run-0002 done" in printed
    assert {path.name for path in (folder / "runs").iterdir()} == {"lr", "mine"}


def test_the_notebook_runs_in_a_kernel(folder: Path) -> None:
    need_program("fundamentallm")
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "docs/tour.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # as it is kept
    nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(folder)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    printed = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    kinds = [set(output["data"]) for output in outputs if "data" in output]
    assert "60/60" in printed  # the bar
    assert "val_loss" in printed
    assert "lr 0.3" in printed
    assert sum("image/png" in kind for kind in kinds) == 2
    assert sum("text/html" in kind for kind in kinds) == 1
    assert (folder / "runs.csv").read_text().startswith("run,status,lr,loss,seconds\n")
    assert len((folder / "history.csv").read_text().splitlines()) == 51
    assert (folder / "model.safetensors").stat().st_size > 10_000

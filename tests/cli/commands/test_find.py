"""`find learning-rate`: a range for the learning rate."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import Run


def test_the_range_is_found_and_reported(run: Run, tmp_path: Path, text_file: Path) -> None:
    flags = ["--model-dim=32", "--num-layers=2", "--num-heads=2", "--max-seq-len=32"]
    done = run("find", "learning-rate", text_file, *flags, "--batch-size=8", "--output-dir=f")
    assert (done.returncode, "search the learning rate from" in done.stdout) == (0, True)
    found = json.loads((tmp_path / "f/summary.json").read_text())["range_test"]
    assert 1e-6 < found["low"] < found["high"] <= 1
    assert "Learning-rate range test" in (tmp_path / "f/report.html").read_text()
    done = run("find", "learning-rate", text_file, *flags, "--learning-rate=3", "--output-dir=g")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "there is no flag --learning-rate; see --help" in done.stderr

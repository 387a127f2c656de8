"""`train`: its files, exit codes, and refusals."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import Run

from fundamentallm.config.hyperparameters import HYPERPARAMETERS


def test_train_then_generate_and_evaluate(
    run: Run, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    done = run("train", text_file, *tiny_flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("val_loss ") == 4  # three evaluations, and the last line
    assert "    | " in done.stdout
    folder = tmp_path / "runs/cats-1"
    files = ["best.pt", "config.yaml", "last.pt", "metrics.jsonl", "samples.txt", "summary.json"]
    assert sorted(file.name for file in folder.glob("[!.]*")) == files
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert list(config) == [*HYPERPARAMETERS, "data", "data_sha256"]
    assert config["model_dim"] == 16
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "done"

    written = run("generate", folder, "--prompt=The ", "--max-tokens=20", "--num-samples=2")
    assert written.returncode == 0, written.stderr
    assert written.stdout.count("The ") >= 2

    content = text_file.read_text()
    part = tmp_path / "val.txt"
    part.write_text(content[len(content) - round(len(content) * 0.1) :])
    scored = run("evaluate", folder, part, "--json")
    assert json.loads(scored.stdout)["loss"] == pytest.approx(summary["best_val_loss"], abs=1e-6)
    part.write_text("The é cats")
    strange = run("evaluate", folder, part)
    assert "1 character is unknown" in strange.stderr
    assert "'é'" in strange.stderr

    again = run("train", "--config", folder / "config.yaml", "--seed=1")
    assert again.returncode == 0, again.stderr
    repeated = yaml.safe_load((tmp_path / "runs/cats-2/config.yaml").read_text())
    assert repeated == config | {"seed": 1}


def test_a_folder_with_a_run_is_kept(
    run: Run, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    flags = [text_file, *tiny_flags, "--output-dir", "out"]
    assert run("train", *flags).returncode == 0
    before = (tmp_path / "out/metrics.jsonl").read_text()
    refused = run("train", *flags)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    assert "--overwrite" in refused.stderr
    assert (tmp_path / "out/metrics.jsonl").read_text() == before
    (tmp_path / "out/notes.txt").write_text("mine")
    assert run("train", *flags, "--overwrite", "--seed=2").returncode == 0
    assert (tmp_path / "out/metrics.jsonl").read_text() != before
    assert (tmp_path / "out/notes.txt").read_text() == "mine"
    other = run("train", "--output-dir=out", "--resume", "--model-dim=32")
    assert other.returncode == 2
    assert "--model-dim was 16 and is now 32" in other.stderr


def test_an_unwritable_folder(
    run: Run, text_file: Path, tmp_path: Path, ordinary_user: list[str]
) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    command = [*ordinary_user, sys.executable, "-m", "fundamentallm", "train", str(text_file)]
    done = subprocess.run(
        [*command, "--output-dir", "locked/run", "--max-steps=1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "--output-dir locked/run: cannot be written (Permission denied)" in done.stderr


def test_divergence_exits_with_1(run: Run, text_file: Path, tiny_flags: list[str]) -> None:
    flags = ["--learning-rate=1000", "--gradient-clip=0", "--max-steps=200"]
    done = run("train", text_file, *tiny_flags, *flags)
    assert done.returncode == 1
    assert re.search(r"diverged: .* at step \d+; likely fixes: .*--learning-rate", done.stderr)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_show_how_to_resume(
    run: Run, text_file: Path, tiny_flags: list[str], tmp_path: Path, number: int, code: int
) -> None:
    flags = [str(text_file), *tiny_flags, "--max-steps=100000", "--output-dir=out", "--no-wandb"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fundamentallm", "train", *flags],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "out/last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert "resume with: fundamentallm train --output-dir out --resume --no-wandb\n" in errors
    assert json.loads((tmp_path / "out/summary.json").read_text())["status"] == "interrupted"
    step = json.loads((tmp_path / "out/summary.json").read_text())["step"]
    on = run("train", "--output-dir=out", "--resume", f"--max-steps={step + 10}")
    assert on.returncode == 0, on.stderr
    rows = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps))
    assert steps[-1] == step + 10


def test_the_folder_of_a_sweep_is_refused(
    run: Run, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    """Reports would not show a run in a sweep's folder."""
    (tmp_path / "swept").mkdir()
    (tmp_path / "swept/sweep.yaml").touch()
    few = ["--model-dim=16", "--num-heads=2"]
    for command in (["train", *tiny_flags], ["train", "--resume"], ["find", "learning-rate", *few]):
        done = run(*command, text_file, "--output-dir=swept")
        assert done.returncode == 2
        assert (
            "swept: this folder holds a sweep; resume it with fundamentallm agent swept"
            in done.stderr
        )
    assert [each.name for each in (tmp_path / "swept").iterdir()] == ["sweep.yaml"]


def test_a_preset_warns_of_a_short_text(
    run: Run, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    done = run("train", text_file, "--preset=small-dataset", *tiny_flags)
    assert "warning: --preset small-dataset is meant for 20,000 characters" in done.stderr
    config = yaml.safe_load((tmp_path / "runs/cats-1/config.yaml").read_text())
    assert (config["dropout"], config["model_dim"]) == (0.2, 16)  # flags win


def test_warnings(run: Run, text_file: Path, tiny_flags: list[str]) -> None:
    done = run("train", text_file, *tiny_flags, "--warmup-steps=50", "--dropout=0.9")
    assert "--warmup-steps 50 is not shorter than the run, 24 steps" in done.stderr
    assert "--dropout 0.9 is outside its documented range, 0 to 0.3" in done.stderr


def test_a_failed_compilation_is_one_line(
    run: Run,
    text_file: Path,
    tmp_path: Path,
    tiny_flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")  # no compiler
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    done = run("train", text_file, *tiny_flags, "--compile=true", "--output-dir=r", "--no-wandb")
    assert done.returncode == 1
    said = [x for x in done.stderr.splitlines() if not x.startswith("warning: --")]
    assert len(said) == 1
    assert said[0].startswith("fundamentallm: the model could not be compiled (")
    assert said[0].endswith("give --compile false, or a compiler")
    assert json.loads((tmp_path / "r/summary.json").read_text())["status"] == "failed"

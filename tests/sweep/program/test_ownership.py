"""Our trainer never runs for a stranger's file: a sweep is ours by what it starts, not by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import optuna
import pytest
from conftest import ROOT, Run
from tiny_sweep import FLAGS, grid, summaries

from fundamentallm.sweep.file.sweep_file import examine_sweep, parse_sweep
from fundamentallm.sweep.program.ownership import OUR_COMMAND, digest, is_ours, words_of_every_run

STRANGERS = "import argparse\n\nprint('training', argparse.ArgumentParser().parse_known_args())\n"
IMPORTS_OURS = "import fundamentallm\n\nfundamentallm.train('data.txt', learning_rate=0.1)\n"


def write(folder: Path, program: str | None) -> None:
    (folder / "s.yaml").write_text(grid(1, 1))
    if program is None:
        (folder / "train.py").unlink()
    else:
        (folder / "train.py").write_text(program)


@pytest.mark.parametrize("program", [STRANGERS, IMPORTS_OURS, "no python ("])
def test_a_strangers_train_py_is_foreign(
    program: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, program)
    monkeypatch.chdir(tmp_path)
    assert not is_ours(examine_sweep(tmp_path / "s.yaml"))
    checked = run("check", "s.yaml")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout.splitlines() == [
        "s.yaml: each run starts `/usr/bin/env python train.py ${args}`",
        "s.yaml: 1 run, a grid of 1",
    ]
    for argument in ("data.txt", "--dropout=0.1"):
        for command in ("check", "sweep"):
            refused = run(command, "s.yaml", "--", argument)
            assert refused.returncode == 2
            assert f"{argument}: s.yaml starts another program than fundamentallm train" in (
                refused.stderr
            )
    assert not (tmp_path / "runs").exists()


def test_a_missing_program_is_foreign(run: Run, tmp_path: Path, text_file: Path) -> None:
    write(tmp_path, None)
    for command, code in (("sweep", 2), ("check", 1)):
        done = run(command, "s.yaml")
        assert done.returncode == code
        assert "s.yaml:1: program: train.py does not exist in the current folder; to train " \
            f"fundamentallm's own model, set command: {OUR_COMMAND}" in done.stderr  # fmt: skip
    text = grid(1, 1).replace("program: train.py", f"command: {OUR_COMMAND}")
    (tmp_path / "s.yaml").write_text(text)
    assert run("sweep", "s.yaml", text_file, "--", *FLAGS).returncode == 0
    assert (tmp_path / "runs/s/run-0001/summary.json").is_file()


@pytest.mark.parametrize("bundled", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda f: f.stem)
def test_a_copy_of_a_bundled_sweep_is_ours_without_its_train_py(
    bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's train.py beside it still decides, and so does any change but to comments."""
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "copy.yaml"
    text = bundled.read_text()
    copy.write_text("# mine\n" + text)
    sweep = examine_sweep(copy)
    assert is_ours(sweep), f"{bundled.name} has changed: add {digest(sweep)} to BUNDLED"
    Path("train.py").write_text(STRANGERS)
    assert not is_ours(sweep)
    Path("train.py").unlink()
    copy.write_text(text + "description: another sweep\n")
    assert not is_ours(examine_sweep(copy))


def test_a_sweep_that_was_begun_goes_on_without_its_program(
    run: Run, tmp_path: Path, text_file: Path
) -> None:
    (tmp_path / "s.yaml").write_text(grid(2, 1))
    assert run("sweep", "s.yaml", text_file, "--count", 1, "--", *FLAGS).returncode == 0
    (tmp_path / "train.py").unlink()
    assert run("sweep", "s.yaml", text_file, "--", *FLAGS).returncode == 0
    assert (tmp_path / "runs/s/run-0002/summary.json").is_file()


def test_what_was_begun_goes_on_though_wandb_refuses_it(
    run: Run, tmp_path: Path, text_file: Path
) -> None:
    """Mixed ends were only warned of: sweeps of before that have them are resumed and joined."""
    file = tmp_path / "s.yaml"
    rates = (
        grid(1, 1).replace("grid", "random").replace("{values: [0.001]}", "{min: 0.0, max: 0.5}")
    )
    text = "run_cap: 3\n" + rates
    mixed = text.replace("min: 0.0", "min: 0")
    file.write_text(text)
    assert run("sweep", file, text_file, "--count", 1, "--", *FLAGS).returncode == 0
    for stored in (file, tmp_path / "runs/s/sweep.yaml"):
        stored.write_text(mixed)
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/runs/s/study.db")
    study.set_user_attr("sweep", {**study.user_attrs["sweep"], "text": mixed})
    resumed = run("sweep", file, text_file, "--count", 1, "--", *FLAGS)
    assert resumed.returncode == 0, resumed.stderr
    assert run("agent", "runs/s").returncode == 0
    assert len(summaries(tmp_path / "runs/s")) == 3
    new = run("sweep", file, text_file, "--output-dir", "new", "--", *FLAGS)
    assert new.returncode == 2
    assert "which W&B's client refuses; write 0.0 and 0.5" in new.stderr
    assert not (tmp_path / "new").exists()


def test_ours_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = parse_sweep(grid(1, 1), str(tmp_path / "sweeps/s.yaml"))
    assert not is_ours(sweep)
    shutil.copy2(ROOT / "train.py", tmp_path)
    assert is_ours(sweep)  # the bundled sweeps lie in a folder beside it
    ours = (ROOT / "train.py").read_text()
    Path("train.py").write_bytes(f"# a comment\n{ours}".replace("\n", "\r\n").encode())
    assert is_ours(sweep)
    Path("train.py").write_text(ours.replace("__main__ import", "cli.main import"))  # as it was
    assert is_ours(sweep)
    Path("train.py").write_text(ours + "print('and more')\n")
    assert not is_ours(sweep)


@pytest.mark.parametrize(
    ("command", "ours"),
    [
        (["fundamentallm", "train", "${args}"], True),
        (["${env}", "${interpreter}", "-m", "fundamentallm", "train", "${args}"], True),
        (["uv", "run", "/opt/bin/fundamentallm", "train", "--seed=1", "${args}"], True),
        (["python", "/home/x/fundamentallm/other.py", "${args}"], False),
        (["python", "my.py", "fundamentallm", "train", "${args}"], False),
        (["fundamentallm", "evaluate", "${args}"], False),
        (["bash", "-c", "fundamentallm train"], False),
        (["/opt/venv/bin/python3.12", "-m", "fundamentallm", "train", "${args}"], True),
        (["uv", "run", "fundamentallm", "train", "${args}"], True),
        (["uv", "run", "python", "-m", "fundamentallm", "train", "${args}"], True),
        (["bash", "wrapper.sh", "fundamentallm", "train", "${args}"], False),
        (["accelerate", "launch", "-m", "theirs.train", "${args}"], False),
        (["./train", "${args}"], False),
        (["python", "-m", "fundamentallm.somebody", "train"], False),
    ],
)
def test_ours_by_command(command: list[str], ours: bool) -> None:
    text = grid(1, 1).replace("program: train.py", f"command: {json.dumps(command)}")
    sweep = parse_sweep(text, "s.yaml")
    assert is_ours(sweep) == ours


def test_variables_in_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXT", "cats.txt")
    words = '[python, "${program}", "${envvar:TEXT}", "--dropout=${envvar:D}", "${args}"]'
    sweep = parse_sweep(f"{grid()}command: {words}\n", "t")
    assert words_of_every_run(sweep) == ["cats.txt", "--dropout=D"]

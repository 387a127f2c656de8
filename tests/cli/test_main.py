"""The command line, as people, agents and other programs use it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, Run

from fundamentallm.cli.main import cli, main
from fundamentallm.config.hyperparameters import HYPERPARAMETERS, Config
from fundamentallm.config.presets import PRESETS


def parsed(arguments: list[str]) -> dict[str, object]:
    """What `fundamentallm train ARGUMENTS` understands; the last of what was typed twice."""
    root = cli.make_context("fundamentallm", ["train"])
    context = cli.commands["train"].make_context("train", list(arguments), parent=root)
    return {
        name: given if not isinstance(given, tuple) else given[-1] if given else None
        for name, given in context.params.items()
    }


def test_help_config_and_docs_have_the_same_flags() -> None:
    done = subprocess.run(
        [sys.executable, "train.py", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    page = (ROOT / "docs/hyperparameters.md").read_text("utf-8")
    shown = re.findall(r"^  (--[\w-]+)", done.stdout.partition("Options:")[0], flags=re.M)
    listed = re.findall(r"^\| `(--[\w-]+)` \|", page, flags=re.M)
    names = [field.name for field in fields(Config)]
    assert [HYPERPARAMETERS[name].flag for name in names] == shown == listed


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--learning-rate", "3e-4"], "learning_rate", 3e-4),
        (["--learning_rate=3e-4"], "learning_rate", 3e-4),
        (["--batch_size=64.0"], "batch_size", 64),
        (["--early-stopping"], "early_stopping", True),
        (["--no-early-stopping"], "early_stopping", False),
        (["--no_early_stopping"], "early_stopping", False),
        (["--early_stopping=True"], "early_stopping", True),
        (["--early-stopping=False"], "early_stopping", False),
        (["--early-stopping", "false"], "early_stopping", False),
        (["--mixed-precision", "data.txt"], "data", "data.txt"),
        (["--compile", "data.txt"], "compile", "true"),
        (["--compile", "auto", "data.txt"], "compile", "auto"),
        (["--no-compile"], "compile", "false"),
        (["--compile=off"], "compile", "false"),
        (["--mixed-precision", "data.txt"], "mixed_precision", True),
        (["data.txt", "--compile", "--epochs", "5"], "epochs", 5),
        (["--lr-steps", "10000,20000"], "lr_steps", "10000,20000"),
        (["--", "--odd.txt"], "data", "--odd.txt"),
        (["--epochs", "3", "--epochs", "5"], "epochs", 5),
        ([], "learning_rate", None),
    ],
)
def test_spellings(arguments: list[str], name: str, value: object) -> None:
    assert parsed(arguments)[name] == value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--lr", "1"], "there is no flag --lr; did you mean --learning-rate?"),
        (["train", "--bach_size=1"], "did you mean --batch-size?"),
        (["train", "--outptu-dir=x"], "did you mean --output-dir?"),
        (["train", "--batch-size", "2.5"], "--batch-size: got '2.5'; give a whole number"),
        (["train", "--learning-rate", "nan"], "--learning-rate: got 'nan'; give a number"),
        (["train", "--num-heads", "7"], "--num-heads 7 does not divide --model-dim 128"),
        (["train", "--early-stopping=maybe"], "--early-stopping: got 'maybe'; give true or false"),
        (["train", "none.txt"], "none.txt: no such file"),
        (["train", "--resume"], "--resume needs --output-dir"),
        (["train", "--device", "tpu"], "--device tpu: give auto, cpu, cuda"),
        (["train", "--preset", "fastest"], "'fastest' is not one of"),
        (["train", "--config", "none.yaml"], "none.yaml: No such file"),
        (["train", "a.txt", "b.txt"], "unexpected extra argument (b.txt)"),
        (["generate", "none.pt"], "none.pt: No such file"),
        (["generate", "none.pt", "--top-p", "2"], "--top-p 2.0: give"),
        (["generate", "none.pt", "--max-tokens", "0"], "--max-tokens: got 0; give 1 or more"),
        (["evaluate", "none.pt"], "Missing argument 'DATA.TXT'"),
        (["trian"], "No such command 'trian'"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    printed = capsys.readouterr()
    assert end.value.code == 2
    assert message in printed.err
    assert printed.err.startswith("fundamentallm: ")
    assert printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_train_generate_evaluate(
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


def test_divergence_is_exit_1(run: Run, text_file: Path, tiny_flags: list[str]) -> None:
    flags = ["--learning-rate=1000", "--gradient-clip=0", "--max-steps=200"]
    done = run("train", text_file, *tiny_flags, *flags)
    assert done.returncode == 1
    assert re.search(r"diverged: .* at step \d+; likely fixes: .*--learning-rate", done.stderr)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_name_the_way_on(
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


def test_a_sweep_s_folder_is_no_run_s(
    run: Run, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    """Its runs would be hidden from every report."""
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


def test_a_closed_pipe_ends_quietly(run: Run, text_file: Path, tiny_flags: list[str]) -> None:
    words = [sys.executable, "-m", "fundamentallm", "train", str(text_file), *tiny_flags]
    script = '"$@" | head -n 1'
    done = run("--version")
    assert done.returncode == 0
    done = subprocess.run(
        ["bash", "-c", script, "-", *words, "--max-steps=2000"],
        cwd=text_file.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_possible(name: str) -> None:
    config = Config(**PRESETS[name].values)  # pyright: ignore[reportArgumentType]
    assert config.warnings() == []


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


def test_a_model_that_cannot_be_compiled_is_one_line(
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

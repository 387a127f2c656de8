"""The command line, as people, agents and other programs use it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import ROOT, Run, nightly
from tiny_sweep import grid

from fundamentallm.cli.main import main


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


OLD = ROOT / "tests/fixtures/0.1"


PRINTING = (
    ["generate", "run", "--max-tokens=3"],
    ["evaluate", "run", "cats.txt"],
    ["train", "cats.txt", "--output-dir=run", "--resume", "--max-steps=24", "--no-wandb"],
    ["check", "t.yaml"],
    ["explain", "tiny"],
    ["report", "tiny"],
    ["next", "tiny"],
    ["compare", "tiny"],
    nightly(["agent", "tiny", "--data=cats.txt"]),
    ["--version"],
    ["sweep", "--help"],
)


@pytest.mark.parametrize("words", PRINTING, ids=lambda words: words[0])
def test_closed_streams_change_nothing(words: Sequence[str], tmp_path: Path) -> None:
    """Not even where a file is opened that would be given the number of stdout."""
    command = [sys.executable, "-m", "fundamentallm", *words]
    codes: list[int] = []
    for closed in ((), (1,), (0, 1, 2)):
        place = tmp_path / f"closed {closed}"
        shutil.copytree(OLD, place)
        (place / "t.yaml").write_text(grid())

        def close(numbers: Sequence[int] = closed) -> None:
            for number in numbers:
                os.close(number)

        done = subprocess.run(
            command, cwd=place, capture_output=True, text=True, check=False, preexec_fn=close
        )
        assert "Traceback" not in done.stderr
        codes.append(done.returncode)
        said = [place.joinpath(name).read_bytes() for name in ("run/last.pt", "run/best.pt")]
        assert all(content.endswith(b"fundamentallm\x01\n") for content in said)
    assert codes == [codes[0]] * 3


@pytest.mark.parametrize("words", [[], ["train"], ["find"], ["find", "learning-rate"]])
def test_help_survives_without_docstrings(words: Sequence[str]) -> None:
    helps = [
        subprocess.run(
            [sys.executable, *flags, "-m", "fundamentallm", *words, "--help"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for flags in ([], ["-OO"])
    ]
    assert helps[0] == helps[1]

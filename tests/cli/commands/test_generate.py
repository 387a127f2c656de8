"""The output of `generate` in files and on terminals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from odd_characters import HARMFUL, HARMLESS

from fundamentallm.cli.commands.generate import _unescaped
from fundamentallm.cli.main import main
from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.vocabulary import Vocabulary
from fundamentallm.model.transformer import Transformer
from fundamentallm.printable import printable
from fundamentallm.training.checkpoint import Checkpoint

ALPHABET = HARMLESS + HARMFUL.replace("\ud800", "")  # which no file can hold


@pytest.fixture
def parrot(tmp_path: Path, tiny: Config) -> Path:
    """A checkpoint of a model that writes ALPHABET, over and over: it knows what follows what."""
    vocabulary = Vocabulary.of([ALPHABET], "char")
    config = replace(tiny, model_dim=64)
    model = Transformer(len(vocabulary), config)  # its layers add nothing yet
    tokens = vocabulary.encode(ALPHABET).tolist()
    with torch.no_grad():
        model.embedding.weight.copy_(torch.eye(len(vocabulary), 64))
        for token, following in pairwise([*tokens, tokens[0]]):
            model.head.weight[following, token] = 10.0
    path = tmp_path / "parrot.pt"
    Checkpoint(config, vocabulary, {}, model.state_dict(), {}, {}).save(path)
    return path


def generate(parrot: Path, **how: Any) -> subprocess.Popen[Any]:
    """`fundamentallm generate`, of the whole alphabet."""
    words = ["generate", parrot, "--prompt", ALPHABET[0], "--temperature=0"]
    words += [f"--max-tokens={len(ALPHABET) - 1}"]
    return subprocess.Popen([sys.executable, "-m", "fundamentallm", *map(str, words)], **how)


def test_a_file_gets_the_exact_text(parrot: Path, tmp_path: Path) -> None:
    with (tmp_path / "out.txt").open("wb") as file:
        assert generate(parrot, stdout=file).wait() == 0
    assert (tmp_path / "out.txt").read_bytes() == (ALPHABET + "\n").encode()


def test_a_terminal_gets_no_harmful_characters(parrot: Path) -> None:
    ours, theirs = os.openpty()
    process = generate(parrot, stdout=theirs)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # how Linux says that the other side has closed
        while piece := os.read(ours, 4096):
            shown += piece
    os.close(ours)
    assert process.wait() == 0
    assert shown.decode().replace("\r\n", "\n") == printable(ALPHABET) + "\n"
    assert "\x1b" not in printable(ALPHABET)


def test_characters_that_the_encoding_lacks_are_escaped(parrot: Path) -> None:
    narrow = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    process = generate(parrot, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=narrow)
    written, errors = process.communicate()
    assert written == ALPHABET.encode("latin-1", "backslashreplace") + b"\n"
    assert "warning: stdout is iso8859-1, which lacks '\\u202f'" in errors.decode("latin-1")
    assert "PYTHONIOENCODING=utf-8" in errors.decode("latin-1")


Generate = Callable[..., str]


@pytest.fixture
def written(parrot: Path, capsys: pytest.CaptureFixture[str]) -> Generate:
    """Return what `fundamentallm generate WORDS` prints, in this process."""

    def run(*words: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as end:
            main(["generate", str(parrot), "--temperature=0", *words])
        printed = capsys.readouterr()
        assert end.value.code == code, printed.err
        return printed.out or printed.err

    return run


def test_a_text_stops_before_a_line_break(written: Generate) -> None:
    before = ALPHABET.partition("\n")[0]
    many = f"--max-tokens={len(ALPHABET)}"
    for typed in ("\n", r"\n"):  # bash passes "\n" as two characters
        assert written(f"--prompt={ALPHABET[0]}", many, f"--stop={typed}") == before + "\n"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(r"\n", "\n"), (r"\t|", "\t|"), (r"\\n", r"\n"), (r"\d\\", "\\d\\"), ("end", "end")],
)
def test_escapes_of_a_stop(typed: str, meant: str) -> None:
    assert _unescaped(typed) == meant


def test_a_prompt_comes_from_a_file_or_stdin(
    written: Generate, parrot: Path, tmp_path: Path
) -> None:
    (tmp_path / "prompt.txt").write_text(ALPHABET[:3], "utf-8")
    expected = written("--prompt", ALPHABET[:3], "--max-tokens=4")
    assert written(f"--prompt-file={tmp_path}/prompt.txt", "--max-tokens=4") == expected
    done = subprocess.run(
        [sys.executable, "-m", "fundamentallm", "generate", parrot, "--temperature=0",
         "--prompt-file=-", "--max-tokens=4"],
        input=ALPHABET[:3], capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    assert done.stdout == expected
    both = written("--prompt=a", "--prompt-file=-", code=2)
    assert "--prompt and --prompt-file exclude each other" in both
    assert "none.txt: no such file" in written("--prompt-file=none.txt", code=2)


def test_json_has_the_exact_texts(written: Generate, parrot: Path) -> None:
    many = f"--max-tokens={len(ALPHABET) - 1}"
    found = json.loads(written(f"--prompt={ALPHABET[0]}", many, "--num-samples=2", "--json"))
    sample = {"prompt": ALPHABET[0], "text": ALPHABET[1:]}
    assert found == {"checkpoint": str(parrot), "samples": [{"seed": n, **sample} for n in (0, 1)]}

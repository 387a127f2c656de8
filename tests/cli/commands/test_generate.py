"""The output of `generate` in files and on terminals."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from odd_characters import HARMFUL, HARMLESS

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

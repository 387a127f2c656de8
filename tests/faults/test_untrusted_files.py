"""Promise 9: untrusted files are data, never code; nothing is written outside the folder."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run
from hypothesis import given, settings
from hypothesis import strategies as st

from fundamentallm.config.hyperparameters import Config
from fundamentallm.errors import FundamentallmError
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.model.transformer import Transformer
from fundamentallm.sweep.wandb_agent import Assignment
from fundamentallm.training.checkpoint import FORMAT, MARK, Checkpoint, CheckpointError

PROOF = "was-here"


def with_hash(body: bytes) -> bytes:
    """Return a checkpoint with a valid hash, which anyone can compute."""
    return body + hashlib.sha256(body).digest() + MARK


def archive(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


class Hostile:
    """Object that runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {PROOF}",)


def content(config: dict[str, Any] | None = None, **model: torch.Tensor) -> dict[str, Any]:
    settings = {"model_dim": 16, "num_layers": 1, "num_heads": 2, "max_seq_len": 16}
    weights = Transformer(4, Config(**settings)).state_dict()  # pyright: ignore[reportArgumentType]
    return {
        "format": FORMAT,
        "config": settings | (config or {}),
        "vocabulary": {"tokenizer": "char", "characters": "abc"},
        "data": {"name": "x", "sha256": "0"},
        "model": {**weights, **model},
        "progress": {},
        "training": {},
    }


def bomb() -> bytes:
    """Return a zip of 100 kB that unpacks to 100 MB."""
    inner = zipfile.ZipFile(io.BytesIO(archive({"x": torch.zeros(4)})))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as build:
        for entry in inner.infolist():
            build.writestr(entry.filename, inner.read(entry))
        build.writestr("archive/data/9", bytes(100_000_000))
    return file.getvalue()


def wide_tensor() -> torch.Tensor:
    """Return a tensor of 2^40 numbers that takes four bytes."""
    return torch.zeros(1).expand(1 << 40)


REFUSED: dict[str, Callable[[], bytes]] = {
    "a pickle": lambda: pickle.dumps(Hostile()),
    "a pickle in torch's archive": lambda: archive({"format": FORMAT, "config": Hostile()}),
    "a zip bomb": bomb,
    "no archive": lambda: b"PK\x03\x04" + bytes(1000),
    "nothing": lambda: b"",
    "another type": lambda: archive([1, 2]),
    "another format": lambda: archive({**content(), "format": 99}),
    "no format": lambda: archive({}),
    "an unknown hyperparameter": lambda: archive(content({"evil": 1})),
    "an impossible hyperparameter": lambda: archive(content({"model_dim": -1})),
    "an invalid vocabulary": lambda: archive({**content(), "vocabulary": {"x": 1}}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_invalid_checkpoint_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "best.pt"
    path.write_bytes(with_hash(REFUSED[name]()))
    with pytest.raises(FundamentallmError, match=str(path)):
        Checkpoint.load(path)
    assert not (tmp_path / PROOF).exists()


@pytest.mark.parametrize(
    "build",
    [
        lambda: content({"model_dim": 65536, "num_layers": 1000}),
        lambda: content(embedding=wide_tensor()),
        lambda: content(extra=torch.zeros(3)),
        lambda: {**content(), "model": {"a": "text"}},
        lambda: {**content(), "model": 5},
    ],
    ids=["a huge model", "a wide tensor", "one too many", "no tensors", "no mapping"],
)
def test_weights_that_do_not_match_take_no_memory(
    build: Callable[[], dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(with_hash(archive(build())))
    code = (
        "import resource, sys; from fundamentallm.training.checkpoint import Checkpoint\n"
        "from pathlib import Path\nfrom fundamentallm.errors import FundamentallmError\n"
        "try: Checkpoint.load(Path(sys.argv[1])).build_model()\n"
        "except FundamentallmError as error: print(error)\nelse: print('accepted')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    message, kilobytes = done.stdout.splitlines()
    assert message != "accepted"
    assert int(kilobytes) < 1_000_000


@settings(max_examples=200)
@given(st.binary(max_size=400), st.integers(0, 3000), st.booleans())
def test_the_loader_survives_random_bytes(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, offset: int, with_valid_hash: bool
) -> None:
    body = bytearray(GOOD)
    body[offset : offset + len(raw)] = raw
    path = tmp_path_factory.mktemp("x") / "best.pt"
    path.write_bytes(with_hash(bytes(body)) if with_valid_hash else bytes(body))
    with suppress(FundamentallmError):
        Checkpoint.load(path).build_model()


GOOD = archive(content())


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=60) | st.sampled_from([b'{"step": 1, "val_loss": 2}', b"[]"])))
def test_the_row_reader_survives_random_bytes(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    folder = RunFolder(tmp_path_factory.mktemp("x"))
    folder.metrics.write_bytes(b"\n".join(lines) + b"\n")
    assert all(isinstance(row["step"], int) for row in folder.rows())
    folder.rewind(1)


@pytest.mark.parametrize(
    "name", ["../../x", "/tmp/x", "a/b", "x\0y", "x" * 5000, "..", ".", "", "a\nb", "-\\x"]
)
def test_a_run_id_cannot_be_a_path(name: str, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("seed: {value: 1}\n")
    environment = {"WANDB_SWEEP_ID": "s", "WANDB_SWEEP_PARAM_PATH": str(values)}
    environment["WANDB_RUN_ID"] = name
    if not name:  # no id, no assignment
        assert Assignment.from_environment(environment) is None
        return
    with pytest.raises(FundamentallmError, match="WANDB_RUN_ID"):
        Assignment.from_environment(environment)


def test_a_planted_link_is_not_followed(
    run: Run, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    folder = tmp_path / "out"
    folder.mkdir()
    names = ("config.yaml", "metrics.jsonl", "summary.json", "samples.txt", "best.pt", "last.pt")
    for number, name in enumerate(names):
        part = folder / f"{name}.part" if number % 2 else folder / name
        part.symlink_to(outside / ("mine", "new")[number // 3])
        done = run("train", text_file, *tiny_flags, "--output-dir=out", "--overwrite")
        assert done.returncode == 2
        assert f"{part.name}: a link, where fundamentallm has a file" in done.stderr
        assert (outside / "mine").read_text() == "mine"
        assert [path.name for path in outside.iterdir()] == ["mine"]
        part.unlink()


def test_a_run_folder_that_is_a_link_is_refused(
    run: Run, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").write_text(
        "program: train.py\nmethod: grid\nmetric: {name: val_loss}\n"
        "parameters:\n  seed: {values: [1, 2]}\n"
    )
    outside = tmp_path / "outside"
    outside.mkdir()
    assert run("sweep", "tiny.yaml", text_file, "--count=0", "--", *tiny_flags).returncode == 0
    (tmp_path / "runs/tiny/run-0001").symlink_to(outside)
    done = run("sweep", "tiny.yaml", text_file, "--", *tiny_flags)
    assert done.returncode == 2, done.stderr
    assert "run-0001: a link, where fundamentallm has a folder" in done.stderr
    assert not list(outside.iterdir())
    assert not (tmp_path / "runs/tiny/run-0002").exists()


@pytest.mark.parametrize("where", ["name", "value", "program", "command"])
def test_no_text_of_a_sweep_file_reaches_a_shell(
    where: str, run: Run, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    shell = f"$(touch {tmp_path}/{PROOF}); `touch {tmp_path}/{PROOF}`"
    lines = {
        "name": f"name: '{shell}'",
        "value": "",
        "program": f"program: '{shell}'",
        "command": f"command: ['${{env}}', bash, -c, 'touch {tmp_path}/{PROOF}', '${{args}}']",
    }
    program = "" if where == "program" else "program: train.py\n"
    value = f"'{shell}'" if where == "value" else "1"
    (tmp_path / "tiny.yaml").write_text(
        f"{program}method: grid\nmetric: {{name: val_loss}}\n{lines[where]}\n"
        f"parameters:\n  seed: {{values: [{value}]}}\n"
    )
    done = run("sweep", "tiny.yaml", text_file, "--", *tiny_flags)
    assert done.returncode == (0 if where == "name" else 2), done.stderr
    assert not (tmp_path / PROOF).exists()
    names = {path.name for path in tmp_path.iterdir()}
    assert names <= {"tiny.yaml", "cats.txt", "runs", "train.py"}


def test_a_checkpoint_that_is_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match="Not a regular file"):
        Checkpoint.load(tmp_path / "best.pt")

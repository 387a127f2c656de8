"""Tensors and numbers of untrusted files are checked before code relies on them."""

from __future__ import annotations

import io
import json
import re
import struct
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TEXT, TINY

from fundamentallm.config.hyperparameters import Config
from fundamentallm.data import token_cache
from fundamentallm.data.dataset import Dataset, load_prepared, prepare
from fundamentallm.data.text import Text
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.training.checkpoint import Checkpoint, CheckpointError
from fundamentallm.training.loop import train

SETTINGS: dict[str, Any] = {**TINY, "max_steps": 8}
CONFIG = Config(**SETTINGS)
DATASET = prepare(Text.of(TEXT), CONFIG)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    train(CONFIG, DATASET, folder=folder)
    return Checkpoint.load(folder.last)


def generator_beyond_its_table() -> torch.Tensor:
    raw = bytearray(torch.Generator().get_state().numpy().tobytes())
    struct.pack_into("=iiQ", raw, 8, 624, 1, 624)
    return torch.frombuffer(raw, dtype=torch.uint8)


def setting(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(training: dict[str, Any]) -> None:
        target: Any = training
        for name in path[:-1]:
            target = target[name]
        target[path[-1]] = value

    return change


STATES = {
    "a mean of one number": setting("optimizers", 1, "state", 0, "exp_avg", value=torch.zeros(1)),
    "a mean of squares of one": setting(
        "optimizers", 1, "state", 0, "exp_avg_sq", value=torch.ones(1)
    ),
    "means of other numbers": setting(
        "optimizers", 1, "state", 0, "exp_avg", value=torch.zeros(1).double()
    ),
    "a momentum of one number": setting(
        "optimizers", 0, "state", 0, "momentum", value=torch.zeros(1)
    ),
    "rows of another matrix": setting("optimizers", 0, "state", 0, "rows", value=torch.zeros(3, 1)),
    "no tensor": setting("optimizers", 1, "state", 0, "exp_avg", value=5),
    "a name too many": setting("optimizers", 1, "state", 0, "more", value=torch.zeros(1)),
    "a state of no parameter": setting("optimizers", 1, "state", 99, value={}),
    "no states": setting("optimizers", 1, value=[]),
    "one optimizer": setting("optimizers", value=[{"state": {}}]),
    "a short generator": setting("random", "cpu", value=torch.zeros(9, dtype=torch.uint8)),
    "a generator of zeros": setting("random", "cpu", value=torch.zeros(5056, dtype=torch.uint8)),
    "a generator beyond its table": setting("random", "cpu", value=generator_beyond_its_table()),
    "no generator": setting("random", value={}),
    "a scaler of text": setting("scaler", value={"scale": "x"}),
    "parts of less than one": setting("at_once", value=-5),
}


@pytest.mark.parametrize("name", STATES)
def test_a_training_state_of_another_model_is_refused(name: str, stored: Checkpoint) -> None:
    stored.check_continues(CONFIG, DATASET)
    training = deepcopy(stored.training)
    STATES[name](training)
    with pytest.raises(CheckpointError, match="cannot be resumed"):
        replace(stored, training=training).check_continues(CONFIG, DATASET)


@pytest.mark.parametrize(
    "progress",
    [{"step": "x"}, {"step": 10**400}, {"losses": 5}, {"losses": ["x"]}, {"seconds": None}],
)
def test_progress_of_a_wrong_type_is_refused(progress: dict[str, Any], stored: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="training state"):
        replace(stored, progress=stored.progress | progress).check_continues(CONFIG, DATASET)


@pytest.mark.parametrize(
    "changed",
    [
        lambda x: torch.zeros(x.numel()),
        lambda x: x.double(),
        lambda x: x.t().contiguous(),
    ],
    ids=["another shape", "another dtype", "rows for columns"],
)
def test_weights_of_another_shape_are_refused(changed: Any, stored: Checkpoint) -> None:
    name = "layers.0.mlp.up.weight"
    other = replace(stored, model=stored.model | {name: changed(stored.model[name])})
    with pytest.raises(CheckpointError, match="do not fit"):
        other.build_model()
    with pytest.raises(CheckpointError, match="cannot be resumed"):
        other.check_continues(CONFIG, DATASET)


def circular() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    return items


def doubled(times: int) -> list[Any]:
    items: list[Any] = [torch.zeros(1)]
    for _ in range(times):
        items = [items, items]
    return items


HOSTILE: dict[str, Callable[[Checkpoint], dict[str, Any]]] = {
    "without memory": lambda c: {
        "model": {name: torch.empty_like(x, device="meta") for name, x in c.model.items()}
    },
    "sparse": lambda c: {"model": {name: x.to_sparse() for name, x in c.model.items()}},
    "one memory for many": lambda c: {
        "model": dict.fromkeys(map(str, range(1000)), torch.zeros(1000))
    },
    "a scalar spread out": lambda c: {"training": {"x": torch.zeros(1).expand(1000, 1000)}},
    "a list in itself": lambda c: {"training": circular()},
    "2^60 lists": lambda c: {"progress": doubled(60)},
    "characters of a wrong type": lambda c: {"vocabulary": {"tokenizer": "char", "characters": 5}},
    "characters out of order": lambda c: {"vocabulary": {"tokenizer": "char", "characters": "ba"}},
    "another tokenizer": lambda c: {"vocabulary": {"tokenizer": "x", "characters": ""}},
    "a text without a name": lambda c: {"data": {"name": 5, "sha256": "0"}},
    "names that are numbers": lambda c: {"model": {1: torch.zeros(1)}},
    "an invalid setting": lambda c: {"config": {"lr_steps": False}},
    "settings that exclude each other": lambda c: {"config": {"model_dim": 7, "num_heads": 2}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_content_is_refused_when_it_is_loaded(
    name: str, stored: Checkpoint, tmp_path: Path
) -> None:
    path = tmp_path / "last.pt"
    changed = HOSTILE[name](stored)
    inner = ("config", "vocabulary")
    hostile = deepcopy(replace(stored, **{k: v for k, v in changed.items() if k not in inner}))
    for part in inner:
        vars(getattr(hostile, part)).update(changed.get(part, {}))
    hostile.save(path)
    with pytest.raises(CheckpointError, match=str(path)):
        Checkpoint.load(path)


def test_a_tensor_longer_than_its_bytes() -> None:
    """Torch checks this; otherwise foreign memory would be read as weights."""
    stored, written = io.BytesIO(), io.BytesIO()
    torch.save({"x": torch.arange(4.0)}, stored)
    stored.seek(0)
    reader = torch._C.PyTorchFileReader(stored)
    writer = torch._C.PyTorchFileWriter(written)
    for record in reader.get_all_records():
        raw = reader.get_record(record)
        if record == "data.pkl":
            raw, count = re.subn(rb"(cpuq.|QK\0)K\x04", lambda x: x[1] + b"M\0\x40", raw)
            assert count == 2
        if record not in ("version", ".data/serialization_id"):
            writer.write_record(record, raw, len(raw))
    writer.write_end_of_file()
    written.seek(0)
    with pytest.raises(RuntimeError, match="does not match expected size"):
        torch.load(written, weights_only=True)


FACTS = {"characters": "abc", "val_characters": 40, "unknown": {}}


def load_cached(
    folder: Path, facts: dict[str, Any] | None = None, **changes: Any
) -> Dataset | None:
    """Load a cached text of 440 tokens after its JSON was changed; None if it is refused."""
    key = f"0-char-{CONFIG.val_split!r}"
    parts = {"train": [np.ones(400, np.uint8)], "val": [np.ones(40, np.uint8)]}
    assert token_cache.keep(folder, key, parts, **FACTS)
    file = folder / f"{key}.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "facts": {**FACTS, **(facts or {})}, **changes}))
    return load_prepared("x", "0", CONFIG, folder)


@pytest.mark.parametrize(
    "dtype", ["object", "O", "float64", "int8", "uint32", "datetime64[s]", "V1", 5, None, ["u1"]]
)
def test_cached_tokens_have_one_of_two_dtypes(dtype: object, tmp_path: Path) -> None:
    assert load_cached(tmp_path) is not None
    assert load_cached(tmp_path, dtype=dtype) is None


def test_cached_tokens_are_never_objects(tmp_path: Path) -> None:
    assert load_cached(tmp_path, dtype="object", lengths={"train": 50, "val": 5}) is None


@pytest.mark.parametrize(
    "lengths",
    [
        {"train": 440, "val": 0, "more": 0},
        {"train": 460, "val": -20},
        {"train": 400.0, "val": 40.0},
        {"train": True, "val": 439},
        {"train": 440},
        {"train": 10**400, "val": -(10**400) + 440},
        [400, 40],
        None,
    ],
)
def test_invalid_lengths_of_cached_parts(lengths: object, tmp_path: Path) -> None:
    assert load_cached(tmp_path, lengths=lengths) is None


@pytest.mark.parametrize(
    "facts",
    [
        {"characters": ""},
        {"characters": 5},
        {"characters": "cab"},
        {"val_characters": "x"},
        {"val_characters": 0},
        {"val_characters": 10**400},
        {"unknown": 5},
        {"unknown": {"x": "y"}},
        {"unknown": {"x": -1}},
    ],
)
def test_invalid_facts_of_a_cached_text(facts: dict[str, Any], tmp_path: Path) -> None:
    assert load_cached(tmp_path, facts) is None

"""An untrusted storage may hold anything; invalid content gets one error line."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tiny_sweep import grid

from fundamentallm.errors import FundamentallmError
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.store.definition import SweepDefinition
from fundamentallm.sweep.store.run_store import RunStore, read_study

TEXT = grid(rates=2, seeds=1)
PARAMETERS = parse_sweep(TEXT, "t.yaml").parameters
VALUES = {"learning_rate": 0.001, "seed": 0, "max_steps": 16, "eval_every": 8}
DEFINITION: dict[str, Any] = {
    "text": TEXT, "file": "t.yaml", "fixed": {"num_heads": 2}, "device": "auto", "seed": 0,
    "sampler": "auto", "lease": 60.0, "data": None, "data_name": "x", "data_sha256": "0",
    "wandb": "", "wandb_sweep_id": "", "id": "0508a089",
}  # fmt: skip
RESULT = {"status": "done", "score": 2.0, "seconds": 1.0, "note": ""}
INVALID = "has invalid content: "
INVALID_DEFINITIONS = [
    ({"text": 5}, "its text has the wrong type"),
    ({"text": "a: [" * 90}, "t.yaml:1: nested more than 32 deep"),
    ({"lease": "x"}, "its lease has the wrong type"),
    ({"wandb": "http://evil"}, "its wandb has the wrong type"),
    ({"fixed": {"num_heads": [1]}}, "--num-heads: got '[1]'"),
    ({"fixed": {"lr": 1}}, "lr is not a hyperparameter"),
    ({"points": [{"seed": 1}]}, "its values do not match the sweep's parameters"),
    ({"texts": {"a": 1}}, "its texts has the wrong type"),
]
INVALID_ATTRIBUTES = [
    ("run", -1, "its run number is invalid"),
    ("run", True, "its run number is invalid"),
    ("values", [], "its values do not match the sweep's parameters"),
    ("values", {**VALUES, "learning_rate": 0.5}, "its learning_rate is not a value of the sweep"),
    ("values", {**VALUES, "seed": {}}, "its seed is not a value of the sweep"),
    ("values", {"seed": 0}, "its values do not match the sweep's parameters"),
    ("past", 3, "AttributeError"),
    ("result", {"score": 1.0}, "KeyError: 'status'"),
    ("result", {"status": "\x1b[2J"}, "its status is invalid"),
]


@pytest.fixture(scope="module")
def sweep_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a sweep with one finished run."""
    folder = tmp_path_factory.mktemp("sweep")
    with closing(open_store(folder)) as store:
        store.define(SweepDefinition.from_stored(DEFINITION))
        run = store.claim(next_values=lambda number, runs: VALUES, retries=0, parameters=PARAMETERS)
        assert run is not None
        store.report(run.last.id, {8: 2.5, 16: 2.0})
        store.finish(run.last.id, "done", score=2.0, seconds=1.0, note="")
    # As earlier versions stored the values of a run that resumed.
    columns = "(trial_id, key, value_json)"
    alter(folder, f"INSERT INTO trial_user_attributes {columns} VALUES (1, 'past', '{{}}')")
    return folder


@pytest.fixture
def folder(sweep_folder: Path, tmp_path: Path) -> Path:
    """Copy of the sweep's folder."""
    return shutil.copytree(sweep_folder, tmp_path / "copy")


def open_store(folder: Path) -> RunStore:
    return RunStore(f"sqlite:///{folder}/study.db", "t", folder, lease=60, goal="minimize")


def alter(folder: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(folder / "study.db")) as database:
        changed = database.execute(statement, values)
        assert changed.rowcount != 0
        database.commit()


def read_as_a_worker(store: RunStore) -> None:
    store.define(SweepDefinition.from_stored(DEFINITION))
    store.runs()


def refusal(folder: Path) -> str:
    """Return the error of a report, which must equal that of a worker."""
    with pytest.raises(SweepError) as reading:
        read_study(f"sqlite:///{folder}/study.db", "t")
    with closing(open_store(folder)) as store, pytest.raises(SweepError) as working:
        read_as_a_worker(store)
    assert str(reading.value) == str(working.value)
    assert "\n" not in str(working.value)
    return str(working.value)


def test_what_a_worker_wrote_is_accepted(folder: Path) -> None:
    definition, (run,) = read_study(f"sqlite:///{folder}/study.db", "t")
    assert definition.to_stored() == DEFINITION
    assert (run.last.score, run.history) == (2.0, (2.5, 2.0))


@pytest.mark.parametrize(("changed", "reason"), INVALID_DEFINITIONS)
def test_invalid_definitions(changed: dict[str, Any], reason: str, folder: Path) -> None:
    definition_json = json.dumps({**DEFINITION, **changed})
    alter(
        folder,
        "UPDATE study_user_attributes SET value_json = ? WHERE key = 'sweep'",
        definition_json,
    )
    message = refusal(folder)
    assert INVALID in message
    assert reason in message


@pytest.mark.parametrize("missing", DEFINITION)
def test_definitions_with_a_missing_field(missing: str, folder: Path) -> None:
    definition_json = json.dumps(
        {name: value for name, value in DEFINITION.items() if name != missing}
    )
    alter(
        folder,
        "UPDATE study_user_attributes SET value_json = ? WHERE key = 'sweep'",
        definition_json,
    )
    assert refusal(folder).endswith(f"{INVALID}its {missing} is missing")


@pytest.mark.parametrize(("key", "value", "reason"), INVALID_ATTRIBUTES)
def test_invalid_trials(key: str, value: object, reason: str, folder: Path) -> None:
    text = json.dumps(value)
    alter(folder, "UPDATE trial_user_attributes SET value_json = ? WHERE key = ?", text, key)
    message = refusal(folder)
    assert f"{INVALID}trial 0: " in message
    assert reason in message


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE trials SET state = 'x'",
        "UPDATE trial_user_attributes SET value_json = '['",
        "UPDATE trial_user_attributes SET value_json = NULL",
        f"UPDATE trial_user_attributes SET value_json = '{'[' * 100_000}'",
        f"UPDATE trial_user_attributes SET value_json = '{'9' * 5000}'",
    ],
    ids=["state", "JSON", "null", "depth", "digits"],
)
def test_content_that_optuna_cannot_read(statement: str, folder: Path) -> None:
    alter(folder, statement)
    assert INVALID in refusal(folder)


def test_invalid_numbers_are_ignored(folder: Path) -> None:
    odd = {**RESULT, "score": float("nan"), "seconds": "x", "guess": [], "note": {}}
    alter(
        folder,
        "UPDATE trial_user_attributes SET value_json = ? WHERE key = 'result'",
        json.dumps(odd),
    )
    _, (run,) = read_study(f"sqlite:///{folder}/study.db", "t")
    assert (run.last.score, run.last.seconds, run.last.guess) == (None, 0.0, None)
    assert not run.is_ranked


def test_a_study_name_that_is_not_text(folder: Path) -> None:
    alter(folder, "UPDATE studies SET study_name = x'ff00'")
    with pytest.raises(SweepError, match="has no sweep t"):
        read_study(f"sqlite:///{folder}/study.db", "t")


def test_a_missing_direction_does_not_matter(folder: Path) -> None:
    alter(folder, "DELETE FROM study_directions")
    with closing(open_store(folder)) as store:
        store.define(SweepDefinition.from_stored(DEFINITION))
        run = store.claim(next_values=lambda number, runs: VALUES, retries=0, parameters=PARAMETERS)
        assert run is not None
        store.finish(run.last.id, "done", score=None, seconds=1.0, note="")
        assert store.runs()[1].last.status == "done"


def test_a_workers_folder_that_is_a_file(folder: Path) -> None:
    shutil.rmtree(folder / "workers", ignore_errors=True)
    (folder / "workers").write_text("a file")
    with pytest.raises(FundamentallmError, match="workers"):
        open_store(folder)

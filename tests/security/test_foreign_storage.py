"""A storage from others may say anything of a sweep: what no sweep says is refused in one line."""

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
FACTS: dict[str, Any] = {
    "text": TEXT, "file": "t.yaml", "fixed": {"num_heads": 2}, "device": "auto", "seed": 0,
    "sampler": "auto", "lease": 60.0, "data": None, "data_name": "x", "data_sha256": "0",
    "wandb": "", "wandb_sweep_id": "", "id": "0508a089",
}  # fmt: skip
RESULT = {"status": "done", "score": 2.0, "seconds": 1.0, "note": ""}
SAID = "has invalid content: "
FACTS_CHANGED = [
    ({"text": 5}, "its text has the wrong type"),
    ({"text": "a: [" * 90}, "t.yaml:1: nested more than 32 deep"),
    ({"lease": "x"}, "its lease has the wrong type"),
    ({"wandb": "http://evil"}, "its wandb has the wrong type"),
    ({"fixed": {"num_heads": [1]}}, "--num-heads: got '[1]'"),
    ({"fixed": {"lr": 1}}, "lr is not a hyperparameter"),
    ({"points": [{"seed": 1}]}, "its values do not match the sweep's parameters"),
    ({"texts": {"a": 1}}, "its texts has the wrong type"),
]
ATTRIBUTES_CHANGED = [
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
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep with a run that is done."""
    folder = tmp_path_factory.mktemp("begun")
    with closing(open_store(folder)) as store:
        store.define(SweepDefinition.from_stored(FACTS))
        run = store.claim(next_values=lambda number, runs: VALUES, retries=0, parameters=PARAMETERS)
        assert run is not None
        store.report(run.last.id, {8: 2.5, 16: 2.0})
        store.finish(run.last.id, "done", score=2.0, seconds=1.0, note="")
    return folder


@pytest.fixture
def folder(begun: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(begun, tmp_path / "copy")


def open_store(folder: Path) -> RunStore:
    return RunStore(f"sqlite:///{folder}/study.db", "t", folder, lease=60, goal="minimize")


def alter(folder: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(folder / "study.db")) as opened:
        changed = opened.execute(statement, values)
        assert changed.rowcount != 0
        opened.commit()


def read_as_a_worker(store: RunStore) -> None:
    store.define(SweepDefinition.from_stored(FACTS))
    store.runs()


def refusal(folder: Path) -> str:
    """What a report and a worker say, which must be the same."""
    with pytest.raises(SweepError) as reading:
        read_study(f"sqlite:///{folder}/study.db", "t")
    with closing(open_store(folder)) as store, pytest.raises(SweepError) as working:
        read_as_a_worker(store)
    assert str(reading.value) == str(working.value)
    assert "\n" not in str(working.value)
    return str(working.value)


def test_what_a_worker_has_written_is_taken(folder: Path) -> None:
    definition, (run,) = read_study(f"sqlite:///{folder}/study.db", "t")
    assert definition.to_stored() == FACTS
    assert (run.last.score, run.history) == (2.0, (2.5, 2.0))


@pytest.mark.parametrize(("changed", "reason"), FACTS_CHANGED)
def test_facts_that_no_sweep_has(changed: dict[str, Any], reason: str, folder: Path) -> None:
    facts = json.dumps({**FACTS, **changed})
    alter(folder, "UPDATE study_user_attributes SET value_json = ? WHERE key = 'sweep'", facts)
    said = refusal(folder)
    assert SAID in said
    assert reason in said


@pytest.mark.parametrize("missing", FACTS)
def test_facts_of_which_one_is_missing(missing: str, folder: Path) -> None:
    facts = json.dumps({name: value for name, value in FACTS.items() if name != missing})
    alter(folder, "UPDATE study_user_attributes SET value_json = ? WHERE key = 'sweep'", facts)
    assert refusal(folder).endswith(f"{SAID}its {missing} is missing")


@pytest.mark.parametrize(("key", "value", "reason"), ATTRIBUTES_CHANGED)
def test_a_trial_that_no_worker_has_made(
    key: str, value: object, reason: str, folder: Path
) -> None:
    text = json.dumps(value)
    alter(folder, "UPDATE trial_user_attributes SET value_json = ? WHERE key = ?", text, key)
    said = refusal(folder)
    assert f"{SAID}trial 0: " in said
    assert reason in said


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
def test_what_optuna_cannot_read(statement: str, folder: Path) -> None:
    alter(folder, statement)
    assert SAID in refusal(folder)


def test_numbers_that_are_none_do_not_count(folder: Path) -> None:
    odd = {**RESULT, "score": float("nan"), "seconds": "x", "guess": [], "note": {}}
    alter(
        folder,
        "UPDATE trial_user_attributes SET value_json = ? WHERE key = 'result'",
        json.dumps(odd),
    )
    _, (run,) = read_study(f"sqlite:///{folder}/study.db", "t")
    assert (run.last.score, run.last.seconds, run.last.guess) == (None, 0.0, None)
    assert not run.is_ranked


def test_a_study_whose_name_is_no_text(folder: Path) -> None:
    alter(folder, "UPDATE studies SET study_name = x'ff00'")
    with pytest.raises(SweepError, match="has no sweep t"):
        read_study(f"sqlite:///{folder}/study.db", "t")


def test_the_direction_is_the_sweeps_own(folder: Path) -> None:
    alter(folder, "DELETE FROM study_directions")
    with closing(open_store(folder)) as store:
        store.define(SweepDefinition.from_stored(FACTS))
        run = store.claim(next_values=lambda number, runs: VALUES, retries=0, parameters=PARAMETERS)
        assert run is not None
        store.finish(run.last.id, "done", score=None, seconds=1.0, note="")
        assert store.runs()[1].last.status == "done"


def test_workers_that_may_not_be_written(folder: Path) -> None:
    shutil.rmtree(folder / "workers", ignore_errors=True)
    (folder / "workers").write_text("a file")
    with pytest.raises(FundamentallmError, match="workers"):
        open_store(folder)

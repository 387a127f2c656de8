"""Folder of a tuning: whose it is, what may change, and the time that it has used."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fundamentallm.files.run_folder import RunFolderError
from fundamentallm.tune.budget import Budget
from fundamentallm.tune.tune_folder import Request, TuneError, TuneFolder

REQUEST = Request(
    text=None, text_name="built-in", sha256="ab" * 32, budget=Budget(minutes=30), seed=3
)


def begin(folder: TuneFolder, request: Request = REQUEST) -> None:
    with folder.opened(request, started_at=time.monotonic()):
        pass


def test_a_decision_is_made_once(tmp_path: Path) -> None:
    folder = TuneFolder(tmp_path / "t")
    with folder.opened(REQUEST, started_at=time.monotonic()) as tuning:
        assert tuning.decide("x", lambda: {"a": (1, 2)}) == {"a": [1, 2]}
    with folder.opened(REQUEST, started_at=time.monotonic()) as tuning:
        assert tuning.decide("x", lambda: pytest.fail("made twice")) == {"a": [1, 2]}


def test_time_adds_up_over_processes_and_kills(tmp_path: Path) -> None:
    folder = TuneFolder(tmp_path / "t")
    with (
        folder.opened(REQUEST, started_at=time.monotonic() - 100) as tuning,
        tuning.clock_running(),
    ):
        assert 100 <= tuning.seconds < 160
    with folder.opened(REQUEST, started_at=time.monotonic() - 50) as tuning:
        assert 150 <= tuning.seconds < 270
        assert tuning.seconds_left == pytest.approx(1800 - tuning.seconds, abs=1)


def test_the_time_is_recorded_while_it_runs(tmp_path: Path) -> None:
    folder = TuneFolder(tmp_path / "t")
    with folder.opened(REQUEST, started_at=time.monotonic() - 10) as tuning, tuning.clock_running():
        while not folder.clock.exists():
            time.sleep(0.05)
        assert json.loads(folder.clock.read_text())["seconds"] >= 10


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"sha256": "cd" * 32}, "another text"),
        ({"seed": 4}, "--seed was 3 and is 4"),
        ({"max_parameters": 5}, "--max-parameters was None and is 5"),
        ({"max_memory_gb": 5.0}, "--max-memory was None and is 5.0"),
        ({"budget": Budget(minutes=29)}, "can only grow"),
        ({"budget": Budget(runs=2)}, "its budget was --minutes 30"),
    ],
)
def test_another_request_is_refused(tmp_path: Path, change: dict[str, object], why: str) -> None:
    folder = TuneFolder(tmp_path / "t")
    begin(folder)
    before = folder.file.read_text()
    with pytest.raises(TuneError, match=why):
        begin(folder, replace(REQUEST, **change))  # pyright: ignore[reportArgumentType]
    assert folder.file.read_text() == before


def test_a_larger_budget_is_stored(tmp_path: Path) -> None:
    folder = TuneFolder(tmp_path / "t")
    begin(folder)
    begin(folder, replace(REQUEST, budget=Budget(minutes=60)))
    with pytest.raises(TuneError, match="--hours 1"):
        begin(folder)


def test_two_processes_do_not_share_it(tmp_path: Path) -> None:
    folder = TuneFolder(tmp_path / "t")
    with folder.opened(REQUEST, started_at=0), pytest.raises(TuneError, match="in progress"):
        begin(TuneFolder(folder.path))


def test_an_error_of_a_run_keeps_its_words(tmp_path: Path) -> None:
    folder = TuneFolder(tmp_path / "t")
    with (
        pytest.raises(RunFolderError, match="run-0001: a run is in progress"),
        folder.opened(REQUEST, started_at=0),
    ):
        raise RunFolderError("run-0001: a run is in progress there")


def test_a_folder_of_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(TuneError, match=r"thesis\.txt"):
        begin(TuneFolder(tmp_path))
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(TuneError, match="not a folder"):
        begin(TuneFolder(tmp_path / "x"))


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "request": 3}']
)
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, content: str) -> None:
    folder = TuneFolder(tmp_path / "t")
    begin(folder)
    folder.file.write_text(content)
    with pytest.raises(TuneError, match=r"tune\.json: "):
        begin(folder)
    assert folder.file.read_text() == content


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder = TuneFolder(tmp_path / "t")
    folder.path.mkdir()
    (folder.path / "search").symlink_to(elsewhere)
    with pytest.raises(TuneError, match="link"):
        begin(folder)


def test_budgets_in_words() -> None:
    assert Budget(minutes=90).text == "--hours 1.5"
    assert Budget(minutes=45).text == "--minutes 45"
    assert Budget(runs=4).times(2).text == "--runs 8"

"""Definition of a sweep: stored as ever, compared on resume, and built once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from tiny_sweep import FLAGS, grid

from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.definition import SweepDefinition, differences
from fundamentallm.sweep.store.stored_values import StoredError

STORED: dict[str, Any] = {
    "text": grid(), "file": "t.yaml", "fixed": {"num_heads": 2}, "device": "auto", "seed": 0,
    "sampler": "auto", "lease": 60.0, "data": None, "data_name": "x", "data_sha256": "0",
    "wandb": "", "wandb_sweep_id": "", "id": "0508a089",
}  # fmt: skip
NAMED = {"texts": {"cats.txt": "1"}, "texts_from": "/tmp"}
NO_SEED = grid().replace("  seed: {values: [0, 1]}\n", "")
POINTS = [{"learning_rate": 0.001, "seed": 0, "max_steps": 16, "eval_every": 8}]
POINT = POINTS[0]
WITHOUT_SEEDS = grid().replace("  seed: {values: [0, 1]}\n", "")
EARLIER = {
    "sources": ["runs/old", "me/p/ab12"],
    "runs": [
        {"values": POINT, "score": 1.5, "failed": False},
        {"values": POINT, "score": None, "failed": True},
    ],
}
COUNT = """
import sys
from collections import Counter
from fundamentallm.cli.main import main
from fundamentallm.sweep.file import sweep_file
from fundamentallm.sweep.store import definition

calls = Counter()

def count(module, name, label):
    function = getattr(module, name)
    def counted(*arguments, **options):
        calls[label(arguments)] += 1
        return function(*arguments, **options)
    setattr(module, name, counted)

count(sweep_file, "_sweep", lambda arguments: arguments[2].file)
count(definition, "choose_search", lambda arguments: "search")
if __name__ == "__main__":
    try:
        main()
    except SystemExit as end:
        print(end.code, dict(calls), file=sys.stderr)
"""


def test_the_keys_that_are_stored() -> None:
    stored = SweepDefinition.from_stored(STORED).to_stored()
    assert json.dumps(stored) == json.dumps(STORED)
    assert json.dumps({**STORED, "points": POINTS}) == json.dumps(
        SweepDefinition.from_stored({**STORED, "points": POINTS}).to_stored()
    )
    named = SweepDefinition.from_stored({**STORED, **NAMED}).to_stored()
    assert named == {**STORED, **NAMED}
    assert list(named)[9:13] == ["data_sha256", "texts", "texts_from", "wandb"]


def test_seeds_are_stored_and_checked() -> None:
    stored = {**STORED, "text": NO_SEED, "seeds": 3}
    definition = SweepDefinition.from_stored(stored)
    assert definition.to_stored() == stored
    assert definition.sweep.text == NO_SEED
    assert [each.name for each in definition.sweep.parameters][-1] == "seed"
    assert definition.search().search.size == 2 * 3
    for wrong in ({**stored, "seeds": 1}, {**stored, "seeds": "3"}, {**STORED, "seeds": 3}):
        with pytest.raises(StoredError):
            SweepDefinition.from_stored(wrong)


def test_keys_of_other_versions_are_ignored() -> None:
    assert SweepDefinition.from_stored({**STORED, "newer": [1]}).to_stored() == STORED


def test_what_a_sweep_that_resumes_keeps() -> None:
    known = SweepDefinition.from_stored({**STORED, **NAMED, "lease": 9.0})
    texts = {"cats.txt": "1", "dogs.txt": "2"}
    later = {**STORED, "id": "", "texts": texts, "texts_from": "/home"}
    now = SweepDefinition.from_stored(later)
    assert differences(known, now) == []
    resumed = now.resuming(known).to_stored()
    assert resumed == {**STORED, "lease": 9.0, "texts": texts, "texts_from": "/tmp"}


def test_earlier_runs_are_stored_and_stay() -> None:
    stored = {**STORED, "earlier": EARLIER}
    known = SweepDefinition.from_stored(stored)
    assert known.to_stored() == stored
    assert [(run.score, run.failed) for run in known.earlier.runs] == [(1.5, False), (None, True)]
    seeded = {**STORED, "text": WITHOUT_SEEDS, "seeds": 3, "earlier": EARLIER}
    assert SweepDefinition.from_stored(seeded).to_stored() == seeded
    plain = SweepDefinition.from_stored(STORED)
    assert differences(known, plain) == []  # the flag may be left out when it resumes
    assert plain.resuming(known).earlier == known.earlier
    other = SweepDefinition.from_stored({**STORED, "earlier": {**EARLIER, "sources": ["a", "b"]}})
    assert differences(known, other) == ["it started from runs/old, me/p/ab12, not a, b"]
    assert differences(plain, other) == ["it started from no earlier sweep, not a, b"]


@pytest.mark.parametrize(
    "changed",
    [
        {"sources": []},
        {"sources": ["a\0"]},
        {"runs": {}},
        {"runs": [1]},
        {"runs": [{"values": POINT, "failed": False}]},
        {"runs": [{"values": POINT, "score": float("nan"), "failed": False}]},
        {"runs": [{"values": POINT, "score": 1.0, "failed": 1}]},
        {"runs": [{"values": {**POINT, "learning_rate": 5}, "score": 1.0, "failed": False}]},
    ],
)
def test_earlier_runs_that_no_sweep_has_written(changed: dict[str, Any]) -> None:
    with pytest.raises(StoredError, match="earlier"):
        SweepDefinition.from_stored({**STORED, "earlier": {**EARLIER, **changed}})


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"fixed": {"num_heads": 4}}, "fixed.num_heads was 2 and is 4"),
        ({"data_sha256": "1"}, "the text's hash was 0 and is 1"),
        ({"points": POINTS}, "the configurations that it repeats differ"),
        ({"text": NO_SEED, "seeds": 3}, "seeds was 1 and is 3"),
        ({"text": grid(steps=8)}, "parameters.max_steps.value was 16 and is 8"),
        ({"device": "cpu", "lease": 5.0, "data": "/x", "file": "u.yaml"}, None),
    ],
)
def test_what_differs(changed: dict[str, Any], difference: str | None) -> None:
    now = SweepDefinition.from_stored({**STORED, **changed})
    before = {**STORED, "text": NO_SEED} if "seeds" in changed else STORED
    found = differences(SweepDefinition.from_stored(before), now)
    assert found == ([] if difference is None else [difference])


def test_a_fresh_sweep_parses_its_file_once_and_builds_its_search_once(
    tmp_path: Path, text_file: Path
) -> None:
    shutil.copy2(ROOT / "train.py", tmp_path)
    (tmp_path / "t.yaml").write_text(grid(rates=1, seeds=1))
    (tmp_path / "count.py").write_text(COUNT)
    words = ["count.py", "sweep", "t.yaml", str(text_file), "--workers=1", "--", *FLAGS]
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    said = done.stderr.splitlines()[-1]
    # The report reads the folder as `fundamentallm report` does, with its own copy of the file.
    copy = str(tmp_path / "runs/t/sweep.yaml")
    assert said == f"0 {{'t.yaml': 1, 'search': 1, '{copy}': 1}}", done.stderr


def test_the_search_space_is_carried_along() -> None:
    space = SearchSpace(parse_sweep(grid(), "t.yaml"), {"num_heads": 2})
    definition = SweepDefinition(space, device="auto", seed=0, sampler="auto", lease=60.0)
    assert definition.search().search.size == 4
    assert (definition.sweep, definition.fixed) == (space.sweep, space.fixed)

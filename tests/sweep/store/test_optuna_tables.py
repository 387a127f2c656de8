"""Optuna's private tables have what we use of them; a version that changes them is named here."""

from __future__ import annotations

import importlib
import tomllib

import optuna
import pytest
from conftest import ROOT

MODELS = "optuna.storages._rdb.models"
COLUMNS = {
    "StudyModel": ("study_id", "study_name"),
    "StudyUserAttributeModel": ("study_id", "key", "value_json"),
    "TrialModel": ("trial_id", "number", "study_id", "state"),
    "TrialHeartbeatModel": ("trial_id", "heartbeat"),
    "TrialUserAttributeModel": ("trial_id", "key", "value_json"),
    "TrialParamModel": ("trial_id", "param_name", "param_value", "distribution_json"),
    "TrialValueModel": ("trial_id", "objective", "value", "value_type"),
    "TrialIntermediateValueModel": (
        *("trial_id", "step", "intermediate_value", "intermediate_value_type"),
    ),
}
METHODS = {
    "TrialModel": ("datetime_start", "datetime_complete"),
    "TrialValueModel": ("value_to_stored_repr",),
    "TrialIntermediateValueModel": (
        *("intermediate_value_to_stored_repr", "stored_repr_to_intermediate_value"),
    ),
}


def test_optuna_has_every_private_name_that_we_use() -> None:
    advice = (
        f"optuna {optuna.__version__} lacks it; mend fundamentallm/sweep/store/optuna_tables.py, "
        "or lower optuna's bound in pyproject.toml"
    )
    try:
        models = importlib.import_module(MODELS)
    except ImportError:
        pytest.fail(f"{MODELS}: {advice}")
    for model, columns in COLUMNS.items():
        table = getattr(getattr(models, model, None), "__table__", None)
        assert table is not None, f"{MODELS}.{model}: {advice}"
        missing = set(columns) - set(table.columns.keys())
        assert not missing, f"{MODELS}.{model}.{sorted(missing)[0]}: {advice}"
    for model, methods in METHODS.items():
        for method in methods:
            assert hasattr(getattr(models, model), method), f"{MODELS}.{model}.{method}: {advice}"


def test_optuna_is_bounded_above() -> None:
    """By the next version that nobody has tried: private names may change in any."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (needed,) = (each for each in project["project"]["dependencies"] if each.startswith("optuna"))
    assert "<" in needed


def test_private_names_are_used_in_one_file_alone() -> None:
    package = ROOT / "fundamentallm"
    private = ("optuna.storages._", "optuna.study._", "._trial_id", "._study_id", "storage._")
    found = [
        path.name
        for path in package.rglob("*.py")
        if any(name in path.read_text() for name in private)
    ]
    assert found == ["optuna_tables.py"]

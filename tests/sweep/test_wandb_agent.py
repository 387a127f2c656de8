"""Values from an agent, in every form that a sweep's `command` can ask for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fundamentallm.config.fields import ConfigError
from fundamentallm.sweep.wandb_agent import Assignment

PARAMETERS: dict[str, Any] = {
    "learning_rate": 1e-05,
    "batch-size": 64.0,
    "early_stopping": True,
    "optimizer": {"weight_decay": 0.1, "deeper": {"beta2": 0.95}},
    "lr_steps": "200,300",
    "data": "my text.txt",
}


def assignment(parameters: dict[str, Any], folder: Path) -> Assignment:
    """Return the assignment of a file like the one an agent writes."""
    file = folder / "config-abc.yaml"
    content = {"wandb_version": 1, **{name: {"value": v} for name, v in parameters.items()}}
    file.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    environment = {
        "WANDB_SWEEP_ID": "s1",
        "WANDB_RUN_ID": "abc",
        "WANDB_SWEEP_PARAM_PATH": str(file),
    }
    found = Assignment.from_environment(environment)
    assert found is not None
    return found


def test_values_are_flat_checked_and_typed(tmp_path: Path) -> None:
    assert assignment(PARAMETERS, tmp_path).values() == {
        "learning_rate": 1e-05,
        "batch_size": 64,
        "early_stopping": True,
        "weight_decay": 0.1,
        "beta2": 0.95,
        "lr_steps": "200,300",
        "data": "my text.txt",
    }


def test_yaml_reads_1e_4_as_text_and_we_as_a_number(tmp_path: Path) -> None:
    assert assignment({"learning_rate": "1e-4"}, tmp_path).values() == {"learning_rate": 1e-4}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"lr": 0.1}, "sweep s1: lr is not a hyperparameter; did you mean learning_rate?"),
        ({"a": {"seed": 1}, "seed": 2}, "sweep s1: seed is given twice"),
        ({"batch-size": 8, "batch_size": 9}, "sweep s1: batch_size is given twice"),
        ({"batch_size": 2.5}, "sweep s1: --batch-size: got '2.5'"),
        ({"epochs": "None"}, "sweep s1: --epochs: got 'None'"),
    ],
)
def test_mistakes_are_named(parameters: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        assignment(parameters, tmp_path).values()
    assert message in str(error.value)


def forms(parameters: dict[str, Any], folder: Path) -> dict[str, list[str]]:
    """The words of each of W&B's macros, as its agent writes them."""
    flags = [f"{name}={value}" for name, value in parameters.items()]
    return {
        "args": [f"--{flag}" for flag in flags],
        "args_no_hyphens": flags,
        "args_append_hydra": [f"+{flag}" for flag in flags],
        "args_override_hydra": [f"++{flag}" for flag in flags],
        "args_no_equals": [
            word for name, value in parameters.items() for word in (f"--{name}", str(value))
        ],
        "args_json": [json.dumps(parameters)],
        "args_json_file": [str(folder / "config-abc.json")],
        "config": ["--config", str(folder / "config-abc.json")],
    }


def test_repeats_are_taken_out_and_nothing_else(tmp_path: Path) -> None:
    handed = assignment(PARAMETERS, tmp_path)
    for name, words in forms(PARAMETERS, tmp_path).items():
        typed = ["--no-wandb", "--epochs", "3"]
        assert handed.without_repeats([*typed, *words]) == typed, name
        assert handed.without_repeats([*words, *typed]) == typed, name


def test_what_disagrees_is_kept_for_the_check(tmp_path: Path) -> None:
    handed = assignment({"epochs": 5}, tmp_path)
    assert handed.without_repeats(["--epochs=3", "--epochs=5"]) == ["--epochs=3"]


@given(
    st.dictionaries(
        st.sampled_from(["epochs", "seed", "batch_size", "patience"]), st.integers(1, 1000)
    ),
    st.lists(st.sampled_from(["--device", "cpu", "my.txt", "--preset=fast", "--no-wandb"])),
)
def test_typed_words_keep_their_order(parameters: dict[str, int], typed: list[str]) -> None:
    handed = Assignment("s", "r", parameters, Path("config-r.yaml"))
    words = [*typed, *(f"--{name}={value}" for name, value in parameters.items())]
    assert handed.without_repeats(words) == typed


def test_no_agent_no_assignment(tmp_path: Path) -> None:
    assert Assignment.from_environment({}) is None
    assert Assignment.from_environment({"WANDB_RUN_ID": "a", "WANDB_SWEEP_ID": ""}) is None
    missing = {
        "WANDB_SWEEP_ID": "s1",
        "WANDB_RUN_ID": "abc",
        "WANDB_SWEEP_PARAM_PATH": str(tmp_path / "none.yaml"),
    }
    with pytest.raises(ConfigError, match=r"none\.yaml: not a file of sweep values"):
        Assignment.from_environment(missing)


def test_the_agent_s_file_however_its_folder_is_written(tmp_path: Path) -> None:
    """`WANDB_DIR=.` and the like: the agent hands the path over as it was typed."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"seed": {"value": 1}}))
    raw = f"{tmp_path}/.//config"
    names = {"WANDB_SWEEP_ID": "s", "WANDB_RUN_ID": "r", "WANDB_SWEEP_PARAM_PATH": f"{raw}.yaml"}
    found = Assignment.from_environment(names)
    assert found is not None
    assert found.without_repeats([f"{raw}.json", "a.txt"]) == ["a.txt"]
    assert found.without_repeats(["--config", f"{raw}.json", "a.txt"]) == ["a.txt"]


def test_what_launch_hands_over_is_not_passed_over() -> None:
    launched = {"WANDB_LAUNCH": "True", "WANDB_RUN_ID": "r"}
    assert Assignment.from_environment(launched) is None
    for name in ("WANDB_CONFIG", "WANDB_CONFIG_0"):
        assert Assignment.from_environment({**launched, name: "{}"}) is None
        with pytest.raises(ConfigError, match="W&B Launch"):
            Assignment.from_environment({**launched, name: '{"learning_rate": 1}'})


def test_a_run_that_is_handed_out_again_comes_with_its_whole_config(tmp_path: Path) -> None:
    """W&B adds entries of its own, and the run had added all its settings to the sweep's."""
    ours = {"batch_size": 64, "weight_decay": 0.1, "beta2": 0.95, "seed": 0, "data_sha256": "1f"}
    theirs = {"_wandb": {"cli_version": "0.31.0", "t": {"1": [1, 5]}}, "_step": 7}
    again = assignment({**PARAMETERS, **ours, **theirs}, tmp_path)
    first = assignment(PARAMETERS, tmp_path).values()
    assert again.values() == first | {"seed": 0, "data_sha256": "1f"}
    for name, words in forms(dict(again.parameters), tmp_path).items():
        assert again.without_repeats(["--no-wandb", *words]) == ["--no-wandb"], name


def test_a_name_that_has_two_values_is_still_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seed is given twice"):
        assignment({"seed": 1, "group": {"seed": 2}, "_wandb": {}}, tmp_path).values()

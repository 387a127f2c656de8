"""Our search behind W&B's sweep scheduler: its own optimizer asks and tells, without a network."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import optuna
import pytest
import wandb
from conftest import ROOT
from wandb_server import Store, Sweep, WandbServer

from fundamentallm import run_sweep
from fundamentallm.sweep.file.schema import DISTRIBUTIONS
from fundamentallm.sweep.file.sweep_file import examine_mapping
from fundamentallm.sweep.search.base import PastRun
from fundamentallm.sweep.search.choose import choose_search
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.trackers import wandb_client

scheduler = pytest.importorskip(
    "wandb.sdk.sweeps.scheduler.optimizer", reason="only wandb 0.31 and later has the scheduler"
)
from wandb.sdk.sweeps.run_state import RunState  # noqa: E402 - after importorskip
from wandb.sdk.sweeps.sweep_info import SweepInfo  # noqa: E402 - after importorskip

# W&B's client leaves a file of parameters open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
CONFIG: dict[str, Any] = {
    "program": "any.py",
    "method": "bayes",
    "run_cap": 8,
    "metric": {"name": "loss"},
    "parameters": {
        "lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1},
        "size": {"distribution": "q_uniform", "min": 8, "max": 64, "q": 8},
        "optimizer": {"parameters": {"beta": {"distribution": "beta", "a": 2, "b": 5}}},
        "form": {"values": ["a", "b"]},
    },
}
OURS = CONFIG | {
    "program": "train.py",
    "metric": {"name": "val_loss"},
    "parameters": {
        "learning_rate": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1},
        "model_dim": {"values": [48, 64]},
        "num-heads": {"values": [2, 3, 4]},
    },
}
EXAMPLES: dict[str, Any] = {
    "value": 7, "values": ["a", "b"], "probabilities": [0.5, 0.5], "min": 1, "max": 9, "mu": 1.0,
    "sigma": 0.5, "a": 2.0, "b": 5.0, "q": 2,
}  # fmt: skip
NAMES = "bayes, configuration, grid, random"


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")  # nobody answers
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    (tmp_path / "train.py").write_bytes((ROOT / "train.py").read_bytes())
    (tmp_path / "search.py").write_text(f"from fundamentallm.hosted_search import {NAMES}\n")


def optimizer(config: dict[str, Any], optimizer: str = "", source: str = "search.py") -> Any:
    """Return W&B's optimizer for a sweep with our search, as its scheduler makes it."""
    functions = {"optimizer": optimizer or config["method"], "search_space": "configuration"}
    block = {"engine": "optuna", "source": source, **functions}
    hosted = config | {"method": "custom", "scheduler": block}
    return scheduler.make_optimizer(SweepInfo("abc", "s", "tester", "p", hosted, "c"))


def ask(asked: Any) -> dict[str, Any] | None:
    """Return the next configuration, as the agent gets it."""
    suggestions = asked.ask_n_runs(1)
    return suggestions[0].config.flat_dict() if suggestions else None


def result(config: dict[str, Any], state: RunState, losses: list[Any], metric: str = "loss") -> Any:
    """Return what the scheduler knows of a run that logged `losses`."""
    rows = [{"_step": step, metric: loss} for step, loss in enumerate(losses)]
    summary = {metric: losses[-1]} if losses else {}
    values = scheduler.RunConfig.from_values({**config, "_wandb": {}})
    return scheduler.RunWithMetrics(values, state, "run", summary, rows)


def losses_of(config: dict[str, Any]) -> list[float]:
    """Return what a run with these values logs."""
    away = abs(math.log10(config["lr"]) + 2) + config["optimizer"]["beta"] + config["size"] / 64
    return [3 + away, away, away + 0.1]


@pytest.mark.slow
def test_suggestions_are_those_of_a_local_sweep() -> None:
    """One run fails, and another ends with NaN."""
    started: list[dict[str, Any]] = []

    def train() -> None:
        run = wandb.init(settings=wandb.Settings(silent=True))
        started.append({name: run.config[name] for name in CONFIG["parameters"]})
        for loss in losses_of(started[-1]):
            run.log({"loss": loss})
        if len(started) == 3:
            raise RuntimeError("no luck")
        if len(started) == 5:
            run.log({"loss": math.nan})

    run_sweep(CONFIG, function=train)
    wandb_client.end()
    asked = optimizer(CONFIG)
    hosted: list[dict[str, Any]] = []
    while (config := ask(asked)) is not None:
        hosted.append(config)
        losses: list[Any] = losses_of(config)
        state = RunState.FAILED if len(hosted) == 3 else RunState.FINISHED
        losses += ["NaN"] if len(hosted) == 5 else []  # as W&B's server writes it
        asked.tell_run(str(len(hosted) - 1), result(config, state, losses))
    assert hosted == started
    assert len(started) == 8


def test_a_scheduler_that_is_started_again_continues() -> None:
    """W&B tells it the runs: finished ones with all that they logged, then those in progress."""
    first = optimizer(CONFIG)
    configs = [ask(first) for _ in range(2)]
    for _ in range(5):
        configs.append(ask(first))
        number = len(configs) - 3
        first.tell_run(str(number), result(configs[number], RunState.FINISHED, [number + 1.0]))
    again = optimizer(CONFIG)
    for number, config in enumerate(configs):
        if number < 5:
            again.tell_existing_finished_run(result(config, RunState.FINISHED, [number + 1.0]))
        else:
            running = scheduler.RunConfig.from_values(config)
            told = again.tell_existing_active_run(scheduler.Run(running, RunState.RUNNING, "r"))
            assert told == str(number)
    assert ask(again) == ask(first)
    assert ask(again) is None  # its run_cap


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"form": None}, "its form is not a value of the sweep"),
        ({"form": "c"}, "its form is not a value of the sweep"),
        ({"lr": "fast"}, "its lr is not a value of the sweep"),
        ({"optimizer": [1]}, "its config has no optimizer.beta"),
        ({"optimizer": {"alpha": 1}}, "its config has no optimizer.beta"),
    ],
)
def test_a_run_without_values_of_the_sweep_is_left_out(
    config: dict[str, Any], message: str
) -> None:
    asked = optimizer(CONFIG)
    first = ask(optimizer(CONFIG))
    assert first is not None
    whole = first | config
    with pytest.raises(ValueError, match=re.escape(message)):
        asked.tell_existing_finished_run(result(whole, RunState.FINISHED, [1.0]))
    assert ask(asked) == first


def test_a_study_shows_the_values_of_every_distribution(tmp_path: Path) -> None:
    """Optuna's terminator reads them, and W&B's scheduler prints them."""
    (tmp_path / "mine.py").write_text(
        "from fundamentallm import hosted_search\n"
        "from fundamentallm.hosted_search import configuration\n"
        "def random(sweep):\n"
        "    return hosted_search.random(sweep), lambda study: len(study.trials) >= 4\n"
    )
    entries: dict[str, Any] = {}
    for kind, (fields, _) in DISTRIBUTIONS.items():
        entries[kind] = {name: EXAMPLES[name] for name in fields} | {"distribution": kind}
    config = CONFIG | {"method": "random", "parameters": entries}
    asked = optimizer(config, source="mine.py")
    for number in range(4):
        config = ask(asked)
        assert config is not None
        assert asked.should_terminate_sweep() == (number == 3)
        asked.tell_run(str(number), result(config, RunState.FINISHED, [1.0]))
        shown = asked.study.trials[number].params
        texts = ("categorical", "categorical_w_probabilities")
        assert shown == {
            name: json.dumps(value) if name in texts else value
            for name, value in config.items()
            if name != "constant"
        }


def test_an_empty_value_and_a_mapping_are_values() -> None:
    mappings = [{"model_dim": 16}, {"model_dim": 32}]
    parameters = {"lr-decay": {"values": [None, 0.5]}, "model": {"values": mappings}}
    config = CONFIG | {"method": "grid", "parameters": parameters}
    asked = optimizer(config)
    first = ask(asked)
    assert first == {"lr-decay": None, "model": {"model_dim": 16}}
    again = optimizer(config)
    again.tell_existing_finished_run(result(first, RunState.FINISHED, [1.0]))
    assert ask(again) == ask(asked) == {"lr-decay": None, "model": {"model_dim": 32}}


def test_a_run_of_our_trainer_may_have_its_own_names_only() -> None:
    first = ask(optimizer(OURS))
    assert first is not None
    asked = optimizer(OURS)
    own = {name.replace("-", "_"): value for name, value in first.items()}
    asked.tell_existing_finished_run(result(own, RunState.FINISHED, [1.0], "val_loss"))
    assert ask(asked) != first


def test_a_grid_fills_its_gaps_and_ends() -> None:
    config = CONFIG | {
        "method": "grid",
        "parameters": {"x": {"values": [1, 2]}, "y": {"values": ["a", "b"]}},
    }
    asked = optimizer(config)
    asked.tell_existing_finished_run(result({"x": 1.0, "y": "b"}, RunState.CRASHED, []))
    left = [{"x": 1, "y": "a"}, {"x": 2, "y": "a"}, {"x": 2, "y": "b"}]
    assert [suggestion.config.flat_dict() for suggestion in asked.ask_n_runs(9)] == left
    assert asked.ask_n_runs(1) == []


@pytest.mark.parametrize("cap", [{"run_cap": 3}, {"metric": {"name": "loss", "target": 0.5}}])
def test_a_sweep_ends_at_its_cap_or_target(cap: dict[str, Any]) -> None:
    asked = optimizer(CONFIG | {"method": "random"} | cap)
    for number, loss in enumerate([2.0, 1.0, 0.5]):
        config = ask(asked)
        assert config is not None
        asked.tell_run(str(number), result(config, RunState.FINISHED, [loss, 9.0]))
    assert ask(asked) is None


def test_random_runs_are_those_of_the_local_search() -> None:
    config = CONFIG | {"method": "random"}
    asked = optimizer(config)
    sweep = examine_mapping(config, "s")
    search = choose_search(SearchSpace(sweep, {}, is_ours=False), seed=0).search
    known: list[PastRun] = []
    for number in range(4):
        values = search.suggest(number, known)
        assert values is not None
        assert ask(asked) == sweep.nested(values)
        known.append(PastRun(values, None, running=True))


def test_a_seed_and_a_sampler_are_chosen_in_the_users_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from functools import partial\n"
        "from fundamentallm import hosted_search\n"
        "from fundamentallm.hosted_search import configuration\n"
        "bayes = partial(hosted_search.bayes, seed=7, sampler='tpe')\n"
    )
    asked = optimizer(CONFIG, source="mine.py")
    ask(asked)
    other = optimizer(CONFIG)
    ask(other)
    assert ask(asked) != ask(other)


def test_a_pruner_stops_runs_early(tmp_path: Path) -> None:
    """Their best value so far counts, as that of a run that hyperband stops here."""
    (tmp_path / "mine.py").write_text(
        "from optuna.pruners import MedianPruner\n"
        "from fundamentallm import hosted_search\n"
        "from fundamentallm.hosted_search import configuration\n"
        "def bayes(sweep):\n"
        "    study = hosted_search.bayes(sweep)\n"
        "    study.pruner = MedianPruner(n_startup_trials=1, n_warmup_steps=0)\n"
        "    return study\n"
    )
    asked = optimizer(CONFIG, source="mine.py")
    plain = optimizer(CONFIG)
    for number, losses in enumerate([[2.0, 1.0], [5.0, 4.0], [1.5, 0.5], [1.2, 0.4]]):
        config = ask(asked)
        assert config is not None
        assert ask(plain) == config
        running = result(config, RunState.RUNNING, losses)
        asked.tell_run(str(number), running)
        assert asked.prune_runs([str(number)], [running]) == (["1"] if number == 1 else [])
        ended = result(config, RunState.FINISHED, losses)
        asked.tell_run(str(number), ended)
        plain.tell_run(str(number), ended)
    assert ask(asked) == ask(plain)


def maximized() -> dict[str, Any]:
    return CONFIG | {"metric": {"name": "loss", "goal": "maximize"}}


def test_a_maximized_metric_and_an_aggregate_of_define_metric() -> None:
    asked = optimizer(maximized())
    config = ask(asked)
    assert config is not None
    told = result(config, RunState.FINISHED, [])
    told.summary_metrics["loss"] = {"max": 4.5}
    asked.tell_run("0", told)
    assert asked.study.best_value == 4.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": None, "method": "random"}, "give a metric"),
        ({"parameters": {"x": {"min": 2, "max": 1}}}, "parameters.x"),
        ({"parameters": {}}, "give at least one parameter"),
    ],
)
def test_mistakes_are_one_line_of_the_scheduler(change: dict[str, Any], message: str) -> None:
    config = {name: value for name, value in (CONFIG | change).items() if value is not None}
    with pytest.raises(wandb.Error, match=message):
        optimizer(config)


def test_mistakes_of_our_trainer_are_found_before_any_run() -> None:
    with pytest.raises(wandb.Error, match=r"parameters\.lr: not a hyperparameter; did"):
        optimizer(OURS | {"parameters": {"lr": {"values": [0.1, 0.2]}}})


def ours_on(store: Store, count: int) -> list[dict[str, Any]]:
    """Let the search suggest runs of our trainer, of which the second and third diverge.

    The fourth is preempted and resumes, which the scheduler does not pass on. The server has all
    summaries.
    """
    sweep = Sweep("p", "abc", OURS)
    store.sweeps["p", "abc"] = sweep
    asked = optimizer(OURS)
    configs: list[dict[str, Any]] = []
    rng = random.Random(1)
    for number in range(count):
        config = ask(asked)
        assert config is not None
        configs.append(config)
        run = store.run_or_new("p", f"run{number}")
        run.config = {name: {"value": value} for name, value in config.items()}
        diverged = number in (1, 2)
        loss = rng.uniform(1.5, 2.5) + 100 * diverged
        status = "diverged" if diverged else "done"
        run.summary = {"status": status, "val_loss": loss, "best_val_loss": loss - 0.1}
        run.summary["vocabulary_size"] = 32
        sweep.runs.append(run)
        state = RunState.PREEMPTED if number == 3 else RunState.FINISHED
        told = result(config, state, [loss - 0.05, loss], "val_loss")
        asked.tell_run(str(number), told)
    return configs


def test_diverged_and_resumed_runs_count_as_in_a_local_sweep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setattr("fundamentallm.hosted_search.PAGE", 2)
        hosted = ours_on(server.store, 7)
        assert server.refused == []
    sweep = examine_mapping(OURS, "s")
    search = choose_search(SearchSpace(sweep, {}), seed=0).search
    known: list[PastRun] = []
    rng = random.Random(1)
    for number, config in enumerate(hosted):
        values = search.suggest(number, known)
        assert values is not None
        assert sweep.nested(values) == config
        score = rng.uniform(1.5, 2.5) - 0.1
        diverged = number in (1, 2)
        known.append(PastRun(values, math.log(32) if diverged else score, failed=diverged))
    assert hosted[0]["num-heads"] == 4  # nearest to the documented defaults
    assert all(config["model_dim"] % config["num-heads"] == 0 for config in hosted)


def test_the_search_continues_while_w_and_b_cannot_be_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert len(ours_on(Store(), 5)) == 5
    assert "W&B does not say which runs diverged (http://127.0.0.1:1 does not answer" in caplog.text


def test_the_scheduler_still_logs_after_a_suggestion() -> None:
    asked = optimizer(CONFIG)
    before = optuna.logging.get_verbosity()
    for number in range(6):
        config = ask(asked)
        assert config is not None
        asked.tell_run(str(number), result(config, RunState.FINISHED, [number + 1.0]))
    assert optuna.logging.get_verbosity() == before

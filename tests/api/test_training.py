"""`train` and `load_model` from Python: same files, same numbers, in threads and after Ctrl-C."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from conftest import Run
from results_on_disk import write_sweep
from tiny_sweep import metric_rows, wait_for

from fundamentallm import (
    Config,
    FundamentallmError,
    LoadedModel,
    Result,
    load_model,
    load_sweep,
    train,
)
from fundamentallm.data.dataset import prepare
from fundamentallm.data.text import Text
from fundamentallm.files.run_folder import RunFolder

MEASURED = ("perf/tokens_per_second", "perf/memory_gb")


def plain(rows: Any) -> list[dict[str, float]]:
    """Return rows without what differs between identical runs."""
    return [{k: v for k, v in row.items() if k not in MEASURED} for row in rows]


def test_the_files_are_those_of_the_command_line(
    run: Run, tmp_path: Path, text_file: Path, tiny: Config, tiny_flags: list[str]
) -> None:
    done = run("train", text_file, *tiny_flags, "--output-dir=typed", "--no-wandb")
    assert done.returncode == 0, done.stderr
    trained = train(tiny, text_file, output_dir=tmp_path / "called")
    typed, called = tmp_path / "typed", tmp_path / "called"
    assert {each.name for each in called.iterdir()} == {each.name for each in typed.iterdir()}
    assert plain(metric_rows(called)) == plain(metric_rows(typed))
    for name in ("config.yaml", "samples.txt"):
        assert (called / name).read_text() == (typed / name).read_text()
    assert trained.folder == called
    assert plain(trained.rows) == plain(metric_rows(called))
    assert trained.history["val_loss"].dropna().tolist()[-1] == trained.val_loss
    summary = json.loads((called / "summary.json").read_text())
    assert {name: summary[name] for name in vars(Result(**field_values(trained)))} == field_values(
        trained
    )


def field_values(result: Result) -> dict[str, Any]:
    return {name: getattr(result, name) for name in Result.__dataclass_fields__}


def test_nothing_is_written_without_a_folder(
    tmp_path: Path, text: str, tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trained = train(tiny, text)
    assert list(tmp_path.iterdir()) == []
    assert (trained.folder, [row["step"] for row in trained.rows]) == (None, [8, 10, 16, 20, 24])
    assert train(tiny, prepare(Text.of(text), tiny)) == trained
    with pytest.raises(FundamentallmError, match="saved nothing; give train an output_dir"):
        load_model(trained)


def test_a_run_is_resumed_or_replaced_only_when_asked(
    tmp_path: Path, text: str, tiny: Config
) -> None:
    whole = train(tiny, text)
    folder = tmp_path / "run"
    train(replace(tiny, max_steps=8), text, output_dir=folder)
    with pytest.raises(FundamentallmError, match=r"holds a run; give resume=True"):
        train(tiny, text, output_dir=folder)
    resumed = train(tiny, text, output_dir=folder, resume=True)
    assert resumed.val_loss == whole.val_loss
    assert plain(resumed.rows) == plain(whole.rows)
    again = train(replace(tiny, max_steps=8), text, output_dir=folder, overwrite=True)
    assert again.step == 8
    sweep = write_sweep(tmp_path / "s", {0.001: [1.5]})
    for path in (sweep, folder / "x"):
        if path != sweep:
            (folder / "sweep.yaml").touch()
            (folder / "study.db").touch()
        with pytest.raises(FundamentallmError, match="only the sweep writes there"):
            train(tiny, text, output_dir=path)
    for words in ({"resume": True}, {"output_dir": "x", "folder": RunFolder("x")}):
        with pytest.raises(TypeError):
            train(tiny, text, **words)  # pyright: ignore


class Interrupts:
    """A tracker that presses Ctrl-C at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def start(self, settings: Mapping[str, object], **facts: Any) -> None: ...

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        if step == self.step:
            signal.raise_signal(signal.SIGINT)

    def log_samples(self, samples: Any, *, step: int) -> None: ...

    def finish(self, summary: Mapping[str, object]) -> None: ...


def test_ctrl_c_saves_the_run(
    tmp_path: Path, text: str, tiny: Config, caplog: pytest.LogCaptureFixture
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(tiny, text, output_dir=tmp_path / "run", trackers=[Interrupts(10)])
    assert signal.getsignal(signal.SIGINT) is handler
    assert "stopped after step 10; the same call with resume=True resumes it" in caplog.text
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["status"], summary["stopped_by"]) == ("interrupted", "SIGINT")
    resumed = train(tiny, text, output_dir=tmp_path / "run", resume=True)
    assert plain(resumed.rows) == plain(train(tiny, text).rows)
    with pytest.raises(KeyboardInterrupt):
        train(tiny, text, trackers=[Interrupts(10)])


def test_seeds_hold_in_threads_of_optuna(text: str, tiny: Config) -> None:
    config = replace(tiny, dropout=0.3, max_steps=12, model_dim=32)

    def losses(threads: int) -> list[float | None]:
        def objective(trial: optuna.Trial) -> float:
            return train(replace(config, seed=trial.number), text).best_val_loss

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study()
        study.optimize(objective, n_trials=4, n_jobs=threads)
        return [trial.value for trial in study.trials]

    alone = losses(1)
    assert len(set(alone)) == 4
    assert losses(2) == alone


def test_loading_and_writing_beside_a_run_change_nothing(
    tmp_path: Path, text: str, tiny: Config
) -> None:
    train(tiny, text, output_dir=tmp_path / "run")
    config = replace(tiny, dropout=0.3, max_steps=40, eval_every=40)
    expected = train(config, text)
    ended = threading.Event()

    def load_again() -> set[str]:
        texts = set()
        while not ended.is_set():
            texts.add(load_model(tmp_path / "run").generate("The ", max_tokens=5))
        return texts

    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load_again)
        wait_for(loading.running)
        try:
            assert [train(config, text) for _ in range(3)] == [expected] * 3
        finally:
            ended.set()
        assert len(loading.result()) == 1


def test_a_loaded_model_writes_what_the_command_writes(
    run: Run, tmp_path: Path, text: str, tiny: Config, caplog: pytest.LogCaptureFixture
) -> None:
    trained = train(tiny, text, output_dir=tmp_path / "run")
    words = ("--prompt=The ", "--max-tokens=30", "--seed=3", "--json")
    typed = json.loads(run("generate", "run", *words).stdout)["samples"][0]["text"]
    before = torch.get_rng_state()
    for source in (trained, tmp_path / "run", str(tmp_path / "run/best.pt")):
        loaded = load_model(source)
        assert isinstance(loaded, LoadedModel)
        assert loaded.generate("The ", max_tokens=30, seed=3) == typed
    assert torch.equal(torch.get_rng_state(), before)
    assert "prompt" not in caplog.text
    loaded.generate("Zürich", max_tokens=1)
    assert "prompt: 4 characters" in caplog.text
    model, vocabulary = load_model(trained)
    tokens = torch.tensor([vocabulary.encode("The cats").tolist()])
    assert model(tokens).shape == (1, 8, len(vocabulary))
    assert loaded.generate("The ", max_tokens=30, seed=3, stop=typed[3]) == typed[:3]


def test_the_runs_of_a_sweep_can_be_iterated(tmp_path: Path) -> None:
    results = load_sweep(write_sweep(tmp_path / "s", {0.001: [1.5, 1.6]}))
    assert len(results) == 2
    assert [(run.name, run.config["seed"]) for run in results] == [("run-0001", 0), ("run-0002", 1)]
    assert [run.score for run in results] == [1.5, 1.6]

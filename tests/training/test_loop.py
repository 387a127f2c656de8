"""The loop: what it logs, when it stops, and that it resumes bit for bit."""

from __future__ import annotations

import io
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT

from fundamentallm import Config, train
from fundamentallm.data.dataset import prepare
from fundamentallm.data.text import Text
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.machine import device
from fundamentallm.metrics import METRICS, OF_EVALUATIONS
from fundamentallm.trackers.base import Number, Sample
from fundamentallm.trackers.console import ConsoleTracker
from fundamentallm.trackers.folder import FolderTracker
from fundamentallm.training import loop
from fundamentallm.training.checkpoint import Checkpoint, CheckpointError
from fundamentallm.training.evaluate import score
from fundamentallm.training.plan import WORTH_COMPILING, compiles


class Recorder:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Number]] = []
        self.samples: list[Sample] = []
        self.summary: Mapping[str, object] = {}

    def start(
        self,
        settings: Mapping[str, object],
        *,
        total_steps: int,
        step: int,
        facts: Mapping[str, object],
    ) -> None:
        self.settings = settings

    def log(self, metrics: Mapping[str, Number], *, step: int) -> None:
        self.rows.append({"step": step, **metrics})

    def log_samples(self, samples: Sequence[Sample], *, step: int) -> None:
        self.samples += samples

    def finish(self, summary: Mapping[str, object]) -> None:
        self.summary = summary


def start(config: Config, text: str, path: Path, **options: object):
    folder = RunFolder(path)
    folder.create()
    trackers = [FolderTracker(folder)]
    return train(config, text, folder=folder, trackers=trackers, device="cpu", **options)  # pyright: ignore


def repeatable(path: Path) -> list[dict[str, object]]:
    return [
        {key: value for key, value in row.items() if not key.startswith("perf/")}
        for row in RunFolder(path).rows()
    ]


def test_it_learns_and_logs_what_the_docs_list(tiny: Config, text: str) -> None:
    recorder = Recorder()
    result = train(replace(tiny, max_steps=120), text, trackers=[recorder], device="cpu")
    assert (result.status, result.stopped_by, result.step) == ("done", "max_steps", 120)
    assert result.best_val_loss < 0.75 * math.log(30)
    assert [row["step"] for row in recorder.rows][:4] == [8, 10, 16, 20]
    scored = [row for row in recorder.rows if "val_loss" in row]
    assert [row["step"] for row in scored] == list(range(8, 121, 8))
    assert all(set(row) == {"step", *METRICS} for row in scored)
    others = {"step", *METRICS} - set(OF_EVALUATIONS)
    assert all(set(row) == others for row in recorder.rows if "val_loss" not in row)
    assert all(row["tokens"] == row["step"] * 4 * 16 for row in recorder.rows)
    assert result.best_val_loss == min(row["val_loss"] for row in scored)
    assert scored[-1]["val_perplexity"] == pytest.approx(math.exp(scored[-1]["val_loss"]))
    assert scored[-1]["val_bits_per_char"] == pytest.approx(scored[-1]["val_loss"] / math.log(2))
    assert 5 <= len(recorder.samples) <= 11
    assert recorder.summary["best_val_loss"] == result.best_val_loss


def test_the_same_seed_gives_the_same_numbers_and_another_others(
    tiny: Config, text: str, tmp_path: Path
) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.rand(7)  # where the caller's generator stands makes no difference
        start(replace(tiny, seed=seed), text, tmp_path / name)
    assert repeatable(tmp_path / "a") == repeatable(tmp_path / "b")
    assert repeatable(tmp_path / "a") != repeatable(tmp_path / "c")


def test_training_leaves_the_callers_generator_alone(tiny: Config, text: str) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(tiny, text, device="cpu")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("stops", "mixed"),
    [([1], False), ([8], False), ([9], False), ([13], False), ([3, 9, 4, 6], False), ([9], True)],
)
def test_stopped_and_resumed_is_never_stopped(
    tiny: Config,
    text: str,
    tmp_path: Path,
    stops: list[int],
    mixed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "has_bfloat16", lambda: True)  # if need be, emulated
    config = replace(tiny, lr_schedule="cosine", warmup_steps=5, mixed_precision=mixed)
    whole = start(config, text, tmp_path / "whole")
    checkpoint = None
    for stop in stops:
        asked: list[int] = []

        def stop_now(asked: list[int] = asked, stop: int = stop) -> str:
            asked.append(1)
            return "SIGTERM" if len(asked) > stop else ""

        part = start(
            config, text, tmp_path / "parts", checkpoint=checkpoint, stop_requested=stop_now
        )
        assert part.status == "interrupted"
        checkpoint = Checkpoint.load(tmp_path / "parts" / "last.pt")
        if stops == [8]:  # it is asked before each step and then in the evaluation after step 8
            assert (part.step, checkpoint.progress["evaluating"]) == (8, True)
    resumed = start(config, text, tmp_path / "parts", checkpoint=checkpoint)
    assert resumed == whole
    used = RunFolder(tmp_path / "parts").read_summary()["precision"]
    assert used == ("bfloat16" if mixed else "float32")
    assert repeatable(tmp_path / "parts") == repeatable(tmp_path / "whole")
    assert (tmp_path / "parts/samples.txt").read_text() == (
        tmp_path / "whole/samples.txt"
    ).read_text()
    for name in ("best.pt", "last.pt"):
        one, other = (Checkpoint.load(tmp_path / run / name) for run in ("whole", "parts"))
        assert all(torch.equal(one.model[key], other.model[key]) for key in one.model)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own, in its compiler
def test_what_was_compiled_goes_on_compiled(tiny: Config, text: str, tmp_path: Path) -> None:
    config = replace(tiny, compile="true", max_steps=16)
    start(config, text, tmp_path / "whole")
    start(replace(config, max_steps=8), text, tmp_path / "parts")
    checkpoint = Checkpoint.load(tmp_path / "parts/last.pt")
    assert checkpoint.progress["compiled"]
    start(config, text, tmp_path / "parts", checkpoint=checkpoint)
    for run in ("whole", "parts"):
        summary = json.loads((tmp_path / run / "summary.json").read_text())
        assert summary["compiled"]
        assert not summary["kernels"]
    assert repeatable(tmp_path / "parts") == repeatable(tmp_path / "whole")


@pytest.mark.parametrize(
    ("asked", "on_cuda", "steps", "expected"),
    [
        ("auto", False, 1_000_000, False),
        ("auto", True, WORTH_COMPILING - 1, False),
        ("auto", True, WORTH_COMPILING, find_spec("triton") is not None),
        ("true", False, 1, True),
        ("false", True, 1_000_000, False),
    ],
)
def test_compiling_is_decided_by_the_length(
    asked: str, on_cuda: bool, steps: int, expected: bool
) -> None:
    assert compiles(Config(compile=asked), steps, on_cuda=on_cuda) == expected


def test_what_was_decided_is_kept_when_the_run_gets_longer(
    tiny: Config, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(replace(tiny, max_steps=8), text, tmp_path)
    checkpoint = Checkpoint.load(tmp_path / "last.pt")
    monkeypatch.setattr(loop, "compiles", lambda *args, **kwargs: True)
    start(tiny, text, tmp_path, checkpoint=checkpoint)
    assert not json.loads((tmp_path / "summary.json").read_text())["compiled"]


def test_a_resumed_run_uses_as_many_threads_as_before(
    tiny: Config, text: str, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0))
    for recorded, expected in ((cores, cores), (cores + 1, before)):
        start(replace(tiny, max_steps=8), text, tmp_path)
        checkpoint = Checkpoint.load(tmp_path / "last.pt")
        assert checkpoint.progress["threads"] == before
        checkpoint.progress["threads"] = recorded
        start(tiny, text, tmp_path, checkpoint=checkpoint)
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert summary["threads"] == expected
        assert torch.get_num_threads() == before


def test_rows_after_the_checkpoint_are_written_again_not_twice(
    tiny: Config, text: str, tmp_path: Path
) -> None:
    start(tiny, text, tmp_path / "whole")
    start(replace(tiny, max_steps=16), text, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    with folder.metrics.open("a") as file:  # as if killed after row 20, before it was saved
        file.write(json.dumps({"step": 20, "train_loss": 9}) + '\n{"step": 21, "tra')
    start(tiny, text, folder.path, checkpoint=Checkpoint.load(folder.last))
    assert repeatable(tmp_path / "run") == repeatable(tmp_path / "whole")


def test_another_text_or_shape_is_refused(tiny: Config, text: str, tmp_path: Path) -> None:
    start(tiny, text, tmp_path)
    last = Checkpoint.load(tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="SHA-256"):
        start(tiny, text + "!", tmp_path, checkpoint=last)
    with pytest.raises(CheckpointError, match="--num-layers was 2 and is now 3"):
        start(replace(tiny, num_layers=3), text, tmp_path, checkpoint=last)
    with pytest.raises(CheckpointError, match=r"best.pt cannot be resumed"):
        start(tiny, text, tmp_path, checkpoint=Checkpoint.load(tmp_path / "best.pt"))
    longer = start(replace(tiny, max_steps=32), text, tmp_path, checkpoint=last)
    assert longer.step == 32


def test_divergence_ends_the_run_and_is_not_saved(tiny: Config, text: str, tmp_path: Path) -> None:
    config = replace(tiny, learning_rate=1000.0, gradient_clip=0.0, max_steps=200)
    result = start(config, text, tmp_path)
    assert result.status == "diverged"
    assert "is nan at step" in result.stopped_by or "is inf at step" in result.stopped_by
    assert math.isfinite(result.best_val_loss)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "diverged"
    for file in tmp_path.glob("*.pt"):
        weights = Checkpoint.load(file).model.values()
        assert all(weight.isfinite().all() for weight in weights)


def test_early_stopping_counts_evaluations(tiny: Config, text: str) -> None:
    recorder = Recorder()
    config = replace(
        tiny, learning_rate=0.03, early_stopping=True, patience=3, eval_every=2, max_steps=500
    )
    result = train(config, text, trackers=[recorder], device="cpu")
    assert result.stopped_by == "early_stopping"
    assert result.step == result.best_step + 3 * 2


def test_minutes_end_a_run(tiny: Config, text: str) -> None:
    result = train(replace(tiny, max_minutes=1e-9), text, device="cpu")
    assert (result.status, result.stopped_by, result.step) == ("done", "max_minutes", 1)
    assert result.best_step == 1


@pytest.mark.parametrize(
    "limit",
    [{"early_stopping": True, "patience": 2, "learning_rate": 0.03}, {"max_minutes": 1e-4}],
    ids=["early_stopping", "max_minutes"],
)
def test_what_has_ended_does_not_go_on(
    limit: dict[str, Any], tiny: Config, text: str, tmp_path: Path
) -> None:
    """A kill came between the last checkpoint and the summary."""
    config = replace(tiny, eval_every=2, max_steps=500, **limit)
    folder = RunFolder(tmp_path)
    first = train(config, text, folder=folder, device="cpu")
    assert first.stopped_by in limit
    again = train(
        config, text, folder=folder, checkpoint=Checkpoint.load(folder.last), device="cpu"
    )
    assert again == first


@pytest.mark.parametrize("asked", [3, 5, 10])  # of 8 steps between evaluations; 5: of a row
def test_a_run_that_is_resumed_to_end_where_it_stands_is_scored(
    tiny: Config, text: str, tmp_path: Path, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 5)
    calls = iter(range(100))
    stopped = start(tiny, text, tmp_path, stop_requested=lambda: "me" * (next(calls) >= asked))
    checkpoint = Checkpoint.load(tmp_path / "last.pt")
    ends = replace(tiny, max_steps=stopped.step)
    first, again = (start(ends, text, tmp_path, checkpoint=checkpoint) for _ in range(2))
    assert (again.status, again.step, again.best_step) == ("done", stopped.step, stopped.step)
    assert again.val_loss == list(RunFolder(tmp_path).rows())[-1]["val_loss"]
    assert again == first  # what goes on leaves the checkpoint as it was
    assert Checkpoint.load(tmp_path / "best.pt").progress["step"] == stopped.step


def test_best_is_the_least_validated_and_its_weights_score_it(
    tiny: Config, text: str, tmp_path: Path
) -> None:
    config = replace(tiny, learning_rate=0.05, max_steps=80)
    result = start(config, text, tmp_path)
    rows = [row for row in RunFolder(tmp_path).rows() if "val_loss" in row]
    assert result.best_val_loss == min(row["val_loss"] for row in rows)
    best = Checkpoint.load(tmp_path / "best.pt")
    data = prepare(Text.of(text), config)
    scored = score(best.build_model(), data.val, data.val_characters, config, torch.device("cpu"))
    assert scored.loss == pytest.approx(result.best_val_loss, abs=1e-6)


def test_an_epoch_is_scored_once_by_default(tiny: Config, text: str) -> None:
    recorder = Recorder()
    config = replace(tiny, eval_every=0, max_steps=0, epochs=2, gradient_accumulation=3)
    data = prepare(Text.of(text), config)
    batches = math.ceil(len(data.train) / (4 * 16))
    result = train(config, data, trackers=[recorder], device="cpu")
    assert result.step == math.ceil(batches * 2 / 3)
    scored = [row for row in recorder.rows if "val_loss" in row]
    assert [math.floor(row["epoch"]) for row in scored] == [1, 2]
    assert result.stopped_by == "epochs"


def test_bytes_train_too(tiny: Config) -> None:
    recorder = Recorder()
    train(replace(tiny, tokenizer="byte"), "çéè ü " * 500, trackers=[recorder], device="cpu")
    row = [row for row in recorder.rows if "val_loss" in row][-1]
    assert row["val_bits_per_char"] > 1.2 * row["val_loss"] / math.log(2)


def test_the_optuna_example_of_the_docs(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs/hyperparameters.md").read_text("utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    for long, short in (
        ("[128, 256, 512]", "[16, 32]"),
        ("4, 12", "1, 2"),
        ("epochs=5", "max_steps=10, max_seq_len=16, batch_size=4"),
        ("n_trials=20", "n_trials=3"),
    ):
        assert long in code
        code = code.replace(long, short)
    (tmp_path / "data.txt").write_text(text)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/hyperparameters.md", "exec"), names)
    assert len(names["study"].trials) == 3
    guess = math.log(len(set(text)) + 1)  # the study draws its own learning rates, also 1e-5
    assert 0 < names["study"].best_value < 1.01 * guess
    assert "learning_rate" in capsys.readouterr().out


def test_a_run_that_is_scored_again_is_shown(tiny: Config, text: str, tmp_path: Path) -> None:
    """The run's last row is written already; what is left has no training loss."""
    config = replace(tiny, eval_every=100)
    calls = iter(range(100))
    stopped = start(config, text, tmp_path, stop_requested=lambda: "me" * (next(calls) >= 10))
    assert stopped.step == 10
    checkpoint = Checkpoint.load(tmp_path / "last.pt")
    ends = replace(config, max_steps=10)
    folder, shown = RunFolder(tmp_path), io.StringIO()
    with redirect_stdout(shown):
        again = train(
            ends, text, folder=folder, checkpoint=checkpoint, device="cpu",
            trackers=[FolderTracker(folder), ConsoleTracker()],
        )  # fmt: skip
    assert again.status == "done"
    row = rf"step 10/10  epoch [\d.]+  val_loss {again.val_loss:.4f}"
    assert re.search(row, shown.getvalue())


@pytest.mark.parametrize("tokenizer", ["char", "byte"])
def test_what_diverges_at_once_has_a_score_by_every_metric(
    tiny: Config, text: str, tmp_path: Path, tokenizer: str
) -> None:
    config = replace(tiny, learning_rate=1000.0, tokenizer=tokenizer, dropout=0.0, max_steps=100)
    result = start(replace(config, gradient_clip=0.0, eval_every=100), text, tmp_path)
    assert result.status == "diverged"
    summary = RunFolder(tmp_path).read_summary()
    assert summary["val_perplexity"] == pytest.approx(math.exp(summary["val_loss"]))
    assert summary["val_bits_per_char"] == pytest.approx(summary["val_loss"] / math.log(2))


def test_kernels_are_built_before_the_clock_starts(
    text: str, tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first build takes longer than --max-minutes 0.1."""
    order: list[str] = []
    take_step = loop.TrainLoop.take_step
    monkeypatch.setattr(loop, "kernels", lambda: order.append("kernels"))
    monkeypatch.setattr(
        loop.TrainLoop, "take_step", lambda self: (order.append("step"), take_step(self))[1]
    )
    train(tiny, text, device="cpu")
    assert order[:2] == ["kernels", "step"]

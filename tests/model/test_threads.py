"""Results do not depend on the number of threads, nor on other threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import need_kernels

from fundamentallm import train
from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.dataset import prepare
from fundamentallm.data.text import Text
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.machine.cores_and_memory import threads_each
from fundamentallm.model.native import call, team
from fundamentallm.model.threads import suits_kernels, threads
from fundamentallm.trackers.folder import FolderTracker
from fundamentallm.training.isolation import run_alone
from fundamentallm.training.lr_range_test import find_learning_rate

CPU = torch.device("cpu")
WIDE = {"model_dim": 64, "num_heads": 4, "max_seq_len": 64, "batch_size": 8, "max_steps": 6}


def wide(tiny: Config) -> Config:
    """A shape at which several threads are worth it."""
    return replace(tiny, **WIDE, dropout=0.1)


def losses(folder: Path) -> list[float]:
    rows = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    return [row["train_loss"] for row in map(json.loads, rows) if "train_loss" in row]


def trained(config: Config, text: str, folder: Path) -> list[float]:
    folder.mkdir()
    train(config, text, device="cpu", trackers=[FolderTracker(RunFolder(folder))])
    return losses(folder)


def test_a_whole_run_is_the_same_with_any_number_of_threads(
    tiny: Config, text: str, tmp_path: Path
) -> None:
    need_kernels()
    found = []
    before = torch.get_num_threads()
    for count in (1, len(os.sched_getaffinity(0))):
        torch.set_num_threads(count)
        try:
            found.append(trained(wide(tiny), text, tmp_path / str(count)))
        finally:
            torch.set_num_threads(before)
        summary = json.loads((tmp_path / str(count) / "summary.json").read_text())
        assert summary["threads"] == count
    assert found[0] == found[1]


def test_torch_computes_with_one_thread_where_kernels_do_the_work(tiny: Config) -> None:
    need_kernels()
    cores = len(os.sched_getaffinity(0))
    before = torch.get_num_threads()
    with run_alone(tiny, CPU, cores):
        assert (team(), torch.get_num_threads()) == (cores, 1)
    assert (team(), torch.get_num_threads()) == (before, before)
    with run_alone(replace(tiny, attention_dropout=0.1), CPU, cores):  # torch's attention
        assert (team(), torch.get_num_threads()) == (cores, cores)
    with threads():
        assert team() == torch.get_num_threads() == before


@pytest.mark.parametrize(
    "other",
    [{"attention_dropout": 0.1}, {"compile": "true"}, {"num_heads": 4, "model_dim": 12}],
)
def test_what_kernels_are_not_made_for_is_left_to_torch(
    tiny: Config, other: dict[str, object]
) -> None:
    need_kernels()
    assert suits_kernels(tiny, CPU)
    assert not suits_kernels(replace(tiny, **other), CPU)
    assert not suits_kernels(tiny, torch.device("meta"))


def test_two_runs_in_two_threads_do_not_change_each_other(
    tiny: Config, text: str, tmp_path: Path
) -> None:
    """Optuna's `n_jobs=2` runs this. Either draws dropout from torch's generator at every step."""
    configs = [replace(tiny, dropout=0.3, seed=seed, max_steps=60) for seed in (1, 2)]
    alone = [trained(config, text, tmp_path / f"alone{n}") for n, config in enumerate(configs)]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    both = [
        threading.Thread(target=trained, args=(config, text, tmp_path / f"both{n}"))
        for n, config in enumerate(configs)
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert [losses(tmp_path / f"both{n}") for n in range(2)] == alone
    assert torch.equal(torch.rand(3), expected)  # the caller's generator is as it was


def test_a_range_test_waits_for_a_run(tiny: Config, text: str) -> None:
    dataset = prepare(Text.of(text), tiny)
    begun = threading.Event()
    seen: list[bool] = []

    def other() -> None:
        begun.set()
        find_learning_rate(tiny, dataset, device="cpu")
        seen.append(True)

    thread = threading.Thread(target=other)
    with run_alone(tiny, CPU):
        thread.start()
        begun.wait()
        thread.join(0.5)
        assert not seen
    thread.join()
    assert seen


def test_the_callers_default_dtype_changes_nothing(tiny: Config, text: str, tmp_path: Path) -> None:
    expected = trained(tiny, text, tmp_path / "float32")
    torch.set_default_dtype(torch.float64)
    try:
        assert trained(tiny, text, tmp_path / "float64") == expected
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x.double(),
        lambda x: x.half(),
        lambda x: x.t(),
        lambda x: x[:4],
        lambda x: x[:, ::2],
        lambda x: x.to("meta"),
        lambda x: 0,
    ],
)
def test_kernels_refuse_what_they_would_misread(wrong: object) -> None:
    need_kernels()
    x, y, scale = torch.randn(8, 16), torch.empty(8, 16), torch.empty(8)
    call("norm_forward", x, y, scale, 1e-6, 8, 16)
    with pytest.raises(TypeError, match=r"norm_forward: .* does not fit"):
        call("norm_forward", wrong(x), y, scale, 1e-6, 8, 16)  # pyright: ignore
    with pytest.raises(TypeError, match="dropout: float32"):
        call("dropout", y, y, torch.zeros(1), 5, 1.0, y.numel())


def test_a_process_that_was_forked_has_threads_of_its_own(tmp_path: Path) -> None:
    """The parent's are not there, and nothing may wait for them."""
    need_kernels()
    code = """
import os, torch
from fundamentallm.model.linear import project
torch.set_num_threads(4)
x, w = torch.randn(2000, 64), torch.randn(64, 64)
expected = project(x, w)
for _ in range(20): project(x, w)
child = os.fork()
if not child:
    os._exit(0 if torch.equal(project(x, w), expected) else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_runs_share_the_cores_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fundamentallm.machine.cores_and_memory.usable_cores", lambda: 8)
    for typed, expected in (
        ("", (8, 4, 1)),
        ("3", (3, 3, 3)),
        ("4,2", (4, 4, 4)),
        ("x", (8, 4, 1)),
    ):
        monkeypatch.setenv("OMP_NUM_THREADS", typed)
        assert tuple(threads_each(runs) for runs in (1, 2, 50)) == expected

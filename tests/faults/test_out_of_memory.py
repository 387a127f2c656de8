"""Promise 6: if memory runs out, the batch is split, or only that run ends."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Run
from tiny_sweep import FLAGS, grid, processes, start, summaries, wait_for

from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.dataset import training_batch
from fundamentallm.data.vocabulary import Vocabulary
from fundamentallm.machine.device import free_memory_gb, is_out_of_memory
from fundamentallm.training.train_step import OutOfMemoryError, TrainStep, check_fits

CPU = torch.device("cpu")


def train_step_with_room(room: int, config: Config) -> TrainStep:
    """Return a TrainStep after one step on a device with memory for `room` sequences."""
    vocabulary = Vocabulary.of("abcdefgh", "char")
    train_step = TrainStep(len(vocabulary), config, CPU)
    forward = train_step.forward

    def limited(part: torch.Tensor) -> torch.Tensor:
        if len(part) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return forward(part)

    train_step.forward = limited
    tokens = vocabulary.encode("abcdefgh" * 50)
    train_step.step(training_batch(tokens, config, 0), config.learning_rate)
    return train_step


@pytest.mark.parametrize("room", [8, 4, 2, 1])
def test_the_batch_is_halved_and_the_update_is_the_same(
    room: int, tiny: Config, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(tiny, batch_size=8, dropout=0.0)
    whole, parts = train_step_with_room(8, config), train_step_with_room(room, config)
    assert parts.at_once == room
    for expected, actual in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.allclose(expected, actual, atol=2e-5)
    assert caplog.text.count("out of memory; steps continue with") == parts.halvings


def test_a_resumed_run_keeps_the_size_of_the_parts(tiny: Config) -> None:
    """Parts of another size would draw other dropout masks."""
    config = replace(tiny, batch_size=8, dropout=0.2)
    first = train_step_with_room(4, config)
    second = TrainStep(9, config, CPU)
    second.load_state_dict(first.model.state_dict(), first.state_dict())
    assert second.at_once == first.at_once == 4
    assert train_step_with_room(8, config).state_dict()["at_once"] == 0


def test_the_batch_is_halved_three_times_at_most(tiny: Config) -> None:
    with pytest.raises(OutOfMemoryError, match="4 sequences at a time do not fit into memory"):
        train_step_with_room(3, replace(tiny, batch_size=32))
    with pytest.raises(OutOfMemoryError, match="smaller --batch-size"):
        train_step_with_room(0, replace(tiny, batch_size=2))


def test_a_half_done_step_is_not_repeated(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    train_step = train_step_with_room(4, tiny)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(train_step.optimizers.parts[1], "step", full)
    windows = torch.zeros(4, tiny.max_seq_len + 1, dtype=torch.int64)
    with pytest.raises(OutOfMemoryError, match="the optimizers' state does not fit into memory"):
        train_step.step(windows, tiny.learning_rate)


def test_every_out_of_memory_error_is_recognized() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(error.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))


def test_a_model_that_does_not_fit_gets_one_line(run: Run, text_file: Path, tmp_path: Path) -> None:
    size = ["--model-dim=65536", "--num-layers=1000", "--num-heads=8"]
    done = run("train", text_file, *size, "--max-steps=1", "--output-dir=out", "--no-wandb")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("fundamentallm: the model does not fit")


def test_a_model_too_large_for_a_gpu_is_refused_before_allocation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Free memory includes what this process has reserved and does not use."""
    gb = 1_000_000_000
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (gb, 80 * gb))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 2 * gb)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: gb // 2)
    gpu = torch.device("cuda", 0)
    assert free_memory_gb(gpu) == 2.5
    config = Config(model_dim=2048, num_layers=4)  # 200 million weights: 2.4 GB
    check_fits(config, 60, gpu)
    with pytest.raises(OutOfMemoryError, match=r"it needs 3 GB and 2\.5 are free"):
        check_fits(replace(config, num_layers=5), 60, gpu)


@pytest.mark.nightly
def test_a_killed_trial_disturbs_no_other(tmp_path: Path, text_file: Path) -> None:
    """The kernel's OOM killer sends SIGKILL to the largest process again and again."""
    file = tmp_path / "tiny.yaml"
    file.write_text(grid(rates=2, seeds=2, steps=800, every=100))
    folder = tmp_path / "runs/tiny"
    process = start(tmp_path, "sweep", file, text_file, "--workers", 2, "--", *FLAGS)
    first_run, killed = str(folder / "run-0001"), set[int]()
    for _ in range(5):
        (pid,) = wait_for(lambda: set(processes(first_run)) - killed)
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 1, output
    statuses = [each["status"] for each in summaries(folder).values()]
    assert statuses == ["failed", "done", "done", "done"]
    assert "killed by SIGKILL, perhaps because memory ran out" in output
    assert "run 2 of 4 resumes" not in output

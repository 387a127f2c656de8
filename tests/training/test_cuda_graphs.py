"""A recorded step, replayed: what a CUDA graph does, played on a CPU operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fundamentallm import train
from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.dataset import prepare, training_batch
from fundamentallm.data.text import Text
from fundamentallm.training import evaluate
from fundamentallm.training.cuda_graphs import WARMUP_CALLS, GraphedUpdate
from fundamentallm.training.evaluate import Score
from fundamentallm.training.train_step import HALVINGS, TrainStep

CPU = torch.device("cpu")


class RecordedOperations(TorchDispatchMode):
    """A `Graph` as the GPU's: the same operations on the same memory, with every number that
    Python gave them when they were recorded. Recording does them too, so what they changed is
    put back."""

    def __init__(self, changed: Callable[[], list[Tensor]]) -> None:
        super().__init__()
        self.changed = changed
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        before = [tensor.clone() for tensor in self.changed()]
        random = torch.get_rng_state()
        with self:
            yield
        for tensor, value in zip(self.changed(), before, strict=True):
            tensor.detach().copy_(value)
        torch.set_rng_state(random)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        with torch._C._AutoDispatchBelowAutograd():  # as a GPU knows nothing of gradients
            for func, args, kwargs, result in self.operations:
                if func.is_view:
                    continue
                again = func(*args, **kwargs)
                known, new = (x if isinstance(x, tuple | list) else (x,) for x in (result, again))
                for old, value in zip(known, new, strict=True):
                    if isinstance(old, Tensor) and old is not value:
                        old.copy_(value)


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """kernels.c is not seen by torch's dispatcher, nor is it on a GPU."""
    monkeypatch.setattr("fundamentallm.model.native.kernels", lambda: None)


def changed_by(train_step: TrainStep) -> list[Tensor]:
    """All that a step changes, but the gradients."""
    states = [state for part in train_step.optimizers.parts for state in part.state.values()]
    return [*train_step.model.parameters(), *(t for state in states for t in state.values())]


def steps(
    train_step: TrainStep, config: Config, text: str, count: int
) -> list[tuple[float, float]]:
    """Losses and norms of `count` steps, each with a learning rate of its own."""
    torch.manual_seed(5)  # for dropout
    data = prepare(Text.of(text), config)
    taken = [
        train_step.step(training_batch(data.train, config, n), config.learning_rate / (n + 1))
        for n in range(count)
    ]
    return [(loss.item(), norm.item()) for loss, norm in taken]  # fetched late, as in training


def learner_of(config: Config, text: str) -> TrainStep:
    return TrainStep(len(prepare(Text.of(text), config).vocabulary), config, CPU)


@pytest.mark.parametrize("change", [{}, {"dropout": 0.2, "gradient_accumulation": 3}])
def test_replayed_steps_are_the_steps(
    change: dict[str, Any], tiny: Config, text: str, no_kernels: None
) -> None:
    config = replace(tiny, **change)
    plain, graphed = learner_of(config, text), learner_of(config, text)
    expected = steps(plain, config, text, WARMUP_CALLS + 5)
    recorded = RecordedOperations(lambda: changed_by(graphed))
    graphed.update = update = GraphedUpdate(graphed.update, lambda _: recorded)
    assert steps(graphed, config, text, WARMUP_CALLS + 5) == expected
    assert update.graph is recorded
    assert graphed.graphed
    for ours, theirs in zip(changed_by(graphed), changed_by(plain), strict=True):
        assert torch.equal(ours, theirs)


def test_a_number_from_python_would_be_replayed_as_it_was() -> None:
    """So the test above sees a step that is not fit to be recorded."""
    total, rates = torch.zeros(()), iter(range(1, 100))

    def update(windows: Tensor) -> tuple[Tensor, Tensor]:
        total.add_(next(rates))
        return total + 0, total + 0

    graphed = GraphedUpdate(update, lambda _: RecordedOperations(lambda: [total]))
    losses = [graphed(torch.zeros(1))[0].item() for _ in range(WARMUP_CALLS + 3)]
    assert losses == [1, 3, 6, 10, 14, 18]


class Refusing:
    """A graph that cannot be recorded: `error` comes in the middle of the step."""

    def __init__(self, error: RuntimeError) -> None:
        self.error = error

    @contextmanager
    def recording(self) -> Iterator[None]:
        raise self.error
        yield

    def replay(self) -> None:
        raise AssertionError


def test_what_cannot_be_recorded_is_done_as_it_is(
    tiny: Config, text: str, no_kernels: None, caplog: pytest.LogCaptureFixture
) -> None:
    plain, graphed = learner_of(tiny, text), learner_of(tiny, text)
    error = RuntimeError("operation not permitted when stream is capturing\nmore")
    graphed.update = update = GraphedUpdate(graphed.update, lambda _: Refusing(error))
    expected = steps(plain, tiny, text, WARMUP_CALLS + 3)
    assert steps(graphed, tiny, text, WARMUP_CALLS + 3) == expected
    assert update.refused == "operation not permitted when stream is capturing more"
    assert caplog.text.count(update.refused) == 1
    assert not graphed.graphed


def test_memory_that_runs_out_while_recording_costs_nothing_but_the_recording(
    tiny: Config, text: str, no_kernels: None, caplog: pytest.LogCaptureFixture
) -> None:
    plain, graphed = learner_of(tiny, text), learner_of(tiny, text)
    graphed.at_once = plain.at_once = 8
    error = torch.OutOfMemoryError("out of memory")
    graphed.update = update = GraphedUpdate(graphed.update, lambda _: Refusing(error))
    assert steps(graphed, tiny, text, WARMUP_CALLS + 3) == steps(
        plain, tiny, text, WARMUP_CALLS + 3
    )
    assert (update.refused, graphed.at_once) == ("out of memory", 8)
    assert "could not be recorded" in caplog.text


def test_only_steps_that_were_taken_count_before_one_is_recorded(
    tiny: Config, text: str, no_kernels: None
) -> None:
    """Else the optimizers' state would be made in the recording, and anew at each replay."""
    config = replace(tiny, batch_size=8)
    plain, graphed = learner_of(config, text), learner_of(config, text)
    plain.at_once, graphed.at_once = 1, 8
    update, short = graphed.update, iter(range(HALVINGS))

    def short_of_memory(windows: Tensor) -> tuple[Tensor, Tensor]:
        if next(short, None) is not None:
            raise torch.OutOfMemoryError("out of memory")
        return update(windows)

    recorded = RecordedOperations(lambda: changed_by(graphed))
    graphed.update = GraphedUpdate(short_of_memory, lambda _: recorded)
    assert steps(graphed, config, text, WARMUP_CALLS + 4) == steps(
        plain, config, text, WARMUP_CALLS + 4
    )
    assert graphed.graphed
    for ours, theirs in zip(changed_by(graphed), changed_by(plain), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("choice", ["auto", "true"])
def test_what_cannot_be_compiled_is_trained_as_it_is_unless_that_was_asked_for(
    choice: str, tiny: Config, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(_: Any) -> Any:
        def fail(_: Tensor) -> Tensor:
            raise RuntimeError("Failed to find C compiler\nmore")

        return fail

    monkeypatch.setattr(torch, "compile", compiled)
    config = replace(tiny, compile=choice)
    plain = learner_of(config, text)
    train_step = TrainStep(
        len(prepare(Text.of(text), config).vocabulary), config, CPU, compiled=True
    )
    if choice == "true":
        with pytest.raises(RuntimeError, match="C compiler"):
            steps(train_step, config, text, 2)
        return
    assert steps(train_step, config, text, 2) == steps(plain, config, text, 2)
    assert not train_step.compiled


def test_a_half_precision_run_goes_on_where_there_is_no_bfloat16(tiny: Config, text: str) -> None:
    before, after = learner_of(tiny, text), learner_of(tiny, text)
    after.scaler = torch.amp.GradScaler("cpu", enabled=True)  # as on a GPU without it
    after.load_state_dict(before.model.state_dict(), before.state_dict())
    assert after.scaler.is_enabled()


def test_an_evaluation_gets_the_memory_of_a_recorded_step(
    tiny: Config, text: str, no_kernels: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the run goes on to the numbers that it would have had."""
    expected = train(tiny, text, device="cpu")
    learners: list[TrainStep] = []
    failed: list[str] = []

    def graphed(self: TrainStep) -> GraphedUpdate:
        learners.append(self)
        return GraphedUpdate(self._update, lambda _: RecordedOperations(lambda: changed_by(self)))

    def score(*args: Any, **more: Any) -> Score:
        if learners[0].graphed:
            failed.append("once")
            raise torch.OutOfMemoryError
        return evaluate.score(*args, **more)

    monkeypatch.setattr(TrainStep, "_update_for_device", graphed)
    monkeypatch.setattr("fundamentallm.training.loop.score", score)
    assert train(tiny, text, device="cpu") == expected
    assert failed == ["once"]
    assert not learners[0].graphed
    assert not learners[0].make_room()

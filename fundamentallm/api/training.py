"""Training from Python: with the files of the command line, a history, and a bar in a notebook."""

from __future__ import annotations

import logging
import math
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from fundamentallm.api.frames import frame
from fundamentallm.config.hyperparameters import Config
from fundamentallm.files.run_folder import RunFolder, RunFolderError
from fundamentallm.files.samples import Sample
from fundamentallm.sweep.store.sweep_folder import SweepFolder, is_sweep
from fundamentallm.trackers.base import Number, Tracker
from fundamentallm.training.state import Result

if TYPE_CHECKING:
    from fundamentallm.data.dataset import Dataset
    from fundamentallm.training.checkpoint import Checkpoint

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedRun(Result):
    """Result of `train`, with the folder and the history of the run."""

    folder: Path | None = field(default=None, compare=False)
    """Folder of the run, which `load_model` and the command line read; None if it has none."""
    rows: Sequence[Mapping[str, Any]] = field(default=(), compare=False, repr=False)
    """Rows of metrics, each with its `step`; docs/metrics.md lists the names."""

    @property
    def history(self) -> Any:
        """Rows of metrics: a pandas DataFrame, or a list of dicts without pandas."""
        return frame(self.rows)


def train(
    config: Config,
    text: str | Path | Dataset,
    *,
    output_dir: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    device: str = "auto",
    stop_requested: Callable[[], str] = lambda: "",
    end_by: float = math.inf,
    trackers: Sequence[Tracker] = (),
    folder: RunFolder | None = None,
    checkpoint: Checkpoint | None = None,
) -> TrainedRun:
    """Train a model on `text` and evaluate it on the last `val_split`.

    Runs in several threads take turns, so a seed gives the same result in a thread as alone. After
    Ctrl-C, or a notebook's stop button, the run is saved before KeyboardInterrupt is raised.

    Args:
        config: The hyperparameters.
        text: The text itself, the path of a UTF-8 file, or a dataset prepared for `config`.
        output_dir: Folder of the run, in which all files are written that `fundamentallm train`
            writes. Without it nothing is written.
        resume: Resume the run in `output_dir`, or start one there.
        overwrite: Replace the run in `output_dir`.
        progress: Show a bar in a notebook or on a terminal.
        device: auto, cpu, cuda, cuda:N or mps.
        stop_requested: Called before every step and during an evaluation. If it returns a reason,
            the run is saved and ends, with that reason as its `stopped_by`.
        end_by: Time of `time.time` by which the run should end, if that is before `max_minutes`.
        trackers: Receive every row of metrics and every sample.
        folder: In place of `output_dir`, a folder for the checkpoints alone.
        checkpoint: A `last.pt` to resume, in place of `resume`.

    Raises:
        DataError: The text cannot be read or is too short.
        DeviceError: The device does not exist here.
        RunFolderError: `output_dir` holds something else, or a run, and neither `resume` nor
            `overwrite` is given.
        CheckpointError: The run cannot be resumed with this text and config.
        DiskError: A file cannot be written; the last checkpoint is still there.
        OutOfMemoryError: A step does not fit this machine.
        KeyboardInterrupt: You stopped it.
        TypeError: Arguments exclude each other.
    """
    from fundamentallm.training.loop import train as train_loop

    if output_dir is not None and (folder is not None or checkpoint is not None):
        raise TypeError("output_dir takes the place of folder and checkpoint; leave them out")
    if output_dir is None and (resume or overwrite):
        raise TypeError("resume and overwrite need output_dir, the folder of the run")
    if resume and overwrite:
        raise TypeError("resume and overwrite exclude each other; give one")
    own = None if output_dir is None else RunFolder(output_dir)
    if own is not None:
        _check_folder(own, text, may_exist=resume or overwrite)
    dataset = _dataset(text, config)
    rows = _Rows()
    shown = (rows, *trackers, *_bars(progress))
    with _CtrlC() as ctrl_c:

        def stopped() -> str:
            return "SIGINT" if ctrl_c.received else stop_requested()

        if own is not None:
            run = _train_in(own, config, dataset, shown, device, stopped, end_by, resume=resume)
        else:
            result = train_loop(
                config, dataset, folder=folder, trackers=shown, device=device,
                checkpoint=checkpoint, stop_requested=stopped, end_by=end_by,
            )  # fmt: skip
            path = None if folder is None else folder.path
            run = TrainedRun(**vars(result), folder=path, rows=rows.logged)
    if ctrl_c.received:
        if own is not None:
            LOG.warning(
                "stopped after step %d; the same call with resume=True resumes it", run.step
            )
        signal.raise_signal(signal.SIGINT)  # what would have been raised
    return run


def _check_folder(folder: RunFolder, text: str | Path | Dataset, *, may_exist: bool) -> None:
    """Check that a run may write there.

    Raises:
        RunFolderError: It may not.
    """
    path = folder.path
    if is_sweep(path) or SweepFolder(path.absolute().parent).exists:
        raise RunFolderError(
            f"{path}: it is a sweep's folder or inside one, and only the sweep writes there; give "
            "another output_dir"
        )
    if folder.holds_a_run() and not may_exist:
        raise RunFolderError(
            f"{path}: this folder holds a run; give resume=True to resume it, overwrite=True to "
            "replace it, or another output_dir"
        )
    folder.check_keeps(text if isinstance(text, Path) else None)
    folder.create()


def _dataset(text: str | Path | Dataset, config: Config) -> Dataset:
    from fundamentallm.data.dataset import Dataset, prepare
    from fundamentallm.data.text import Text, read_text

    if isinstance(text, Dataset):
        return text
    return prepare(Text.of(text) if isinstance(text, str) else read_text(text), config)


def _train_in(
    folder: RunFolder,
    config: Config,
    dataset: Dataset,
    trackers: Sequence[Tracker],
    device: str,
    stop_requested: Callable[[], str],
    end_by: float,
    *,
    resume: bool,
) -> TrainedRun:
    """Train as `fundamentallm train` does, with all files of a run."""
    from fundamentallm.trackers.folder import FolderTracker
    from fundamentallm.training.run import Resume, execute, prepare_run

    run = prepare_run(config, lambda _: dataset, device)
    with folder.held():
        finished = execute(
            run,
            folder,
            lambda: [FolderTracker(folder), *trackers],
            resume=Resume.ALWAYS if resume else Resume.NEVER,
            stop_requested=stop_requested,
            end_by=end_by,
        )
        rows = [*folder.rows()]
    return TrainedRun(**vars(finished.result), folder=folder.path, rows=rows)


def _bars(progress: bool) -> Sequence[Tracker]:
    if not progress:
        return ()
    from fundamentallm.trackers.progress_bar import ProgressBar

    return (ProgressBar(),)


class _Rows:
    """A `Tracker` that keeps the rows of metrics."""

    def __init__(self) -> None:
        self.logged: list[dict[str, Any]] = []

    def start(
        self,
        settings: Mapping[str, object],
        *,
        total_steps: int,
        step: int,
        facts: Mapping[str, object],
    ) -> None:
        """Keep nothing of the start."""

    def log(self, metrics: Mapping[str, Number], *, step: int) -> None:
        """Keep a row."""
        self.logged.append({"step": step, **metrics})

    def log_samples(self, samples: Sequence[Sample], *, step: int) -> None:
        """Keep no samples."""

    def finish(self, summary: Mapping[str, object]) -> None:
        """Keep nothing of the end."""


class _CtrlC:
    """Context that records Ctrl-C, so that a run can be saved; a second one has its usual effect.

    Only the main thread gets signals; elsewhere, and where the program ignores them, it does
    nothing.
    """

    def __init__(self) -> None:
        self.received = False
        self.usual: Any = None

    def __enter__(self) -> _CtrlC:
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and callable(usual := signal.getsignal(signal.SIGINT)):
            self.usual = usual
            signal.signal(signal.SIGINT, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.usual is not None:
            signal.signal(signal.SIGINT, self.usual)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            self.usual(number, frame)
        self.received = True

"""Save and load a run's state: whole or not at all, and no change goes unnoticed.

A checkpoint is a file of `torch.save` followed by its SHA-256 and a closing mark, so
`torch.load(path, weights_only=True)` opens it too.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from fundamentallm.config.hyperparameters import HYPERPARAMETERS, Config
from fundamentallm.config.parsing import read_values
from fundamentallm.data.dataset import Dataset
from fundamentallm.data.vocabulary import Vocabulary
from fundamentallm.errors import FundamentallmError
from fundamentallm.files.atomic import opened, read_file, replacing
from fundamentallm.files.held_folder import Root, why_misplaced
from fundamentallm.files.ownership import FILES, MARK, ends_with_mark
from fundamentallm.files.run_folder import REMOVED_BY, RunFolder
from fundamentallm.machine.cores_and_memory import free_each_gb
from fundamentallm.model.size import parameter_count
from fundamentallm.model.transformer import Transformer
from fundamentallm.training.state import TrainingState
from fundamentallm.training.stored_tensors import (
    StoredTensorError,
    check_same,
    check_stored,
    shapes_only,
)
from fundamentallm.training.train_step import check_state

LOG = logging.getLogger(__name__)

FORMAT = 2
WITHOUT_SHARE = 1
"""Format of 0.1's first models, which lack the share that a token takes of the one before it."""
MAY_CHANGE = ("epochs", "max_steps", "max_minutes", "early_stopping", "patience")
UNFIT = (
    "the checkpoint's weights do not fit its configuration and vocabulary, or this version's "
    "model; use the version that wrote it, or train again"
)
FOOTER = hashlib.sha256().digest_size + len(MARK)


class CheckpointError(FundamentallmError):
    """A checkpoint is missing, incomplete, altered, or of another format."""


class UnreadError(CheckpointError):
    """A checkpoint cannot be read now; the file itself may be whole."""


@dataclass(frozen=True)
class Checkpoint:
    """A model with its configuration and, in `last.pt` and `trunk.pt`, the state to train it on.

    `training` is empty in `best.pt`, which cannot be resumed.
    """

    config: Config
    vocabulary: Vocabulary
    data: dict[str, str]
    """Name and SHA-256 of the text."""
    model: dict[str, torch.Tensor]
    """The model's weights, by name."""
    progress: dict[str, Any]
    """Fields of `TrainingState`: plain numbers."""
    training: dict[str, Any]
    """States of the optimizers, the gradient scaler and the random generators."""
    best: dict[str, Any] = field(default_factory=dict)
    """In `trunk.pt`, `model` and `progress` of the best checkpoint so far, if there is one."""

    def save(self, path: Path, root: Root | None = None) -> None:
        """Write to `path`, which holds the whole old state or the whole new one at every instant.

        No link is followed below `root`, by default the file's folder.

        Raises:
            DiskError: It cannot be written; the old state is still there.
        """
        content = {
            "format": FORMAT,
            "config": vars(self.config),
            "vocabulary": vars(self.vocabulary),
            "data": self.data,
            "model": self.model,
            "progress": self.progress,
            "training": self.training,
            **({"best": self.best} if self.best else {}),
        }
        with replacing(path, root) as file:
            hashing = _HashingWriter(file)
            hashing.save(content)
            file.write(hashing.sha256.digest() + MARK)

    @classmethod
    def load(cls, path: Path, root: Root | None = None) -> Checkpoint:
        """Check the SHA-256 of `path` and read it. No code in it runs.

        No link is followed below `root`; None if the user named the file itself.

        Raises:
            UnreadError: The file is missing, or the disk or the memory fails.
            CheckpointError: The file is truncated, altered or of another format.
        """
        try:
            whole = _is_whole(path, root)
            raw = read_file(path, int(1e9 * free_each_gb()), root=root) if whole else b""
        except OSError as error:
            raise UnreadError(f"{path}: {error.strerror}; give a run or a checkpoint") from None
        body, footer = raw[:-FOOTER], raw[-FOOTER:]
        if not raw:
            raise CheckpointError(
                f"{path}: not a whole fundamentallm checkpoint (the closing mark is missing); "
                "give another, e.g. best.pt or last.pt beside it"
            )
        if footer != hashlib.sha256(body).digest() + MARK:
            raise CheckpointError(f"{path}: altered since it was written (its SHA-256 differs)")
        try:
            _check_sizes(body)
            content = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
            check_stored(content, len(body))
            if content["format"] not in (WITHOUT_SHARE, FORMAT):
                raise CheckpointError(
                    f"{path}: of format {content['format']}; this version reads formats "
                    f"{WITHOUT_SHARE} and {FORMAT}"
                )
            if content["format"] == WITHOUT_SHARE:
                _add_share(content["model"])
            content["config"] = Config(**read_values(content["config"], str(path)))
            content["vocabulary"] = Vocabulary(**content["vocabulary"])
            del content["format"]
            _check_kinds(content)
            return cls(**content)
        except StoredTensorError as error:
            raise CheckpointError(f"{path}: not a fundamentallm checkpoint: {error}") from None
        except CheckpointError:
            raise
        except FundamentallmError as error:  # settings or a vocabulary that no run has
            reason = str(error).removeprefix(f"{path}: ")
            raise CheckpointError(f"{path}: not a fundamentallm checkpoint: {reason}") from None
        except MemoryError:
            raise UnreadError(f"{path}: memory ran out while reading it") from None
        except Exception as error:  # torch.load raises a dozen types on foreign bytes
            raise CheckpointError(f"{path}: not a fundamentallm checkpoint ({error})") from None

    def check_continues(self, config: Config, dataset: Dataset) -> None:
        """Check that a run of `config` on `dataset` can resume from this checkpoint.

        Only hyperparameters in `MAY_CHANGE`, which set the run's length, may differ.

        Raises:
            CheckpointError: The text or a hyperparameter differs; both values are named.
        """
        if not self.training:
            raise CheckpointError("best.pt cannot be resumed; resume from last.pt")
        try:
            TrainingState.of(self.progress)
        except ValueError:
            raise CheckpointError(
                "the checkpoint's training state is not one of this version; use the version that "
                "wrote it"
            ) from None
        name, sha256 = (self.data.get(key, "?") for key in ("name", "sha256"))
        if dataset.sha256 != sha256:
            raise CheckpointError(
                f"--resume: the run was trained on {name} "
                f"(SHA-256 {sha256[:12]}) and {dataset.name} differs from it "
                f"({dataset.sha256[:12]}); give the same text, or a new --output-dir"
            )
        changed = [
            f"{HYPERPARAMETERS[name].flag} was {before} and is now {vars(config)[name]}"
            for name, before in vars(self.config).items()
            if name not in MAY_CHANGE and vars(config)[name] != before
        ]
        if changed:
            raise CheckpointError(
                f"--resume: {'; '.join(changed)}; a resumed run keeps its hyperparameters "
                "(only its length may change), so leave the flag out or give a new --output-dir"
            )
        self._check_count()
        try:
            check_state(len(self.vocabulary), self.config, self.model, self.training)
        except StoredTensorError as error:
            raise CheckpointError(
                f"--resume: the checkpoint cannot be resumed ({error}); use the version that wrote "
                "it, or start over with --overwrite"
            ) from None

    def missing_from(self, folder: RunFolder) -> str:
        """Return a line that names rows and samples missing from `folder`; "" if it has all."""
        progress = TrainingState.of(self.progress)
        missing: list[str] = []
        rows = [row for row in folder.rows() if row["step"] <= progress.step]
        if "losses" in self.progress and (lost := progress.missing_rows(rows)):  # not an older one
            missing.append(lost)
        sample = max(
            (step for step, _ in folder.read_samples() if step <= progress.step), default=0
        )
        if sample < progress.sampled_step:
            missing.append(f"the samples of steps {sample + 1:,} to {progress.sampled_step:,}")
        return f"{folder.path}: {' and '.join(missing)} are missing" if missing else ""

    def build_model(self) -> Transformer:
        """Return the model with its weights, on the CPU, in `eval` mode.

        Raises:
            CheckpointError: The weights do not fit the model that this version builds.
        """
        self._check_count()
        with shapes_only():  # draws nothing: another thread may be training by torch's generator
            model = Transformer(len(self.vocabulary), self.config)
        try:
            check_same(self.model, model.state_dict(), "model")
        except StoredTensorError:
            raise CheckpointError(UNFIT) from None
        weights = {name: each.clone() for name, each in self.model.items()}
        model.load_state_dict(weights, assign=True)
        return model.eval()

    def best_so_far(self) -> Checkpoint:
        """Return the best checkpoint so far, of a `trunk.pt`.

        Raises:
            CheckpointError: It has none.
        """
        if not self.best:
            raise CheckpointError("trunk.pt: the best model so far is missing")
        return replace(self, **self.best, training={}, best={})

    def _check_count(self) -> None:
        """Count weights before the model is built: a configuration may ask for any size."""
        tensors = [each for each in self.model.values() if isinstance(each, torch.Tensor)]
        promised = parameter_count(self.config, len(self.vocabulary))
        if sum(each.numel() for each in tensors) != promised:
            raise CheckpointError(UNFIT)


def find_checkpoint(run_or_checkpoint: str | Path) -> Path:
    """Return the path of a checkpoint, or of the best one in a run's folder.

    Raises:
        CheckpointError: There is no such file, or no checkpoint in the folder.
    """
    path = Path(run_or_checkpoint)
    if not os.path.isdir(path):
        return path
    if reason := why_misplaced(path, files=FILES):
        raise CheckpointError(reason)
    removed = RunFolder(path).removed()
    for name in ("best.pt", "last.pt"):
        if os.path.exists(path / name):  # Path.exists raises without permission
            if "best.pt" in removed:
                LOG.warning("%s: best.pt was %s; the model of last.pt is used", path, REMOVED_BY)
            return path / name
    if removed:
        raise CheckpointError(
            f"{path}: {' and '.join(removed)} of this run were {REMOVED_BY}, so it has no model; "
            "give a run that kept its own, or its sweep"
        )
    raise CheckpointError(f"{path}: no best.pt or last.pt in it; give a run's folder")


def _add_share(weights: dict[str, torch.Tensor]) -> None:
    weights["before.share"] = torch.zeros(weights["embedding.weight"].shape[1])


def _check_kinds(content: dict[str, Any]) -> None:
    """Check that the parts of a checkpoint are mappings, and the values of `data` strings."""
    best = content.get("best", {})
    inner = {f"best {name}": best[name] for name in ("model", "progress")} if best else {}
    parts = {name: content[name] for name in ("data", "model", "progress", "training")}
    for name, part in {**parts, "best": best, **inner}.items():
        if not isinstance(part, dict) or not all(isinstance(key, str) for key in part):
            raise ValueError(f"{name} is not a mapping")
    if not all(isinstance(value, str) for value in content["data"].values()):
        raise ValueError("data does not name a text")


def _is_whole(path: Path, root: Root | None) -> bool:
    """Look for the closing mark before reading the rest, which may have any size."""
    if not path.is_file():
        return True  # reading it raises the right error
    with opened(path, root) as file:
        return ends_with_mark(file)


def _check_sizes(body: bytes) -> None:
    """Check that the archive is not compressed, as torch writes it."""
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        entries = archive.infolist()
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not stored or sum(entry.file_size for entry in entries) > len(body):
            raise ValueError("it would unpack to more than its size")


class _HashingWriter(io.RawIOBase):
    """Forward writes to `file` and hash them."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.failed: OSError | None = None

    def save(self, content: dict[str, Any]) -> None:
        """Call `torch.save`, but raise the disk's own error, which torch replaces."""
        try:
            torch.save(content, self)  # pyright: ignore[reportArgumentType]
        except RuntimeError:
            if self.failed is not None:
                raise self.failed from None
            raise

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.failed = error
            raise

"""Saving and loading a run's state: whole or not at all, and never altered unnoticed.

A checkpoint is a file of `torch.save` followed by its SHA-256 and a closing mark, so
`torch.load(path, weights_only=True)` opens it too.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from dataclasses import dataclass
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
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.machine.cores_and_memory import free_gb
from fundamentallm.model.size import parameter_count
from fundamentallm.model.transformer import Transformer
from fundamentallm.training.state import TrainingState
from fundamentallm.training.stored_tensors import StoredTensorError, check_same, check_stored
from fundamentallm.training.train_step import check_state

FORMAT = 2
WITHOUT_SHARE = 1
"""The format before this; a model of it is one whose tokens take no share of the one before."""
MAY_CHANGE = ("epochs", "max_steps", "max_minutes", "early_stopping", "patience")
UNFIT = (
    "the checkpoint's weights do not fit its configuration and vocabulary, or this version's "
    "model; use the version that wrote it, or train again"
)
FOOTER = hashlib.sha256().digest_size + len(MARK)


class CheckpointError(FundamentallmError):
    """A checkpoint is missing, incomplete, altered, or of another format."""


class UnreadError(CheckpointError):
    """A checkpoint cannot be read now, for a reason that is not in it."""


@dataclass(frozen=True)
class Checkpoint:
    """All that it takes to use a model again, and, in `last.pt`, to train on.

    `training` is empty in `best.pt`, which is for use alone.
    """

    config: Config
    vocabulary: Vocabulary
    data: dict[str, str]
    """Name and SHA-256 of the text."""
    model: dict[str, torch.Tensor]
    """The model's weights, by name."""
    progress: dict[str, Any]
    """Step, best validation loss and the like: plain numbers."""
    training: dict[str, Any]
    """The optimizers' state, the gradient scaler's and the random generators'."""

    def save(self, path: Path, root: Root | None = None) -> None:
        """Write to `path` so that at every instant it holds the old state or the new, whole.

        `root`: below it no link is followed; by default the file's folder.

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
        }
        with replacing(path, root) as file:
            hashing = _HashingWriter(file)
            hashing.save(content)
            file.write(hashing.sha256.digest() + MARK)

    @classmethod
    def load(cls, path: Path, root: Root | None = None) -> Checkpoint:
        """Read `path`, having checked its SHA-256. No code in it is run.

        `root`: below it no link is followed; None if the user named the file itself.

        Raises:
            UnreadError: It is missing, or the disk or the memory fails.
            CheckpointError: It is truncated, altered or of another format.
        """
        try:
            whole = _is_whole(path, root)
            raw = read_file(path, int(1e9 * free_gb()), root=root) if whole else b""
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
            raise UnreadError(f"{path}: memory ran out as it was read") from None
        except Exception as error:  # torch.load raises a dozen kinds on bytes that are not its own
            raise CheckpointError(f"{path}: not a fundamentallm checkpoint ({error})") from None

    def check_continues(self, config: Config, dataset: Dataset) -> None:
        """See that a run of `config` on `dataset` can go on from here.

        Only how long the run is may have changed (`MAY_CHANGE`).

        Raises:
            CheckpointError: The text or a hyperparameter differs; both values are named.
        """
        if not self.training:
            raise CheckpointError("best.pt is for use alone; resume from last.pt")
        try:
            TrainingState.of(self.progress)
        except ValueError:
            raise CheckpointError(
                "the checkpoint does not say where training stands as this version would; use the "
                "version that wrote it"
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
                f"--resume: the checkpoint cannot be trained on from ({error}); use the version "
                "that wrote it, or begin again with --overwrite"
            ) from None

    def missing_from(self, folder: RunFolder) -> str:
        """What of the run so far is no longer in its folder, as after a power cut, in a line."""
        progress = TrainingState.of(self.progress)
        missing: list[str] = []
        rows = [row for row in folder.rows() if row["step"] <= progress.step]
        if "losses" in self.progress and (lost := progress.missing_rows(rows)):  # not an older one
            missing.append(lost)
        sample = max((step for step, _ in folder.written() if step <= progress.step), default=0)
        if sample < progress.sampled_step:
            missing.append(f"the samples of steps {sample + 1:,} to {progress.sampled_step:,}")
        return f"{folder.path}: {' and '.join(missing)} are missing" if missing else ""

    def build_model(self) -> Transformer:
        """The model with its weights, on the CPU, not training.

        Raises:
            CheckpointError: The weights are of another model than this version builds.
        """
        self._check_count()
        model = Transformer(len(self.vocabulary), self.config)
        try:
            check_same(self.model, model.state_dict(), "model")
        except StoredTensorError:
            raise CheckpointError(UNFIT) from None
        model.load_state_dict(self.model)
        return model.eval()

    def _check_count(self) -> None:
        """Count weights before a model is made: a configuration may promise any size."""
        tensors = [each for each in self.model.values() if isinstance(each, torch.Tensor)]
        promised = parameter_count(self.config, len(self.vocabulary))
        if sum(each.numel() for each in tensors) != promised:
            raise CheckpointError(UNFIT)


def find_checkpoint(run_or_checkpoint: str | Path) -> Path:
    """The file itself, or the best checkpoint of a run folder.

    Raises:
        CheckpointError: There is no such file, or no checkpoint in the folder.
    """
    path = Path(run_or_checkpoint)
    if not os.path.isdir(path):
        return path
    if reason := why_misplaced(path, files=FILES):
        raise CheckpointError(reason)
    for name in ("best.pt", "last.pt"):
        if os.path.exists(path / name):  # Path's own raises where it may not look
            return path / name
    raise CheckpointError(f"{path}: no best.pt or last.pt in it; give a run's folder")


def _add_share(weights: dict[str, torch.Tensor]) -> None:
    weights["before.share"] = torch.zeros(weights["embedding.weight"].shape[1])


def _check_kinds(content: dict[str, Any]) -> None:
    """See that the parts of a checkpoint are mappings, and those of `data` texts."""
    for name in ("data", "model", "progress", "training"):
        part = content[name]
        if not isinstance(part, dict) or not all(isinstance(key, str) for key in part):
            raise ValueError(f"{name} is no mapping")
    if not all(isinstance(value, str) for value in content["data"].values()):
        raise ValueError("data names no text")


def _is_whole(path: Path, root: Root | None) -> bool:
    """Look at a file's end, before the rest is read: it may have any size."""
    if not path.is_file():
        return True  # what it is instead is said by who reads it
    with opened(path, root) as file:
        return ends_with_mark(file)


def _check_sizes(body: bytes) -> None:
    """See that the archive is no larger unpacked than packed, as torch writes it."""
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        entries = archive.infolist()
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not stored or sum(entry.file_size for entry in entries) > len(body):
            raise ValueError("it would unpack to more than it is")


class _HashingWriter(io.RawIOBase):
    """Passes writes on to `file` and hashes them on the way."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.failed: OSError | None = None

    def save(self, content: dict[str, Any]) -> None:
        """`torch.save`; a disk's error stays what it is, where torch makes another of it."""
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

"""What `train` and `find learning-rate` do before they train; bad input ends here."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from fundamentallm.cli.messages import warn
from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.builtin_corpus import BUILTIN

if TYPE_CHECKING:
    from fundamentallm.cli.train_request import Request
    from fundamentallm.data.dataset import Dataset
    from fundamentallm.data.text import Text
    from fundamentallm.machine.device import Device


def read_recorded_text(request: Request, data: str | None, sha256: str | None) -> Text:
    """The text called `data`; a warning if it is not the one that a config.yaml was made with.

    Raises:
        DataError: It cannot be read; if a config.yaml names it, the error says how to name it here.
    """
    from fundamentallm.data.text import DataError, is_read_once, read_text

    if data is not None and sha256 and "data" not in request.typed:
        if is_read_once(data):
            raise DataError(
                f"{data}: the run read its text from there, and it is gone; save the same text to "
                f"a file and name that: {request.naming('TEXT.txt')}"
            )
        if data != BUILTIN and not os.path.exists(data):
            raise DataError(
                f"{data}: the run's text is not at {Path(data).absolute()}; say where it is: "
                f"{request.naming(f'PATH/TO/{shlex.quote(Path(data).name)}')}"
            )
    text = read_text(data)
    if sha256 and text.sha256 != sha256:
        warn(
            f"{text.name} is not the text that config.yaml names: its SHA-256 is "
            f"{text.sha256[:12]} and was {sha256[:12]}"
        )
    return text


def prepare_here(text: Text, config: Config, device: str) -> tuple[Dataset, Device]:
    """The text as tokens, and the device called `device`; this process is made fit to train.

    Raises:
        DataError: The text is too short.
        DeviceError: The device is not there.
    """
    from fundamentallm.data.dataset import prepare
    from fundamentallm.machine.cores_and_memory import busy_warning, keep_freed_memory
    from fundamentallm.machine.device import computes_in_half, pick_device

    keep_freed_memory()
    dataset, where = prepare(text, config), pick_device(device)
    for line in dataset.warnings():
        warn(line)
    if where.type == "cpu" and (busy := busy_warning()):
        warn(busy)
    if config.mixed_precision and not computes_in_half(where):
        warn("--mixed-precision: this processor has no bfloat16; the run computes in float32")
    return dataset, where

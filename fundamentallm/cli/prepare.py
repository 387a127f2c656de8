"""Prepare a run for `train` and `find learning-rate`: read the text, check the machine."""

from __future__ import annotations

import os
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fundamentallm.cli.messages import warn
from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.builtin_corpus import BUILTIN

if TYPE_CHECKING:
    from fundamentallm.cli.train_request import TrainRequest
    from fundamentallm.data.text import Text
    from fundamentallm.training.run import PreparedRun


def read_recorded_text(request: TrainRequest, data: str | None, sha256: str | None) -> Text:
    """Read the text called `data`; warn if it differs from the one in config.yaml.

    Raises:
        DataError: It cannot be read; the error then shows the command with another path.
    """
    from fundamentallm.data.text import DataError, is_read_once, read_text

    if data is not None and sha256 and "data" not in request.typed:
        if is_read_once(data):
            raise DataError(
                f"{data}: the run read its text from this pipe, which is gone; save the same text "
                f"to a file and run: {request.command_with_text('TEXT.txt')}"
            )
        if data != BUILTIN and not os.path.exists(data):
            raise DataError(
                f"{data}: the run's text is not at {Path(data).absolute()}; give its path: "
                f"{request.command_with_text(f'PATH/TO/{shlex.quote(Path(data).name)}')}"
            )
    text = read_text(data)
    if sha256 and text.sha256 != sha256:
        warn(
            f"{text.name} is not the text that config.yaml names: its SHA-256 is "
            f"{text.sha256[:12]}, not {sha256[:12]}"
        )
    return text


def prepare_here(text: Text, config: Config, device: str) -> PreparedRun:
    """Prepare a run of `text`; warn if other programs are using this machine's cores.

    Raises:
        DataError: The text is too short.
        DeviceError: The device does not exist here.
        OutOfMemoryError: The model does not fit this machine.
    """
    from fundamentallm.data.dataset import prepare
    from fundamentallm.machine.cores_and_memory import busy_warning
    from fundamentallm.training.run import prepare_run

    run = prepare_run(config, partial(prepare, text), device)
    if run.device.type == "cpu" and (busy := busy_warning()):
        warn(busy)
    return run

"""What `train` and `find learning-rate` do before they train; bad input ends here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fundamentallm.cli.messages import warn
from fundamentallm.hyperparameters import Config

if TYPE_CHECKING:
    from fundamentallm.data import Dataset
    from fundamentallm.device import Device
    from fundamentallm.text import Text


def read_recorded_text(data: str | None, sha256: str | None) -> Text:
    """The text called `data`; a warning if it is not the one that a config.yaml was made with.

    Raises:
        DataError: It cannot be read.
    """
    from fundamentallm.text import read_text

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
    from fundamentallm.data import prepare
    from fundamentallm.device import computes_in_half, pick_device
    from fundamentallm.machine import busy_warning, keep_freed_memory

    keep_freed_memory()
    dataset, where = prepare(text, config), pick_device(device)
    for line in dataset.warnings():
        warn(line)
    if where.type == "cpu" and (busy := busy_warning()):
        warn(busy)
    if config.mixed_precision and not computes_in_half(where):
        warn("--mixed-precision: this processor has no bfloat16; the run computes in float32")
    return dataset, where

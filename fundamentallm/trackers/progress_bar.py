"""Progress bar of a run that Python starts: in a notebook, or on a terminal."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from fundamentallm.files.samples import Sample
from fundamentallm.metrics import score_text
from fundamentallm.trackers.base import Number

SHOWN = ("train_loss", "val_loss")
"""Metrics beside the bar."""


class ProgressBar:
    """A `Tracker` that shows a bar, or nothing where nobody would see it move.

    In a notebook it is a widget if ipywidgets is installed, else a line of text.
    """

    def __init__(self) -> None:
        self.bar: Any = None
        self.losses: dict[str, str] = {}

    def start(
        self,
        settings: Mapping[str, object],
        *,
        total_steps: int,
        step: int,
        facts: Mapping[str, object],
    ) -> None:
        """Show the bar."""
        is_notebook = in_notebook()
        is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self.bar = _bar_class(is_notebook)(
            total=total_steps, initial=step, unit="step", disable=not (is_notebook or is_terminal)
        )

    def set_total(self, total_steps: int) -> None:
        """Set the end of the bar."""
        self.bar.total = total_steps

    def log(self, metrics: Mapping[str, Number], *, step: int) -> None:
        """Move the bar, and show the newest losses."""
        self.losses |= {
            name: f"{name} {score_text(metrics[name])}" for name in SHOWN if name in metrics
        }
        self.bar.set_postfix_str("  ".join(self.losses.values()), refresh=False)
        self.bar.update(step - self.bar.n)

    def log_samples(self, samples: Sequence[Sample], *, step: int) -> None:
        """Show no samples."""

    def finish(self, summary: Mapping[str, object]) -> None:
        """Leave the bar as it is."""
        self.bar.close()


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    return type(get_shell()).__name__ == "ZMQInteractiveShell"


def _bar_class(is_notebook: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that ipywidgets is missing: the bar is then text
        if is_notebook:
            from tqdm.auto import tqdm
        else:
            from tqdm import tqdm
    return tqdm

"""Record of a run that our trainer does not execute: its parameters, rows, config and summary."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fundamentallm.files.atomic import make_folder, replace_text, writing
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.metrics import finite
from fundamentallm.status import RunStatus
from fundamentallm.sweep.program.command import json_text
from fundamentallm.sweep.program.environment import OWN_FILES
from fundamentallm.sweep.program.logged import Logged, LoggedRow, settings
from fundamentallm.sweep.program.transaction_log import FOLDERS, rest_of_logs

if TYPE_CHECKING:
    from fundamentallm.sweep.engine.program_job import ProgramJob

LOG_SECONDS = 15.0
"""Timeout for the rest of the W&B client's log after the program has ended."""
LONGEST_VALUE = 1_000
"""Characters of a value of the config or the summary; longer ones are left out."""
ABANDONED = "abandoned"
"""Folder of a run for the logs of attempts whose rows were dropped, where `wandb sync` is not."""


def write_parameters(job: ProgramJob, folder: RunFolder) -> None:
    """Write the files in which W&B's agent passes a run its values, in YAML and JSON.

    Raises:
        DiskError: They cannot be written.
    """
    import yaml

    file = job.parameters_file
    with writing(folder.path / file):
        for inner in (Path(OWN_FILES), *reversed(file.parents[:-1])):
            make_folder(folder.path / inner, folder.root)
    content = {name: {"value": value} for name, value in job.parameters.items()}
    text = yaml.safe_dump({"wandb_version": 1, **content}, allow_unicode=True)
    replace_text(folder.path / file, text, folder.root)
    json_file = folder.path / file.with_suffix(".json")
    replace_text(json_file, json_text(job.parameters), folder.root)


def earlier_logs(folder: RunFolder) -> list[Path]:
    """Return the W&B client's folders of earlier attempts of a run."""
    return [path for name in FOLDERS for path in (folder.path / "wandb").glob(name)]


class Record:
    """Files of a run that another program executes: rows, config, summary."""

    def __init__(self, job: ProgramJob, folder: RunFolder, earlier: list[Path]) -> None:
        """Prepare; `earlier` are the W&B client's folders of earlier attempts."""
        self.job, self.folder, self.earlier = job, folder, earlier
        self.started_at = time.time()
        self.first_step: int | None = None
        self.last_step: int | None = None
        self.names: set[str] = set()
        self.summary: dict[str, Any] = {}
        self.config: dict[str, Any] = {}

    def start(self) -> None:
        """Write the run's configuration, and that it is in progress."""
        process = {"host": socket.gethostname(), "process": os.getpid()}
        self.folder.write_summary(
            {"status": RunStatus.RUNNING, "program": self.job.shown, **process}
        )
        self._write_config()
        self.folder.append(self.folder.metrics, "")

    def _write_config(self) -> None:
        self.folder.write_program_config(settings(self.job.flat) | _short(self.config))

    def add(self, logged: Logged) -> None:
        """Add new rows, and new values of the summary and the config.

        The first row decides which rows of earlier attempts count. A program that starts from its
        beginning replaces them all. One that resumed by itself logs larger steps, and keeps the
        rows before its first.
        """
        if logged.rows and self.first_step is None:
            self.first_step = logged.rows[0].step
            self._drop_earlier(before=self.first_step)
        if logged.rows:
            self.last_step = logged.rows[-1].step
            self.names.update(*(row.metrics for row in logged.rows))
            self._append(logged.rows)
        self.summary |= logged.summary
        self.summary = {name: v for name, v in self.summary.items() if v is not None}
        if logged.config:
            self.config |= logged.config
            self._write_config()

    def _append(self, rows: Sequence[LoggedRow]) -> None:
        lines: list[str] = []
        for row in rows:
            metrics = {name: value for name, value in row.metrics.items() if name != "step"}
            lines.append(json.dumps({"step": row.step, **metrics}, allow_nan=False) + "\n")
        self.folder.append(self.folder.metrics, "".join(lines))

    def complete_earlier(self) -> None:
        """Add the rows that earlier attempts logged after the last one that was recorded.

        Their supervisor may have been killed before it read them.
        """
        last = self._last_recorded()
        rows = rest_of_logs(self.earlier, LOG_SECONDS).rows
        self._append([row for row in rows if last is None or row.step > last])

    def _last_recorded(self) -> int | None:
        return max((row["step"] for row in self.folder.rows()), default=None)

    def drop_rows(self) -> None:
        """Drop the rows of this attempt."""
        if self.first_step is not None:
            self.folder.rewind(self.first_step - 1)
            self.first_step = self.last_step = None
            self.names.clear()

    def _drop_earlier(self, *, before: int) -> None:
        self.folder.rewind(before - 1)
        if self.earlier and not self.folder.metric_lines():
            abandoned = self.folder.path / ABANDONED
            make_folder(abandoned, self.folder.root)
            for path in self.earlier:
                path.rename(abandoned / path.name)
            self.earlier = []

    def why_no_score(self, metric: str) -> str:
        """Return that the metric was never logged, and what was; "" if it was, or there is none."""
        if not metric:
            return ""
        names = self.names or {name for row in self.folder.rows() for name in row}
        if metric in names or finite(self.summary.get(metric)) is not None:
            return ""
        from difflib import get_close_matches

        known = sorted({*names, *self.summary} - {"step"})
        if not known:
            return f"no {metric} was logged, nor anything else; see docs/your-program.md"
        near = get_close_matches(metric, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; it logged {', '.join(known[:10])}"
        return f"{metric} was never logged{hint}"

    def finish(self, status: RunStatus, stopped_by: str, exit_code: int | None) -> None:
        """Write the end of the run.

        Rows of earlier attempts stay if this one logged none: it resumed where only the end was
        left.
        """
        last_step = self.last_step if self.first_step is not None else self._last_recorded()
        step = {} if last_step is None else {"step": last_step}
        self.folder.sync()
        self.folder.write_summary(
            {
                "status": status,
                "stopped_by": stopped_by,
                **step,
                "seconds": round(time.time() - self.started_at, 3),
                "program": self.job.shown,
                "exit_code": exit_code,
                "summary": _short(self.summary),
            }
        )


def _short(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if len(repr(value)) <= LONGEST_VALUE}

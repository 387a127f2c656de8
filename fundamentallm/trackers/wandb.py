"""W&B tracker: sends a run to Weights & Biases, and never lets W&B delay the run.

Only files of this package with `wandb` in their name import wandb; report/ uses its API.
docs/wandb.md explains what happens when W&B is unreachable.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fundamentallm.errors import FundamentallmError, type_and_message
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.files.samples import Sample
from fundamentallm.status import RunStatus
from fundamentallm.trackers import wandb_client, wandb_identity
from fundamentallm.trackers.base import Number, TrackerError
from fundamentallm.trackers.sender import Sender
from fundamentallm.trackers.wandb_identity import DEFAULT_PROJECT, Place
from fundamentallm.trackers.wandb_session import (
    INIT_SECONDS,
    RunOptions,
    WandbSession,
    finish_seconds,
)

LOG = logging.getLogger(__name__)

LOGIN_SECONDS = 30.0
"""Timeout for the client to start and to find a key."""
START_SECONDS = 35.0
"""Timeout for the start of a run, beyond that of `wandb.init`."""
HUNG_SECONDS = 60.0
"""Timeout for a row; the client takes rows at once, so it hangs."""
GRACE_SECONDS = 3.0
"""Extra time to finish, and time for a call to fail once the client's process is killed."""
LONGEST_REASON = 200
RESTARTS = 3
"""Restarts of the client per run, whose process may be killed."""


def why_unusable() -> str | None:
    """Return why W&B cannot be used, in one line; "" if the user disabled it; None if it can.

    Looks for a key like the client, and never prompts for one.
    """
    try:
        return wandb_client.within(LOGIN_SECONDS, _why_unusable)
    except Exception as error:  # an invalid key, a service that cannot start, ...
        return f"W&B cannot be used ({wandb_client.why(error)[:LONGEST_REASON]})"


def _why_unusable() -> str | None:
    mode = wandb_client.start().mode
    if mode == "disabled":
        return ""
    if mode in wandb_client.OFFLINE or wandb_client.log_in():
        return None
    return "no W&B key was found (wandb login stores one)"


def is_online() -> bool:
    """Return whether runs are sent to W&B while they train."""
    return wandb_client.settings().mode not in wandb_client.OFFLINE


def why_not_trusted(folder: RunFolder) -> str:
    """Return why the run in `folder` is not sent to W&B, in one line; "" if it is."""
    return wandb_identity.why_not_trusted(folder, wandb_client.settings())


def config_on_wandb(run_id: str) -> Mapping[str, Any] | None:
    """Return the config of a run in the project of the user's settings; None if it is not there.

    Raises:
        WandbApiError: W&B does not answer.
    """
    known = wandb_client.settings()
    place = Place(known.entity, known.project or DEFAULT_PROJECT, run_id)
    return wandb_identity.config_on_wandb(place)


class WandbTracker:
    """A `Tracker` that logs rows and samples by optimizer step, and finally the model.

    A thread of its own talks to the client; training waits for it only at the start and the end,
    for a limited time. After `finish`, `stopped_by_wandb` and `undelivered` are final.
    """

    def __init__(
        self, folder: RunFolder, options: RunOptions | None = None, *, required: bool = False
    ) -> None:
        """Set up the tracker; nothing is sent until `start`.

        Args:
            folder: The run's folder; W&B receives from it what it lacks.
            options: How the run appears on W&B.
            required: Whether `start`, or `log` at its first row, fails if the client cannot log.
        """
        self.folder, self.options, self.required = folder, options or RunOptions(), required
        self.stopped_by_wandb = False
        """True once W&B has asked the run to stop; set by another thread at any time."""
        self.undelivered = ""
        """Data that W&B did not receive, in one line; "" if it has everything."""
        self.settings: Mapping[str, object] = {}
        self.facts: Mapping[str, object] = {}
        self.session: WandbSession | None = None
        self.sender: Sender | None = None
        self.samples: list[Sample] = []
        self.restarts_left = RESTARTS
        self.given_up = ""
        """Why nothing more is sent, in one line; "" while rows are sent."""
        self.refused: FundamentallmError | None = None
        self.killed = self.is_training = self.has_logged = False

    def start(
        self,
        settings: Mapping[str, object],
        *,
        total_steps: int,
        step: int,
        facts: Mapping[str, object],
    ) -> None:
        """Start or resume the run on W&B, and send the rows of its folder that W&B lacks.

        Raises:
            TrackerError: The client cannot log, and the tracker is required.
        """
        self.settings, self.facts = settings, facts
        self.sender = Sender("wandb-sender")
        self.sender.put(partial(self._attempt, lambda session: None))
        seconds = START_SECONDS + _init_seconds()
        if not self.sender.wait(seconds):
            self._stop_sender(f"W&B's client did not start within {seconds:g} s")
        if self.refused is not None:
            raise self.refused
        self._fail_if_required()
        if self.given_up:
            self._warn_of_retry()
        self.is_training = True

    def _fail_if_required(self) -> None:
        if self.given_up and self.required:
            raise TrackerError(
                f"{self.given_up}, so this run would train for nothing; install another version of "
                "wandb, or run the sweep without W&B: fundamentallm sweep"
            )

    def log(self, metrics: Mapping[str, Number], *, step: int) -> None:
        """Send a row with the samples of the same step, unless W&B has it.

        Raises:
            TrackerError: The client does not take the first row, and the tracker is required.
        """
        samples, self.samples = self.samples, []
        if self.given_up or self.sender is None:
            return
        if self.sender.busy_seconds() > HUNG_SECONDS:
            self._unblock()
        row = dict(metrics)
        self.sender.put(partial(self._attempt, lambda session: session.send(row, samples, step)))
        if self.required and not self.has_logged:
            if not self.sender.wait(HUNG_SECONDS):
                self._stop_sender(f"W&B's client did not take a row within {HUNG_SECONDS:g} s")
            self._fail_if_required()
            self.has_logged = True

    def log_samples(self, samples: Sequence[Sample], *, step: int) -> None:
        """Keep the samples for the next row, since a kill could split a step sent in two parts."""
        self.samples = list(samples)

    def finish(self, summary: Mapping[str, object]) -> None:
        """Send the summary and the model, and wait for the upload up to a time limit."""
        if self.sender is None:
            return
        if self.given_up and not wandb_client.hangs():
            self.given_up, self.restarts_left = "", 1  # W&B may take the run now
        if not self.given_up:
            self.is_training = False
            began_with, seconds = self.restarts_left, self._finish_seconds()
            self.sender.put(partial(self._attempt, partial(self._finish, summary)))
            ended = self.sender.wait(seconds)
            if not ended and self.restarts_left < began_with:  # the restart takes its own time
                ended = self.sender.wait(START_SECONDS + _init_seconds())
            if not ended:
                self._stop_sender(f"W&B did not receive everything within {seconds:g} s")
        self.sender.end()
        if self.given_up:
            self._note_undelivered(self.given_up)

    def _finish_seconds(self) -> float:
        return finish_seconds(log_model=self.options.log_model) + GRACE_SECONDS

    def _attempt(self, action: Callable[[WandbSession], None]) -> None:
        """Try `action`; if the client fails, resume the run on W&B and try again.

        After a few failures W&B is given up until the end: no client error may end a training run.
        """
        while not self.given_up:
            try:
                if self.session is None:
                    self.session = WandbSession(
                        self.folder, self.options, self.settings, self.facts, self._note_stop
                    )
                    self.session.catch_up()
                action(self.session)
                return
            except FundamentallmError as error:
                self.refused, self.given_up = error, str(error)
            except Exception as error:
                failed, self.session = self.session, None
                again = failed is not None or wandb_client.is_gone()
                wandb_client.end(at_once=True)
                if failed is not None:
                    failed.abandon()
                reason = f"W&B's client failed ({type_and_message(error)})"
                if self.given_up:  # by the thread that waited
                    return
                if again and self.restarts_left:
                    self.restarts_left -= 1
                    LOG.warning("%s and is started again", reason)
                    continue
                self.given_up = reason
                if self.is_training:
                    self._warn_of_retry()

    def _finish(self, summary: Mapping[str, object], session: WandbSession) -> None:
        status, stopped_by = str(summary["status"]), str(summary.get("stopped_by", ""))
        if status == RunStatus.INTERRUPTED:
            unclear = ("SIGTERM",) if wandb_client.tells_stops() else ("SIGTERM", "SIGINT")
            if stopped_by in unclear and not self.stopped_by_wandb:
                self.stopped_by_wandb = session.was_asked_to_stop()
            if self.stopped_by_wandb:
                stopped_by = "wandb"
        problem = session.finish(summary, stopped_by)
        if problem and not self.given_up:
            self._note_undelivered(problem, session)

    def _note_undelivered(self, problem: str, session: WandbSession | None = None) -> None:
        """Say what W&B did not receive, and which command sends it."""
        command = f"fundamentallm sync {_path(self.folder.path)}"
        if session is not None and session.offline_by_choice:
            command = f"wandb sync {_path(session.run.settings.sync_dir)}"
        self.undelivered = f"{problem}; the whole run is kept; send it with: {command}"

    def _warn_of_retry(self) -> None:
        LOG.warning("%s; the run continues, and is sent at its end", self.given_up)

    def _note_stop(self) -> None:
        self.stopped_by_wandb = True

    def _unblock(self) -> None:
        """Kill the client's process, once, so that a call that hangs fails and is tried again."""
        if not self.killed:
            self.killed = True
            wandb_client.kill()
        elif self.sender is not None and self.sender.busy_seconds() > 2 * HUNG_SECONDS:
            self._stop_sender(f"W&B's client hangs for {2 * HUNG_SECONDS:g} s")
            LOG.warning("%s; the run continues without W&B", self.given_up)

    def _stop_sender(self, reason: str) -> None:
        """Give up W&B: kill the client's process, and leave the thread behind if it hangs on."""
        assert self.sender is not None
        self.given_up = reason
        wandb_client.kill()
        if not self.sender.wait(GRACE_SECONDS):
            wandb_client.leave_behind(self.sender.thread)


def _init_seconds() -> float:
    try:
        return float(os.environ["WANDB_INIT_TIMEOUT"])
    except (LookupError, ValueError):
        return INIT_SECONDS


def _path(folder: str | Path) -> str:
    """Return a path for a command of the user, whose current folder a trial of a sweep left."""
    path = os.path.relpath(folder)
    return shlex.quote(os.path.abspath(folder) if path.startswith(".") else path)

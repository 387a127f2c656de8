"""One session of W&B's client with a run: from `wandb.init` to `finish`, in one thread.

A session knows what W&B has, and sends the rest from the run's folder. If it fails, `WandbTracker`
begins another. Errors of any type come from the client, and all methods may hang.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from fundamentallm import exit_codes
from fundamentallm.config.run_name import run_name
from fundamentallm.errors import one_line, type_and_message
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.files.samples import Sample
from fundamentallm.metrics import OF_EVALUATIONS
from fundamentallm.status import RunStatus
from fundamentallm.trackers import wandb_client
from fundamentallm.trackers.base import Number
from fundamentallm.trackers.reach import unreachable
from fundamentallm.trackers.wandb_api import WandbApiError
from fundamentallm.trackers.wandb_identity import (
    ASK_SECONDS,
    DEFAULT_PROJECT,
    Place,
    new_run_id,
    state_on_wandb,
    store_place,
    stored_place,
    sweep_on_wandb,
)
from fundamentallm.trackers.wandb_presentation import (
    AXES,
    Labels,
    config,
    display_name,
    divergence_alert,
    end_tags,
    model_artifact,
    samples_page,
    summary_numbers,
    sweep_labels,
)

# After wandb_client, which sets a variable that the client reads when it is imported.
import wandb  # isort: skip

LOG = logging.getLogger(__name__)

INIT_SECONDS = 10.0
FINISH_SECONDS = 30.0
FINISH_SECONDS_WITH_MODEL = 120.0
FLUSH_SECONDS = 1.0  # between writes of the file that `wandb sync` sends
EXIT_SECONDS = 1.0  # for the client's process to end after its connection broke


@dataclass(frozen=True)
class RunOptions:
    """Appearance of a run on W&B, and what is sent there."""

    labels: Labels | None = None
    """Names under which people find the run; None if its settings, or only W&B's sweep, name it."""
    tags: Sequence[str] = ()
    """Tags beside those of WANDB_TAGS."""
    swept: Mapping[str, Any] | None = None
    """Values that the sweep set, by its own names, which only W&B may change; None outside a sweep
    on W&B."""
    log_model: bool = False
    """True if best.pt becomes an artifact."""
    cache: str = ""
    """WANDB_CACHE_DIR, if only this run uses it; removed at the end."""
    in_sweep: bool = False
    """True if a sweep sets the entity and project of the run."""
    own_consent: bool = True
    """True if this command line chose where the run goes, False if its sweep did."""


class WandbSession:
    """A run of W&B's client, online or offline."""

    def __init__(
        self,
        folder: RunFolder,
        options: RunOptions,
        settings: Mapping[str, object],
        facts: Mapping[str, object],
        on_stop: Callable[[], None],
    ) -> None:
        """Start or resume the run on W&B; start it offline if W&B cannot be reached.

        Args:
            folder: The run's folder.
            options: How the run appears on W&B.
            settings: Contents of config.yaml.
            facts: More about the run, for its config.
            on_stop: Called by another thread at any time once W&B asks the run to stop.
        """
        self.folder, self.options = folder, options
        self.settings, self.facts = settings, facts
        self.on_stop = on_stop
        self.why_offline = ""
        """Why nothing is sent, "" if rows are."""
        self.offline_by_choice = False
        """True if the user's settings keep the run offline."""
        self.sent_step = -1
        """Last step that W&B has or was sent."""
        self.unsent_samples = ""
        """Why samples were not sent, in one line; "" if they were."""
        self.run = self._begin()
        for axis in AXES:
            self.run.define_metric(**axis)
        self.files = wandb_client.ClientFiles(self.run, options.cache)
        if self.run.resumed:
            self.sent_step = self.run.starting_step - 1
            self.files.send_earlier_media(self.run)

    def catch_up(self) -> None:
        """Send the rows of the run's folder that W&B lacks."""
        written: dict[int, list[Sample]] = {}
        for at, sample in self.folder.read_samples():
            written.setdefault(at, []).append(sample)
        for row in self.folder.rows():
            at = row.pop("step")
            self.send(row, written.get(at, []), at)

    def send(self, metrics: Mapping[str, Number], samples: Sequence[Sample], step: int) -> None:
        """Send a row with the samples of the same step, unless W&B has it.

        If the client fails at the samples, the row is sent without them.
        """
        if step <= self.sent_step:
            return
        row: dict[str, Any] = dict(metrics)
        try:
            self.run.log({**row, **self._logged(samples, step)}, step=step, commit=True)
        except Exception as error:
            if not samples or wandb_client.is_gone(wait=EXIT_SECONDS):
                raise
            self.run.log(row, step=step, commit=True)
            self.unsent_samples = f"samples were not sent ({type_and_message(error)})"
        self.sent_step = step

    def _logged(self, samples: Sequence[Sample], step: int) -> dict[str, Any]:
        if not samples:
            return {}
        page = samples_page([(step, sample) for sample in samples])
        return {"samples": wandb.Html(page, inject=False)}

    def was_asked_to_stop(self) -> bool:
        """Ask W&B now whether the run is to stop; the client asks only every 15 s."""
        try:
            return not self.why_offline and bool(self._on_wandb()["stopped"])
        except Exception:  # W&B is unreachable, so it did not ask for a stop
            return False

    def finish(self, summary: Mapping[str, Any], stopped_by: str) -> str:
        """Send the summary and the model, and end the run.

        Args:
            summary: Content of summary.json.
            stopped_by: What stopped the run.

        Returns:
            What W&B did not receive, in one line; "" if it has everything.

        Raises:
            ConnectionError: The client's process has ended.
            Exception: Any other type, from the client.
        """
        run, status = self.run, str(summary["status"])
        if wandb_client.is_gone():
            raise ConnectionError("its process has ended")
        in_sweep = self.options.swept is not None or bool(run.sweep_id)
        code = exit_codes.of_run(status, stopped_by, in_sweep=in_sweep)
        requeued = code in (exit_codes.PREEMPTED, exit_codes.HUNG_UP)
        before = tuple(run.tags or ())
        if (tags := end_tags(before, status, requeued=requeued)) != before:
            run.tags = tags
        if status in (RunStatus.DIVERGED, RunStatus.IMPOSSIBLE) and not summary.get("best_step"):
            # Never evaluated, but a sweep needs a score.
            score = {name: summary[name] for name in OF_EVALUATIONS if name in summary}
            self.send(score, [], run.step)
        folder = self.folder.moved()
        rows = folder.rows() if folder else ()
        run.summary.update(summary_numbers({**summary, "stopped_by": stopped_by}, rows))
        if not (in_sweep or self.options.in_sweep) and (alert := divergence_alert(summary)):
            run.alert(**alert)
        if self.options.log_model and summary.get("best_step") and folder and folder.best.exists():
            self._log_model(folder, summary)
        if requeued:
            run.mark_preempting()
        problem = self._end(code)
        self.files.clear(sent=not problem)
        return problem or self.unsent_samples

    def _end(self, code: int) -> str:
        """Finish within the client's own time limit; return what W&B did not receive."""
        began = time.monotonic()
        try:
            self.run.finish(exit_code=code)
        except TimeoutError:
            return f"W&B did not receive everything within {time.monotonic() - began:.0f} s"
        finally:
            wandb_client.end()
        if self.why_offline:
            return f"nothing was sent to W&B ({self.why_offline})"
        try:
            if self._on_wandb()["state"] == "running":
                return "W&B has not seen the end of the run"
        except WandbApiError as error:
            return f"W&B does not answer ({one_line(error)})"
        return ""

    def _on_wandb(self) -> Mapping[str, Any]:
        return state_on_wandb(Place(self.run.entity, self.run.project, self.run.id))

    def abandon(self) -> None:
        """Remove temporary files of a session that failed."""
        self.files.clear(sent=False)

    def _begin(self) -> wandb.Run:
        """Start online, or else offline, so that the run can be sent later."""
        known = wandb_client.start()
        stored = stored_place(self.folder)
        if known.mode in wandb_client.OFFLINE:
            self.why_offline, self.offline_by_choice = f"WANDB_MODE is {known.mode}", True
        elif not (known.http_proxy or known.https_proxy) and (
            reason := unreachable(known.base_url, ASK_SECONDS)
        ):
            self.why_offline = reason
        options = self._init_options(known, stored)
        if not self.why_offline:
            kept = {"name", "tags", "group", "notes"} if stored.run_id else set[str]()
            if known.run_name:  # the client would send it as it is typed
                kept.discard("name")
            sent = {k: v for k, v in options.items() if k not in kept}  # keep changes made on W&B
            known_there = self.options.swept is not None or known.run_id or stored.run_id
            resume: Any = os.environ.get("WANDB_RESUME") or ("allow" if known_there else None)
            try:
                run = wandb.init(**sent, resume=resume, settings=self._limits())
                if run.resumed:
                    run.config.update(options["config"], allow_val_change=True)
                elif stored.run_id:  # W&B does not have the run
                    run.name, run.tags = options["name"] or run.name, options["tags"]
            except Exception as error:  # the client raises many types
                if wandb_client.is_gone(wait=EXIT_SECONDS):
                    raise
                self.why_offline = wandb_client.why(error)
                wandb_client.end()  # the failed attempt would keep the id in use
            else:
                self._store_place(Place(run.entity, run.project, run.id))
                return run
        if known.mode not in wandb_client.OFFLINE:
            LOG.warning(
                "W&B cannot be reached (%s); the run continues without it", self.why_offline
            )
        run = wandb.init(**options, mode="offline", settings=self._limits())
        self._store_place(Place(run.entity, run.project, run.id))
        return run

    def _init_options(self, known: Any, stored: Place) -> dict[str, Any]:
        """Return the arguments of `wandb.init`, and store the run's place.

        Args:
            known: Settings of the client.
            stored: Place in the run's folder.
        """
        mine, swept = self.options, self.options.swept
        labels = mine.labels or (Labels() if swept is None else self._sweep_labels(known, swept))
        labels = labels if labels.name else replace(labels, name=run_name(self.settings))
        options: dict[str, Any] = {
            "config": config(self.settings, self.facts, swept, labels.varied),
            "group": known.run_group or labels.group or None,
            "job_type": known.run_job_type or "train",
            "name": display_name(known.run_name, labels, in_sweep=mine.in_sweep),
            "notes": known.run_notes or labels.notes or None,
            "tags": [*(known.run_tags or ()), *mine.tags],
        }
        if swept is None:
            place = Place(
                (None if mine.in_sweep else stored.entity) or known.entity,
                (None if mine.in_sweep else stored.project) or known.project or DEFAULT_PROJECT,
                known.run_id or stored.run_id or new_run_id(),
            )
            self._store_place(place)  # W&B may have the run before the client answers
            options |= {"project": place.project, "entity": place.entity, "id": place.run_id}
        return options

    def _sweep_labels(self, known: Any, swept: Mapping[str, Any]) -> Labels:
        """Return the labels of an agent's run, whose sweep only W&B knows."""
        content: Mapping[str, Any] = {}
        sweep = os.environ.get("WANDB_SWEEP_ID", "")
        if not self.why_offline:
            with suppress(WandbApiError):
                content = sweep_on_wandb(known.entity, known.project, sweep)
        return sweep_labels(content, swept, sweep=sweep)

    def _store_place(self, place: Place) -> None:
        store_place(self.folder, place, consented=self.options.own_consent)

    def _limits(self) -> wandb.Settings:
        """Return settings that limit how long W&B may delay a run and handle its stop button."""
        on_stop = self.on_stop
        limits: dict[str, Any] = {
            "finish_timeout_raises": True,
            # A lambda, because the client deep-copies its settings, a bound method's object too.
            "stop_fn": lambda: on_stop(),
            # We wait less than the client's default of 15 s, so its last rows would be lost.
            "x_transaction_log_flush_interval": FLUSH_SECONDS,
        }
        if "WANDB_INIT_TIMEOUT" not in os.environ:
            limits["init_timeout"] = INIT_SECONDS
        if "WANDB_FINISH_TIMEOUT" not in os.environ:
            limits["finish_timeout"] = finish_seconds(log_model=self.options.log_model)
        return wandb_client.run_settings(**limits)

    def _log_model(self, folder: RunFolder, summary: Mapping[str, Any]) -> None:
        described, aliases = model_artifact(self.run.id, self.settings, summary)
        with self.files.used():
            artifact = wandb.Artifact(**described)
            artifact.add_file(str(folder.best), name="best.pt")
            self.run.log_artifact(artifact, aliases=aliases)


def finish_seconds(*, log_model: bool) -> float:
    """Return how long the upload at the end may take, in seconds; WANDB_FINISH_TIMEOUT wins."""
    try:
        return float(os.environ["WANDB_FINISH_TIMEOUT"])
    except (LookupError, ValueError):
        return FINISH_SECONDS_WITH_MODEL if log_model else FINISH_SECONDS

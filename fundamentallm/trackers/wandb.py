"""Shows a run on Weights & Biases, and never lets W&B hold the run up.

Of a run, the only file that imports wandb; report/read_wandb.py asks its API. What the client does
when W&B is away, and how the settings here were chosen, is in docs/wandb.md.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

# The client's reports of its own errors are tried again at exit, for up to 20 s, when W&B is away.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import wandb
from wandb.sdk.lib.runid import generate_id

from fundamentallm import exit_codes
from fundamentallm.errors import one_line, type_and_message
from fundamentallm.files.atomic import read_file, replace_text
from fundamentallm.files.consent import remember, was_asked
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.files.samples import Sample
from fundamentallm.metrics import OF_EVALUATIONS
from fundamentallm.status import RunStatus
from fundamentallm.trackers import wandb_service
from fundamentallm.trackers.base import Number
from fundamentallm.trackers.reach import unreachable
from fundamentallm.trackers.wandb_files import OwnFiles

LOG = logging.getLogger(__name__)

LONGEST_ID = 1 << 12
INIT_SECONDS = 10.0
FINISH_SECONDS = 30.0
FINISH_SECONDS_WITH_MODEL = 120.0
FLUSH_SECONDS = 1.0  # between writings of W&B's own file, from which `wandb sync` sends
ASK_SECONDS = 5
OFFLINE = ("offline", "dryrun")  # what the client's mode may be
LAST_SECONDS = 1.0  # that the client's process may live on after it was told to end
RESTARTS = 3  # of the client, in a run's life: its process may have been killed
SAMPLE_COLUMNS: list[str | int] = ["step", "prompt", "temperature", "text"]
STOPPED = """query RunStoppedStatus($projectName: String, $entityName: String, $runId: String!) {
  project(name: $projectName, entityName: $entityName) { run(name: $runId) { stopped state } }
}"""


def why_not() -> str | None:
    """Why W&B can show no run from here: a line, "" where the user wants none; else None.

    Looks for a key where the client does, and never asks for one.
    """
    try:
        mode = wandb_service.started().settings.mode
        if mode == "disabled":
            return ""
        if mode in OFFLINE or wandb.login(prompt=False, verify=False):
            return None
    except (ImportError, AttributeError):
        raise
    except Exception as error:  # a key that is no key; its service that cannot be started; ...
        return f"W&B cannot be used ({one_line(error, 200)}), so this run stays on this machine"
    return (
        "no W&B key was found, so this run stays on this machine; to follow it on W&B, log in "
        "by: wandb login (and --no-wandb keeps a run here without this line)"
    )


def is_online() -> bool:
    """Whether runs are sent to W&B as they go."""
    return wandb_service.started().settings.mode not in OFFLINE


def stored_place(folder: RunFolder) -> tuple[str | None, str | None, str | None]:
    """Entity, project and id on W&B of the run in `folder`; an older file has the id alone."""
    try:
        content = read_file(folder.wandb_id, LONGEST_ID, root=folder.root)
    except FileNotFoundError:
        content = b""
    words = content.decode("utf-8", "replace").strip().split("/")
    entity, project, run_id = [None, None, None, *words][-3:]
    return entity or None, project or None, run_id or None


def why_not_there(folder: RunFolder) -> str:
    """Why the run in `folder` is not sent to its place on W&B: it may be the choice of others.

    Returns:
        One line that says how to allow it; empty if this user chose it, or there is none.
    """
    try:
        place = stored_place(folder)
    except OSError as error:
        return f"{folder.wandb_id}: cannot be read ({error.strerror}), so nothing is sent to W&B"
    known = wandb_service.started().settings
    given = known.entity, known.project, known.run_id
    typed = all(ours in (None, own) for ours, own in zip(place, given, strict=True))
    if typed or was_asked(folder.path, wandb="/".join(part or "" for part in place)):
        return ""
    names = ("WANDB_ENTITY", "WANDB_PROJECT", "WANDB_RUN_ID")
    words = (f"{name}={shlex.quote(part)}" for name, part in zip(names, place, strict=True) if part)
    return (
        f"{folder.wandb_id}: this run is on W&B, and no record on this machine says that you began "
        f"it, so nothing is sent; to go on there, set {' '.join(words)}"
    )


class WandbTracker:
    """A `Tracker` that logs rows and samples under the optimizer step, and at the end the model.

    After `finish`, `stopped_by_wandb` and `undelivered` are final.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        name: str = "",
        tags: Sequence[str] = (),
        swept: Sequence[str] | None = None,
        log_model: bool = False,
        cache: str = "",
        in_sweep: bool = False,
    ) -> None:
        """Nothing is sent until `start`.

        Args:
            folder: The run's: what W&B lacks when a run is resumed is read from it.
            name: What people see, if they set no WANDB_NAME.
            tags: Added to WANDB_TAGS.
            swept: The names of the sweep's parameters, which only W&B may set; None outside one.
            log_model: Whether best.pt becomes an artifact.
            cache: The client's WANDB_CACHE_DIR, if that is this run's alone and ends with it.
            in_sweep: Whether a sweep says to which entity and project the run belongs.
        """
        self.folder, self.name, self.tags = folder, name, tuple(tags)
        self.swept, self.log_model, self.cache = swept, log_model, cache
        self.in_sweep = in_sweep
        self.stopped_by_wandb = False
        """Whether W&B asked for the run to end; set at any time, by another thread."""
        self.undelivered = ""
        """One line, if not everything is known to have reached W&B."""
        self.run: wandb.Run | None = None
        self.files: OwnFiles
        self.api: wandb.Api | None = None
        self.settings: Mapping[str, object] = {}
        self.step = 0
        self.held = -1  # the last step that W&B holds, or was sent
        self.restarts_left = RESTARTS
        self.given_up = False
        self.samples: list[Sample] = []
        self.why_offline = ""

    def start(self, settings: Mapping[str, object], *, total_steps: int, step: int) -> None:
        """Begin or resume the run on W&B, and send it the rows up to `step` that it lacks."""
        self.settings, self.step = settings, step
        self._attempt(lambda run: None)
        if self.given_up:
            LOG.warning("%s", self.undelivered)

    def _start(self) -> wandb.Run:
        self.held, self.why_offline = -1, ""
        run = self._begin(self.settings)
        self.files = OwnFiles(run, self.cache)
        if run.resumed:
            self.held = run.starting_step - 1
            self._send_tables_again(run)
        if self.step:
            written: dict[int, list[Sample]] = {}
            for at, sample in self.folder.written():
                written.setdefault(at, []).append(sample)
            for row in self.folder.rows():
                at = row.pop("step")
                self._send(run, row, written.get(at, []), at)
        return run

    def log(self, metrics: Mapping[str, Number], *, step: int) -> None:
        """Send a row, and with it the samples of the same step, unless W&B holds it."""
        samples, self.samples, self.step = self.samples, [], step
        if self.given_up:
            return
        self._attempt(lambda run: self._send(run, metrics, samples, step))
        if self.given_up:
            LOG.warning("%s; the run goes on without W&B", self.undelivered)

    def _send(
        self, run: wandb.Run, metrics: Mapping[str, Any], samples: Sequence[Sample], step: int
    ) -> None:
        if step <= self.held:
            return
        row = dict(metrics)
        with self.files.used():
            if samples:
                data = [[step, each.prompt, each.temperature, each.text] for each in samples]
                row["samples"] = wandb.Table(columns=SAMPLE_COLUMNS, data=data)
            run.log(row, step=step, commit=True)
        self.held = step

    def log_samples(self, samples: Sequence[Sample], *, step: int) -> None:
        """Keep them for the row: one step is sent in one piece, or a kill could halve it."""
        self.samples = list(samples)

    def finish(self, summary: Mapping[str, object]) -> None:
        """Tell W&B how it ended and what is best, and wait for the upload, but not for ever."""
        self._attempt(lambda run: self._finish(run, summary))

    def _attempt(self, action: Callable[[wandb.Run], None]) -> None:
        """Do it; where the client fails, begin the run anew as one that is resumed, and do it then.

        No error of the client's is worth a training run: after a few, W&B is given up.
        """
        while not self.given_up:
            try:
                if self.run is None:
                    self.run = self._start()
                action(self.run)
                return
            except Exception as error:
                failed, self.run = self.run, None
                again = failed is not None or wandb_service.is_gone()
                wandb_service.let_go(at_once=True)
                if failed is not None:
                    self.files.clear(sent=False)
                reason = f"W&B's client failed ({type_and_message(error)})"
                if again and self.restarts_left:
                    self.restarts_left -= 1
                    LOG.warning("%s and is started again", reason)
                    continue
                self.given_up = True
                self.undelivered = f"{reason}; the whole run is in its own folder"
                if failed is not None:
                    self.undelivered += f"; what the client kept is sent by: {self._sync(failed)}"

    def _finish(self, run: wandb.Run, summary: Mapping[str, object]) -> None:
        if wandb_service.is_gone():
            raise ConnectionError("its process has ended")
        status, stopped_by = str(summary["status"]), str(summary.get("stopped_by", ""))
        if status == RunStatus.INTERRUPTED and stopped_by == "SIGTERM":
            self.stopped_by_wandb = self.stopped_by_wandb or self._stop_was_asked()
        if self.stopped_by_wandb and status == RunStatus.INTERRUPTED:
            stopped_by = "wandb"
        code = exit_codes.of_run(status, stopped_by, in_sweep=self.swept is not None)
        if status in (RunStatus.DIVERGED, RunStatus.IMPOSSIBLE):
            run.tags = tuple(dict.fromkeys((*(run.tags or ()), status)))
            if not summary.get("best_step"):  # never validated: a sweep still needs a score
                score = {name: summary[name] for name in OF_EVALUATIONS if name in summary}
                self._send(run, score, [], run.step)
        # The client would write an enum by its name.
        run.summary.update({**summary, "status": status, "stopped_by": stopped_by})
        folder = self.folder.moved()
        if self.log_model and summary.get("best_step") and folder and folder.best.exists():
            self._log_model(run, folder, summary)
        if code in (exit_codes.PREEMPTED, exit_codes.HUNG_UP):
            run.mark_preempting()
        self._end(run, code)

    def _begin(self, settings: Mapping[str, object]) -> wandb.Run:
        """Start online; where that fails, offline, so that `wandb sync` can send it later."""
        known = wandb_service.started().settings
        entity, project, stored = self._stored_id()
        ours = {key: value for key, value in settings.items() if key not in (self.swept or ())}
        options: dict[str, Any] = {
            "config": ours,
            "group": known.run_group or Path(str(settings.get("data", ""))).stem or None,
            "job_type": known.run_job_type or "train",
            "name": known.run_name or self.name or None,
            "tags": [*(known.run_tags or ()), *self.tags],
        }
        if self.swept is None:
            project = project or known.project or "fundamentallm"
            entity = entity or known.entity
            run_id = known.run_id or stored or generate_id()
            self._keep_id(entity, project, run_id)  # W&B may have it before the client says so
            options |= {"project": project, "entity": entity, "id": run_id}
        if known.mode in OFFLINE:
            self.why_offline = "WANDB_MODE is offline"
        elif not (known.http_proxy or known.https_proxy) and (
            reason := unreachable(known.base_url, ASK_SECONDS)
        ):
            self.why_offline = reason
        else:
            looks = ("name", "tags", "group")  # which may have been changed there since
            shown = {key: value for key, value in options.items() if not stored or key not in looks}
            try:
                known_there = self.swept is not None or known.run_id or stored
                resume = "allow" if known_there else None
                run = wandb.init(**shown, resume=resume, settings=self._limits())
                if run.resumed:
                    run.config.update(ours, allow_val_change=True)
                elif stored:  # W&B does not have it, or no longer
                    run.name, run.tags = options["name"] or run.name, options["tags"]
            except Exception as error:  # whatever the client raises
                if wandb_service.is_gone(within=LAST_SECONDS):
                    raise
                self.why_offline = one_line(error).partition(" Consider increasing")[0]
                wandb_service.let_go()  # or the id would be in use by what has just failed
            else:
                self._prepare_to_log(run)
                self._keep_id(run.entity, run.project, run.id)
                return run
        if known.mode == "online":
            LOG.warning("W&B cannot be reached (%s); the run goes on without it", self.why_offline)
        run = wandb.init(**options, mode="offline", settings=self._limits())
        self._keep_id(run.entity, run.project, run.id)
        return run

    def _limits(self) -> wandb.Settings:
        """How long W&B may keep a run waiting, and what its stop button does."""
        # A lambda, because the client copies its settings deeply, and a method's object with it.
        settings = wandb.Settings(finish_timeout_raises=True, stop_fn=lambda: self._note_stop())
        # The client's 15 s are longer than we wait for it: its last rows would not be kept.
        settings.x_transaction_log_flush_interval = FLUSH_SECONDS
        if "WANDB_INIT_TIMEOUT" not in os.environ:
            settings.init_timeout = INIT_SECONDS
        if "WANDB_FINISH_TIMEOUT" not in os.environ:
            settings.finish_timeout = (
                FINISH_SECONDS_WITH_MODEL if self.log_model else FINISH_SECONDS
            )
        return settings

    def _note_stop(self) -> None:
        self.stopped_by_wandb = True

    def _prepare_to_log(self, run: wandb.Run) -> None:
        """Ask once what the client would ask before every Table, waiting up to 19 s each time."""
        overrides = {"entity": run.entity, "project": run.project}
        run._assert_can_log_artifact = lambda artifact: None
        with suppress(Exception):  # slow to answer: the run is there all the same
            self.api = wandb.Api(overrides, timeout=ASK_SECONDS)
            run._cached_public_api = self.api

    def _send_tables_again(self, run: wandb.Run) -> None:
        """Send the files of earlier processes' Tables: a kill can come between row and file."""
        for earlier in Path(run.settings.wandb_dir).glob(f"run-*-{run.id}/files"):
            linked = any(path.is_symlink() for path in (earlier.parent, *earlier.rglob("*")))
            if earlier != Path(run.settings.files_dir) and not linked:
                run.save(earlier / "media/table/*.json", base_path=earlier, policy="now")

    def _keep_id(self, entity: str | None, project: str | None, run_id: str) -> None:
        self.folder.wandb_id.parent.mkdir(parents=True, exist_ok=True)
        place = f"{entity or ''}/{project or ''}/{run_id}"
        replace_text(self.folder.wandb_id, f"{place}\n", self.folder.root)
        if not self.in_sweep and (reason := remember(self.folder.path, wandb=place)):
            LOG.warning("%s", reason)

    def _stored_id(self) -> tuple[str | None, str | None, str | None]:
        """Entity, project and id of the run as it was; in a sweep the id alone."""
        entity, project, run_id = stored_place(self.folder)
        return (None, None, run_id) if self.in_sweep else (entity, project, run_id)

    def _stop_was_asked(self) -> bool:
        """Whether W&B wants this run stopped, asked now: the stream tells only every 15 s."""
        if self.run is None or self.api is None:
            return False
        try:
            return bool(self._ask(self.run, self.api)["stopped"])
        except Exception:  # W&B is away: whatever the client raises, the answer is not yes
            return False

    def _ask(self, run: wandb.Run, api: wandb.Api) -> Mapping[str, Any]:
        """How W&B has the run, asked now; the client's own way would leave a folder behind."""
        names = {"entityName": run.entity, "projectName": run.project, "runId": run.id}
        return api._service_api.execute_graphql(STOPPED, names)["project"]["run"]

    def _log_model(self, run: wandb.Run, folder: RunFolder, summary: Mapping[str, Any]) -> None:
        metadata = {key: summary[key] for key in ("best_val_loss", "best_step")}
        with self.files.used():
            artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata=metadata)
            artifact.add_file(str(folder.best), name="best.pt")
            run.log_artifact(artifact, aliases=["best", "latest"])

    def _end(self, run: wandb.Run, code: int) -> None:
        """Finish within the limit, and say what did not get through."""
        complaint = ""
        limit = run.settings.finish_timeout
        if not wandb_service.finish_within(run, code, limit):
            complaint = f"W&B did not take everything within {limit:g} s"
        if self.why_offline:
            complaint = f"nothing was sent to W&B ({self.why_offline})"
        elif not complaint and self.api is not None:
            try:
                if self._ask(run, self.api)["state"] == "running":
                    complaint = "W&B has not seen the end of the run"
            except Exception as error:  # as above: whatever it is, W&B cannot be asked
                complaint = f"W&B does not answer ({one_line(error)})"
        wandb_service.let_go()
        self.files.clear(sent=not complaint)
        if complaint:
            self.undelivered = f"{complaint}; the whole run is kept, and sent by: {self._sync(run)}"

    def _sync(self, run: wandb.Run) -> str:
        """The command that sends what the client has kept of a run."""
        place = os.path.relpath(run.settings.sync_dir)
        if place.startswith(".."):  # a run of a sweep is in its own folder, and its reader is not
            place = str(run.settings.sync_dir)
        return f"wandb sync {'' if self.why_offline else '--no-skip-online '}{shlex.quote(place)}"

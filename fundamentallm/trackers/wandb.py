"""W&B tracker: sends a run to Weights & Biases, and never lets W&B delay the run.

No other file of a run imports wandb; report/read_wandb.py uses its API. docs/wandb.md explains what
the client does when W&B is unreachable, and the settings below.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

# When W&B is unreachable, the client retries error reports at exit, for up to 20 s.
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
FLUSH_SECONDS = 1.0  # between writes of the file that `wandb sync` sends
ASK_SECONDS = 5
OFFLINE = ("offline", "dryrun")  # modes of the client
EXIT_SECONDS = 1.0  # for the client's process to end after its connection broke
RESTARTS = 3  # of the client per run, whose process may be killed
SAMPLE_COLUMNS: list[str | int] = ["step", "prompt", "temperature", "text"]
STOPPED = """query RunStoppedStatus($projectName: String, $entityName: String, $runId: String!) {
  project(name: $projectName, entityName: $entityName) { run(name: $runId) { stopped state } }
}"""


def why_unusable() -> str | None:
    """Return why W&B cannot be used, in one line; "" if the user disabled it; None if it can.

    Looks for a key like the client, and never prompts for one.
    """
    try:
        mode = wandb_service.started().settings.mode
        if mode == "disabled":
            return ""
        if mode in OFFLINE or wandb.login(prompt=False, verify=False):
            return None
    except (ImportError, AttributeError):
        raise
    except Exception as error:  # an invalid key, a service that cannot start, ...
        return f"W&B cannot be used ({one_line(error, 200)}), so this run stays on this machine"
    return (
        "no W&B key was found, so this run stays on this machine; to see runs on W&B, log in "
        "with: wandb login (--no-wandb turns this line off)"
    )


def is_online() -> bool:
    """Return whether runs are sent to W&B while they train."""
    return wandb_service.started().settings.mode not in OFFLINE


def stored_wandb_path(folder: RunFolder) -> tuple[str | None, str | None, str | None]:
    """Return entity, project and id on W&B of the run in `folder`; old files have only the id."""
    try:
        content = read_file(folder.wandb_id, LONGEST_ID, root=folder.root)
    except FileNotFoundError:
        content = b""
    words = content.decode("utf-8", "replace").strip().split("/")
    entity, project, run_id = [None, None, None, *words][-3:]
    return entity or None, project or None, run_id or None


def why_not_trusted(folder: RunFolder) -> str:
    """Return why the run in `folder` is not sent to W&B; other people may have chosen the project.

    Returns:
        One line that says how to allow it; "" if this user chose the project, or none is stored.
    """
    try:
        path = stored_wandb_path(folder)
    except OSError as error:
        return f"{folder.wandb_id}: cannot be read ({error.strerror}), so nothing is sent to W&B"
    settings = wandb_service.started().settings
    own_path = settings.entity, settings.project, settings.run_id
    is_own = all(part in (None, own) for part, own in zip(path, own_path, strict=True))
    if is_own or was_asked(folder.path, wandb="/".join(part or "" for part in path)):
        return ""
    names = ("WANDB_ENTITY", "WANDB_PROJECT", "WANDB_RUN_ID")
    words = (f"{name}={shlex.quote(part)}" for name, part in zip(names, path, strict=True) if part)
    return (
        f"{folder.wandb_id}: this run is on W&B, and no record on this machine says that you "
        f"started it, so nothing is sent; to resume it there, set {' '.join(words)}"
    )


class WandbTracker:
    """A `Tracker` that logs rows and samples by optimizer step, and finally the model.

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
        """Set up the tracker; nothing is sent until `start`.

        Args:
            folder: The run's folder; a resumed run reads from it what W&B lacks.
            name: Name shown on W&B, unless WANDB_NAME is set.
            tags: Tags beside those of WANDB_TAGS.
            swept: Names of the sweep's parameters, which only W&B may set; None outside a sweep.
            log_model: Whether best.pt becomes an artifact.
            cache: WANDB_CACHE_DIR, if only this run uses it; removed at the end.
            in_sweep: Whether a sweep sets the entity and project of the run.
        """
        self.folder, self.name, self.tags = folder, name, tuple(tags)
        self.swept, self.log_model, self.cache = swept, log_model, cache
        self.in_sweep = in_sweep
        self.stopped_by_wandb = False
        """True once W&B has asked the run to stop; set by another thread at any time."""
        self.undelivered = ""
        """Data that W&B did not receive, in one line; "" if it has everything."""
        self.run: wandb.Run | None = None
        self.files: OwnFiles
        self.api: wandb.Api | None = None
        self.settings: Mapping[str, object] = {}
        self.step = 0
        self.sent_step = -1  # the last step that W&B has or was sent
        self.restarts_left = RESTARTS
        self.given_up = False
        self.samples: list[Sample] = []
        self.why_offline = ""

    def start(self, settings: Mapping[str, object], *, total_steps: int, step: int) -> None:
        """Start or resume the run on W&B, and send the rows up to `step` that it lacks."""
        self.settings, self.step = settings, step
        self._attempt(lambda run: None)
        if self.given_up:
            LOG.warning("%s", self.undelivered)

    def _start(self) -> wandb.Run:
        self.sent_step, self.why_offline = -1, ""
        run = self._begin(self.settings)
        self.files = OwnFiles(run, self.cache)
        if run.resumed:
            self.sent_step = run.starting_step - 1
            self._send_tables_again(run)
        if self.step:
            written: dict[int, list[Sample]] = {}
            for at, sample in self.folder.read_samples():
                written.setdefault(at, []).append(sample)
            for row in self.folder.rows():
                at = row.pop("step")
                self._send(run, row, written.get(at, []), at)
        return run

    def log(self, metrics: Mapping[str, Number], *, step: int) -> None:
        """Send a row with the samples of the same step, unless W&B has it."""
        samples, self.samples, self.step = self.samples, [], step
        if self.given_up:
            return
        self._attempt(lambda run: self._send(run, metrics, samples, step))
        if self.given_up:
            LOG.warning("%s; the run continues without W&B", self.undelivered)

    def _send(
        self, run: wandb.Run, metrics: Mapping[str, Any], samples: Sequence[Sample], step: int
    ) -> None:
        if step <= self.sent_step:
            return
        row = dict(metrics)
        with self.files.used():
            if samples:
                data: list[Any] = [[step, s.prompt, s.temperature, s.text] for s in samples]
                row["samples"] = wandb.Table(columns=SAMPLE_COLUMNS, data=data)
            run.log(row, step=step, commit=True)
        self.sent_step = step

    def log_samples(self, samples: Sequence[Sample], *, step: int) -> None:
        """Keep the samples for the next row, since a kill could split a step sent in two parts."""
        self.samples = list(samples)

    def finish(self, summary: Mapping[str, object]) -> None:
        """Send the summary and the model, and wait for the upload up to a time limit."""
        self._attempt(lambda run: self._finish(run, summary))

    def _attempt(self, action: Callable[[wandb.Run], None]) -> None:
        """Try `action`; if the client fails, resume the run on W&B and try again.

        After a few failures W&B is given up: no client error may end a training run.
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
                self.undelivered = f"{reason}; the run's folder has the whole run"
                if failed is not None:
                    self.undelivered += f"; send what the client kept with: {self._sync(failed)}"

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
            if not summary.get("best_step"):  # never evaluated, but a sweep needs a score
                score = {name: summary[name] for name in OF_EVALUATIONS if name in summary}
                self._send(run, score, [], run.step)
        # The client would write an enum's name.
        run.summary.update({**summary, "status": status, "stopped_by": stopped_by})
        folder = self.folder.moved()
        if self.log_model and summary.get("best_step") and folder and folder.best.exists():
            self._log_model(run, folder, summary)
        if code in (exit_codes.PREEMPTED, exit_codes.HUNG_UP):
            run.mark_preempting()
        self._end(run, code)

    def _begin(self, settings: Mapping[str, object]) -> wandb.Run:
        """Start online, or else offline, so that `wandb sync` can send the run later."""
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
            self._keep_id(entity, project, run_id)  # W&B may have the run before the client answers
            options |= {"project": project, "entity": entity, "id": run_id}
        if known.mode in OFFLINE:
            self.why_offline = "WANDB_MODE is offline"
        elif not (known.http_proxy or known.https_proxy) and (
            reason := unreachable(known.base_url, ASK_SECONDS)
        ):
            self.why_offline = reason
        else:
            editable = ("name", "tags", "group")  # keep changes made on W&B
            sent = {k: v for k, v in options.items() if not stored or k not in editable}
            try:
                known_there = self.swept is not None or known.run_id or stored
                resume = "allow" if known_there else None
                run = wandb.init(**sent, resume=resume, settings=self._limits())
                if run.resumed:
                    run.config.update(ours, allow_val_change=True)
                elif stored:  # W&B does not have the run
                    run.name, run.tags = options["name"] or run.name, options["tags"]
            except Exception as error:  # the client raises many types
                if wandb_service.is_gone(within=EXIT_SECONDS):
                    raise
                self.why_offline = one_line(error).partition(" Consider increasing")[0]
                wandb_service.let_go()  # the failed attempt would keep the id in use
            else:
                self._prepare_to_log(run)
                self._keep_id(run.entity, run.project, run.id)
                return run
        if known.mode == "online":
            LOG.warning(
                "W&B cannot be reached (%s); the run continues without it", self.why_offline
            )
        run = wandb.init(**options, mode="offline", settings=self._limits())
        self._keep_id(run.entity, run.project, run.id)
        return run

    def _limits(self) -> wandb.Settings:
        """Return settings that limit how long W&B may delay a run and handle its stop button."""
        # A lambda, because the client deep-copies its settings, a bound method's object included.
        settings = wandb.Settings(finish_timeout_raises=True, stop_fn=lambda: self._note_stop())
        # We wait less than the client's default of 15 s, so its last rows would be lost.
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
        """Fetch once what the client would request before every Table, for up to 19 s each."""
        overrides = {"entity": run.entity, "project": run.project}
        run._assert_can_log_artifact = lambda artifact: None
        with suppress(Exception):  # slow to answer, but the run exists
            self.api = wandb.Api(overrides, timeout=ASK_SECONDS)
            run._cached_public_api = self.api

    def _send_tables_again(self, run: wandb.Run) -> None:
        """Send Table files of earlier processes, which may have been killed before sending them."""
        for earlier in Path(run.settings.wandb_dir).glob(f"run-*-{run.id}/files"):
            linked = any(path.is_symlink() for path in (earlier.parent, *earlier.rglob("*")))
            if earlier != Path(run.settings.files_dir) and not linked:
                run.save(earlier / "media/table/*.json", base_path=earlier, policy="now")

    def _keep_id(self, entity: str | None, project: str | None, run_id: str) -> None:
        self.folder.wandb_id.parent.mkdir(parents=True, exist_ok=True)
        path = f"{entity or ''}/{project or ''}/{run_id}"
        replace_text(self.folder.wandb_id, f"{path}\n", self.folder.root)
        if not self.in_sweep and (reason := remember(self.folder.path, wandb=path)):
            LOG.warning("%s", reason)

    def _stored_id(self) -> tuple[str | None, str | None, str | None]:
        """Return the stored entity, project and id of the run; in a sweep only the id."""
        entity, project, run_id = stored_wandb_path(self.folder)
        return (None, None, run_id) if self.in_sweep else (entity, project, run_id)

    def _stop_was_asked(self) -> bool:
        """Ask W&B now whether to stop this run; the client asks only every 15 s."""
        if self.run is None or self.api is None:
            return False
        try:
            return bool(self._ask(self.run, self.api)["stopped"])
        except Exception:  # W&B is unreachable, so it did not ask for a stop
            return False

    def _ask(self, run: wandb.Run, api: wandb.Api) -> Mapping[str, Any]:
        """Query W&B for the run's state; the client's own method would leave a folder behind."""
        names = {"entityName": run.entity, "projectName": run.project, "runId": run.id}
        return api._service_api.execute_graphql(STOPPED, names)["project"]["run"]

    def _log_model(self, run: wandb.Run, folder: RunFolder, summary: Mapping[str, Any]) -> None:
        metadata = {key: summary[key] for key in ("best_val_loss", "best_step")}
        with self.files.used():
            artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata=metadata)
            artifact.add_file(str(folder.best), name="best.pt")
            run.log_artifact(artifact, aliases=["best", "latest"])

    def _end(self, run: wandb.Run, code: int) -> None:
        """Finish within the time limit, and note what W&B did not receive."""
        problem = ""
        limit = run.settings.finish_timeout
        if not wandb_service.finish_within(run, code, limit):
            problem = f"W&B did not receive everything within {limit:g} s"
        if self.why_offline:
            problem = f"nothing was sent to W&B ({self.why_offline})"
        elif not problem and self.api is not None:
            try:
                if self._ask(run, self.api)["state"] == "running":
                    problem = "W&B has not seen the end of the run"
            except Exception as error:  # W&B cannot be asked
                problem = f"W&B does not answer ({one_line(error)})"
        wandb_service.let_go()
        self.files.clear(sent=not problem)
        if problem:
            self.undelivered = f"{problem}; the whole run is kept; send it with: {self._sync(run)}"

    def _sync(self, run: wandb.Run) -> str:
        """Return the command that sends what the client has kept of a run."""
        path = os.path.relpath(run.settings.sync_dir)
        if path.startswith(".."):  # a trial's current folder is not the user's
            path = str(run.settings.sync_dir)
        return f"wandb sync {'' if self.why_offline else '--no-skip-online '}{shlex.quote(path)}"

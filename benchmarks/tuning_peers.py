"""Runs a peer of `fundamentallm tune` until it is killed: a child process of time_to_tuned.py.

    python benchmarks/tuning_peers.py wandb FOLDER --text TEXT --minutes 30 --seed 0 --cores 0,1

Each peer saves its models below FOLDER, with the losses of each run in a metrics.jsonl.
time_to_tuned.py says what each does.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from comparing import seconds_since_start

if TYPE_CHECKING:
    from wandb_server import Sweep

    from fundamentallm.data.dataset import Dataset

HERE = Path(__file__).parent
RUN_SHARE = 1 / 4
"""Length of a run of a search, as a fraction of the budget: hyperband ends most runs sooner."""
ETA = 3
RANGES: Mapping[str, Mapping[str, Any]] = {
    "learning_rate": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
    "model_dim": {"values": [64, 128, 256]},
    "num_layers": {"distribution": "int_uniform", "min": 2, "max": 8},
    "num_heads": {"values": [2, 4, 8]},
    "dropout": {"distribution": "uniform", "min": 0.0, "max": 0.3},
    "batch_size": {"values": [8, 16, 32]},
    "max_seq_len": {"values": [128, 256]},
}
"""The ranges of docs/hyperparameters.md, narrowed by its advice and charts for a CPU."""
FIXED = {"lr_schedule": "linear", "min_lr_ratio": 0.0}
NANOGPT_PAIRS = tuple(itertools.product((1e-3, 2e-3, 4e-3), (6, 12, 24)))
"""Rates and batch sizes to try."""
NANOGPT_SEARCH = 1 / 3
"""Fraction of the budget for trying them."""


class HostedSearch:
    """W&B's own bayes and hyperband, for the test server."""

    def __init__(self, python: str, seed: int) -> None:
        self.seed = 1000 * seed
        self.rows = 0
        words = [python, str(HERE / "wandb_bayes.py")]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def suggest(self, sweep: Sweep) -> dict[str, Any]:
        """Return the next configuration."""
        values = self._ask(sweep, seed=self.seed + len(sweep.runs))
        return {name: {"value": value} for name, value in values.items()}

    def stop_early(self, sweep: Sweep) -> None:
        """Stop the runs that hyperband ends, if there are new losses."""
        rows = sum(len(run.history) for run in sweep.runs)
        if rows == self.rows:
            return
        self.rows = rows
        for number in self._ask(sweep, stop=True):
            sweep.runs[number].stop()
            sweep.runs[number].stopped_early = True

    def _ask(self, sweep: Sweep, **question: object) -> Any:
        names = sweep.config["parameters"]
        runs: list[tuple[dict[str, Any], list[float], str]] = []
        for run in sweep.runs:
            values = {name: run.config[name]["value"] for name in names}
            losses = [row["val_loss"] for row in run.history if "val_loss" in row]
            runs.append((values, losses, run.state))
        assert self.process.stdin
        assert self.process.stdout
        request = {"sweep": json.dumps(sweep.config), "runs": runs, **question}
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


def run_wandb(
    folder: Path, text: Path, minutes: float, seed: int, cores: Sequence[int], python: str
) -> None:
    """Run a `wandb agent` on each core, with the tests' server and W&B's own search."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from wandb_server import WandbServer

    fixed = {**FIXED, "seed": seed}
    program = [sys.executable, str(HERE / "timed_run.py"), f"{RUN_SHARE * minutes}", str(text)]
    sweep = {
        "program": str(HERE / "timed_run.py"),
        "command": [*program, "${args}"],
        "method": "bayes",
        "metric": {"name": "val_loss", "goal": "minimize"},
        "early_terminate": {"type": "hyperband", "min_iter": 1, "eta": ETA},
        "parameters": {**RANGES, **{name: {"value": value} for name, value in fixed.items()}},
    }
    (folder / "sweep.yaml").write_text(json.dumps(sweep))  # YAML holds all of JSON
    with WandbServer() as server:
        server.store.search = HostedSearch(python, seed)
        own = {"WANDB_PROJECT": "time-to-tuned", "HOME": str(folder), "OMP_NUM_THREADS": "1"}
        environment = {**os.environ, **server.environment, **own}
        wandb = [sys.executable, "-m", "wandb"]
        subprocess.run([*wandb, "sweep", "sweep.yaml"], cwd=folder, env=environment, check=True)
        (created,) = server.store.sweeps.values()
        agents: list[subprocess.Popen[bytes]] = []
        for core in cores:
            with on_core(core):
                words = [*wandb, "agent", created.path]
                agents.append(subprocess.Popen(words, cwd=folder, env=environment))
        for agent in agents:
            agent.wait()


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Start processes on one core."""
    usual = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, usual)


def run_optuna(folder: Path, text: Path, minutes: float, seed: int, cores: Sequence[int]) -> None:
    """Run a study with a worker process on each core."""
    import optuna

    create_study(folder, seed, load=False)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    workers: list[subprocess.Popen[bytes]] = []
    for number, core in enumerate(cores):
        with on_core(core):
            words = [sys.executable, __file__, "optuna-worker", folder, "--text", text]
            words += ["--minutes", minutes, "--seed", seed, "--cores", core, "--worker", number]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            workers.append(subprocess.Popen(list(map(str, words)), env=environment))
    for worker in workers:
        worker.wait()


def create_study(folder: Path, seed: int, *, load: bool) -> Any:
    """Create the study of all workers, or load it."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from timed_run import EVALUATIONS

    return optuna.create_study(
        study_name="time-to-tuned",
        direction="minimize",
        storage=JournalStorage(JournalFileBackend(str(folder / "journal.log"))),
        sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
        pruner=optuna.pruners.HyperbandPruner(
            min_resource=1, max_resource=EVALUATIONS, reduction_factor=ETA
        ),
        load_if_exists=load,
    )


class Reporter:
    """Tracker that tells Optuna every loss, and learns from it when to stop."""

    def __init__(self, trial: Any) -> None:
        self.trial = trial
        self.evaluations = 0
        self.reason = ""

    def start(self, settings: object, **facts: object) -> None:
        """Do nothing."""

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Report an evaluation."""
        if "val_loss" in metrics:
            self.evaluations += 1
            self.trial.report(metrics["val_loss"], self.evaluations)
            self.reason = "pruned" if self.trial.should_prune() else ""

    def log_samples(self, samples: object, *, step: int) -> None:
        """Do nothing."""

    def finish(self, summary: object) -> None:
        """Do nothing."""


def suggest(trial: Any) -> dict[str, Any]:
    """Draw a configuration from `RANGES`."""
    drawn: dict[str, Any] = {}
    for name, entry in RANGES.items():
        if "values" in entry:
            drawn[name] = trial.suggest_categorical(name, entry["values"])
        elif type(entry["min"]) is int:
            drawn[name] = trial.suggest_int(name, entry["min"], entry["max"])
        else:
            log = entry["distribution"].startswith("log")
            drawn[name] = trial.suggest_float(name, entry["min"], entry["max"], log=log)
    return drawn


def run_optuna_worker(folder: Path, text: Path, minutes: float, seed: int, worker: int) -> None:
    """Train trials of the study, one after another."""
    import optuna
    from timed_run import fitted

    from fundamentallm import Config
    from fundamentallm.data.dataset import prepare
    from fundamentallm.data.text import read_text
    from fundamentallm.files.run_folder import RunFolder
    from fundamentallm.machine.cores_and_memory import keep_freed_memory
    from fundamentallm.trackers.folder import FolderTracker
    from fundamentallm.training.loop import train

    keep_freed_memory()
    data = prepare(read_text(str(text)), Config())

    def objective(trial: optuna.Trial) -> float:
        config = Config(**suggest(trial), **FIXED, seed=seed)  # pyright: ignore
        config = fitted(config, data, 60 * RUN_SHARE * minutes)
        run = RunFolder(folder / f"trial-{trial.number}")
        run.create()
        reporter = Reporter(trial)
        result = train(
            config,
            data,
            folder=run,
            trackers=[FolderTracker(run), reporter],
            device="cpu",
            stop_requested=lambda: reporter.reason,
        )
        if reporter.reason:
            raise optuna.TrialPruned
        return result.best_val_loss

    create_study(folder, 100 * seed + worker, load=True).optimize(objective)


def run_nanogpt(
    folder: Path, text: Path, minutes: float, seed: int, cores: Sequence[int], nanogpt: Path
) -> None:
    """Try pairs of rate and batch size, a process on each core, then train the best to the end."""
    seconds = 60 * minutes
    shares = [NANOGPT_PAIRS[number :: len(cores)] for number in range(len(cores))]
    each = NANOGPT_SEARCH * seconds / len(shares[0])

    def start(
        name: str, seconds: float, pairs: Sequence[tuple[float, int]], used: Sequence[int]
    ) -> subprocess.Popen[bytes]:
        words = [sys.executable, __file__, "nanogpt-runs", folder / name, "--text", text]
        words += ["--nanogpt", nanogpt, "--minutes", seconds / 60, "--seed", seed]
        words += ["--cores", ",".join(map(str, used)), "--pairs", json.dumps(pairs)]
        return subprocess.Popen(list(map(str, words)))

    searches = [
        start("tried", each, *job) for job in zip(shares, ([c] for c in cores), strict=True)
    ]
    for search in searches:
        search.wait()
    tried = [json.loads(file.read_text()) for file in folder.glob("tried/*/result.json")]
    best = min(tried, key=lambda result: result["first"])
    left = seconds - seconds_since_start() - max(result["loading"] for result in tried)
    start("final", left, [(best["rate"], best["batch"])], cores).wait()


def run_nanogpt_pairs(
    folder: Path, text: Path, minutes: float, seed: int, pairs: Sequence[tuple[float, int]],
    cores: Sequence[int], nanogpt: Path,
) -> None:  # fmt: skip
    """Train nanoGPT's recipe with each pair for that many minutes; loading is not part of them."""
    os.sched_setaffinity(0, cores)
    from time_to_loss import nanogpt_steps

    from fundamentallm import Config
    from fundamentallm.data.dataset import prepare
    from fundamentallm.data.text import read_text
    from fundamentallm.machine.cores_and_memory import keep_freed_memory

    keep_freed_memory()  # it is as much a help to nanoGPT
    sys.path.insert(0, str(nanogpt))
    import model as module

    data = prepare(read_text(str(text)), Config())
    loading = seconds_since_start()
    is_final = folder.name == "final"
    for rate, batch in pairs:
        run = folder / f"rate-{rate:g}-batch-{batch}"
        run.mkdir(parents=True)
        recipe = partial(nanogpt_steps, module, data, seed, batch=batch, rate=rate)
        facts = train_nanogpt_for(run, data, 60 * minutes, recipe, len(cores), evaluates=is_final)
        facts |= {"rate": rate, "batch": batch, "loading": loading}
        (run / "result.json").write_text(json.dumps(facts))


def train_nanogpt_for(
    run: Path, data: Dataset, seconds: float, recipe: Callable[..., Iterator[Any]],
    most_threads: int, *, evaluates: bool,
) -> dict[str, Any]:  # fmt: skip
    """Train for a time with the fastest number of threads, and save the best model.

    If it `evaluates`, it does so at equal intervals, else at the end alone.
    """
    import torch
    from time_to_loss import score_nanogpt
    from timed_run import EVALUATIONS

    planned_end = time.perf_counter() + 0.98 * seconds  # its schedule follows the clock
    speed = {count: seconds_a_step(recipe, count) for count in range(1, most_threads + 1)}
    torch.set_num_threads(min(speed, key=speed.__getitem__))
    begin = time.perf_counter()
    end = max(planned_end, begin + 1)
    warmup = min(100, int((end - begin) / min(speed.values()) / 10))
    best, next_evaluation = float("inf"), begin
    step = 0

    def evaluate(model: Any) -> None:
        nonlocal best
        loss = score_nanogpt(model, data.val)
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "val_loss": loss}) + "\n")
        if loss < best:
            best = loss
            torch.save(model.state_dict(), run / "new.pt")  # pyright: ignore
            (run / "new.pt").replace(run / "model.pt")

    def progress(step: int) -> float:
        return (time.perf_counter() - begin) / (end - begin)

    model: Any = None
    for model in recipe(warmup=warmup, progress=progress):
        step += 1
        if evaluates and time.perf_counter() > next_evaluation:
            next_evaluation += (end - begin) / EVALUATIONS
            evaluate(model)
    evaluate(model)
    first = score_nanogpt(model, data.val[: len(data.val) // 2])
    return {"first": first, "steps": step, "threads": torch.get_num_threads()}


def seconds_a_step(recipe: Callable[..., Iterator[Any]], threads: int) -> float:
    """Return the median seconds of a few steps with that many threads."""
    import torch

    torch.set_num_threads(threads)
    times: list[float] = []
    for _ in recipe(warmup=0, progress=lambda step: float(step >= 8)):
        times.append(time.perf_counter())
    return statistics.median(b - a for a, b in itertools.pairwise(times))


@click.command()
@click.argument("peer")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--text", type=click.Path(path_type=Path), required=True)
@click.option("--minutes", type=float, required=True)
@click.option("--seed", type=int, required=True)
@click.option("--cores", required=True)
@click.option("--wandb-python", default="")
@click.option("--nanogpt", type=click.Path(path_type=Path), default=Path())
@click.option("--worker", default=0)
@click.option("--pairs", default="[]")
def main(
    peer: str, folder: Path, text: Path, minutes: float, seed: int, cores: str, wandb_python: str,
    nanogpt: Path, worker: int, pairs: str,
) -> None:  # fmt: skip
    """Run one peer."""
    numbers = [int(core) for core in cores.split(",")]
    match peer:
        case "wandb":
            run_wandb(folder, text, minutes, seed, numbers, wandb_python)
        case "optuna":
            run_optuna(folder, text, minutes, seed, numbers)
        case "optuna-worker":
            run_optuna_worker(folder, text, minutes, seed, worker)
        case "nanogpt":
            run_nanogpt(folder, text, minutes, seed, numbers, nanogpt)
        case "nanogpt-runs":
            tried = json.loads(pairs)
            run_nanogpt_pairs(folder, text, minutes, seed, tried, numbers, nanogpt)
        case _:
            raise click.UsageError(f"no peer is named {peer}")


if __name__ == "__main__":
    main()

r"""The best model that a time budget buys, by `fundamentallm tune` and by its peers.

    python benchmarks/time_to_tuned.py --text tinyshakespeare.txt --seeds 3 \
        --nanogpt PATH --wandb-python ENV/bin/python --write

Every contender gets the same cores and the same minutes of wall clock, its start included. What is
not finished then is killed, and the models saved so far count. Each ends with one model: that of
least loss on the first half of the validation text among all that it saved. The loss on the second
half is reported.

- tune: `fundamentallm tune TEXT --minutes M --seed S`.
- defaults: `fundamentallm train TEXT` with the defaults until the time is over.
- fast: `--preset fast`, its linear schedule over the steps that the time allows (timed_run.py).
- wandb: W&B's own bayes and hyperband (package `sweeps` 0.3.0, in ENV), asked by the tests' server
  in place of W&B's, and a real `wandb agent` with one thread on each core. Every run trains by
  timed_run.py for a quarter of the budget, with a linear schedule to its end and nine evaluations;
  hyperband has its usual eta of 3 and acts after the first and the third.
- optuna: TPE with HyperbandPruner and otherwise Optuna's defaults, a worker process with one thread
  on each core, the same ranges, lengths, schedule and evaluations. A worker keeps torch loaded.
- nanogpt: nanoGPT's CPU recipe, eager, which is the faster on a CPU. Nine pairs of rate and batch
  size take turns on all cores for a third of the budget, each with its own cosine schedule; the
  best trains for the rest, with one thread or all, whichever is faster.

The ranges of wandb and optuna are those of docs/hyperparameters.md, narrowed by what it says of a
CPU: else a single step could outlast the budget. That favors both. The tests' server and W&B's
search run on the same cores, for about a second a run, which does not.

Results are kept in one file. Entries that are there are not measured again. Curves are of the best
loss on the whole validation text, as the contenders themselves see it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
from comparing import machine, write_section  # pyright: ignore[reportMissingImports] - beside it

HERE = Path(__file__).parent
ROOT = HERE.parent
CHART = ROOT / "docs/charts/time_to_tuned.svg"
RESULTS = ROOT / "docs/charts/time_to_tuned.json"
PAGE = ROOT / "docs/performance.md"
PLANNED = 0.97
"""Fraction of the budget that a contender is asked to fill; the rest is for its start and end."""
CONTENDERS = {
    "tune": "`fundamentallm tune`",
    "defaults": "the defaults",
    "fast": "`--preset fast`, stretched",
    "wandb": "W&B's bayes and hyperband",
    "optuna": "Optuna's TPE and hyperband",
    "nanogpt": "nanoGPT's recipe, tuned",
}
COLORS = ("#D55E00", "#999999", "#E69F00", "#2D8BCB", "#009E73", "#CC79A7")  # Okabe and Ito (2008)
SHOWN = 0.5
"""Nats above the least loss that the chart shows."""


@dataclass(frozen=True)
class Task:
    """One contender with one seed on one text."""

    contender: str
    text: str
    seed: int
    minutes: float
    cores: int


@dataclass
class Entry:
    """Result of a task."""

    task: Task
    first: float
    """Loss of the chosen model on the first half of the validation text."""
    second: float
    """Its loss on the second half."""
    model: dict[str, Any]
    """Settings of the chosen model."""
    runs: int
    """Runs with at least one evaluation."""
    seconds: float
    """Wall clock until the contender ended or was killed."""
    curve: list[tuple[float, float]]
    """Seconds and loss on the whole validation text of every new best model."""
    measured: str
    """Date and machine."""


@dataclass
class Watch:
    """Follows the best val_loss of all runs below a folder."""

    folder: Path
    curve: list[tuple[float, float]] = field(default_factory=list)
    seen: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Size and time of each metrics.jsonl when it was read."""
    scored: set[str] = field(default_factory=set)

    def look(self, seconds: float) -> None:
        """Read what is new in the rows of all runs."""
        for path in found(self.folder, "metrics.jsonl"):
            with suppress(OSError):
                about = path.stat()
                if self.seen.get(str(path)) == (about.st_size, about.st_mtime):
                    continue
                self.seen[str(path)] = (about.st_size, about.st_mtime)
                if losses := val_losses(path.read_text("utf-8", "replace")):
                    self.scored.add(str(path))
                    self.add(seconds, min(losses))

    def add(self, seconds: float, loss: float) -> None:
        """Add a point if `loss` is the best so far."""
        if not self.curve or loss < self.curve[-1][1]:
            self.curve.append((round(seconds, 1), round(loss, 5)))


def val_losses(rows: str) -> list[float]:
    """Return the values of val_loss in the lines of a metrics.jsonl, which may be cut off."""
    losses: list[float] = []
    for line in rows.splitlines():
        with suppress(ValueError):
            losses += [value for key, value in json.loads(line).items() if key == "val_loss"]
    return losses


def found(folder: Path, name: str) -> Iterator[Path]:
    """Yield the files of that name below a folder, which may change meanwhile."""
    for path, _, files in os.walk(folder):
        if name in files:
            yield Path(path) / name


def best_losses(curves: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Return the mean of curves of best losses, from the time at which all have a loss."""
    if not all(curves):
        return []
    times = sorted({seconds for curve in curves for seconds, _ in curve})
    begin = max(curve[0][0] for curve in curves)
    return [
        (
            now,
            statistics.fmean(
                [loss for seconds, loss in curve if seconds <= now][-1] for curve in curves
            ),
        )
        for now in times
        if now >= begin
    ]


def seconds_to(curve: Sequence[tuple[float, float]], loss: float) -> float | None:
    """Return the seconds until a curve is at `loss` or below; None if it never is."""
    return next((seconds for seconds, reached in curve if reached <= loss), None)


def choose(scores: Mapping[str, tuple[float, float]]) -> str:
    """Return the model with the least loss on the first half; `scores` has both halves'."""
    return min(scores, key=lambda model: scores[model][0])


# --- one contender


@dataclass(frozen=True)
class Peers:
    """Paths of what the peers need."""

    nanogpt: Path | None
    wandb_python: str


def command(
    task: Task, folder: Path, text: Path, cores: Sequence[int], peers: Peers
) -> list[object]:
    """Return the command of a contender, which runs in `folder`."""
    planned = PLANNED * task.minutes
    fundamentallm = [sys.executable, "-m", "fundamentallm"]
    seed = f"--seed={task.seed}"
    out = f"--output-dir={folder / 'out'}"
    match task.contender:
        case "tune":
            return [*fundamentallm, "tune", text, f"--minutes={planned}", seed, out]
        case "defaults":
            length = ["--epochs=1000000", f"--max-minutes={planned}"]
            return [*fundamentallm, "train", text, "--no-wandb", seed, out, *length]
        case "fast":
            timed = [sys.executable, HERE / "timed_run.py", planned, text, "--preset=fast"]
            return [*timed, "--no-wandb", seed, out]
    words: list[object] = [sys.executable, HERE / "tuning_peers.py", task.contender, folder]
    words += ["--text", text, "--minutes", planned, "--seed", task.seed]
    words += ["--cores", ",".join(map(str, cores))]
    if task.contender == "wandb":
        words += ["--wandb-python", peers.wandb_python]
    if task.contender == "nanogpt":
        words += ["--nanogpt", peers.nanogpt]
    return words


def compete(
    task: Task, folder: Path, text: Path, cores: Sequence[int], peers: Peers
) -> tuple[Watch, float]:
    """Run a contender until its budget ends; return its curve and the seconds that it took."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mark = f"TIME_TO_TUNED={uuid.uuid4().hex}"
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "OMP_NUM_THREADS" and not name.startswith("WANDB_")
    }
    environment |= dict([mark.split("=")])
    words = command(task, folder, text, cores, peers)
    watch, begin = Watch(folder), time.perf_counter()
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            list(map(str, words)),
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        try:
            while process.poll() is None and time.perf_counter() - begin < 60 * task.minutes:
                time.sleep(0.5)
                watch.look(time.perf_counter() - begin)
        finally:
            kill_marked(mark)
            process.wait()
    seconds = time.perf_counter() - begin
    watch.look(seconds)
    return watch, round(seconds, 1)


def kill_marked(mark: str) -> None:
    """Kill all processes with the mark in their environment, and those that they start."""
    while alive := list(marked(mark)):
        for process in alive:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


def marked(mark: str) -> Iterator[int]:
    """Yield the living processes with the mark in their environment."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name)


# --- its model


def score_model(path: Path, text: Path, nanogpt: Path | None) -> tuple[float, float]:
    """Return the losses of a saved model on both halves of the validation text."""
    from fundamentallm import Config
    from fundamentallm.data.dataset import prepare
    from fundamentallm.data.text import read_text

    data = prepare(read_text(text), Config())
    middle = len(data.val) // 2
    halves = data.val[:middle], data.val[middle:]
    if path.name == "model.pt":
        first, second = (_score_nanogpt(path, data, half, nanogpt) for half in halves)
        return first, second
    import torch

    from fundamentallm.training.checkpoint import Checkpoint
    from fundamentallm.training.evaluate import score

    checkpoint = Checkpoint.load(path)
    model, cpu = checkpoint.build_model(), torch.device("cpu")
    first, second = (score(model, half, len(half), checkpoint.config, cpu).loss for half in halves)
    return first, second


def _score_nanogpt(path: Path, data: Any, half: Any, nanogpt: Path | None) -> float:
    import torch
    from time_to_loss import nanogpt_model, score_nanogpt

    if str(nanogpt) not in sys.path:
        sys.path.insert(0, str(nanogpt))
    import model as module  # pyright: ignore[reportMissingImports] - nanoGPT's file

    model = nanogpt_model(module, data)
    model.load_state_dict(torch.load(path, weights_only=True))
    return score_nanogpt(model, half)


def settings_of(path: Path) -> dict[str, Any]:
    """Return the settings of a saved model, as far as the table shows them."""
    if path.name == "model.pt":
        result = path.with_name("result.json")
        return json.loads(result.read_text()) if result.exists() else {}
    from fundamentallm.training.checkpoint import Checkpoint

    checkpoint = Checkpoint.load(path)
    names = (
        "model_dim", "num_layers", "num_heads", "max_seq_len", "batch_size", "learning_rate",
        "dropout", "weight_decay", "lr_schedule", "mixed_precision",
    )  # fmt: skip
    shown = {name: getattr(checkpoint.config, name) for name in names}
    return shown | {"steps": checkpoint.progress.get("step")}


def models(task: Task, folder: Path) -> list[Path]:
    """Return the models among which to choose."""
    name = "model.pt" if task.contender == "nanogpt" else "best.pt"
    return sorted(found(folder, name))


def measure(
    task: Task, folder: Path, text: Path, cores: Sequence[int], peers: Peers
) -> Entry | None:
    """Run a contender and score its model; None if it saved none."""
    watch, seconds = compete(task, folder, text, cores, peers)
    saved = models(task, folder)
    if not saved:
        said = (folder / "output.txt").read_text("utf-8", "replace")[-3000:]
        click.echo(f"{task}: saved no model; {folder}/output.txt ends with:\n{said}", err=True)
        return None
    scores = {str(path): score_model(path, text, peers.nanogpt) for path in saved}
    chosen = choose(scores)
    first, second = scores[chosen]
    return Entry(
        task=task,
        first=round(first, 5),
        second=round(second, 5),
        model=settings_of(Path(chosen)),
        runs=len(watch.scored),
        seconds=seconds,
        curve=watch.curve,
        measured=machine(),
    )


# --- results


def read_entries(file: Path) -> list[Entry]:
    """Read all results."""
    if not file.exists():
        return []
    content = json.loads(file.read_text("utf-8"))
    return [Entry(**{**each, "task": Task(**each["task"])}) for each in content]


def write_entries(file: Path, entries: Sequence[Entry]) -> None:
    """Write all results, a line each."""
    lines = ",\n".join(json.dumps(asdict(entry)) for entry in entries)
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    new.write_text(f"[\n{lines}\n]\n", "utf-8")
    new.replace(file)


def comparisons(entries: Sequence[Entry]) -> dict[tuple[str, float, int], dict[str, list[Entry]]]:
    """Return the entries by text, minutes and cores, and then by contender in our order."""
    groups: dict[tuple[str, float, int], dict[str, list[Entry]]] = {}
    for entry in sorted(entries, key=lambda entry: entry.task.seed):
        key = entry.task.text, entry.task.minutes, entry.task.cores
        groups.setdefault(key, {}).setdefault(entry.task.contender, []).append(entry)
    return {
        key: {name: group[name] for name in CONTENDERS if name in group}
        for key, group in groups.items()
    }


def table(group: Mapping[str, Sequence[Entry]]) -> list[str]:
    """Return a row for each contender: its losses, runs, and `tune`'s time to its loss."""
    rows = ["|  | second half | first half | runs | `tune` is as good after |"]
    rows.append("| -- | -- | -- | -- | -- |")
    ours = {entry.task.seed: entry for entry in group.get("tune", ())}
    for name, entries in group.items():
        losses = [entry.second for entry in entries]
        spread = f" ({min(losses):.3f} to {max(losses):.3f})" if len(losses) > 1 else ""
        first = statistics.fmean(entry.first for entry in entries)
        runs = statistics.median_low(entry.runs for entry in entries)
        reached = "" if name == "tune" else time_to_loss_of(entries, ours)
        mean = f"{statistics.fmean(losses):.3f}{spread}"
        rows.append(f"| {CONTENDERS[name]} | {mean} | {first:.3f} | {runs} | {reached} |")
    return rows


def time_to_loss_of(entries: Sequence[Entry], ours: Mapping[int, Entry]) -> str:
    """Return the minutes after which `tune` has a peer's final loss; the longest of all seeds."""
    times = [
        seconds_to(ours[entry.task.seed].curve, entry.curve[-1][1])
        for entry in entries
        if entry.task.seed in ours
    ]
    if not times:
        return ""
    known = [seconds for seconds in times if seconds is not None]
    return f"{max(known) / 60:.1f} min" if len(known) == len(times) else "never"


def describe(settings: Mapping[str, Any]) -> str:
    """Return a model's shape and dropout in words; nanoGPT's shape is always the same."""
    if "model_dim" not in settings:
        return f"rate {settings['rate']:g}, batch {settings['batch']}" if settings else "cut off"
    precision = ", mixed precision" if settings["mixed_precision"] else ""
    return (
        f"{settings['num_layers']} layers, {settings['model_dim']} wide, sequence "
        f"{settings['max_seq_len']}, batch {settings['batch_size']}, dropout "
        f"{settings['dropout']:.2g}, rate {settings['learning_rate']:.2g}{precision}"
    )


def section(entries: Sequence[Entry]) -> str:
    """Return the text of the docs' section."""
    lines = ["", "## The best model for a time budget", ""]
    for (text, minutes, cores), group in comparisons(entries).items():
        some = [entry for each in group.values() for entry in each]
        seeds = len({entry.task.seed for entry in some})
        lines += [*table(group), ""]
        chosen = "; ".join(
            f"{CONTENDERS[name]}: {describe(each[0].model)}" for name, each in group.items()
        )
        lines += [
            f"{text}, {minutes:g} minutes of {cores} cores, {seeds} seed{'s' * (seeds > 1)}; "
            f"float32. Models of the first seed: {chosen}. {some[0].measured}.",
            "",
        ]
    lines += [
        f"![Best loss against wall clock](charts/{CHART.name})",
        "",
        "All have the same cores and wall clock, their start included. A model is chosen on the "
        "first half of the validation text and reported on the second; runs count if they were "
        "evaluated. `benchmarks/time_to_tuned.py` says what each contender does. The settings that "
        "`tune` starts from were measured on tinyshakespeare ([experiments](dev/experiments.md)), "
        "as were those of `--preset fast`.",
        "",
    ]
    return "\n".join(lines)


def draw(entries: Sequence[Entry], chart: Path) -> None:
    """Draw the best loss against minutes: thin lines for seeds, a thick one for their mean."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "time_to_tuned", "svg.fonttype": "none"}
    mpl.rcParams |= {"font.family": "sans-serif"}
    from matplotlib import pyplot as plt

    groups = comparisons(entries)
    figure, panels = plt.subplots(
        len(groups), 1, figsize=(7, 3.6 * len(groups)), squeeze=False, layout="constrained"
    )
    for axes, ((text, minutes, cores), group) in zip(panels[:, 0], groups.items(), strict=True):
        for (name, label), color in zip(CONTENDERS.items(), COLORS, strict=True):
            curves = [
                [*entry.curve, (60 * minutes, entry.curve[-1][1])] for entry in group.get(name, ())
            ]
            if not curves:
                continue
            if len(curves) > 1:
                for curve in curves:
                    axes.step(
                        *minutes_and_losses(curve),
                        where="post",
                        color=color,
                        alpha=0.3,
                        linewidth=0.8,
                    )
            axes.step(
                *minutes_and_losses(best_losses(curves)),
                where="post",
                color=color,
                label=label.replace("`", ""),
            )
        least = min(entry.curve[-1][1] for each in group.values() for entry in each)
        axes.set_ylim(least - 0.03, least + SHOWN)
        axes.set_xlim(0, minutes)
        axes.set_xlabel(f"minutes of {cores} cores")
        axes.set_ylabel("best val_loss")
        axes.set_title(text, fontsize=10, loc="left")
        axes.grid(axis="y", color="#DDDDDD")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    chart.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(chart, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def minutes_and_losses(curve: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Return the two axes of a curve."""
    return [seconds / 60 for seconds, _ in curve], [loss for _, loss in curve]


@click.command()
@click.option("--text", type=click.Path(exists=True, path_type=Path), help="[default: built-in]")
@click.option("--minutes", default=30.0, show_default=True)
@click.option("--cores", default=2, show_default=True)
@click.option("--seeds", default=1, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(list(CONTENDERS)), help="[default: all]")
@click.option("--nanogpt", type=click.Path(exists=True, path_type=Path))
@click.option("--wandb-python", default="", help="A Python with sweeps==0.3.0.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS)
@click.option("--work", type=click.Path(path_type=Path), default=ROOT / "runs/time_to_tuned")
@click.option("--only-draw", is_flag=True, help="Measure nothing; use the results that are there.")
@click.option("--write", is_flag=True, help="Write table and chart into the docs.")
def main(
    text: Path | None, minutes: float, cores: int, seeds: int, only: Sequence[str],
    nanogpt: Path | None, wandb_python: str, results: Path, work: Path, only_draw: bool,
    write: bool,
) -> None:  # fmt: skip
    """Measure what is missing from the results, and print a table."""
    names = list(only or CONTENDERS)
    if not only_draw and "nanogpt" in names and nanogpt is None:
        raise click.UsageError("nanogpt needs --nanogpt PATH")
    if not only_draw and "wandb" in names and not wandb_python:
        raise click.UsageError(
            "wandb needs --wandb-python PYTHON, an environment with sweeps==0.3.0"
        )
    work, results = work.absolute(), results.absolute()
    used = sorted(os.sched_getaffinity(0))[:cores]
    if len(used) < cores:
        raise click.UsageError(f"--cores {cores}: this process may use {len(used)}")
    peers = Peers(nanogpt and nanogpt.absolute(), wandb_python)
    entries = read_entries(results)
    tasks = [
        Task(name, text.name if text else "built-in text", seed, minutes, cores)
        for seed in range(seeds)
        for name in names
    ]
    for task in tasks if not only_draw else ():
        if any(entry.task == task for entry in entries):
            continue
        folder = work / f"{task.text}-{minutes:g}m-{cores}c" / f"{task.contender}-{task.seed}"
        click.echo(f"# {task.contender}, seed {task.seed}: {minutes:g} minutes", err=True)
        entry = measure(task, folder, path_of(text, work), used, peers)
        if entry is None:
            continue
        entries.append(entry)
        write_entries(results, entries)
        shown = {
            name: value for name, value in asdict(entry).items() if name not in ("curve", "task")
        }
        click.echo(json.dumps(shown), err=True)
    for (name, length, count), group in comparisons(entries).items():
        click.echo(f"\n{name}, {length:g} minutes of {count} cores\n")
        click.echo("\n".join(table(group)))
    if write and entries:
        draw(entries, CHART)
        write_section("time_to_tuned", section(entries), PAGE)
        subprocess.run([sys.executable, "-m", "mdformat", str(PAGE)], check=True)


def path_of(text: Path | None, work: Path) -> Path:
    """Return the path of the text, after writing the built-in one to a file."""
    if text is not None:
        return text.absolute()
    from fundamentallm.data.builtin_corpus import builtin_corpus

    work.mkdir(parents=True, exist_ok=True)
    path = work / "built-in.txt"
    path.write_text(builtin_corpus(), "utf-8")
    return path


if __name__ == "__main__":
    main()

"""Hold `fundamentallm predict` to its word: 40 predictions of real runs.

    python benchmarks/predictions.py train tinyshakespeare.txt   # 18 minutes of one core
    python benchmarks/predictions.py fit                         # coefficients of PRIOR
    python benchmarks/predictions.py score [--write]

A trunk is trained at a constant rate, and from it one run of each length by a linear decay to 0 in
its last fifth, as the schedule wsd does; benchmarks/predictions.json keeps them, and the same
command continues. `score` puts the short and small runs of one seed into a sweep, predicts a longer
or wider one, and compares it with the run of the other seed. `fit` is a least-squares fit over all
runs of both texts, with exponents in common; docs/dev/scaling.md has the results.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import click
import numpy as np
from comparing import write_section
from scipy.optimize import least_squares

from fundamentallm import Config
from fundamentallm.report.predict import UnpredictableError, predict
from fundamentallm.report.results import Curve, Results, RunResult
from fundamentallm.scaling.fit import MISFIT, MISFIT_SHARE, NOISE, PRIOR
from fundamentallm.scaling.law import Law, losses
from fundamentallm.sweep.file.sweep_file import Metric

RUNS = Path(__file__).parent / "predictions.json"
PAGE = Path(__file__).parent.parent / "docs/dev/scaling.md"
SHAKESPEARE, BUILT_IN = TEXTS = "tinyshakespeare", "built-in"
SEEDS = (0, 1)
WARMUP = 50
DECAY = 0.2
LENGTHS = (250, 500, 1000, 2000, 4000)
SMALL_LENGTHS = (125, 250, 500, 1000)
SWEPT = LENGTHS[:3]
"""Steps of the runs in a sweep."""
STEM = 800
"""Steps of a run at a constant rate in a sweep."""


@dataclass(frozen=True)
class Trunk:
    """A run at a constant rate, and the decays that leave it."""

    text: str
    characters: int
    """Characters of training text; 0 for all."""
    model_dim: int
    num_layers: int
    seed: int
    lengths: tuple[int, ...]
    """Steps of the runs that it gives."""
    dropout: float = 0.1

    @property
    def config(self) -> Config:
        """Hyperparameters of the trunk."""
        return Config(
            model_dim=self.model_dim, num_layers=self.num_layers, num_heads=4, batch_size=8,
            max_seq_len=128, dropout=self.dropout, warmup_steps=WARMUP, seed=self.seed,
            epochs=1_000_000, max_steps=self.lengths[-1],
        )  # fmt: skip


def trunks() -> Iterator[Trunk]:
    """Yield all trunks."""
    for width in (16, 32, 64):
        yield from (Trunk(text, 0, width, 2, 0, LENGTHS) for text in TEXTS)
    yield from (Trunk(text, 0, 128, 2, 0, LENGTHS[:4]) for text in TEXTS)
    yield from (Trunk(text, 0, 32, 2, 1, LENGTHS) for text in TEXTS)
    yield Trunk(SHAKESPEARE, 60_000, 128, 2, 0, SMALL_LENGTHS)  # repeated up to 17 times
    yield Trunk(SHAKESPEARE, 0, 64, 2, 1, LENGTHS)
    yield Trunk(BUILT_IN, 0, 64, 2, 1, LENGTHS[:4])


def train_trunk(trunk: Trunk, path: Path) -> dict[str, Any]:
    """Train a trunk and its decays."""
    import torch

    from fundamentallm.data.builtin_corpus import builtin_corpus
    from fundamentallm.data.dataset import prepare, training_batch
    from fundamentallm.data.text import Text, read_text
    from fundamentallm.model.size import parameter_count
    from fundamentallm.training.evaluate import score
    from fundamentallm.training.train_step import TrainStep

    torch.set_num_threads(1)
    config, cpu = trunk.config, torch.device("cpu")
    text = Text.of(builtin_corpus(), BUILT_IN) if trunk.text == BUILT_IN else read_text(path)
    data = prepare(text, config)
    train = data.train[: trunk.characters or None]
    step = TrainStep(len(data.vocabulary), config, cpu)

    def evaluate() -> float:
        step.model.eval()
        loss = score(step.model, data.val, len(data.val), config, cpu).loss
        step.model.train()
        return round(loss, 5)

    def decay(begin: int, end: int) -> float:
        """Return the loss after a decay, and restore the state."""
        weights, state = copied(step.model.state_dict()), copied(step.state_dict())
        for now in range(begin, end):
            rate = config.learning_rate * (end - now) / (end - begin)
            step.step(training_batch(train, config, now), rate)
        loss = evaluate()
        step.load_state_dict(weights, state)
        return loss

    start = time.process_time()
    leaves = {length - round(DECAY * length): length for length in trunk.lengths}
    evaluated = {round(2 ** (k / 2)) for k in range(14, 26)} | set(leaves)
    curve, ends = [], []
    for now in range(max(leaves) + 1):
        if now in evaluated:
            curve.append((now, evaluate()))
        if now in leaves:
            ends.append((leaves[now], decay(now, leaves[now])))
        rate = config.learning_rate * min(1, (now + 1) / WARMUP)
        step.step(training_batch(train, config, now), rate)
    return {
        **asdict(trunk),
        "parameters": parameter_count(config, len(data.vocabulary)),
        "vocabulary": len(data.vocabulary),
        "train_characters": len(train),
        "tokens_per_step": config.tokens_per_step,
        "curve": curve,
        "ends": ends,
        "seconds": round(time.process_time() - start, 1),
    }


def copied(state: Any) -> Any:
    """Return a deep copy of dicts, lists and tensors."""
    if isinstance(state, Mapping):
        return {key: copied(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(map(copied, state))
    return state.clone() if hasattr(state, "clone") else state


def read_rows() -> list[dict[str, Any]]:
    """Return the trunks that are trained."""
    return json.loads(RUNS.read_text()) if RUNS.exists() else []


# --- The prior ---


def fit_law(rows: Sequence[Mapping[str, Any]]) -> Law:
    """Return the law of all decayed runs: exponents in common, geometric means of the rest.

    A part of a text has offset and scales of its own, which do not enter the means.
    """
    texts = sorted({(row["characters"], row["text"]) for row in rows})  # whole texts first
    whole = sum(not characters for characters, _ in texts)
    points, seen, text = [], [], []
    for row in rows:
        for steps, loss in row["ends"]:
            tokens = steps * row["tokens_per_step"]
            points.append((row["parameters"], tokens, row["train_characters"]))
            seen.append(loss)
            text.append(texts.index((row["characters"], row["text"])))
    points, seen, text = np.array(points, float), np.array(seen), np.array(text)
    least = np.array([seen[text == index].min() for index in range(len(texts))])[text]
    sigmas = np.sqrt(NOISE**2 + MISFIT**2 + (MISFIT_SHARE * (seen - least)) ** 2)
    own = [0, 1, 3]  # offset and scales

    def laws(unknown: np.ndarray) -> np.ndarray:
        found = np.tile(unknown[:9], (len(texts), 1))
        found[:, own] += unknown[9:].reshape(len(texts), 3)
        return found

    def residuals(unknown: np.ndarray) -> np.ndarray:
        expected = losses(laws(unknown), points)[text, np.arange(len(seen))]
        weak = (unknown[:9] - PRIOR.logs) / 0.5  # holds what the runs do not determine
        return np.concatenate([(expected - seen) / sigmas, weak, unknown[9:] / 0.5])

    found = least_squares(residuals, np.concatenate([PRIOR.logs, np.zeros(3 * len(texts))])).x
    return Law.of_logs(laws(found)[:whole].mean(0))


# --- The predictions ---


@dataclass(frozen=True)
class Case:
    """One prediction."""

    text: str
    seed: int
    """Seed of the runs in the sweep."""
    widths: tuple[int, ...]
    is_constant: bool
    longer: float = 1
    wider: float = 1

    @property
    def kind(self) -> str:
        """Kind of prediction, in words."""
        words = [
            f"{n:g}x {w}" for n, w in ((self.longer, "longer"), (self.wider, "wider")) if n > 1
        ]
        return ", ".join(words) + (", constant rate" if self.is_constant else "")


def cases() -> Iterator[Case]:
    """Yield the 40 predictions."""
    for text in TEXTS:
        for seed in SEEDS:
            for width, longer in product((32, 64), (2, 4)):
                yield Case(text, seed, (width,), False, longer)
            for longer in (2, 4):
                yield Case(text, seed, (64,), True, longer)
        yield Case(text, 0, (16, 32), False, wider=2)
        yield Case(text, 0, (16, 32, 64), False, wider=2)
        yield Case(text, 0, (16, 32), False, 2, 2)
        yield Case(text, 0, (16, 32), False, 4, 2)
        yield Case(text, 1, (32,), True, 2)
        yield Case(text, 1, (32,), True, 4)
        yield Case(text, 1, (32, 64), False, wider=2)
        yield Case(text, 1, (32, 64), False, 2, 2)


def result(row: Mapping[str, Any], steps: int, *, is_constant: bool) -> RunResult:
    """Return a run as a sweep's folder has it."""
    trunk = Trunk(**{name: row[name] for name in Trunk.__dataclass_fields__})
    schedule = "constant" if is_constant else "wsd"
    config = replace(trunk.config, max_steps=steps, lr_schedule=schedule, min_lr_ratio=0.0)
    points = {step: loss for step, loss in row["curve"] if step <= steps}
    if not is_constant:
        points = {steps: dict(row["ends"])[steps]}
    curve, per_epoch = Curve.of(points), row["train_characters"] / row["tokens_per_step"]
    epochs = Curve.of({step: step / per_epoch for step in points})
    summary = {"total_steps": steps, "vocabulary_size": row["vocabulary"]}
    settings = {**asdict(config), "data_sha256": row["text"]}
    curves = {"val_loss": curve, "epoch": epochs}
    name = f"run-{row['model_dim']}-{steps}"
    return RunResult(name, "done", settings, min(curve.values), curves, summary)


def find(rows: Sequence[Mapping[str, Any]], case: Case, width: int, seed: int) -> Any:
    """Return the trunk of a width and seed on the whole text; None if there is none."""
    wanted = {"text": case.text, "model_dim": width, "seed": seed, "characters": 0}
    return next((row for row in rows if wanted.items() <= row.items()), None)


def judge(rows: Sequence[Mapping[str, Any]], case: Case, prior: Law) -> dict[str, Any] | None:
    """Return a prediction beside the truth; None if the runs are not trained."""
    lengths = (STEM,) if case.is_constant else SWEPT
    used = [find(rows, case, width, case.seed) for width in case.widths]
    steps, target = round(lengths[-1] * case.longer), round(case.widths[-1] * case.wider)
    truths = {}
    for seed in (case.seed, 1 - case.seed):  # the other counts, if it is there
        trunk = find(rows, case, target, seed) or {"curve": [], "ends": []}
        known = dict(trunk["curve" if case.is_constant else "ends"])
        truths |= {seed: known[steps]} if steps in known else {}
    if None in used or not truths:
        return None
    truth: float = truths[1 - case.seed if 1 - case.seed in truths else case.seed]
    runs = [result(row, n, is_constant=case.is_constant) for row in used for n in lengths]
    row = {**asdict(case), "kind": case.kind, "other_seed": 1 - case.seed in truths}
    try:
        found = predict(
            Results("sweep", Metric("val_loss"), runs),
            longer=case.longer,
            wider=case.wider,
            prior=prior,
        )
    except UnpredictableError as error:
        return {**row, "silent": str(error)}
    expected = found.expected
    row |= {"truth": truth, "loss": expected.loss, "width": expected.width}
    return {**row, "error": truth - expected.loss, "held": expected.low <= truth <= expected.high}


def table(judged: Sequence[Mapping[str, Any]]) -> str:
    """Return the results by kind as a table."""
    kinds = list(dict.fromkeys(row["kind"] for row in judged))
    lines = []
    for kind in [*kinds, "all"]:
        rows = [row for row in judged if kind in ("all", row["kind"])]
        told = [row for row in rows if "silent" not in row]
        lines.append(
            (
                kind,
                f"{sum(row['held'] for row in told)} of {len(told)}",
                f"{statistics.median(row['width'] for row in told):.3f}",
                f"{statistics.median(abs(row['error']) for row in told):.3f}",
                f"{max(abs(row['error']) for row in told):.3f}",
                f"{len(rows) - len(told)}",
            )
        )
    heads = ("prediction", "held", "median width", "median error", "largest error", "silent")
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ("--",) * len(heads), *lines))


@click.group()
def main() -> None:
    """Train runs, fit the prior, and score predictions."""


@main.command()
@click.argument("text", type=click.Path(exists=True, path_type=Path))
def train(text: Path) -> None:
    """Train every trunk that is missing."""
    for trunk in trunks():
        rows = read_rows()
        wanted = json.loads(json.dumps(asdict(trunk)))
        if any(wanted.items() <= row.items() for row in rows):
            continue
        rows.append(train_trunk(trunk, text))
        RUNS.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


@main.command()
def fit() -> None:
    """Print the law of all runs, and of each text's."""
    rows = read_rows()
    click.echo(fit_law(rows))
    for text in TEXTS:
        click.echo(f"{text}: {fit_law([row for row in rows if row['text'] == text])}")


@main.command()
@click.option("--write", is_flag=True, help="Write the tables to docs/dev/scaling.md.")
def score(write: bool) -> None:
    """Compare predictions with the runs, with PRIOR and with a prior of the other text alone."""
    rows, parts = read_rows(), []
    others: dict[str, Law] = {t: fit_law([row for row in rows if row["text"] != t]) for t in TEXTS}
    same: dict[str, Law] = dict.fromkeys(TEXTS, PRIOR)
    for title, priors in (
        ("With `PRIOR`", same),
        ("With a prior that was fitted to the other text alone", others),
    ):
        judged = [each for c in cases() if (each := judge(rows, c, priors[c.text])) is not None]
        for each in judged:
            click.echo(json.dumps(each))
        parts.append(f"{title}:\n\n{table(judged)}")
    text = "\n\n".join(parts)
    click.echo(text)
    if write:
        write_section("predictions", text, PAGE)


if __name__ == "__main__":
    main()

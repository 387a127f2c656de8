"""The report: one HTML file that holds everything it shows and needs no network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from fundamentallm import __version__
from fundamentallm.config.fields import shown
from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.data.builtin_corpus import BUILTIN
from fundamentallm.files.atomic import replacing
from fundamentallm.metrics import score_text
from fundamentallm.printable import printable
from fundamentallm.report.explain import by_heading, explain
from fundamentallm.report.figures import make_plots
from fundamentallm.report.results import Results, RunResult
from fundamentallm.report.rules.claim import Evidence
from fundamentallm.sweep.store.records import status_counts

LONGEST = 1_000  # characters of a setting or sample
MOST_SAMPLES = 6
MOST_OTHERS = 20  # settings that no one searched, in a table


def write_report(results: Results, file: Path, *, refresh: int = 0) -> None:
    """Write the page, whole or not at all.

    Args:
        results: Runs to show.
        file: Path of the page.
        refresh: Seconds after which a browser reloads it; 0 for a final page.

    Raises:
        DiskError: The file cannot be written.
    """
    text = make_page(results, refresh=refresh)
    with replacing(file, part=f".{file.name}.{os.getpid()}") as opened:
        opened.write(text.encode(errors="replace"))


def make_page(results: Results, *, refresh: int = 0) -> str:
    """Return the page's HTML."""
    from plotly.offline import get_plotlyjs

    evidence = Evidence(results)
    plots = make_plots(results, evidence)
    figures = {plot.id: json.loads(plot.figure.to_json() or "{}") for plot in plots}
    scripts = {"plotly": get_plotlyjs(), "page": _resource("page.js")}
    environment = Environment(
        loader=PackageLoader("fundamentallm.report", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        results=results,
        version=__version__,
        refresh=refresh,
        counts=status_counts(Counter(run.status for run in results.runs)),
        sections=_sections(results, evidence),
        command=_command(results),
        repeats="Its command:" if results.is_foreign else "Repeat it:",
        filters=_filters(results),
        columns=_columns(results),
        rows=[_cells(results, run) for run in _best_first(results)],
        others=[name for name in results.differing if name not in results.varied][:MOST_OTHERS],
        text=_text,
        plots=plots,
        samples=_sample_rows(results),
        style=Markup(_resource("page.css")),  # ours: no text of a run is in it
        scripts={name: Markup(text) for name, text in scripts.items()},
        hashes=" ".join(f"'sha256-{_hash(text)}'" for text in scripts.values()),
        figures=Markup(_inside_script(figures)),
    )


def _command(results: Results) -> str:
    """Return the command that repeats the best configuration; "" if it is unknown."""
    best = next(iter(results.contenders), None)
    if not best or best[0].program or "data_sha256" not in best[0].settings:
        return _shortened(best[0].program) if best else ""
    return repeat_command(best[0], results.varied)


def repeat_command(run: RunResult, varied: Sequence[str]) -> str:
    """Return the command that repeats a run: `varied` settings, and those off their defaults."""
    words = ["fundamentallm", "train"]
    data = str(run.settings.get("data", BUILTIN))
    if data != BUILTIN:
        words.append(data)
    for name, known in HYPERPARAMETERS.items():
        value = run.settings.get(name, known.default)
        if value != known.default or (name in varied and name in run.settings):
            text = str(value).lower() if isinstance(value, bool) else str(value)
            words += [known.flag, text]
    return shlex.join(words)


def _filters(results: Results) -> str:
    """Return an example of what the table can be filtered by."""
    if not results.is_foreign:
        return "diverged, num_layers=4, val_loss<1.9"
    return _shortened(", ".join(["done", *(f"{name}=..." for name in results.varied[:2])]))


def _sections(results: Results, evidence: Evidence) -> dict[str, list[str]]:
    """Return sentences by heading."""
    sections = by_heading(explain(results, evidence))
    if results.notes:
        sections["What is missing"] = [_shortened(note) for note in results.notes[:20]]
    return sections


def _columns(results: Results) -> list[str]:
    own = ["run", "status", results.metric.name, "best step", "steps", "seconds"]
    return [*own, *map(_shortened, results.varied)]


def _best_first(results: Results) -> Sequence[RunResult]:
    return [*results.by_loss(results.runs), *(run for run in results.runs if not run.is_ranked)]


def _cells(results: Results, run: RunResult) -> list[tuple[str, str]]:
    """Return text and sorting key of every column."""
    summary = run.summary
    seconds = summary.get("seconds")
    best_step = run.best_step(results.metric)
    numbers: list[Any] = [run.score, best_step, summary.get("step"), seconds]
    texts = [
        score_text(run.score),
        _text(best_step),
        _steps_text(summary),
        f"{seconds:.0f}" if isinstance(seconds, int | float) else "",
    ]
    cells = [(_shortened(run.name), run.name[:200]), (run.status, run.status)]
    cells += [(text, _key(number)) for text, number in zip(texts, numbers, strict=True)]
    for name in results.varied:
        value = run.settings.get(name)
        cells.append((_text(value), _key(value)))
    return cells


def _steps_text(summary: Mapping[str, Any]) -> str:
    """Return the steps of a run, and how many of them it reused: `400 (80 reused)`."""
    steps, reused = _text(summary.get("step")), summary.get("reused_steps")
    return f"{steps} ({_text(reused)} reused)" if reused else steps


def _sample_rows(results: Results) -> list[dict[str, Any]]:
    """Return the last sample of each of the best runs."""
    found: list[dict[str, Any]] = []
    for run in _best_first(results):
        if run.samples and len(found) < MOST_SAMPLES:
            step, sample = run.samples[-1]
            found.append(
                {
                    "run": _shortened(run.name),
                    "score": score_text(run.score),
                    "step": step,
                    "prompt": _shortened(sample.prompt),
                    "text": _shortened(sample.text),
                }
            )
    return found


def _text(value: Any) -> str:
    return "" if value is None else _shortened(shown(value))


def _key(value: Any) -> str:
    """Return a sorting key: numbers sort as numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)[:200]
    return repr(value)


def _shortened(text: str) -> str:
    """Return text without control characters, at most LONGEST long."""
    return printable(text[:LONGEST]) + ("…" if len(text) > LONGEST else "")


def _inside_script(content: Mapping[str, Any]) -> str:
    """Return JSON that cannot end its script element."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _resource(name: str) -> str:
    return files("fundamentallm.report").joinpath(name).read_text("utf-8")

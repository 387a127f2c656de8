"""The report: one HTML file that holds everything it shows and needs no network.

A dashboard is the same page with live data.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from fundamentallm import __version__
from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.data.builtin_corpus import BUILTIN
from fundamentallm.files.atomic import replacing
from fundamentallm.report.explain import by_heading, explain
from fundamentallm.report.page_parts import Parts, figure_parts, run_parts, shortened
from fundamentallm.report.results import Results, RunResult
from fundamentallm.report.rules.claim import Evidence

SCRIPTS = (
    *("content.js", "filter.js", "table.js", "lines.js", "charts.js", "axes.js"),
    *("pair.js", "samples.js", "csv.js", "paper.js", "page.js"),
)
"""In this order: each uses names of those before it."""
LIVE_SCRIPT = "live.js"
POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Page:
    """A page of HTML."""

    html: str
    policy: str
    """Its content security policy, which the page has too."""


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
    return render_page({**run_parts(results), **joint_parts(results)}, refresh=refresh).html


def joint_parts(results: Results) -> Parts:
    """Return the parts that show all runs together: words and charts."""
    evidence = Evidence(results)
    return {"words": render_words(results, evidence), **figure_parts(results, evidence)}


def render_page(parts: Parts, *, refresh: int = 0, live: Mapping[str, Any] | None = None) -> Page:
    """Return the page of all parts.

    Args:
        parts: The content.
        refresh: Seconds after which a browser reloads it; 0 for a final page.
        live: What a dashboard's script is told; None for a report.
    """
    from plotly.offline import get_plotlyjs

    names = [*SCRIPTS, *([LIVE_SCRIPT] if live is not None else [])]
    scripts = [*map(_resource, names), get_plotlyjs()]
    policy = POLICY.format(scripts=" ".join(f"'sha256-{_hash(text)}'" for text in scripts))
    if live is not None:
        policy += "; connect-src 'self'"
    html = _environment().get_template("page.html.j2").render(
        about=parts["about"],
        words=Markup(parts["words"]),  # escaped by its own template
        version=__version__,
        refresh=refresh,
        policy=policy,
        style=Markup(_resource("page.css")),  # ours: no text of a run is in it
        scripts=[Markup(text) for text in scripts],
        content=Markup(_inside_script(parts)),
        live=None if live is None else Markup(_inside_script(live)),
    )  # fmt: skip
    return Page(html, policy)


def render_words(results: Results, evidence: Evidence) -> str:
    """Return what `explain` says, as HTML."""
    sections = by_heading(explain(results, evidence))
    if results.notes:
        sections["What is missing"] = [shortened(note) for note in results.notes[:20]]
    return _environment().get_template("words.html.j2").render(
        sections=sections,
        command=_command(results),
        repeats="Its command:" if results.is_foreign else "Repeat it:",
    )  # fmt: skip


def _command(results: Results) -> str:
    """Return the command that repeats the best configuration; "" if it is unknown."""
    best = next(iter(results.contenders), None)
    if not best or best[0].program or "data_sha256" not in best[0].settings:
        return shortened(best[0].program) if best else ""
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


def _inside_script(content: Mapping[str, Any]) -> str:
    """Return JSON that cannot end its script element."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("fundamentallm.report", "web"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _resource(name: str) -> str:
    return files("fundamentallm.report").joinpath("web", name).read_text("utf-8")

"""A run as people see it on W&B: names, config, axes, tags, summary, samples, model and alert.

Imports no client. docs/dev/decisions.md compares it with what other trainers leave on W&B.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fundamentallm import __version__
from fundamentallm.config.fields import ConfigError
from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.config.parsing import OWN_GROUP, innermost
from fundamentallm.config.run_name import MOST_CHARACTERS, name_of
from fundamentallm.files.samples import Sample
from fundamentallm.metrics import OF_EVALUATIONS
from fundamentallm.status import RunStatus

AXES: Sequence[Mapping[str, Any]] = (
    {"name": "epoch", "hidden": True},
    {"name": "tokens", "hidden": True},
)
"""Arguments of `define_metric`: x-axes beside the step, without charts of their own."""

FACTS = ("parameters", "vocabulary_size", "device")
"""Facts about a run, beside its settings, that its config shows from the start."""

END_TAGS = (RunStatus.DIVERGED, RunStatus.IMPOSSIBLE, RunStatus.STOPPED)
"""Tags that say how a run ended."""
RESUMED = "resumed"
"""Tag in place of those, as the client cannot remove the last tag."""


@dataclass(frozen=True)
class Labels:
    """Names under which people find a run."""

    name: str = ""
    group: str = ""
    """Group, whose runs W&B averages; "" for none."""
    notes: str = ""
    varied: Sequence[str] = ()
    """Hyperparameters that the sweep varies."""


def sweep_labels(
    content: Mapping[str, Any],
    swept: Mapping[str, object],
    *,
    sweep: str,
    is_group: bool = False,
    is_repeated: bool = False,
) -> Labels:
    """Return the labels of a run of a sweep: its swept values, and the sweep's description.

    Runs that differ only in their seed form a group.

    Args:
        content: Content of the sweep file; empty if it is unknown.
        swept: Values that the sweep sets, by its own names.
        sweep: Name or id of the sweep, which begins the name of a group.
        is_group: Whether the other runs form a group too, as nothing else holds them together.
        is_repeated: Whether the sweep varies the seed, although its file does not.
    """
    values = _parsed(swept)
    varied = {*_varied(content.get("parameters")), *(("seed",) if is_repeated else ())}
    if not content:
        varied = {name for name, value in values.items() if value != _default(name)}
    told = {name: value for name, value in values.items() if name in varied}
    group = sweep if is_group else ""
    if content and len(told) > 1 and "seed" in told:
        repeated = {name: value for name, value in told.items() if name != "seed"}
        group = f"{sweep}-{name_of(repeated)}"
    notes = str(content.get("description") or "")
    marked = tuple(told) if content else ()
    return Labels(name_of(told), group[:MOST_CHARACTERS], notes, marked)


def _parsed(swept: Mapping[str, object]) -> dict[str, object]:
    """Return values by hyperparameter; one that is invalid stays as it is."""
    values: dict[str, object] = {}
    for name, value in innermost(swept):
        plain = name.replace("-", "_")
        values[plain] = value
        if plain in HYPERPARAMETERS:
            with suppress(ConfigError):
                values[plain] = HYPERPARAMETERS[plain].parse(value)
    return values


def _varied(parameters: object) -> Iterator[str]:
    """Yield the hyperparameters to which a sweep gives more than one value."""
    for name, entry in parameters.items() if isinstance(parameters, Mapping) else ():
        if not isinstance(entry, Mapping):
            continue
        values = entry.get("values")
        if "parameters" in entry:
            yield from _varied(entry["parameters"])
        elif "value" not in entry and not (isinstance(values, list) and len(values) == 1):
            inside = [each for each in values or () if isinstance(each, Mapping)]
            for each in inside or [{name: None}]:
                yield from (inner.replace("-", "_") for inner, _ in innermost(each))


def _default(name: str) -> object:
    return HYPERPARAMETERS[name].default if name in HYPERPARAMETERS else None


def display_name(typed: str | None, labels: Labels, *, in_sweep: bool) -> str | None:
    """Return the name of a run; WANDB_NAME (`typed`) begins the names of a sweep's runs."""
    parts = [typed, labels.name] if in_sweep else [typed or labels.name]
    return "-".join(filter(None, parts))[:MOST_CHARACTERS] or None


def config(
    settings: Mapping[str, object],
    facts: Mapping[str, object],
    swept: Mapping[str, object] | None,
    varied: Sequence[str] = (),
) -> dict[str, object]:
    """Return the config of a run: each hyperparameter once, and a group of ours for the rest.

    Args:
        settings: Content of config.yaml.
        facts: More about the run; `FACTS` among it are shown.
        swept: Values of the sweep by its own names, which W&B sets; None outside a sweep.
        varied: Hyperparameters that the sweep varies.
    """
    theirs = {name.replace("-", "_") for name, _ in innermost(swept or {})}
    own = {name: value for name, value in settings.items() if name not in theirs}
    ours: dict[str, object] = {"version": __version__}
    ours |= {name: facts[name] for name in FACTS if name in facts}
    if sha256 := own.pop("data_sha256", None):
        ours["data_sha256"] = sha256
    if varied:
        ours["swept"] = list(varied)
    # W&B hands a requeued run its whole config.
    return own if OWN_GROUP in (swept or {}) else {**own, OWN_GROUP: ours}


def end_tags(tags: Iterable[str], status: str, *, requeued: bool) -> tuple[str, ...]:
    """Return the tags of a run that has ended; one that is `requeued` is not stopped."""
    if status == RunStatus.INTERRUPTED and not requeued:
        status = RunStatus.STOPPED
    before = list(tags)
    kept = [tag for tag in before if tag not in END_TAGS]
    added = [str(tag) for tag in END_TAGS if tag == status]
    if not added and len(kept) < len(before):
        added = [RESUMED]
    return tuple(dict.fromkeys([*kept, *added]))


def summary_numbers(
    summary: Mapping[str, object], rows: Iterable[Mapping[str, Any]]
) -> dict[str, object]:
    """Return the summary: of each metric of evaluations the best, and `last_val_loss`.

    W&B sorts a sweep's runs by the summary, and its search takes a run's best value.
    """
    scored = [row for row in rows if "val_loss" in row]
    best = min(scored, key=lambda row: row["val_loss"], default={})
    numbers: dict[str, object] = {**summary, "status": str(summary.get("status", ""))}
    if "val_loss" in summary:
        numbers["last_val_loss"] = summary["val_loss"]
    return numbers | {name: best[name] for name in OF_EVALUATIONS if name in best}


def model_artifact(
    run_id: str, settings: Mapping[str, object], summary: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments of the model's artifact, and its aliases."""
    measured = ("best_val_loss", "best_step", "parameters", "vocabulary_size")
    metadata = {name: summary[name] for name in measured if name in summary}
    kept = {name: value for name, value in settings.items() if name != "data_sha256"}
    artifact = {
        "name": f"model-{run_id}",
        "type": "model",
        "description": "Continue a text with: fundamentallm generate best.pt --prompt TEXT",
        "metadata": {**metadata, "version": __version__, "config": kept},
    }
    return artifact, ["best", "latest", f"step-{summary['best_step']}"]


def divergence_alert(summary: Mapping[str, object]) -> dict[str, Any] | None:
    """Return the arguments of an alert on divergence, which W&B sends to users who asked for it."""
    if summary.get("status") != RunStatus.DIVERGED:
        return None
    why = str(summary.get("stopped_by", ""))
    return {"title": "Run diverged", "text": why, "level": "WARN"}


# The browser's scheme decides, with a background of our own, since a frame's may be the other one.
STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1c1d21; --dim: #5b606b;
  --prompt: #dae4f5; --line: #d5d9e2; }
@media (prefers-color-scheme: dark) { :root { --back: #191b20; --text: #e7e9ee; --dim: #a4abb9;
  --prompt: #37455c; --line: #3a404c; } }
body { margin: 0; padding: 1rem; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1rem; }
p, figcaption { margin: 0; color: var(--dim); font-size: .85rem; }
figure { margin: 1rem 0 0; padding-top: .75rem; border-top: 1px solid var(--line); }
pre { margin: .4rem 0 0; max-width: 80ch; font: 14px/1.55 ui-monospace, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; }
mark { background: var(--prompt); color: inherit; border-radius: 3px; padding: .1em 0;
  box-decoration-break: clone; -webkit-box-decoration-break: clone; }
"""
SCRIPT = re.compile(r'<script type="application/json" id="samples">(.*?)</script>', re.DOTALL)


def samples_page(samples: Sequence[tuple[int, Sample]]) -> str:
    """Return a page of samples with their steps, whole in itself; `samples_of_page` reads it."""
    steps = " and ".join(dict.fromkeys(f"{step:,}" for step, _ in samples))
    data = [[step, each.prompt, each.temperature, each.text] for step, each in samples]
    content = json.dumps(data).replace("<", "\\u003c")
    return "\n".join(
        [
            '<!doctype html><html><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Samples, step {steps}</title><style>{STYLE}</style></head><body>",
            f"<h1>Step {steps}</h1><p>The prompt is <mark>marked</mark>.</p>",
            *(_figure(sample) for _, sample in samples),
            f'<script type="application/json" id="samples">{content}</script>',
            "</body></html>",
        ]
    )


def _figure(sample: Sample) -> str:
    # A lone surrogate cannot be written as UTF-8.
    prompt, text = (
        html.escape(part.encode("utf-8", "replace").decode())
        for part in (sample.prompt, sample.text)
    )
    return (
        f"<figure><figcaption>temperature {sample.temperature:g}</figcaption>"
        f'<pre dir="auto"><mark>{prompt}</mark>{text}</pre></figure>'
    )


def samples_of_page(page: str) -> list[tuple[int, Sample]]:
    """Read the samples of a page.

    Raises:
        ValueError: It is not a page of ours.
    """
    found = SCRIPT.search(page)
    try:
        data: Any = json.loads(found[1]) if found else None
        return [
            (int(step), Sample(str(prompt), float(temperature), str(text)))
            for step, prompt, temperature, text in data
        ]
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise ValueError("not a page of samples") from None

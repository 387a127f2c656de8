"""End of a tuning: its best model, its report, and one paragraph about it."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fundamentallm import exit_codes
from fundamentallm.cli.claims import show_claims, show_wrapped
from fundamentallm.cli.messages import display_path, show, warn
from fundamentallm.cli.report_file import save_report
from fundamentallm.cli.result_sources import read_sources
from fundamentallm.config.fields import setting_text
from fundamentallm.errors import FundamentallmError
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.metrics import duration_text, runs_text, score_text
from fundamentallm.model.size import parameter_count
from fundamentallm.report.explain import explain as explain_results
from fundamentallm.scaling.fit import NOISE
from fundamentallm.tune.plan import shape_text

if TYPE_CHECKING:
    from fundamentallm.cli.tuning import Phases
    from fundamentallm.report.results import Results, RunResult

SHOWN = ("learning_rate", "dropout", "weight_decay", "batch_size", "max_seq_len")
GAIN = 2.0
"""Factor of the budget whose gain is told."""
WORTH_TELLING = 0.002
"""Nats below which a gain is none."""


def conclude(phases: Phases) -> int:
    """Keep the best model, write the report, print what was found; return the exit code."""
    folder = phases.tuning.folder
    places = [str(folder.path / phase) for phase in phases.started]
    results = read_sources(places, "") if places else None
    best = None if results is None else _best(results)
    if results is None or best is None:
        show(
            f"no run has finished: see output.txt in {display_path(folder.path)}/*/run-*, or give "
            "a larger budget",
            err=True,
        )
        return exit_codes.FAILED
    folder.keep_best(RunFolder(best.location))
    show_claims(explain_results(results))
    try:
        save_report(results, folder.report)
    except FundamentallmError as error:
        warn(f"no report was written: {error}")
    show("")
    show_wrapped(paragraph(phases, results, best))
    show("")
    where = display_path(folder.path)
    show(f"try: fundamentallm generate {where}; report: {display_path(folder.report)}")
    show(f"continue with: {command(phases, GAIN)}")
    return exit_codes.DONE


def _best(results: Results) -> RunResult | None:
    """Return the run with the best model; one that was interrupted may have it."""
    kept = [run for run in results.runs if RunFolder(run.location).best.exists()]
    scored = [run for run in kept if run.score is not None]
    return min(scored, key=lambda run: run.score or 0.0, default=None)


def command(phases: Phases, factor: float = 1.0) -> str:
    """Return the command that resumes a tuning, or continues it with a larger budget."""
    request, resources = phases.tuning.request, phases.machine.resources
    words = ["fundamentallm", "tune"]
    words += [shlex.quote(request.text)] if request.text else []
    words += [request.budget.times(factor).text]
    words += [f"--output-dir {display_path(phases.tuning.folder.path)}"]
    words += [f"--max-parameters {request.max_parameters}"] if request.max_parameters else []
    words += [f"--max-memory {request.max_memory_gb:g}"] if request.max_memory_gb else []
    words += [f"--seed {request.seed}"] if request.seed else []
    words += [f"--workers {resources.workers}"] if resources.fixed else []
    words += [f"--device {request.device}"] if request.device != "auto" else []
    return " ".join(words)


def paragraph(phases: Phases, results: Results, best: RunResult) -> str:
    """Return what was tried and found, how sure that is, and what more budget would gain."""
    request, facts = phases.tuning.request, phases.planner.facts
    said = [
        f"{request.text_name} was tuned for {duration_text(phases.tuning.seconds)}: "
        f"{runs_text(len(results.runs))} in {_listed(phases.started)}."
    ]
    config = phases.config_of(best.settings)
    size = parameter_count(config, facts.vocabulary)
    chosen = ", ".join(setting_text(name, getattr(config, name)) for name in SHOWN)
    epochs = float(best.summary.get("step", 0)) * config.tokens_per_step / facts.characters
    said.append(
        f"The best model has {shape_text(config)} ({size:,} parameters), {chosen}; it has read "
        f"the text {epochs:.1f} times and reaches "
        f"val_loss {score_text(best.score)}, a perplexity of "
        f"{score_text(math.exp(best.score or 0.0))}."
    )
    said.append(_sureness(results, best))
    now, then = (
        phases.law.loss(size, factor * epochs * facts.characters, facts.characters)
        for factor in (1.0, GAIN)
    )
    gain = (best.score or 0.0) * (1 - then / now)
    if gain < WORTH_TELLING:
        said.append("Twice the budget would gain next to nothing: the text is learned.")
    else:
        said.append(f"Twice the budget should lower it by about {score_text(gain)}.")
    return " ".join(said)


def _sureness(results: Results, best: RunResult) -> str:
    """Say how far another seed may be from the best run."""
    same = next((group for group in results.configurations if best in group), [best])
    scores = [run.score for run in same if run.score is not None]
    if len(scores) < 2:
        return f"It was trained with one seed: another may differ by about {NOISE:.2f}."
    spread = statistics.stdev(scores)
    return f"{len(scores)} seeds of it differ by {score_text(spread)} (standard deviation)."


def _listed(phases: Sequence[str]) -> str:
    words = [f"`{phase}`" for phase in phases]
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))

"""`fundamentallm export`: results and models for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from fundamentallm.cli.json_output import json_text
from fundamentallm.cli.messages import show, warn, write_out
from fundamentallm.cli.model_source import find_model
from fundamentallm.cli.options import PATH
from fundamentallm.cli.output_file import check_new, write_new
from fundamentallm.cli.result_sources import (
    metric_option,
    read_sources,
    show_notes,
    sources_argument,
)


@click.command()
@sources_argument(many=True)
@click.option("--csv", "as_csv", is_flag=True, help="Write a table as CSV.")
@click.option("--json", "as_json", is_flag=True, help="Write a table as JSON.")
@click.option("--parquet", "as_parquet", is_flag=True, help="Write a table as Parquet, to -o FILE.")
@click.option("--history", is_flag=True, help="Write every logged row instead of a row per run.")
@metric_option
@click.option(
    "--safetensors",
    type=PATH,
    metavar="FILE",
    help="Write the model of a run, or of a sweep's best run, to FILE.",
)
@click.option(
    "-o", "--output", type=PATH, metavar="FILE", help="Write the table to FILE.  [default: stdout]"
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def export(
    sources: tuple[str, ...],
    as_csv: bool,
    as_json: bool,
    as_parquet: bool,
    history: bool,
    metric: str,
    safetensors: str | None,
    output: str | None,
    force: bool,
) -> int:
    """Write runs as a table, or a model, for other programs.

    A table has a row per run: its status, the settings that differ, the best value of the metric.
    SWEEP_OR_RUNS are folders of sweeps or runs, or sweeps on W&B: ENTITY/PROJECT/SWEEP.
    """
    forms = {"csv": as_csv, "json": as_json, "parquet": as_parquet}
    chosen = [form for form, given in forms.items() if given]
    if len(chosen) + (safetensors is not None) != 1:
        raise click.UsageError("give one of --csv, --json, --parquet and --safetensors FILE")
    if safetensors is not None:
        source, *others = sources
        if history or output or metric or others:
            raise click.UsageError(
                "--safetensors writes one model to its own FILE; leave out other sources and flags"
            )
        return _export_model(source, Path(safetensors), force=force)
    if as_parquet and output is None:
        raise click.UsageError("--parquet is binary; give -o FILE")
    if output is not None:
        check_new(Path(output), "--output", force=force)
    elif force:
        raise click.UsageError("--force needs -o FILE, or --safetensors FILE")
    content = _table(sources, metric, chosen[0], history=history)
    if output is None:
        write_out(content.decode())
    else:
        write_new(Path(output), content, "--output", force=force)
    return 0


def _export_model(source: str, file: Path, *, force: bool) -> int:
    check_new(file, "--safetensors", force=force)
    path = find_model(source)
    from fundamentallm.training.checkpoint import Checkpoint
    from fundamentallm.training.safetensors import safetensors_bytes

    content = safetensors_bytes(Checkpoint.load(path))
    write_new(file, content, "--safetensors", force=force)
    show(f"{file}: {len(content) / 1e6:.1f} MB, from {path}", err=True)
    return 0


def _table(sources: tuple[str, ...], metric: str, form: str, *, history: bool) -> bytes:
    """Return the table of the sources in this form; print notes about them."""
    results = read_sources(sources, metric)
    from fundamentallm.report.export import csv_text, find_formula, parquet_bytes
    from fundamentallm.report.tables import history_table, run_table

    table = history_table(results) if history else run_table(results)
    show_notes(results)
    if form == "parquet":
        return parquet_bytes(table)
    if form == "json":
        document = {
            "metric": {"name": results.metric.name, "goal": results.metric.goal},
            **({} if history else {"fixed": results.fixed}),
            "history" if history else "runs": table.records(),
        }
        return (json_text(document) + "\n").encode()
    if text := find_formula(table):
        warn(f"a text begins like a formula, which a spreadsheet may run: {text[:60]!r}")
    return csv_text(table).encode()

"""Panels of a sweep on W&B: the same in a saved view and in a report."""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false
# The library is an extra, and its documented names count as private there.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wandb_workspaces.reports import v2 as wr

from fundamentallm.metrics import METRICS, OF_EVALUATIONS
from fundamentallm.report.factors import find_factors
from fundamentallm.report.results import Results
from fundamentallm.sweep.file.distributions import Categorical, Continuous
from fundamentallm.sweep.file.parameters import Parameter
from fundamentallm.sweep.search.space import innermost_members

SAMPLES = "samples"
X_AXES = ("epoch", "tokens")
"""Metrics that count how far a run is: axes, not curves."""
GROUPS = {"optim": "Optimizer", "perf": "Speed and memory"}
"""Sections of our metrics by their prefix; the others are losses."""
NOISY = ("train_loss", "train_perplexity", "optim/grad_norm", "perf/tokens_per_second")
"""Metrics of a few batches, which are smoothed."""
SMOOTHING = 0.6
IN_LOGS = ("optim/learning_rate", "optim/grad_norm")
TOKENS_PER_STEP = ("batch_size", "max_seq_len", "gradient_accumulation")
"""Hyperparameters that change how many tokens a step has: then epochs compare, not steps."""
MOST_CURVES = 40
"""Curves of another program, which may log a metric for each of its layers."""
GRID_COLUMNS = 24  # of a report
COLUMNS = 3  # of panels


@dataclass(frozen=True)
class Section:
    """Panels of one subject."""

    title: str
    panels: Sequence[Any]
    columns: int = COLUMNS


@dataclass(frozen=True)
class Column:
    """A setting in the config of a run on W&B."""

    path: tuple[str, ...]
    """Keys, the outer first; a key may have dots itself."""
    in_logs: bool = False

    @property
    def accessor(self) -> str:
        """Return W&B's name of it in tables; every outermost key holds a `value`."""
        return ".".join([f"config:{self.path[0]}", "value", *self.path[1:]])


def ranked_by(results: Results) -> str:
    """Return the number of W&B's summary that ranks runs: the best, where the summary has it."""
    name = results.metric.name
    if not results.is_foreign:
        return "best_val_loss" if name == "val_loss" else name
    best = f"{name}.{results.metric.goal.removesuffix('imize')}"  # by `define_metric`
    return best if any(best in run.last_values for run in results.runs) else name


def columns_of(results: Results) -> list[Column]:
    """Return the settings that the sweep searches, or that differ if its file cannot be read."""
    in_logs = {factor.name for factor in find_factors(results, results.ranked)[0] if factor.in_logs}
    if not results.parameters:
        return [Column((name,), name in in_logs) for name in results.varied]
    found: list[Column] = []
    for name, parameter in results.parameters.items():
        if parameter.is_constant:
            continue
        distribution = parameter.distribution
        logs = name in in_logs or (isinstance(distribution, Continuous) and distribution.in_logs)
        found += [Column(path, logs) for path in _paths(parameter)]
    return found


def _paths(parameter: Parameter) -> list[tuple[str, ...]]:
    """Return where a config has a parameter; a mapping has a place for each of its members."""
    distribution = parameter.distribution
    if not (parameter.has_mappings and isinstance(distribution, Categorical)):
        return [parameter.path]
    mappings = [value for value in distribution.values if isinstance(value, Mapping)]
    members = dict.fromkeys(path for each in mappings for path, _ in innermost_members(each))
    return [(*parameter.path, *map(str, path)) for path in members]


def sections_of(results: Results) -> list[Section]:
    """Return the panels in the order in which one reads them: settings, curves, samples."""
    found = [_settings(results)] if columns_of(results) else []
    found += _curves(results)
    if not results.is_foreign:
        samples = wr.MediaBrowser(
            title="Samples", media_keys=[SAMPLES], num_columns=2, layout=_layout(0, 1, 10)
        )
        found.append(Section("Samples", [samples], columns=1))
    return found


def curves_left_out(results: Results) -> int:
    """Return how many metrics of another program have no panel, because it logged so many."""
    return max(0, len(_metrics(results)) - MOST_CURVES) if results.is_foreign else 0


def _settings(results: Results) -> Section:
    key = ranked_by(results)
    axes = [_axis(column) for column in columns_of(results)]
    axes.append(wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(key)))
    parallel = wr.ParallelCoordinatesPlot(
        title=f"Settings and {key}", columns=axes, layout=_layout(0, 1, 10)
    )
    importance = wr.ParameterImportancePlot(with_respect_to=key, layout=_layout(1, 1, 10))
    return Section("Settings", [parallel, importance], columns=1)


def _axis(column: Column) -> Any:
    class DottedAxis(wr.ParallelCoordinatesPlotColumn):
        """Axis of a setting whose outermost key has dots, which the library takes for nesting."""

        def _to_model(self) -> Any:
            return super()._to_model().model_copy(update={"accessor": column.accessor})

    kind = DottedAxis if "." in column.path[0] else wr.ParallelCoordinatesPlotColumn
    name = ".".join(column.path)
    return kind(metric=wr.Config(name), display_name=name, log=column.in_logs or None)


def _curves(results: Results) -> list[Section]:
    names: dict[str, list[str]] = {}
    for name in _metrics(results)[:MOST_CURVES]:
        names.setdefault(_group(name, is_ours=not results.is_foreign), []).append(name)
    x = x_axis(results)
    return [
        Section(title, [_curve(results, name, x, n) for n, name in enumerate(group)])
        for title, group in names.items()
    ]


def _metrics(results: Results) -> list[str]:
    """Return the metrics that have a curve; first the one that compares runs."""
    names = METRICS
    if results.is_foreign:  # a number that was logged once is no curve
        names = dict.fromkeys(
            name for run in results.runs for name, curve in run.curves.items() if len(curve) > 1
        )
    first = results.metric.name
    return list(dict.fromkeys([first, *(name for name in names if name not in X_AXES)]))


def _group(metric: str, *, is_ours: bool) -> str:
    prefix = metric.rpartition("/")[0]
    return GROUPS.get(prefix, "Loss") if is_ours else prefix or "Metrics"


def x_axis(results: Results) -> str:
    """Return the metric along which curves compare."""
    differ = not results.is_foreign and any(name in results.differing for name in TOKENS_PER_STEP)
    return "epoch" if differ else "Step"


def _curve(results: Results, name: str, x: str, number: int) -> Any:
    is_ours = not results.is_foreign
    is_noisy = is_ours and name in NOISY and name not in OF_EVALUATIONS
    return wr.LinePlot(
        title=name,
        x=x,
        y=[name],
        log_y=(is_ours and name in IN_LOGS) or None,
        smoothing_type="exponentialTimeWeighted" if is_noisy else "none",
        smoothing_factor=SMOOTHING if is_noisy else None,
        smoothing_show_original=is_noisy or None,
        layout=_layout(number, COLUMNS, 8),
    )


def _layout(number: int, columns: int, height: int) -> Any:
    """Return the place of a panel in a report's grid."""
    row, column = divmod(number, columns)
    width = GRID_COLUMNS // columns
    return wr.Layout(x=column * width, y=row * height, w=width, h=height)

"""A saved view and a report of a sweep on W&B, written there by the package `wandb-workspaces`."""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false
# The library is an extra, and its documented names count as private there.

from __future__ import annotations

import contextlib
import io
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from wandb_workspaces import workspaces as ws
from wandb_workspaces.reports import v2 as wr

from fundamentallm.errors import FundamentallmError, one_line, type_and_message
from fundamentallm.metrics import runs_text, score_text
from fundamentallm.printable import printable
from fundamentallm.report.explain import by_heading, explain
from fundamentallm.report.results import Results
from fundamentallm.report.wandb_panels import (
    columns_of,
    curves_left_out,
    ranked_by,
    sections_of,
    x_axis,
)
from fundamentallm.trackers.wandb_api import WandbApi

VIEW, REPORT = "project-view", "runs"
"""W&B's names of a saved view and of a report that is no draft."""
PAGES = """query ProjectViews($entity: String!, $project: String!, $viewType: String!,
    $after: String) {
  project(entityName: $entity, name: $project) {
    allViews(viewType: $viewType, first: 100, after: $after) {
      edges { node { id name displayName } }
      pageInfo { endCursor hasNextPage }
    }
  }
}"""
LONGEST_NAME = 60  # of the 128 characters that a title may have
MOST_NOTES = 20
NOT_IN_TITLES = ("C", "S")
"""Unicode's categories that the library refuses, as emojis, or that no title should have."""
NOTHING = "No run has finished yet. Run the command below again later."


@dataclass(frozen=True)
class Saved:
    """A page that was saved on W&B."""

    url: str
    is_new: bool


@dataclass(frozen=True)
class SweepAddress:
    """The parts of `ENTITY/PROJECT/SWEEP`."""

    entity: str
    project: str
    sweep: str

    def __str__(self) -> str:
        return f"{self.entity}/{self.project}/{self.sweep}"


def title_of(results: Results, address: SweepAddress) -> str:
    """Return the title of both pages, by which the next call finds them."""
    name = str(results.sweep.content.get("name") or "") if results.sweep else ""
    kept = (c for c in name if unicodedata.category(c)[0] not in NOT_IN_TITLES)
    name = one_line("".join(kept), LONGEST_NAME)
    shown = f"{name} ({address.sweep})" if name else address.sweep
    return f"Sweep {shown}, by fundamentallm"


def save_view(results: Results, address: SweepAddress, api: WandbApi) -> Saved:
    """Save a view of the sweep's project that shows this sweep alone, the best runs first.

    A view of the same title is replaced, except for the colors of runs and those that are hidden.

    Raises:
        FundamentallmError: W&B does not answer, or refuses.
    """
    title = title_of(results, address)
    found = _find(api, address, VIEW, title)
    if found is None:
        view = ws.Workspace(address.entity, address.project, name=title)
    else:
        name = found["name"].removeprefix("nw-").removesuffix("-v")
        place = f"https://wandb.ai/{address.entity}/{address.project}"  # it reads only the path
        with _errors(f"the view {title!r}", "read from", "; rename it there to get a new one"):
            view = ws.Workspace.from_url(f"{place}?nw={name}")
    _fill_view(view, results, address)
    with _errors("the view", "saved on"):
        view.save()
        parts = urlsplit(view.url)
    path = quote(f"/{address.entity}/{address.project}")
    return Saved(f"{parts.scheme}://{parts.netloc}{path}?{parts.query}", found is None)


def _fill_view(view: Any, results: Results, address: SweepAddress) -> None:
    key = ranked_by(results)
    view.sections = [
        ws.Section(
            name=section.title,
            panels=list(section.panels),
            is_open=True,
            layout_settings=ws.SectionLayoutSettings(columns=section.columns, rows=2),
        )
        for section in sections_of(results)
    ]
    view.settings = ws.WorkspaceSettings(x_axis=x_axis(results))
    view.runset_settings = ws.RunsetSettings(
        filters=_filter(address),
        order=[ws.Ordering(ws.Summary(key), ascending=results.metric.sign > 0)],
        pinned_columns=_pinned(results),
        run_settings=view.runset_settings.run_settings,
    )


def _filter(address: SweepAddress) -> str:
    return f'Metric("Sweep") == "{address.sweep}"'


def _pinned(results: Results) -> list[str]:
    """Return the columns at the left of the table of runs."""
    settings = [column.accessor for column in columns_of(results)]
    return ["run:displayName", f"summary:{ranked_by(results)}", *settings]


def save_report(results: Results, address: SweepAddress, api: WandbApi, view: Saved) -> Saved:
    """Save a report with the words of `explain` and the panels of the view.

    A report of the same title is replaced.

    Raises:
        FundamentallmError: W&B does not answer, or refuses.
    """
    title = title_of(results, address)
    found = _find(api, address, REPORT, title)
    app = "://".join(urlsplit(view.url)[:2])

    def url(identity: str) -> str:
        slug = re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-")
        page = f"{slug}--{identity.rstrip('=')}"
        return app + quote(f"/{address.entity}/{address.project}/reports/{page}")

    blocks = _blocks(results, address, app, view)
    report: Any
    if found is None:
        report = wr.Report(project=address.project, entity=address.entity, title=title)
    else:
        with _errors(f"the report {title!r}", "read from", "; rename it there to get a new one"):
            report = wr.Report.from_url(url(found["id"]))
    report.description = f"{runs_text(len(results.runs))}, the best {results.metric.name} first"
    report.width = "fixed"
    report.blocks = blocks
    with _errors("the report", "saved on", "; the view is there: run the same command again"):
        report.save()
    return Saved(url(report.id), found is None)


def _blocks(results: Results, address: SweepAddress, app: str, view: Saved) -> list[Any]:
    """Return the report: what to know first, then the panels to look at."""
    place = f"{app}/{quote(f'{address.entity}/{address.project}')}"
    intro: list[Any] = [
        wr.Link(f"Sweep {address.sweep}", f"{place}/sweeps/{address.sweep}"),
        f": {runs_text(len(results.runs))}. ",
    ]
    if results.best is not None:
        run = results.best.location.rpartition("/")[2]
        intro += [
            f"The best {results.metric.name} is {score_text(results.best_score)}, of ",
            wr.Link(printable(results.best.name), f"{place}/runs/{run}"),
            ". ",
        ]
    intro += [wr.Link("The same panels as a saved view", view.url), "."]
    blocks: list[Any] = [wr.P(intro)]
    for heading, sentences in (by_heading(explain(results)) or {"Not finished": [NOTHING]}).items():
        blocks += [wr.H2(heading), *(wr.P(printable(each)) for each in sentences)]
    notes = list(results.notes[:MOST_NOTES])
    if count := curves_left_out(results):
        notes.append(f"{count} more metrics have no panel here.")
    if notes:
        blocks += [wr.H2("What is missing"), *(wr.P(printable(note)) for note in notes)]
    for number, section in enumerate(sections_of(results)):
        grid = wr.PanelGrid(
            runsets=[_runset(results, address)],
            panels=list(section.panels),
            hide_run_sets=number > 0,  # the table of runs once
        )
        blocks += [wr.H2(section.title), grid]
    command = wr.InlineCode(f"fundamentallm workspace {address}")
    return [*blocks, wr.P(["Written by ", command, ", which replaces it when it runs again."])]


def _runset(results: Results, address: SweepAddress) -> Any:
    """Return the sweep's runs, the best first."""
    key = wr.SummaryMetric(ranked_by(results))
    return wr.Runset(
        entity=address.entity,
        project=address.project,
        name=f"Sweep {address.sweep}",
        filters=_filter(address),
        order=[wr.OrderBy(key, ascending=results.metric.sign > 0)],
        pinned_columns=_pinned(results),
    )


def _find(api: WandbApi, address: SweepAddress, kind: str, title: str) -> dict[str, Any] | None:
    """Return the project's view or report of a title, or None if there is none."""
    after = None
    while True:
        variables = {"entity": address.entity, "project": address.project, "viewType": kind}
        answer = api.query(PAGES, {**variables, "after": after})
        found = (answer.get("project") or {}).get("allViews") or {}
        for edge in found.get("edges") or []:
            if edge["node"]["displayName"] == title:
                return edge["node"]
        page = found.get("pageInfo") or {}
        if not page.get("hasNextPage"):
            return None
        after = page["endCursor"]


@contextlib.contextmanager
def _errors(page: str, done: str, advice: str = "") -> Iterator[None]:
    """Turn an error of the library into one line, and keep its own lines off the terminal."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except Exception as error:  # it lets through those of W&B's client, which differ by version
        reason = one_line(type_and_message(error), 200)
        raise FundamentallmError(f"{page} could not be {done} W&B ({reason}){advice}") from error

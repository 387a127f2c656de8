"""The dashboard's server: the page, a stream of what changes on it, and what its buttons do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from fundamentallm.dashboard.live_data import LiveData
from fundamentallm.dashboard.security import STREAM, Access, Gate
from fundamentallm.errors import FundamentallmError, one_line
from fundamentallm.report.next_sweep import next_sweep
from fundamentallm.report.page import render_page
from fundamentallm.report.results import Results
from fundamentallm.status import RunStatus
from fundamentallm.sweep.search.hand_picked import possible_text
from fundamentallm.sweep.store.sweep_folder import LONGEST_NOTES, SweepFolder, run_folder_name

if TYPE_CHECKING:
    from fundamentallm.sweep.store.definition import SweepDefinition
    from fundamentallm.sweep.store.run_store import RunStore

StoreOpener = Callable[[], AbstractContextManager[tuple["SweepDefinition", "RunStore"]]]
TICK = 0.1
"""Seconds between two looks for changes."""
SILENCE = 15.0
"""Seconds after which a stream says that it is still there."""
MOST_BYTES = 4 * LONGEST_NOTES
"""Bytes of a request's body."""


class RequestError(FundamentallmError):
    """A request has no content that it could be answered for."""


class Dashboard:
    """The server's answers."""

    def __init__(self, live: LiveData, sweep: SweepFolder | None, opener: StoreOpener) -> None:
        """Show `live`.

        Args:
            live: The page's content.
            sweep: The sweep, if it is a single one.
            opener: Opens its store, to steer it.
        """
        self.live, self.sweep, self._opener = live, sweep, opener

    def page(self, request: Request) -> Response:
        """Return the page with all that is known now."""
        everything = self.live.changes.since(0)
        told = {
            "version": everything.version,
            "is_sweep": self.sweep is not None,
            "parameters": [] if self.sweep is None else _parameters(self.live.results),
        }
        page = render_page(dict(everything.parts), live=told)
        policy = f"{page.policy}; frame-ancestors 'none'"
        return HTMLResponse(
            page.html.encode(errors="replace"), headers={"content-security-policy": policy}
        )

    async def changes(self, request: Request) -> Response:
        """Return a stream of what changes after a version."""
        since = request.headers.get("last-event-id") or request.query_params.get("since", "0")
        version = int(since) if since.isascii() and since.isdigit() and len(since) < 16 else 0
        return StreamingResponse(self._events(version), media_type="text/event-stream")

    async def _events(self, version: int) -> AsyncIterator[str]:
        silent = 0.0
        with self.live.watched():
            while not self.live.wait(0):
                update = await run_in_threadpool(self.live.changes.since, version)
                if update.version != version:
                    content = {"parts": update.parts, "removed": list(update.removed)}
                    text = await run_in_threadpool(json.dumps, content, allow_nan=False)
                    yield f"id: {update.version}\ndata: {text}\n\n"
                    version, silent = update.version, 0.0
                elif silent > SILENCE:
                    yield ": still here\n\n"
                    silent = 0.0
                await asyncio.sleep(TICK)
                silent += TICK

    async def save_notes(self, request: Request) -> Response:
        """Replace the notes, unless they were changed since the page showed them."""
        content = await _content(request)
        text, before = content.get("text"), content.get("before")
        if self.sweep is None or not isinstance(text, str) or not isinstance(before, str):
            raise RequestError("give the notes of one sweep")
        if len(text.encode(errors="replace")) > LONGEST_NOTES:
            raise RequestError(f"notes.md may have at most {LONGEST_NOTES:,} bytes")
        if self.sweep.read_notes() != before:
            return PlainTextResponse(
                "notes.md was changed elsewhere; copy your text and load the page again\n", 409
            )
        await run_in_threadpool(self.sweep.write_notes, text)
        return JSONResponse({})

    async def make_next(self, request: Request) -> Response:
        """Return the file of the next sweep."""
        await _content(request)
        return JSONResponse({"text": await run_in_threadpool(next_sweep, self.live.results)})

    async def enqueue(self, request: Request) -> Response:
        """Have the next free worker try a configuration."""
        values = (await _content(request)).get("values")
        if self.sweep is None or not isinstance(values, dict):
            raise RequestError("give the values of one sweep's parameters")
        return JSONResponse({"said": await run_in_threadpool(self._enqueue, values)})

    def _enqueue(self, values: Mapping[str, Any]) -> str:
        from fundamentallm.sweep.store.steering import enqueue

        with self._opener() as (definition, store):
            enqueued = enqueue(store, definition, values)
            runs = store.runs()
            name = run_folder_name(enqueued.run.number)
            if not enqueued.is_new:
                return f"{name} has these values already: it is {enqueued.run.last.status}"
            is_idle = not runs.how_many(RunStatus.RUNNING)
            return f"{name} is tried next" + ("; no worker runs" if is_idle else "")


def _parameters(results: Results) -> list[dict[str, str]]:
    """Return the name of each parameter that the sweep searches, and what it may be."""
    space = results.space({})
    searched = [] if space is None else space.searched
    return [{"name": each.name, "possible": possible_text(each)} for each in searched]


async def _content(request: Request) -> dict[str, Any]:
    """Return a request's content.

    Raises:
        RequestError: It is no JSON object, or too large.
    """
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BYTES:
            raise RequestError(f"give at most {MOST_BYTES:,} bytes")
    is_json = request.headers.get("content-type", "").partition(";")[0] == "application/json"
    try:
        content = json.loads(body) if is_json else None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise RequestError("give a JSON object")
    return content


async def _show_error(request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{one_line(error)}\n", 422)


def make_app(dashboard: Dashboard, access: Access) -> Starlette:
    """Return the server's application."""
    routes = [
        Route("/", dashboard.page),
        Route(STREAM, dashboard.changes),
        Route("/notes", dashboard.save_notes, methods=["POST"]),
        Route("/next", dashboard.make_next, methods=["POST"]),
        Route("/enqueue", dashboard.enqueue, methods=["POST"]),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Gate, access=access)],
        exception_handlers={FundamentallmError: _show_error},
    )

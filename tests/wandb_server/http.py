"""HTTP listener for GraphQL, the file stream and files, with faults on demand."""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

from wandb_server import sweeps
from wandb_server.graphql import NotFoundError, Operations
from wandb_server.store import ENTITY, Store

FILE_STREAM = re.compile(r"/files/[^/]+/([^/]+)/([^/]+)/file_stream")


class WandbServer:
    """Context manager that listens on a free port of 127.0.0.1.

    `down` closes the port, as if the server had died; `up` reopens it with the same data.
    """

    def __init__(self) -> None:
        self.store = Store()
        self.lock = threading.RLock()
        self.status = 0
        """HTTP status of every answer, if not 0."""
        self.delay = 0.0
        """Seconds before every answer."""
        self.fault: Callable[[str], int] = lambda operation: 0
        """HTTP status of the answer to an operation: 0 for the answer itself, -1 for none at all.

        It may have side effects."""
        self.requests: list[str] = []
        """Names of operations, or paths, in order of arrival."""
        self.refused: list[str] = []
        """Requests that the server could not answer: empty after a healthy test."""
        self.port = 0
        self.away = False

    def __enter__(self) -> WandbServer:
        self.up()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that point a client at this server and make it send often."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": "0123456789" * 4,
            "WANDB_ENTITY": ENTITY,
            "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",
            "no_proxy": "127.0.0.1",
        }

    def up(self) -> None:
        """Start to listen."""
        self.away = False
        self.listener = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.listener.daemon_threads = True
        self.listener.wandb = self  # pyright: ignore[reportAttributeAccessIssue]
        self.port = self.listener.server_address[1]
        self.operations = Operations(self.store, self.url)
        threading.Thread(target=self.listener.serve_forever, args=[0.05], daemon=True).start()

    def down(self) -> None:
        """Stop listening, and answer no open connection."""
        self.away = True
        self.listener.shutdown()
        self.listener.server_close()


class Handler(BaseHTTPRequestHandler):
    """One request. Every error gets an answer: the client retries a dropped request for hours."""

    protocol_version = "HTTP/1.1"

    @property
    def wandb(self) -> WandbServer:
        return self.server.wandb  # pyright: ignore[reportAttributeAccessIssue]

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def do_POST(self) -> None:
        body, path = self.read_body(), urlsplit(self.path).path
        if self.answer_fault(path):
            return
        stream = FILE_STREAM.fullmatch(path)
        try:
            with self.wandb.lock:
                if path == "/graphql":
                    request = json.loads(body)
                    variables = request.get("variables") or {}
                    named = re.search(r"\b(?:mutation|query)\s+(\w+)", request["query"])
                    self.wandb.requests.append(named[1] if named else "")
                    if status := self.wandb.fault(self.wandb.requests[-1]):
                        self.answer_with(status)
                        return
                    answer = {"data": self.wandb.operations.answer(request["query"], variables)}
                elif stream:
                    self.wandb.requests.append("file_stream")
                    project, name = map(unquote, stream.groups())
                    answer = self.take_stream(project, name, json.loads(body or b"{}"))
                elif path.startswith("/sdk/otel/"):  # the client's own telemetry
                    answer = {}
                else:
                    raise NotFoundError(path)
        except NotFoundError as error:
            self.wandb.refused.append(str(error))
            self.reply({"errors": [{"message": str(error)}], "data": None}, 404)
        except Exception as error:
            self.wandb.refused.append(traceback.format_exc())
            self.reply({"errors": [{"message": repr(error)}], "data": None}, 400)
        else:
            self.reply(answer)

    def do_PUT(self) -> None:
        body, path = self.read_body(), unquote(urlsplit(self.path).path)
        if self.answer_fault(path):
            return
        with self.wandb.lock:
            self.wandb.store.blobs[path.removeprefix("/storage/")] = body
        self.reply(b"")

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.answer_fault(path):
            return
        blob = self.wandb.store.blobs.get(path.removeprefix("/storage/"))
        if blob is not None:
            self.reply(blob)
        elif path in ("/", "/healthz", "/ready"):
            self.reply({"ok": True})
        else:
            self.wandb.refused.append(path)
            self.reply({"error": "not found"}, 404)

    do_HEAD = do_GET

    def take_stream(self, project: str, name: str, request: dict[str, Any]) -> dict[str, Any]:
        """Take a part of a run's stream: rows, console lines, its end."""
        store = self.wandb.store
        run = store.run_or_new(project, name)
        for file, chunk in (request.get("files") or {}).items():
            offset, lines = chunk.get("offset", 0), chunk["content"]
            if file == "wandb-history.jsonl":
                run.take_history(offset, [json.loads(line) for line in lines])
            elif file == "wandb-summary.json":
                run.summary.update(json.loads(lines[-1]))
            elif file == "wandb-events.jsonl":
                run.events = offset + len(lines)
            elif file == "output.log":
                run.log[offset : offset + len(lines)] = lines
        if request.get("preempting"):
            run.preempting, run.state = True, "preempting"
        sweep = store.sweep(project, run.sweep) if run.sweep else None
        if request.get("complete"):
            sweeps.finish(sweep, run, request.get("exitcode") or 0)
        elif sweep is not None:
            sweeps.stop_early(sweep, store.search)
        limits = {"rate_limit_seconds": 0}
        return {"exitcode": run.exit_code, "limits": limits, "stopped": run.stopped}

    def answer_fault(self, path: str) -> bool:
        """Return True if a fault that the test set has answered the request."""
        if self.wandb.away:  # an older connection: hang up, as a dead server would
            self.close_connection = True
            return True
        time.sleep(self.wandb.delay)
        if self.wandb.status:
            self.answer_with(self.wandb.status)
        return bool(self.wandb.status)

    def answer_with(self, status: int) -> None:
        """Answer with an error, or hang up."""
        if status < 0:
            self.close_connection = True
        else:
            self.reply({"errors": [{"message": "fault set by the test"}]}, status)

    def read_body(self) -> bytes:
        if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def reply(self, content: dict[str, Any] | bytes, status: int = 200) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        with suppress(ConnectionError):  # the client may have given up or died
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

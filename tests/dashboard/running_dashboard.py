"""A dashboard in its own process, and requests to it that no browser would send."""

from __future__ import annotations

import http.client
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)")


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: int
    headers: Mapping[str, str]
    text: str


class RunningDashboard:
    """A process of `fundamentallm dashboard`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.output: IO[str] = process.stdout  # pyright: ignore[reportAttributeAccessIssue]
        self.address = self.next_address()
        self.port = int(ADDRESS.search(self.address)[1])  # pyright: ignore[reportOptionalSubscript]
        self.host = f"127.0.0.1:{self.port}"
        self.cookie = ""

    @property
    def token(self) -> str:
        """The token that works next."""
        return ADDRESS.search(self.address)[2]  # pyright: ignore[reportOptionalSubscript]

    def next_address(self) -> str:
        """Return the next address that it prints."""
        for line in self.output:
            if found := ADDRESS.search(line):
                self.address = found[0]
                return found[0]
        raise AssertionError(self.process.communicate())

    def enter(self) -> Answer:
        """Exchange the token, and keep the cookie."""
        answer = self.request("GET", f"/?token={self.token}", cookie="")
        self.cookie = answer.headers["set-cookie"].partition(";")[0]
        self.next_address()
        return answer

    def request(
        self,
        method: str,
        path: str,
        body: str | None = None,
        *,
        cookie: str | None = None,
        **headers: str,
    ) -> Answer:
        """Send a request with our cookie and host, unless others are given; "" leaves one out."""
        named: dict[str, Any] = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {"Host": self.host, "Cookie": self.cookie if cookie is None else cookie, **named}
        if body is not None:
            sent = {"Content-Type": "application/json", "Origin": f"http://{self.host}", **sent}
            sent["Content-Length"] = str(len(body.encode()))
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in sent.items():
            if value:
                connection.putheader(name, value)
        connection.endheaders(body.encode() if body else None)
        response = connection.getresponse()
        known = {name.lower(): value for name, value in response.getheaders()}
        is_stream = known.get("content-type", "").startswith("text/event-stream")
        content = b"" if is_stream else response.read()
        connection.close()
        return Answer(response.status, known, content.decode())


@contextmanager
def running(*arguments: object) -> Iterator[RunningDashboard]:
    """Start a dashboard, and end it as Ctrl-C does."""
    words = [sys.executable, "-m", "fundamentallm", "dashboard", "--no-browser"]
    process = subprocess.Popen(
        [*words, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield RunningDashboard(process)
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert "Traceback" not in said, said

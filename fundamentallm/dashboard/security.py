"""Access to a dashboard: only for a browser that came by the address printed in the terminal.

Other users, other programs and pages of other sites can reach a server on this machine. So every
request must name this server as its host (a page of another site may have pointed its own name
here), bring the cookie that a one-time token was exchanged for, and, if it changes something or
reads the stream, come from this page.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost", "[::1]")
NO_CONTENT = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
HEADERS = {
    "content-security-policy": NO_CONTENT,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Headers of every response; the page has a policy of its own."""
ENTERED = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Dashboard</title>
<meta http-equiv="refresh" content="0; url=/"><p>Opening the dashboard.</p></html>"""
STREAM = "/changes"


class Access:
    """The secrets of one dashboard: a token that works once, and the cookie it is exchanged for."""

    def __init__(self, port: int, on_entry: Callable[[], None] = lambda: None) -> None:
        """Choose the secrets.

        Args:
            port: Port of the server.
            on_entry: Called after each exchange, when `address` has a new token.
        """
        self.port, self._on_entry = port, on_entry
        self.cookie = f"fundamentallm-{port}"  # browsers share cookies between ports
        self.hosts = [f"{host}:{port}" for host in HOSTS]
        self._session = secrets.token_urlsafe(32)
        self._token = secrets.token_urlsafe(32)

    @property
    def address(self) -> str:
        """The address that lets one browser in."""
        return f"http://127.0.0.1:{self.port}/?token={self._token}"

    def exchange(self, token: str) -> str | None:
        """Return the cookie's value for the right token, which then no longer works."""
        if not _is_same(token, self._token):
            return None
        self._token = secrets.token_urlsafe(32)
        self._on_entry()
        return self._session

    def knows(self, session: str) -> bool:
        """Return whether this is the cookie's value."""
        return _is_same(session, self._session)


class Gate:
    """ASGI middleware that refuses all requests but those of a browser that was let in."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        """Stand before `app`."""
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            return
        answer = self._answer(Request(scope))
        await (answer or self.app)(scope, receive, _with_headers(send))

    def _answer(self, request: Request) -> Response | None:
        """Return the answer to a request that is refused or lets a browser in, else None."""
        if request.headers.getlist("host") not in [[host] for host in self.access.hosts]:
            return _refused(f"this dashboard answers only at http://{self.access.hosts[0]}")
        if request.method == "GET" and "token" in request.query_params:
            return self._let_in(request)
        if not self.access.knows(request.cookies.get(self.access.cookie, "")):
            return _refused(
                "open the address that fundamentallm dashboard printed last in its terminal"
            )
        if request.method not in ("GET", "HEAD") or request.url.path == STREAM:
            return self._check_origin(request)
        return None

    def _let_in(self, request: Request) -> Response:
        """Exchange the token for the cookie, and lead to the address without it.

        A page does that, not a redirect: browsers send a strict cookie only if a page of ours
        leads there, and a link in another program or page may have led here.
        """
        answer = HTMLResponse(ENTERED)
        if (session := self.access.exchange(request.query_params["token"])) is not None:
            answer.set_cookie(self.access.cookie, session, httponly=True, samesite="strict")
            return answer
        if self.access.knows(request.cookies.get(self.access.cookie, "")):  # opened twice
            return answer
        return _refused("this token was used already; the terminal shows a new address")

    def _check_origin(self, request: Request) -> Response | None:
        """Refuse what another page sent: browsers name the origin, or say that it is the same."""
        origin = request.headers.getlist("origin")
        if origin:
            is_ours = origin == [f"http://{request.headers['host']}"]
        else:
            site = request.headers.getlist("sec-fetch-site")
            is_ours = request.method == "GET" and site == ["same-origin"]
        return None if is_ours else _refused("this request did not come from the dashboard's page")


def _refused(why: str) -> Response:
    return PlainTextResponse(f"{why}\n", status_code=403)


def _is_same(text: str, secret: str) -> bool:
    """Compare in a time that does not depend on the text."""
    return hmac.compare_digest(text.encode("utf-8", "replace"), secret.encode())


def _with_headers(send: Send) -> Callable[[Message], Any]:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            known = {name for name, _ in message["headers"]}
            ours = ((name.encode(), value.encode()) for name, value in HEADERS.items())
            message["headers"] += [(name, value) for name, value in ours if name not in known]
        await send(message)

    return sending

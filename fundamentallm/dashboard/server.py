"""Runs the dashboard's server on this machine until it is told to end."""

from __future__ import annotations

import socket

import uvicorn
from starlette.applications import Starlette

from fundamentallm.dashboard.live_data import LiveData

LOOPBACK = "127.0.0.1"


class Server(uvicorn.Server):
    """A server that ends its streams when it is told to end, so that it need not wait for them."""

    def __init__(self, app: Starlette, live: LiveData) -> None:
        """Serve `app`; `live` ends with it."""
        super().__init__(
            uvicorn.Config(
                app, log_level="error", access_log=False, server_header=False, date_header=False,
                ws="none", lifespan="off", http="h11", loop="asyncio",
                timeout_graceful_shutdown=2, h11_max_incomplete_event_size=1 << 16,
            )
        )  # fmt: skip
        self._live = live

    def handle_exit(self, sig: int, frame: object) -> None:
        """End at a signal."""
        self._live.stop()
        super().handle_exit(sig, frame)  # pyright: ignore[reportArgumentType]


def listen(port: int) -> socket.socket:
    """Return a socket on this machine that others cannot reach.

    Raises:
        OSError: The port is taken.
    """
    opened = socket.socket()
    try:
        opened.bind((LOOPBACK, port))
        opened.listen()
    except BaseException:
        opened.close()
        raise
    return opened

"""W&B's GraphQL API by plain HTTP: the same with every version of W&B's client, and without it."""

from __future__ import annotations

import configparser
import json
import netrc
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from fundamentallm import __version__
from fundamentallm.errors import FundamentallmError, one_line
from fundamentallm.files.atomic import read_file

BASE_URL = "https://api.wandb.ai"
TIMEOUT_SECONDS = 30.0
LARGEST_ANSWER = 1 << 28
CHUNK = 1 << 16
LARGEST_SETTINGS = 1 << 20
LONGEST_REASON = 200


class WandbApiError(FundamentallmError):
    """A request that W&B did not answer as asked, in one line."""

    def __init__(self, message: str, *, temporary: bool = False, missing: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary
        """True if the same request may succeed later."""
        self.missing = missing
        """True if W&B does not have what the request names."""


def address_and_key() -> tuple[str, str]:
    """Return the address of W&B's API and this user's key, "" if there is none.

    Both are found where W&B's client looks, in its order, without a prompt or a request: variables,
    the settings of the folder and of the user; for the key also the netrc file.
    """
    settings = _settings()
    url = os.environ.get("WANDB_BASE_URL") or settings.get("base_url") or BASE_URL
    url = url.strip().rstrip("/")
    key = os.environ.get("WANDB_API_KEY") or _key_in_netrc(url) or settings.get("api_key") or ""
    return url, key.strip()


def _settings() -> dict[str, str]:
    """Return settings that `wandb login` and `wandb init` stored; those of the folder win."""
    root = Path(os.environ.get("WANDB_DIR") or ".")
    hidden = root / ".wandb"
    config = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb")
    found: dict[str, str] = {}
    for folder in (config, hidden if hidden.exists() else root / "wandb"):
        parser = configparser.RawConfigParser()
        with suppress(OSError, RuntimeError, ValueError, configparser.Error):
            path = folder.expanduser() / "settings"
            parser.read_string(read_file(path, LARGEST_SETTINGS, root=None).decode())
            found |= dict(parser.items("default"))
    return found


def _key_in_netrc(url: str) -> str:
    with suppress(OSError, RuntimeError, ValueError, netrc.NetrcParseError):
        named = os.environ.get("NETRC")
        places = [named] if named else ["~/.netrc", "~/_netrc"]
        paths = [Path(place).expanduser() for place in places]
        path = next((path for path in paths if path.exists()), None)
        parts = urlsplit(url)
        if path is not None:
            hosts = netrc.netrc(path).hosts
            for name in (parts.netloc, parts.hostname or "", "default"):
                if name in hosts:
                    return hosts[name][2] or ""
    return ""


class WandbApi:
    """Requests to W&B, each of which ends within `timeout` seconds; threads may share it."""

    def __init__(self, base_url: str, key: str, *, timeout: float = TIMEOUT_SECONDS) -> None:
        self.base_url, self.key, self.timeout = base_url.rstrip("/"), key, timeout
        self.session = requests.Session()
        self.session.headers["User-Agent"] = f"fundamentallm/{__version__}"

    def query(self, text: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Return the `data` of W&B's answer to a GraphQL query or mutation.

        Raises:
            WandbApiError: There is no key, no answer, or one with errors.
        """
        if not self.key:
            raise WandbApiError("no W&B key was found; see wandb login, or set WANDB_API_KEY")
        body = {"query": text, "variables": dict(variables)}
        status, content = self._within(
            lambda: self._answer("POST", f"{self.base_url}/graphql", LARGEST_ANSWER, json=body)
        )
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        errors = answer.get("errors") if isinstance(answer, dict) else None
        reason = self._reason(errors)
        if status in (401, 403):
            raise WandbApiError(
                f"{self.base_url} refuses access ({reason or f'HTTP {status}'}); see wandb login"
            )
        if status != 200:
            raise WandbApiError(
                f"{self.base_url} answers HTTP {status}"
                + (f": {reason}" if reason else "; check WANDB_BASE_URL" if status < 400 else ""),
                temporary=status in (408, 429) or status >= 500,
                missing=status == 404,
            )
        if errors:
            raise WandbApiError(f"{self.base_url} answers: {reason}")
        if not isinstance(answer, dict) or not isinstance(answer.get("data"), dict):
            raise WandbApiError(
                f"{self.base_url}/graphql gives no answer of W&B's API; check WANDB_BASE_URL",
                temporary=True,
            )
        return answer["data"]

    def download(self, url: str, most: int) -> bytes:
        """Return a file of at most `most` bytes; only W&B's own host receives the key.

        Raises:
            WandbApiError: There is no answer, or no such file, or it is larger.
        """
        status, content = self._within(lambda: self._answer("GET", url, most))
        if status != 200:
            raise WandbApiError(
                f"{urlsplit(url).netloc} answers HTTP {status}",
                temporary=status in (408, 429) or status >= 500,
                missing=status == 404,
            )
        return content

    def _answer(self, method: str, url: str, most: int, **options: Any) -> tuple[int, bytes]:
        """Return the status and body of an answer of at most `most` bytes."""
        own = urlsplit(url)[:2] == urlsplit(self.base_url)[:2]
        options["auth"] = ("api", self.key) if own else _without_key
        deadline = time.monotonic() + self.timeout
        # A redirect of a POST would lose the query, and may lead to another host.
        redirects = method == "GET"
        with self.session.request(
            method, url, stream=True, timeout=self.timeout, allow_redirects=redirects, **options
        ) as response:
            content = bytearray()
            for chunk in response.iter_content(CHUNK):
                content += chunk
                if len(content) > most:
                    raise WandbApiError(f"the answer is larger than {most} bytes")
                if time.monotonic() > deadline:
                    raise requests.Timeout
            return response.status_code, bytes(content)

    def _within(self, request: Callable[[], tuple[int, bytes]]) -> tuple[int, bytes]:
        """Return what `request` returns within the time limit.

        The library limits only how long a connection is silent; it does not limit a name server.
        """
        done: queue.Queue[tuple[int, bytes] | Exception] = queue.Queue()

        def work() -> None:
            try:
                done.put(request())
            except Exception as error:
                done.put(error)

        threading.Thread(target=work, name="wandb-api", daemon=True).start()
        try:
            result = done.get(timeout=self.timeout)
        except queue.Empty:
            result = requests.Timeout()
        if not isinstance(result, Exception):
            return result
        if isinstance(result, ValueError):  # an address that is none, a key that is no header
            raise WandbApiError(f"{self.base_url} cannot be asked ({one_line(result, 200)})")
        if isinstance(result, (requests.RequestException, OSError)):
            raise WandbApiError(
                f"{self.base_url} does not answer ({self._why(result)})", temporary=True
            )
        raise result

    def _why(self, error: Exception) -> str:
        """Return the innermost reason for a failed connection, of many that wrap it."""
        if isinstance(error, requests.Timeout):
            return f"within {self.timeout:g} s"
        while error.args and isinstance(error.args[0], Exception):
            error = error.args[0]
        cause = getattr(error, "reason", error)
        return one_line(cause, LONGEST_REASON).rpartition(": ")[2] or type(error).__name__

    def _reason(self, errors: object) -> str:
        """Return the messages of GraphQL errors."""
        listed = errors if isinstance(errors, list) else [errors] if errors else []
        messages = [e.get("message") if isinstance(e, dict) else e for e in listed]
        return one_line("; ".join(map(str, messages)), LONGEST_REASON)


def _without_key(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Send no password of the netrc file either, which the library would add."""
    return request

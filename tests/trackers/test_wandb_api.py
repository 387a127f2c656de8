"""Requests to W&B without its client: the key and address it would use, and every bad answer."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from wandb_server import WandbServer

from fundamentallm.trackers.wandb_api import WandbApi, WandbApiError, address_and_key

KEY = "0123456789" * 4
VIEWER = "query Viewer { viewer { username } }"
ASK_THE_CLIENT = """
import json, wandb
api = wandb.Api()
print(json.dumps([api.settings["base_url"], api.api_key]))
"""


@contextmanager
def answering(status: int, body: bytes = b"", **headers: str) -> Iterator[tuple[str, list[dict]]]:
    """Listen, and give every request the same answer; yield the address and the requests' headers.

    An answer without a status never ends.
    """
    seen: list[dict] = []
    never = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(dict(self.headers))
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status or 200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) if status else 1000))
            self.end_headers()
            self.wfile.write(body)
            while not (status or never.wait(0.05)):
                self.wfile.write(b" ")

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
        never.set()
        server.shutdown()


def test_an_answer() -> None:
    with WandbServer() as server:
        data = WandbApi(server.url + "/", KEY).query(VIEWER, {})
    assert data["viewer"]["username"] == "tester"


def graphql_error(message: str) -> bytes:
    return json.dumps({"errors": [{"message": message}], "data": None}).encode()


@pytest.mark.parametrize(
    ("status", "body", "said", "temporary"),
    [
        (401, b"no", "refuses access (HTTP 401); see wandb login", False),
        (403, graphql_error("permission denied"), "(permission denied); see wandb login", False),
        (404, graphql_error("could not find\nproject"), "404: could not find project", False),
        (200, graphql_error("unknown field"), "answers: unknown field", False),
        (500, b"<html>", "answers HTTP 500", True),
        (429, graphql_error("slow down"), "429: slow down", True),
        (302, b"", "answers HTTP 302; check WANDB_BASE_URL", False),
        (200, b"<html>", "gives no answer of W&B's API; check WANDB_BASE_URL", True),
        (200, b"[" * 100_000, "gives no answer of W&B's API", True),
        (200, b'{"data": null}', "gives no answer of W&B's API", True),
        (0, b"", "does not answer (within 0.5 s)", True),
    ],
)
def test_bad_answers(status: int, body: bytes, said: str, temporary: bool) -> None:
    with answering(status, body, Location="http://127.0.0.1:9/") as (url, _):
        with pytest.raises(WandbApiError) as caught:
            WandbApi(url, KEY, timeout=0.5 if status == 0 else 30).query(VIEWER, {})
        assert str(caught.value).startswith(url)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.temporary == temporary
    assert caught.value.missing == (status == 404)


def test_no_server_no_address_no_key() -> None:
    with pytest.raises(WandbApiError, match=r"does not answer \(.*Connection refused\)") as caught:
        WandbApi("http://127.0.0.1:9", KEY).query(VIEWER, {})
    assert caught.value.temporary
    for url, key in (("nonsense", KEY), ("ftp://localhost", KEY), ("http://127.0.0.1:9", "a\nb€")):
        with pytest.raises(WandbApiError, match="cannot be asked"):
            WandbApi(url, key).query(VIEWER, {})
    with pytest.raises(WandbApiError, match="see wandb login, or set WANDB_API_KEY"):
        WandbApi("http://127.0.0.1:9", "").query(VIEWER, {})


def test_downloads_give_the_key_to_wandbs_host_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with (
        answering(200, b"a file") as (there, others),
        answering(302, Location=there) as (own, ours),
    ):
        api = WandbApi(own, KEY)
        assert api.download(f"{there}/x", 6) == b"a file"
        assert api.download(f"{own}/x", 6) == b"a file"
        with pytest.raises(WandbApiError, match="larger than 5 bytes"):
            api.download(f"{there}/x", 5)
    assert ours[0]["Authorization"] == "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode()
    assert not any(KEY in base64.b64decode(h.get("Authorization", "")[6:]).decode() for h in others)
    assert "Authorization" not in others[0]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder without W&B's variables, which its client sets too (WANDB_SERVICE)."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_settings(folder: Path, url: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings").write_text(f"[default]\nbase_url = {url}\n")


def test_the_address_and_the_key_of_the_client(home: Path) -> None:
    """A key of `wandb login` to a server of one's own, as the client itself finds it."""
    assert address_and_key() == ("https://api.wandb.ai", "")
    with WandbServer() as server:
        host = server.url.removeprefix("http://")
        write_settings(home / ".config/wandb", server.url + "/")
        (home / ".netrc").write_text(f"machine {host}\n login user\n password {KEY}\n")
        (home / ".netrc").chmod(0o600)
        done = subprocess.run(
            [sys.executable, "-c", ASK_THE_CLIENT], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert address_and_key() == (server.url, KEY) == tuple(json.loads(done.stdout))


def test_which_settings_win(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_settings(home / ".config/wandb", "https://user")
    write_settings(home / "wandb", "https://folder")
    (home / "_netrc").write_text("machine folder login u password of-folder\n")
    assert address_and_key() == ("https://folder", "of-folder")
    (home / ".wandb").mkdir()
    assert address_and_key() == ("https://user", "")
    monkeypatch.setenv("WANDB_BASE_URL", "https://variable/")
    (home / "_netrc").write_text(
        "machine variable login u password 1\ndefault login u password 2\n"
    )
    assert address_and_key() == ("https://variable", "1")
    monkeypatch.setenv("WANDB_API_KEY", "given")
    assert address_and_key() == ("https://variable", "given")


def test_broken_settings_count_as_none(home: Path) -> None:
    (home / ".netrc").write_text("machine\n")
    write_settings(home / "wandb", "x\nnonsense\x00")
    (home / ".config/wandb").mkdir(parents=True)
    (home / ".config/wandb/settings").mkdir()
    assert address_and_key() == ("https://api.wandb.ai", "")

"""Refusals of the dashboard: a real server, and requests that only an attacker sends."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Run
from results_on_disk import write_sweep
from running_dashboard import RunningDashboard, running

from fundamentallm.dashboard.security import HEADERS

SCORES = {0.0001: [2.0, 2.01], 0.001: [1.5, 1.51], 0.01: [1.8, 1.81]}
EMPTY = "{}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with a secret beside it."""
    root = tmp_path_factory.mktemp("secrets")
    (root / "secret.txt").write_text("the secret")
    return write_sweep(root / "s", SCORES)


@pytest.fixture(scope="module")
def dashboard(folder: Path) -> Iterator[RunningDashboard]:
    """A dashboard that let us in."""
    with running(folder) as started:
        started.enter()
        yield started


def test_a_token_works_once_and_becomes_a_strict_cookie(dashboard: RunningDashboard) -> None:
    used = dashboard.token
    entered = dashboard.enter()
    assert entered.status == 200
    attributes = {part.strip().lower() for part in entered.headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= attributes
    assert used not in entered.headers["set-cookie"] + entered.text
    assert 'content="0; url=/"' in entered.text  # a page of ours leads on, so the cookie is sent
    assert dashboard.request("GET", "/").status == 200
    assert dashboard.token != used
    again = dashboard.request("GET", f"/?token={used}", cookie="")
    assert (again.status, "set-cookie" in again.headers) == (403, False)
    assert dashboard.request("GET", f"/?token={used}").status == 200  # this browser is in already


@pytest.mark.parametrize("token", ["", "x", "é", "%00", "x" * 43])
def test_a_wrong_token_opens_nothing(dashboard: RunningDashboard, token: str) -> None:
    path = f"/?token={token}".encode().decode("latin-1") if token != "é" else "/?token=%C3%A9"
    answer = dashboard.request("GET", path, cookie="")
    assert (answer.status, "set-cookie" in answer.headers) == (403, False)


PATHS = ("/", "/changes", "/notes", "/next", "/enqueue", "/secret.txt", "/s/sweep.yaml")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "OPTIONS"])
def test_nothing_without_the_cookie(dashboard: RunningDashboard, method: str, path: str) -> None:
    body = EMPTY if method in ("POST", "PUT") else None
    wrong = f"fundamentallm-{dashboard.port}=wrong"
    for cookie in ("", wrong, dashboard.cookie.upper()):
        answer = dashboard.request(method, path, body, cookie=cookie)
        assert answer.status == 403
        assert "run-0001" not in answer.text


OTHER_HOSTS = (
    *("evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.2:{port}"),
    *("localhost.evil.example:{port}", "0.0.0.0:{port}", ""),
)


@pytest.mark.parametrize("name", OTHER_HOSTS)
def test_another_host_is_refused(dashboard: RunningDashboard, name: str) -> None:
    """DNS rebinding: a page's own name, pointed to 127.0.0.1."""
    host = name.format(port=dashboard.port)
    before = dashboard.token
    for path in ("/", f"/?token={before}", "/changes"):
        answer = dashboard.request("GET", path, Host=host, Sec_Fetch_Site="same-origin")
        assert answer.status in (400, 403)
        assert "set-cookie" not in answer.headers
    own = f"http://{host}"
    assert dashboard.request("POST", "/next", EMPTY, Host=host, Origin=own).status in (400, 403)
    assert dashboard.enter().status == 200  # the token was not used up


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]"])
def test_names_of_this_machine_are_accepted(dashboard: RunningDashboard, name: str) -> None:
    host = f"{name}:{dashboard.port}"
    assert dashboard.request("GET", "/", Host=host).status == 200
    origin = f"http://{host}"
    assert dashboard.request("GET", "/changes", Host=host, Origin=origin).status == 200


def test_two_hosts_are_refused(dashboard: RunningDashboard) -> None:
    with socket.create_connection(("127.0.0.1", dashboard.port), timeout=30) as connection:
        hosts = f"Host: {dashboard.host}\r\nHost: evil.example\r\n"
        connection.sendall(f"GET / HTTP/1.1\r\n{hosts}Cookie: {dashboard.cookie}\r\n\r\n".encode())
        assert connection.recv(100).split()[1] in (b"400", b"403")


ORIGINS = (
    *("null", "http://evil.example", "http://127.0.0.1:1", "https://{host}"),
    *("http://{host}.evil.example", "http://localhost:{port}"),
)


@pytest.mark.parametrize("origin", [*ORIGINS, ""])
@pytest.mark.parametrize("path", ["/next", "/notes", "/enqueue"])
def test_a_post_from_elsewhere_is_refused(
    dashboard: RunningDashboard, origin: str, path: str
) -> None:
    said = origin.format(host=dashboard.host, port=dashboard.port)
    answer = dashboard.request("POST", path, EMPTY, Origin=said, Sec_Fetch_Site="same-origin")
    assert (answer.status, "did not come from" in answer.text) == (403, True)


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_stream_for_elsewhere_is_refused(dashboard: RunningDashboard, origin: str) -> None:
    said = origin.format(host=dashboard.host, port=dashboard.port)
    answer = dashboard.request("GET", "/changes", Origin=said, Sec_Fetch_Site="same-origin")
    assert answer.status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none", ""])
def test_a_stream_without_origin_must_be_of_this_page(
    dashboard: RunningDashboard, site: str
) -> None:
    """Browsers leave Origin out of a page's own GET, and say `same-origin` instead."""
    assert dashboard.request("GET", "/changes", Sec_Fetch_Site=site).status == 403
    answer = dashboard.request("GET", "/changes", Sec_Fetch_Site="same-origin")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_every_answer_has_the_headers(dashboard: RunningDashboard) -> None:
    answers = [
        dashboard.request("GET", "/"),
        dashboard.request("GET", "/none"),
        dashboard.request("GET", "/next"),
        dashboard.request("GET", "/", cookie=""),
        dashboard.request("GET", "/changes", Sec_Fetch_Site="same-origin"),
        dashboard.request("POST", "/next", "["),
        dashboard.enter(),
    ]
    assert [answer.status for answer in answers] == [200, 404, 405, 403, 200, 422, 200]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe-eval" not in policy
        assert "script-src 'unsafe-inline'" not in policy
        for name in HEADERS.keys() - {"content-security-policy"}:
            assert answer.headers[name] == HEADERS[name], name
        assert "server" not in answer.headers


FILES = (
    *("/secret.txt", "/../secret.txt", "/..%2fsecret.txt", "/%2e%2e/secret.txt", "//etc/passwd"),
    *("/sweep.yaml", "/run-0001/config.yaml", "/study.db", "/report.html"),
)


@pytest.mark.parametrize("path", FILES)
def test_no_file_is_served(dashboard: RunningDashboard, path: str) -> None:
    answer = dashboard.request("GET", path)
    assert answer.status == 404
    assert "the secret" not in answer.text


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ("", {}),
        ("[]", {}),
        ("{", {}),
        ("[" * 100_000, {}),
        (EMPTY, {"Content_Type": "text/plain"}),
        (EMPTY, {"Content_Type": "application/x-www-form-urlencoded"}),
        (json.dumps({"text": "x" * 600_000, "before": ""}), {}),
        (json.dumps({"text": "x" * 200_000, "before": ""}), {}),
        (json.dumps({"text": 5, "before": ""}), {}),
    ],
)
def test_odd_bodies_change_nothing(
    dashboard: RunningDashboard, folder: Path, body: str, headers: dict[str, str]
) -> None:
    answer = dashboard.request("POST", "/notes", body, **headers)
    assert (answer.status, answer.text.count("\n")) == (422, 1)
    assert not (folder / "notes.md").exists()


def test_only_this_machine_can_connect(dashboard: RunningDashboard) -> None:
    for address in ("127.0.0.2", "127.1.1.1"):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, dashboard.port), timeout=5)


def test_links_are_refused(folder: Path, tmp_path: Path, run: Run) -> None:
    sweep = write_sweep(tmp_path / "s", SCORES)
    (sweep / "run-0001/samples.txt").symlink_to(folder.parent / "secret.txt")
    done = run("dashboard", sweep, "--no-browser")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "samples.txt: a link" in done.stderr
    (sweep / "run-0001/samples.txt").unlink()
    (sweep / "notes.md").symlink_to(folder.parent / "secret.txt")
    done = run("dashboard", sweep, "--no-browser")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "notes.md: a link" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none"], "none: no such folder"),
        (["a/b/c"], "fundamentallm report a/b/c"),
        ([], "runs: no such folder"),
        (["--port", "70000"], "70000"),
    ],
)
def test_bad_input_is_one_line(run: Run, arguments: list[str], says: str) -> None:
    done = run("dashboard", *arguments, "--no-browser")
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, ""), done.stderr
    assert says in done.stderr


def test_a_taken_port_is_one_line(dashboard: RunningDashboard, folder: Path, run: Run) -> None:
    done = run("dashboard", folder, "--no-browser", "--port", dashboard.port)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"--port {dashboard.port}: Address already in use" in done.stderr

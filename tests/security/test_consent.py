"""An untrusted folder cannot choose where runs are sent or which server is contacted."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import TEXT, Run
from tiny_sweep import FLAGS, grid, start, wait_for
from wandb_client import Client
from wandb_server import WandbServer

from fundamentallm.files.consent import remember, was_asked

DESTINATION = "online:thieves/loot"


def test_consent_follows_a_moved_folder_but_not_a_copy(tmp_path: Path) -> None:
    mine, moved, copy = tmp_path / "mine", tmp_path / "moved", tmp_path / "copy"
    mine.mkdir()
    assert not was_asked(mine, wandb="a")
    assert remember(mine, wandb="a") == ""
    assert remember(mine, storage="b") == ""
    assert was_asked(mine, wandb="a", storage="b")
    assert not was_asked(mine, wandb="b")
    mine.rename(moved)
    shutil.copytree(moved, copy)
    assert was_asked(moved, wandb="a")
    assert not was_asked(copy, wandb="a")


def test_a_new_folder_at_an_old_path_has_no_consent(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    remember(mine, wandb="a")
    mine.rename(tmp_path / "old")
    mine.mkdir()
    remember(mine, wandb="b")
    assert was_asked(mine, wandb="b")
    assert not was_asked(mine, wandb="a")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"path": 1}', "[" * 50_000, "\0"])
def test_an_invalid_note_gives_no_consent(content: str, tmp_path: Path) -> None:
    remember(tmp_path, wandb="a")
    (note,) = Path(os.environ["XDG_STATE_HOME"], "fundamentallm/folders").iterdir()
    note.write_text(content)
    assert not was_asked(tmp_path, wandb="a")
    assert remember(tmp_path, wandb="a") == ""
    assert was_asked(tmp_path, wandb="a")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_note_of_another_user_gives_no_consent(tmp_path: Path) -> None:
    remember(tmp_path, wandb="a")
    (note,) = Path(os.environ["XDG_STATE_HOME"], "fundamentallm/folders").iterdir()
    os.chown(note, 65534, 65534)
    assert not was_asked(tmp_path, wandb="a")


def test_a_relative_state_folder_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.chdir(tmp_path)
    remember(tmp_path, wandb="a")
    assert not (tmp_path / "state").exists()
    assert (tmp_path / "home/.local/state/fundamentallm/folders").is_dir()


def test_a_state_folder_that_cannot_be_created_gets_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    line = remember(tmp_path, wandb="a")
    assert "will be asked again" in line
    assert "Not a directory" in line
    assert not was_asked(tmp_path, wandb="a")


def test_a_server_named_in_a_folder_is_not_contacted(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "runs/g"
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").write_text(grid())
    (tmp_path / "g.yaml").write_text(grid())
    (tmp_path / "cats.txt").write_text(TEXT)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"postgresql://me@127.0.0.1:{listener.getsockname()[1]}/sweeps"
        (folder / "storage.txt").write_text(f"{address}\n")
        listener.settimeout(0)
        for words in (
            ["agent", "runs/g"],
            ["sweep", "g.yaml", "cats.txt"],
            ["refine", "runs/g", "--epochs=1"],
        ):
            done = run(*words)
            assert done.returncode == 2
            assert done.stderr.count("\n") == 1
            assert "add --storage" in done.stderr
            with pytest.raises(BlockingIOError):
                listener.accept()
        remember(folder, storage=address)  # this user chose it
        asked = start(tmp_path, "agent", "runs/g")
        wait_for(lambda: select.select([listener], [], [], 0)[0] or asked.poll() is not None)
        assert asked.poll() is None
        listener.accept()[0].close()


def test_wandb_settings_in_a_sweep_folder_are_refused(tmp_path: Path, run: Run) -> None:
    """W&B's client would take the server from them and send the user's key there."""
    (tmp_path / "g.yaml").write_text(grid())
    (tmp_path / "cats.txt").write_text(TEXT)
    created = run("sweep", "g.yaml", "cats.txt", "--count=0", "--", *FLAGS)
    assert created.returncode == 0, created.stderr
    settings = tmp_path / "runs/g/wandb/settings"
    settings.parent.mkdir()
    settings.write_text("[default]\nbase_url = http://127.0.0.1:9\n")
    done = run("agent", "runs/g", "--wandb", "online")
    assert done.returncode == 2
    assert "wandb/settings: W&B's client would read from it" in done.stderr


def change_definition(folder: Path, **changes: Any) -> None:
    """Change the definition in a sweep's database."""
    with closing(sqlite3.connect(folder / "study.db")) as database:
        query = "SELECT value_json FROM study_user_attributes WHERE key = 'sweep'"
        definition = json.loads(database.execute(query).fetchone()[0]) | changes
        update = "UPDATE study_user_attributes SET value_json = ? WHERE key = 'sweep'"
        database.execute(update, [json.dumps(definition)])
        database.commit()


@pytest.fixture
def thief_sweep(tmp_path: Path, text_file: Path) -> Callable[..., Client]:
    """Create a sweep of three runs as another user, and return the client of the victim."""

    def create(server: WandbServer, *flags: object) -> Client:
        (tmp_path / "g.yaml").write_text(grid(3, 1) + "entity: thieves\nproject: loot\n")
        client = Client(server, tmp_path)
        words = ("fundamentallm", "sweep", "g.yaml", text_file, "--count=0", *flags, "--", *FLAGS)
        client.run(*words, XDG_STATE_HOME=str(tmp_path / "thief"))
        return client

    return create


@pytest.mark.slow
def test_an_untrusted_sweep_sends_nothing_without_consent(
    tmp_path: Path, thief_sweep: Callable[..., Client]
) -> None:
    one = ("fundamentallm", "agent", "runs/g", "--count=1")
    with WandbServer() as server:
        client = thief_sweep(server, "--wandb", "online")
        refused = client.run(*one, code=2)
        assert f"add --wandb {DESTINATION} " in refused.stdout
        assert client.run(*one, "--wandb", "online", code=2).stdout.count(DESTINATION) == 1
        client.run(*one, "--wandb", "off")
        assert server.store.runs == {}
        client.run(*one, "--wandb", DESTINATION)
        assert len(server.store.runs) == 1
        # Consent holds for this folder, not for a copy.
        shutil.copytree(tmp_path / "runs/g", tmp_path / "runs/copy", symlinks=True,
                        ignore=shutil.ignore_patterns("debug-core.log"))  # fmt: skip
        client.run("fundamentallm", "agent", "runs/copy", code=2)
        client.run(*one)
        assert len(server.store.runs) == 2


@pytest.mark.slow
def test_a_changed_database_sends_nothing(
    tmp_path: Path, thief_sweep: Callable[..., Client]
) -> None:
    with WandbServer() as server:
        client = thief_sweep(server)
        thief = {"XDG_STATE_HOME": str(tmp_path / "thief")}  # this user created it without W&B
        change_definition(tmp_path / "runs/g", wandb="online")
        client.run("fundamentallm", "agent", "runs/g", code=2, **thief)
        change_definition(tmp_path / "runs/g", wandb="")
        client.run("fundamentallm", "agent", "runs/g", "--count=1", **thief)
        assert server.store.runs == {}


@pytest.mark.slow
def test_a_run_is_sent_to_the_project_of_its_sweep(tmp_path: Path, text_file: Path) -> None:
    (tmp_path / "g.yaml").write_text(grid(1, 1) + "project: shelf\n")
    words = ("fundamentallm", "sweep", "g.yaml", text_file, "--wandb", "online")
    with WandbServer() as server:
        client = Client(server, tmp_path)
        client.run(*words, "--count=0", "--", *FLAGS)
        run = tmp_path / "runs/g/run-0001"
        run.mkdir()
        (run / "wandb-id.txt").write_text("thieves/loot/abc\n")
        (run / "summary.json").write_text('{"status": "running", "process": 1}')
        client.run("fundamentallm", "agent", "runs/g")
        assert client.only_run().project == "shelf"


@pytest.mark.nightly
def test_an_untrusted_run_is_resumed_without_wandb(
    tmp_path: Path, text_file: Path, tiny_flags: list[str]
) -> None:
    words = (text_file, "--output-dir", "run", "--resume")
    with WandbServer() as server:
        client = Client(server, tmp_path)
        client.train(*words, *tiny_flags, XDG_STATE_HOME=str(tmp_path / "thief"))
        run = client.only_run()
        rows = len(run.history)
        output = client.train(*words, "--max-steps=32").stdout
        assert "no record on this machine says that you started it, so nothing is sent" in output
        assert len(run.history) == rows
        assert f"WANDB_RUN_ID={run.name}" in output
        client.train(
            *words, "--max-steps=40", WANDB_RUN_ID=run.name, WANDB_PROJECT=run.project,
            WANDB_ENTITY=(tmp_path / "run/wandb-id.txt").read_text().split("/")[0],
        )  # fmt: skip
        assert len(run.history) > rows
        rows = len(run.history)
        client.train(*words, "--max-steps=48")  # consent was given above
        assert len(client.only_run().history) > rows

"""One run on W&B, told by the real client to the test server; and runs while W&B is away."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TEXT, TINY, nightly
from wandb_client import VARYING, Client, check_same, wait_until, without_varying
from wandb_server import WandbServer

from fundamentallm import __version__
from fundamentallm.config.hyperparameters import Config
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.trackers.folder import FolderTracker
from fundamentallm.training.loop import train

HIDDEN = 2
"""Option of `define_metric` in the client's own config entry."""


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as running:
        yield running
        assert running.refused == []


@pytest.fixture
def client(server: WandbServer, tmp_path: Path) -> Client:
    return Client(server, tmp_path)


def sync(client: Client, output: str) -> None:
    """Do what the last line of a run's output says."""
    last = output.strip().splitlines()[-1]
    command = re.search(r"is kept; send it with: ((wandb|fundamentallm) sync .+)$", last)
    assert command, output
    client.run(*command[1].split())


def test_a_run_is_there_in_whole(client: Client, text_file: Path, tiny_flags: list[str]) -> None:
    more = {"WANDB_TAGS": "mine", "WANDB_X_STATS_SAMPLING_INTERVAL": "0.2"}  # default: 15 s
    done = client.train(text_file, *tiny_flags, "--output-dir=out", **more)
    run, folder = client.only_run(), client.folder / "out"
    check_same(client.server, run, folder)
    assert run.display_name == "d16-l2-h2-lr1e-3-b4-s16-steps24"
    assert (run.state, run.group, run.job_type, run.tags) == ("finished", None, "train", ["mine"])
    about = run.values["fundamentallm"]
    assert (about["version"], about["device"], about["vocabulary_size"]) == (__version__, "cpu", 32)
    metrics = {metric["1"]: metric["6"] for metric in run.config["_wandb"]["value"]["m"]}
    assert {name for name, options in metrics.items() if HIDDEN in options} == {"epoch", "tokens"}
    assert run.events > 0  # of the machine
    assert "requirements.txt" in run.files
    summary = json.loads((folder / "summary.json").read_text())
    (model,) = [a for a in client.server.store.artifacts.values() if a.kind == "model"]
    assert (model.collection, model.state) == (f"model-{run.name}", "COMMITTED")
    assert set(model.aliases) == {"best", "latest", f"step-{summary['best_step']}"}
    metadata = json.loads(model.metadata or "")
    assert metadata["best_val_loss"] == summary["best_val_loss"]
    assert metadata["config"]["model_dim"] == 16
    kept = hashlib.sha256((folder / "best.pt").read_bytes()).digest()
    sent = client.server.store.artifact_files(model)
    assert {name: hashlib.sha256(data).digest() for name, data in sent.items()} == {"best.pt": kept}
    assert " sync " not in done.stdout
    assert done.stdout.count("sent to W&B: ") == 1
    assert "samples that begin like your text" in done.stdout
    assert "the model (best.pt); --no-log-model leaves out the model" in done.stdout
    before, _, _ = done.stdout.partition("Tracking run with wandb")
    assert "sent to W&B: " in before  # there is time to press Ctrl-C


def test_a_diverged_run_sends_an_alert_and_code_is_saved_where_the_user_allows_it(
    client: Client, text_file: Path, tiny_flags: list[str]
) -> None:
    flags = ["--learning-rate=1000", "--gradient-clip=0", "--max-steps=200", "--eval-every=200"]
    own = (sys.executable, "train.py", text_file, *tiny_flags, *flags)
    client.run(*own, code=1, WANDB_SAVE_CODE="true", WANDB_NOTES="why")
    run = client.only_run()
    assert (run.tags, run.notes) == (["diverged"], "why")
    ((title, text, severity),) = run.alerts
    assert (title, severity) == ("Run diverged", "WARN")
    assert re.fullmatch(r"train_loss is \w+ at step \d+", text)
    assert "code/train.py" in run.files


def test_what_is_sent_without_the_model(
    client: Client, text_file: Path, tiny_flags: list[str]
) -> None:
    done = client.train(text_file, *tiny_flags, "--output-dir=out", "--no-log-model")
    (line,) = [line for line in done.stdout.splitlines() if "sent to W&B: " in line]
    assert line.endswith("the machine; --no-wandb keeps everything here")
    assert not [a for a in client.server.store.artifacts.values() if a.kind == "model"]


def test_stopped_and_resumed_is_one_run(
    client: Client, text_file: Path, tiny_flags: list[str]
) -> None:
    flags = [text_file, *tiny_flags, "--output-dir=out", "--max-steps=100000"]
    process = client.popen(sys.executable, ROOT / "train.py", *flags)
    wait_until(lambda: client.server.store.runs and len(client.only_run().history) > 3, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 130, output
    assert client.only_run().tags == ["stopped"]
    step = (
        RunFolder(client.folder / "out").read_config()
        and list(RunFolder(client.folder / "out").rows())[-1]["step"]
    )
    again = ["--output-dir=out", "--resume", f"--max-steps={step + 20}"]
    client.train(*again, WANDB_PROJECT="")  # as in another shell, which knows of no project
    run = client.only_run()
    check_same(client.server, run, client.folder / "out")
    assert (run.starts, run.tags) == (2, ["resumed"])
    assert run.values["max_steps"] == step + 20


@pytest.mark.slow
def test_an_id_of_another_run_is_refused(
    client: Client, text_file: Path, tiny_flags: list[str]
) -> None:
    own = {"WANDB_RUN_ID": "mine"}
    client.train(text_file, *tiny_flags, "--output-dir=out", "--max-steps=20", **own)
    run = client.only_run()
    sent = list(run.history)
    other = [text_file, *tiny_flags, "--output-dir=other", "--learning-rate=0.1"]
    refused = client.train(*other, code=2, **own)
    assert "WANDB_RUN_ID=mine: W&B has a run with this id and other settings" in refused.stdout
    assert "learning_rate 0.001, here 0.1" in refused.stdout
    never = client.train("--output-dir=out", "--resume", code=2, **own, WANDB_RESUME="never")
    assert "WANDB_RESUME=never forbids" in never.stdout
    must = client.train(*other, code=2, WANDB_RUN_ID="unknown", WANDB_RESUME="must")
    assert "WANDB_RESUME=must asks for one" in must.stdout
    assert not (client.folder / "other").exists()
    assert run.history == sent
    client.train("--output-dir=out", "--resume", "--max-steps=40", **own)
    check_same(client.server, client.only_run(), client.folder / "out")


def test_what_was_not_sent_before_a_kill_is_sent_after_it(
    client: Client, text_file: Path, tiny_flags: list[str]
) -> None:
    flags = [text_file, *tiny_flags, "--output-dir=out", "--max-steps=60"]
    client.train(*flags)
    whole = client.only_run()
    lacking = whole.history[3:]
    whole.history = whole.history[:3]  # the client was killed with the rest unsent
    whole.history_lines = 3
    whole.summary["_step"] = whole.history[-1]["_step"]
    stored = client.server.store.blobs
    for path in [path for path in stored if "/media/html/" in path]:
        del stored[path]  # a page travels apart from its row, and can be later
    folder = RunFolder(client.folder / "out")
    client.train("--output-dir=out", "--resume", "--max-steps=70")
    check_same(client.server, whole, folder.path)
    assert [row["_step"] for row in lacking] == [
        row["_step"] for row in whole.history[3 : 3 + len(lacking)]
    ]


def test_what_the_kill_took_back_is_not_sent_twice(
    client: Client, text_file: Path, tiny_flags: list[str]
) -> None:
    flags = [text_file, *tiny_flags, "--output-dir=out", "--max-steps=40"]
    client.train(*flags)
    run = client.only_run()
    before = list(run.history)
    (client.folder / "out/last.pt").unlink()  # as if killed before the first checkpoint
    rows = (client.folder / "out/metrics.jsonl").read_text().splitlines(keepends=True)
    (client.folder / "out/metrics.jsonl").write_text("".join(rows[:1]))
    (client.folder / "out/summary.json").write_text('{"status": "running"}')
    client.train(*flags, "--resume", "--max-steps=50")
    assert run.history[: len(before)] == before
    check_same(
        client.server,
        run,
        client.folder / "out",
        varying=VARYING,
    )


@pytest.mark.parametrize("variables", [nightly({"WANDB_API_KEY": ""}), {}])
def test_no_key_is_one_line_and_no_prompt(
    client: Client, text_file: Path, tiny_flags: list[str], variables: dict[str, str]
) -> None:
    del client.environment["WANDB_API_KEY"]
    done = client.train(text_file, *tiny_flags, "--output-dir=out", **variables)
    assert done.stdout.count("no W&B key was found") == 1
    assert "wandb login" in done.stdout
    assert client.server.store.runs == {}
    assert not (client.folder / "wandb").exists()
    local = client.train(text_file, *tiny_flags, "--output-dir=local", "--no-wandb")
    assert "W&B" not in local.stdout
    assert "sent to W&B: " not in done.stdout
    assert without_varying(client.folder / "out") == without_varying(client.folder / "local")


@pytest.mark.parametrize(
    ("key", "mode"),
    [
        ("0123456789" * 4 + "\n", "online"),
        nightly("0123456789" * 4, "off"),
    ],
)
def test_a_key_or_a_mode_that_is_none_is_one_line(
    client: Client, text_file: Path, tiny_flags: list[str], key: str, mode: str
) -> None:
    more = {"WANDB_API_KEY": key, "WANDB_MODE": mode}
    done = client.train(text_file, *tiny_flags, "--output-dir=out", **more)
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout
    assert (client.folder / "out/best.pt").exists()
    assert done.stdout.count("W&B cannot be used (") == 1
    if mode == "off":
        assert "W&B cannot be used (setting mode: Input should be 'online'" in done.stdout
        assert "pydantic" not in done.stdout


def test_offline_is_kept_and_sent_later(
    client: Client, text_file: Path, tiny_flags: list[str]
) -> None:
    flags = [text_file, *tiny_flags, "--output-dir=out"]
    done = client.train(*flags, WANDB_MODE="offline")
    assert "nothing was sent to W&B (WANDB_MODE is offline)" in done.stdout.splitlines()[-1]
    assert client.server.requests == []
    assert "sent to W&B: " not in done.stdout
    sync(client, done.stdout)
    check_same(client.server, client.only_run(), client.folder / "out")


def test_a_config_as_w_and_b_writes_it_is_one(
    client: Client, text_file: Path, tiny_flags: list[str]
) -> None:
    """The file under Files of a run on W&B, which is this one."""
    client.train(text_file, *tiny_flags, "--seed=7", "--output-dir=out")
    (file,) = (client.folder / "wandb").glob("run-*/files/config.yaml")
    assert "_wandb:" in file.read_text()
    client.train("--config", file, "--output-dir=again", "--no-wandb")
    first, again = (RunFolder(client.folder / name).read_config() for name in ("out", "again"))
    assert first == again


def status(code: int) -> Callable[[WandbServer], None]:
    def fault(server: WandbServer) -> None:
        server.status = code

    return fault


def slow(server: WandbServer) -> None:
    server.delay = 2.0


FAULTS = {
    "unreachable": WandbServer.down,
    "401": status(401),
    "403": status(403),
    "429": status(429),
    "500": status(500),
    "slow": slow,
}


def mend(server: WandbServer, name: str) -> None:
    server.status, server.delay = 0, 0.0
    if name == "unreachable":
        server.up()


@pytest.mark.nightly
def test_a_run_with_an_id_is_kept_where_w_and_b_fails_at_its_start(
    client: Client, text_file: Path, tiny_flags: list[str]
) -> None:
    """Every run of an agent and every resumed run has an id."""
    FAULTS["500"](client.server)
    more = {"WANDB_RUN_ID": "abc12345", "WANDB_INIT_TIMEOUT": "1", "WANDB_FINISH_TIMEOUT": "4"}
    done = client.train(text_file, *tiny_flags, "--output-dir=out", **more)
    assert done.returncode == 0, done.stdout
    assert "the whole run is kept; send it with: fundamentallm sync out" in done.stdout
    assert list((client.folder / "wandb").glob("offline-run-*-abc12345/*.wandb"))


LONG = ["--max-steps=2500", "--eval-every=250"]


@pytest.fixture(scope="module")
def local_rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return the rows of a run without W&B."""
    folder = tmp_path_factory.mktemp("local")
    config = Config(**{**TINY, "max_steps": 2500, "eval_every": 250})
    run_folder = RunFolder(folder)
    train(config, TEXT, folder=run_folder, trackers=[FolderTracker(run_folder)])
    return without_varying(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("unreachable", "before"),
        *(nightly(name, "before") for name in FAULTS if name != "unreachable"),
        *(nightly(name, "during") for name in FAULTS),
    ],
)
def test_w_and_b_away(
    client: Client,
    text_file: Path,
    tiny_flags: list[str],
    local_rows: list[dict[str, Any]],
    name: str,
    moment: str,
) -> None:
    server = client.server
    flags = [text_file, *tiny_flags, *LONG, "--output-dir=out"]
    limits = {"WANDB_INIT_TIMEOUT": "8" if name == "slow" else "1", "WANDB_FINISH_TIMEOUT": "4"}
    if moment == "before":
        FAULTS[name](server)
    process = client.popen(sys.executable, ROOT / "train.py", *flags, **limits)
    if moment == "during":
        wait_until(lambda: server.store.runs and client.only_run().history, process)
        FAULTS[name](server)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    # The client would ask this before every table, and wait for the answer.
    assert "ArtifactType" not in server.requests
    assert without_varying(client.folder / "out") == local_rows
    mend(server, name)
    if "the whole run is kept" in output:
        sync(client, output)
    else:
        assert name == "slow"  # and yet in time
    check_same(server, client.only_run(), client.folder / "out")


LONGER = """\
import sys
from dataclasses import replace
from pathlib import Path
import torch
from fundamentallm.data.dataset import prepare
from fundamentallm.data.text import Text
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.trackers.folder import FolderTracker
from fundamentallm.trackers.wandb import WandbTracker
from fundamentallm.training.checkpoint import Checkpoint
from fundamentallm.training.run import PreparedRun, Resume, execute
source, folder = RunFolder("source"), RunFolder("longer")
folder.create()
config = replace(Checkpoint.load(source.last).config, max_steps=40)
dataset = prepare(Text.of(Path(sys.argv[1]).read_text("utf-8")), config)
with folder.held():
    execute(
        PreparedRun(config, dataset, torch.device("cpu")), folder,
        lambda: [FolderTracker(folder), WandbTracker(folder)],
        resume=Resume.IF_POSSIBLE, stop_requested=lambda: "", reuse=source,
    )
"""


@pytest.mark.nightly
def test_a_run_that_continues_another_has_all_rows(
    client: Client, text_file: Path, tiny_flags: list[str]
) -> None:
    flags = ("--lr-schedule=wsd", "--no-wandb", "--output-dir=source")
    client.train(text_file, *tiny_flags, *flags)
    client.run("python", "-c", LONGER, text_file)
    run = client.only_run()
    check_same(client.server, run, client.folder / "longer")
    assert run.summary["reused_from"] == f"{client.folder.name}/source"
    assert run.summary["reused_steps"] == 19

"""Processes of trials: forked warm from a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT


def test_a_warm_trial_imports_nothing(tmp_path: Path, text_file: Path) -> None:
    code = f"""
import json, os, sys
from multiprocessing import forkserver
from pathlib import Path
from fundamentallm.sweep.engine.trainer_job import TrainerJob
from fundamentallm.sweep.engine.trial_process import ForkServer
from fundamentallm.data.text import read_text

if __name__ == "__main__":
    text = read_text({str(text_file)!r})
    workers = ForkServer(threads=1)
    for name in ("a", "b"):
        folder = Path(name).absolute(); folder.mkdir()
        settings = dict(model_dim=16, num_layers=1, num_heads=2, max_seq_len=16, max_steps=3)
        job = TrainerJob(
            folder=folder, settings=settings, data={str(text_file)!r}, data_name=text.name,
            data_sha256=text.sha256, tokens=Path("tokens").absolute(), threads=1, device="cpu",
            hang_timeout=60.0,
        )
        trial = workers.start(job)
        status = Path(f"/proc/{{trial.pid}}/status").read_text()
        parent = int(status.partition("PPid:")[2].split()[0])
        messages = []
        while not messages or type(messages[-1]).__name__ != "Outcome":
            workers.wait([trial], 1)
            messages += trial.messages()
        server = forkserver._forkserver._forkserver_pid
        is_warm = "libtorch" in Path(f"/proc/{{server}}/maps").read_text()
        print(json.dumps([messages[-1].status, is_warm, parent, server, os.getpid(),
                          "torch" in sys.modules]))
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    words = [sys.executable, str(script)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for status, is_warm, parent, server, engine, engine_has_torch in lines:
        assert status == "done"
        assert is_warm  # torch is there before the process begins
        assert parent == server
        assert server != engine
        assert not engine_has_torch
    assert len(list((tmp_path / "tokens").glob("*.tokens"))) == 1  # encoded once, for both


def test_a_server_that_ends_by_itself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text("import os\nos._exit(1)\n")
    code = (
        "from pathlib import Path\n"
        "from fundamentallm.sweep.engine.job import Job\n"
        "from fundamentallm.sweep.engine.trial_process import ForkServer\n"
        "class Nothing(Job):\n"
        "    def begin(self): raise AssertionError\n"
        "if __name__ == '__main__':\n"
        "    job = Nothing(folder=Path('.'), threads=1, hang_timeout=1.0)\n"
        "    ForkServer(threads=1, preload=['ends']).start(job)\n"
    )
    (tmp_path / "start.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, tmp_path / "start.py"], capture_output=True, text=True, env=environment
    )
    assert "ForkServerError: the process that starts runs ended 5 times" in done.stderr

"""Promise 1: killed at any instant, the newest complete checkpoint loads and verifies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Forks a child for every line of a save. The child kills itself before that line, or in the middle
# of a write.
SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from fundamentallm.files import atomic
from fundamentallm.training import checkpoint
from fundamentallm.training.checkpoint import Checkpoint
from fundamentallm.data.vocabulary import Vocabulary
from fundamentallm.config.hyperparameters import Config
from fundamentallm.model.transformer import Transformer

torch.set_num_threads(1)
FILES = {checkpoint.__file__, atomic.__file__}
config = Config(model_dim=16, num_layers=1, num_heads=2, max_seq_len=16)
vocabulary = Vocabulary.of("abc", "char")
path = Path("last.pt")

def state(step):
    torch.manual_seed(step)
    weights = Transformer(len(vocabulary), config).state_dict()
    return Checkpoint(config, vocabulary, {"name": "x", "sha256": "0"}, weights,
                      {"step": step}, {"optimizers": []})

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def kill_at_line(n):
    count = 0
    def trace(frame, event, argument):
        nonlocal count
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            count += 1
            if count == n:
                die()
        return trace
    sys.settrace(trace)

def kill_in_write(n):
    count = 0
    write = checkpoint._HashingWriter.write
    def write_half(self, data):
        nonlocal count
        count += 1
        if count == n:
            self.file.write(bytes(data)[: len(bytes(data)) // 2])
            self.file.flush()
            die()
        return write(self, data)
    checkpoint._HashingWriter.write = write_half

old, new = state(1), state(2)
counts = {1: 0, 2: 0}
for inject in (kill_at_line, kill_in_write):
    n = 0
    while True:
        n += 1
        old.save(path)
        child = os.fork()
        if child == 0:
            inject(n)
            new.save(path)
            sys.settrace(None)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        loaded = Checkpoint.load(path)  # raises if it is incomplete
        expected = {1: old, 2: new}[loaded.progress["step"]]
        for name, tensor in expected.model.items():
            assert torch.equal(tensor, loaded.model[name]), (inject, n, name)
        counts[loaded.progress["step"]] += 1
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    print(inject.__name__, n - 1, flush=True)
print("old", counts[1], "new", counts[2])
"""


@pytest.mark.nightly
def test_killed_at_every_line_of_a_save(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    lines, writes, old, new = (int(words[i]) for i in (1, 3, 5, 7))
    assert lines > 100  # open, write, sync, rename
    assert writes > 10
    assert old > new > 2  # killed before the rename, or after it

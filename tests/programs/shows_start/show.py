"""Write down everything that a program can see of how it was started."""

import json
import os
import signal
import sys
from pathlib import Path

import wandb
import yaml

ENVIRONMENT = dict(os.environ)
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGPIPE", "SIGCHLD", "SIGUSR1", "SIGTTOU")


def is_open(number: int) -> bool:
    """Return True for an inherited file descriptor."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


seen = {
    "arguments": sys.orig_argv,
    "environment": ENVIRONMENT,
    "folder": os.getcwd(),
    "stdin": sys.stdin.read(),
    "is group leader": os.getpgrp() == os.getpid(),
    "blocked signals": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "handlers": {name: str(signal.getsignal(getattr(signal, name))) for name in SIGNALS},
    "umask": os.umask(0o022),
    "nice": os.nice(0),
    "open files": [number for number in range(3, 256) if is_open(number)],
    "sys.path[0]": sys.path[0],
    "values": yaml.safe_load(Path(ENVIRONMENT["WANDB_SWEEP_PARAM_PATH"]).read_text()),
}
(json_file,) = (word for word in sys.argv if word.endswith(".json"))
seen["JSON file"] = json.loads(Path(json_file).read_text())
with wandb.init() as run:
    seen["config"] = dict(run.config)
    seen["run"] = [run.id, run.sweep_id]
    run.log({"loss": 1.0})
name = f"{ENVIRONMENT['WANDB_RUN_ID']}.json"
Path(ENVIRONMENT["SEEN"], name).write_text(json.dumps(seen))

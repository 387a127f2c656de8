"""Start a script in several processes, as `accelerate launch` and torchrun do."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

parser = argparse.ArgumentParser()
parser.add_argument("--num_processes", type=int, default=1)
parser.add_argument("script")
parser.add_argument("words", nargs=argparse.REMAINDER)
args = parser.parse_args()
workers = []
for rank in range(args.num_processes):
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(args.num_processes)}
    command = [sys.executable, args.script, *args.words]
    workers.append(subprocess.Popen(command, env={**os.environ, **ranks}))
sys.exit(max(worker.wait() for worker in workers))

"""Write metrics to a file of the run's folder, and never use W&B."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from truth import note

settings = json.loads(sys.argv[1])
weight = 0.0
with Path(os.environ["FUNDAMENTALLM_RUN_DIR"], "log.jsonl").open("w") as file:
    for epoch in range(settings["epochs"]):
        weight -= settings["lr"] * 2 * (weight - 3)
        row = {"loss": (weight - 3) ** 2}
        note(row, 10 * epoch)
        file.write(json.dumps({"step": 10 * epoch, **row}) + "\n")

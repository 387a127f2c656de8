"""Notes what a program logs, so that a test can compare it with what the sweep stored."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def note(row: Mapping[str, Any], step: int) -> None:
    """Append a row as the program is about to log it."""
    with Path(os.environ["FUNDAMENTALLM_RUN_DIR"], "truth.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, **row}) + "\n")

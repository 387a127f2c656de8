"""Command of a sweep file: the words that start a run."""

from __future__ import annotations

import os
import re

from fundamentallm.sweep.file.sweep_file import ENVIRONMENT, SweepFile

DEFAULT = ("${env}", "${interpreter}", "${program}", "${args}")
"""Default command, as in W&B."""
SHOWN = {"${env}": "/usr/bin/env", "${interpreter}": "python"}


def command_line(sweep: SweepFile) -> str:
    """Return the command as a line to display."""
    shown = SHOWN | {"${program}": sweep.program}
    return " ".join(shown.get(word, word) for word in sweep.command or DEFAULT)


def command_words(sweep: SweepFile) -> list[str]:
    """Return the words of the file's command, with environment variables replaced."""
    return [ENVIRONMENT.sub(_of_environment, word) for word in sweep.command]


def _of_environment(match: re.Match[str]) -> str:
    """Return the variable's value, or its name if it is not set, as W&B's agent does."""
    return os.environ.get(match[1], match[1])

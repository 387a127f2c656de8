"""Text of a sweep: recorded at its creation, and found again when it resumes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fundamentallm.cli.messages import warn
from fundamentallm.config.parsing import DATA
from fundamentallm.data.builtin_corpus import BUILTIN
from fundamentallm.sweep.check.warnings import unscored
from fundamentallm.sweep.engine.trainer_job import TextSource
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.distributions import Categorical
from fundamentallm.sweep.file.sweep_file import SweepFile
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.definition import SweepDefinition

if TYPE_CHECKING:
    from fundamentallm.data.text import Text


def named_texts(sweep: SweepFile) -> list[str]:
    """Return the texts that a sweep's parameters name."""
    return [
        str(value)
        for parameter in sweep.parameters
        if parameter.path[-1] == DATA and isinstance(parameter.distribution, Categorical)
        for value in parameter.distribution.values
    ]


def with_texts(definition: SweepDefinition, data: str | None) -> SweepDefinition:
    """Record the text at `data`, or those the sweep names, so that a resume detects changes.

    Warns of characters that runs cannot be scored on.

    Raises:
        DataError: It cannot be read.
    """
    from fundamentallm.data.text import DataError, read_lasting_text

    named = named_texts(definition.sweep)
    if not named:
        text = read_lasting_text(data)
        _warn_of_unscored(definition.space, text)
        path = None if data is None else str(Path(data).absolute())
        return replace(definition, data=path, data_name=text.name, data_sha256=text.sha256)
    hashes: dict[str, str] = {}
    for name in named:
        try:
            text = read_lasting_text(name)
            _warn_of_unscored(definition.space, text)
            hashes[name] = text.sha256
        except DataError as error:
            warn(f"{error}; runs on it fail unless it exists by then")
    return replace(definition, texts=hashes, texts_from=str(Path.cwd()))


def _warn_of_unscored(space: SearchSpace, text: Text) -> None:
    for line in unscored(space, text):
        warn(line)


def local_text(definition: SweepDefinition, typed: str | None) -> str | None:
    """Return the path of the sweep's text here; None for the built-in one, or named texts.

    Raises:
        click.UsageError: A text was typed, but the sweep names its own.
        SweepError: It is missing, or is another text.
    """
    if not definition.data_sha256:
        if typed is not None:
            raise click.UsageError("this sweep's file names its texts; leave out --data")
        _check_named_texts(definition)
        return None
    path = typed or definition.data
    if path not in (None, BUILTIN) and not Path(path).exists():
        raise SweepError(f"{path}: the sweep's text is missing; give its path as --data")
    _check_hash(path, definition.data_sha256, "give the same text as --data")
    return path


def _check_named_texts(definition: SweepDefinition) -> None:
    data = TextSource.of(definition, None)
    found = 0
    for name in named_texts(definition.sweep):
        path, _, sha256 = data.text(name)
        if path is None or Path(path).exists():
            found += 1
            if sha256:
                _check_hash(path, sha256, "put the same text there")
    if not found:
        raise SweepError("none of the texts that the sweep names exist here; run it where they do")


def _check_hash(path: str | None, sha256: str, advice: str) -> None:
    from fundamentallm.data.text import read_lasting_text

    text = read_lasting_text(path)
    if text.sha256 != sha256:
        raise SweepError(
            f"{text.name} is not the text of this sweep: its SHA-256 is {text.sha256[:12]}, "
            f"not {sha256[:12]}; {advice}"
        )

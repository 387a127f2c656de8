"""Which text a sweep is on: written down when it is made, and found again wherever it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fundamentallm.cli.messages import warn
from fundamentallm.config.parsing import DATA
from fundamentallm.data.builtin_corpus import BUILTIN
from fundamentallm.sweep.check.warnings import unscored
from fundamentallm.sweep.engine.job import TextSource
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.distributions import Categorical
from fundamentallm.sweep.file.sweep_file import SweepFile, parse_sweep
from fundamentallm.sweep.search.space import SearchSpace

if TYPE_CHECKING:
    from fundamentallm.data.text import Text


def named_texts(sweep: SweepFile) -> list[str]:
    """The texts that a sweep's own parameters name."""
    return [
        str(value)
        for parameter in sweep.parameters
        if parameter.path[-1] == DATA and isinstance(parameter.distribution, Categorical)
        for value in parameter.distribution.values
    ]


def text_facts(data: str | None, points: SearchSpace) -> dict[str, Any]:
    """What is to be known of a sweep's text, so that going on with another is noticed.

    A warning says what its runs cannot be scored on.

    Raises:
        DataError: It cannot be read.
    """
    from fundamentallm.data.text import DataError, read_lasting_text

    named = named_texts(points.sweep)
    if not named:
        text = read_lasting_text(data)
        _warn_of_unscored(points, text)
        path = None if data is None else str(Path(data).absolute())
        return {"data": path, "data_name": text.name, "data_sha256": text.sha256}
    hashes: dict[str, str] = {}
    for name in named:
        try:
            text = read_lasting_text(name)
            _warn_of_unscored(points, text)
            hashes[name] = text.sha256
        except DataError as error:
            warn(f"{error}; unless it is there by then, its runs fail")
    empty = {"data": None, "data_name": "", "data_sha256": ""}
    return {**empty, "texts": hashes, "texts_from": str(Path.cwd())}


def _warn_of_unscored(points: SearchSpace, text: Text) -> None:
    for line in unscored(points, text):
        warn(line)


def same_texts(known: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Which texts a sweep names, as they were when it was made, with those that have come since."""
    if "texts" not in now:
        return {}
    hashes = {**now["texts"], **known.get("texts", {})}
    return {"texts": hashes, "texts_from": known.get("texts_from") or now["texts_from"]}


def text_here(facts: Mapping[str, Any], typed: str | None) -> str | None:
    """The path of the sweep's text on this machine; None for the built-in one, or its own.

    Raises:
        click.UsageError: One was typed, and the sweep names its own.
        SweepError: It is not there, or is another text.
    """
    if not facts["data_sha256"]:
        if typed is not None:
            raise click.UsageError("this sweep's file says which texts to use; leave out --data")
        _check_named_texts(facts)
        return None
    path = typed or facts["data"]
    if path not in (None, BUILTIN) and not Path(path).exists():
        raise SweepError(f"{path}: the sweep's text is not there; say where by --data")
    _check_hash(path, facts["data_sha256"], "give the same one by --data")
    return path


def _check_named_texts(facts: Mapping[str, Any]) -> None:
    data = TextSource.of(facts, None)
    there = 0
    for name in named_texts(parse_sweep(facts["text"], facts["file"])):
        path, _, sha256 = data.text(name)
        if path is None or Path(path).exists():
            there += 1
            if sha256:
                _check_hash(path, sha256, "put the same one there")
    if not there:
        raise SweepError(
            "none of the texts that the sweep names is here; work on it where they are"
        )


def _check_hash(path: str | None, sha256: str, advice: str) -> None:
    from fundamentallm.data.text import read_lasting_text

    text = read_lasting_text(path)
    if text.sha256 != sha256:
        raise SweepError(
            f"{text.name} is not the text of this sweep: its SHA-256 is {text.sha256[:12]} and "
            f"was {sha256[:12]}; {advice}"
        )

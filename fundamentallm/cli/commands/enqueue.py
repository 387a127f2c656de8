"""`fundamentallm enqueue`: a configuration that a person picked is tried next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from fundamentallm.cli.messages import show
from fundamentallm.cli.options import PATH
from fundamentallm.cli.steering import agent_command, steered, storage_option
from fundamentallm.config.fields import setting_text
from fundamentallm.errors import FundamentallmError
from fundamentallm.files import bounded_yaml
from fundamentallm.files.atomic import read_file
from fundamentallm.status import RunStatus
from fundamentallm.sweep.store.sweep_folder import SweepFolder, run_folder_name

LARGEST = 1 << 20
"""Largest file of configurations in bytes."""


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("folder", metavar="SWEEP", type=PATH)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED, metavar="[--PARAMETER VALUE]...")
@click.option(
    "--file", type=PATH, metavar="YAML", help="Try all configurations of this list of mappings."
)
@storage_option
def enqueue(folder: str, flags: tuple[str, ...], file: str | None, storage: str | None) -> int:
    """Try a hand-picked configuration next.

    Give a flag for each parameter of SWEEP: --learning-rate 0.002 --batch-size 32. The next free
    worker takes it. It counts for run_cap, and the search learns from it. A configuration that the
    sweep has already is not run again.
    """
    if bool(flags) == (file is not None):
        raise click.UsageError("give the configuration by flags, or several by --file")
    given = [_by_flags(flags)] if file is None else _in_file(file)
    sweep_folder = SweepFolder(folder)
    with steered(sweep_folder, storage) as (definition, store):
        from fundamentallm.sweep.search.hand_picked import read_configuration
        from fundamentallm.sweep.store import steering

        space = definition.space
        for number, each in enumerate(given, 1):  # all of them, before the first is tried
            try:
                read_configuration(space, each)
            except FundamentallmError as error:
                where = "" if file is None else f"{file}: configuration {number}: "
                raise FundamentallmError(f"{where}{error}") from None
        for each in given:
            enqueued = steering.enqueue(store, definition, each)
            run = enqueued.run
            values = [setting_text(p.name, run.values[p.name]) for p in space.searched]
            does = "is tried next" if enqueued.is_new else f"is not new ({run.last.status})"
            show(f"{run_folder_name(run.number)} {does}: {', '.join(values)}")
        runs = store.runs()
        waiting = runs.how_many(RunStatus.WAITING)
        if waiting and not runs.how_many(RunStatus.RUNNING):
            show(f"no worker runs; start one with: {agent_command(sweep_folder)}", err=True)
    return 0


def _by_flags(words: Sequence[str]) -> dict[str, str]:
    """Return the values of `--name value` and `--name=value`.

    Raises:
        UsageError: A word is neither, or a name has two values.
    """
    given: dict[str, str] = {}
    for name, value in _pairs(words):
        if name in given:
            raise click.UsageError(f"--{name} is given twice; keep one")
        given[name] = value
    return given


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    rest = iter(words)
    for word in rest:
        name, has_value, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            raise click.UsageError(f"got {word}; give --PARAMETER VALUE")
        if not has_value and (value := next(rest, None)) is None:
            raise click.UsageError(f"--{name}: its value is missing")
        yield name, value


def _in_file(file: str) -> list[Mapping[str, Any]]:
    """Return the configurations in a YAML file.

    Raises:
        FundamentallmError: It cannot be read, or is no list of mappings.
    """
    try:
        content = bounded_yaml.load(read_file(Path(file), LARGEST, root=None).decode("utf-8-sig"))
    except OSError as error:
        raise FundamentallmError(f"{file}: {error.strerror}; give a YAML file") from None
    except UnicodeDecodeError as error:
        raise FundamentallmError(f"{file}: not UTF-8 at byte {error.start}") from None
    except bounded_yaml.YamlError as error:
        raise FundamentallmError(f"{error.where(file)}: {error.problem}") from None
    if not (isinstance(content, list) and content and all(isinstance(c, dict) for c in content)):
        raise FundamentallmError(
            f"{file}: give a list of mappings, e.g. - {{learning_rate: 0.002, batch_size: 32}}"
        )
    return content

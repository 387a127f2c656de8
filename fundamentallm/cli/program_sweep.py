"""Sweeps of another program: this user's consent to start it, and how it is started."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from fundamentallm.cli.messages import display_path, warn
from fundamentallm.cli.wandb_runs import wandb_location
from fundamentallm.files.consent import remember, was_asked
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import read_sweep
from fundamentallm.sweep.program.command import command_line, dry_run_lines
from fundamentallm.sweep.program.environment import sweep_environment
from fundamentallm.sweep.program.script import NotWarmError, PythonScript, python_script
from fundamentallm.sweep.store.definition import SweepDefinition, differences_in_file
from fundamentallm.sweep.store.sweep_folder import SweepFolder, run_folder_name

DRY_RUNS = 5
"""Runs whose commands `--dry-run` prints."""


def remember_program(definition: SweepDefinition, folder: SweepFolder) -> None:
    """Record this user's consent to start the program of a sweep, if it is another one."""
    if definition.program is None or definition.program.function:
        return
    if reason := remember(folder.path, program=_identity(definition)):
        warn(reason)


def check_program_allowed(
    definition: SweepDefinition, folder: SweepFolder, file: str | None
) -> None:
    """Check that this user consents to start the program that a stored sweep names.

    Args:
        definition: Stored definition, which may come from others.
        folder: Folder of the sweep, which may come from others too.
        file: Sweep file on the command line, if any, which confirms the program.

    Raises:
        SweepError: The program is not confirmed or only a Python function, or `file` is another
            sweep.
    """
    if definition.program is None:
        return
    if name := definition.program.function:
        raise SweepError(
            f"{display_path(folder.path)}: Python started this sweep with the function {name}; to "
            "resume it, call fundamentallm.run_sweep again with the same config"
        )
    if file is not None:
        if changes := differences_in_file(definition.sweep, read_sweep(file), free=("run_cap",)):
            raise SweepError(
                f"--file {file}: not the file of this sweep: {'; '.join(changes)}; give the file "
                "that it was created from"
            )
        remember_program(definition, folder)
    elif not was_asked(folder.path, program=_identity(definition)):
        raise SweepError(
            f"{display_path(folder.path)}: this sweep starts `{command_line(definition.sweep)}`, "
            "which you have not confirmed on this machine; if you trust it, add --file with the "
            "sweep file"
        )


def _identity(definition: SweepDefinition) -> str:
    """Return what consent is given to: this sweep with this file."""
    return f"{definition.id} {hashlib.sha256(definition.sweep.text.encode()).hexdigest()}"


def first_commands(definition: SweepDefinition, folder: SweepFolder) -> Iterator[str]:
    """Yield the commands of the first runs, without starting anything."""
    search = definition.search().search
    most = [n for n in (definition.sweep.run_cap, DRY_RUNS) if n is not None]

    def json_file(number: int) -> str:
        run = Path(display_path(folder.path), run_folder_name(number))
        return str(run / "wandb/sweep-ID/config-RUN.json")

    return islice(dry_run_lines(definition.sweep, search, json_file, min(most)), min(most))


def warm_script(definition: SweepDefinition, notify: Callable[[str], None]) -> PythonScript | None:
    """Return the script that `--warm` starts; None without it, or, with a note, if it cannot."""
    if definition.program is None or not definition.program.warm:
        return None
    try:
        return python_script(definition.sweep)
    except NotWarmError as error:
        notify(f"--warm has no effect: {error}; each run starts a new process")
        return None


def client_variables(definition: SweepDefinition) -> Mapping[str, str]:
    """Return the variables for W&B's client that all runs of a program share.

    A run is offline unless the user asked for `--wandb online`. An online run belongs to a sweep on
    W&B only if the user named one.
    """
    sweep = definition.sweep
    entity, project, own = wandb_location(sweep, definition.wandb_sweep_id)
    mode = definition.wandb or "offline"
    if mode == "offline":
        own = own or definition.id
    return sweep_environment(sweep.name, mode=mode, entity=entity, project=project, sweep_id=own)

"""`fundamentallm sweep`: a W&B sweep file on this machine, with no account and no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fundamentallm import exit_codes
from fundamentallm.cli.diagnose import examine, show_diagnostics
from fundamentallm.cli.earlier_sweeps import check_learns, with_earlier_runs
from fundamentallm.cli.keeping import keep_option
from fundamentallm.cli.messages import show
from fundamentallm.cli.options import PATH, SWEEP_FILE, worker_options
from fundamentallm.cli.program_sweep import first_commands
from fundamentallm.cli.storage import lease_seconds, storage_url, study_name
from fundamentallm.cli.sweep_flags import SharedSettings
from fundamentallm.cli.sweep_texts import named_texts, with_texts
from fundamentallm.cli.wandb_runs import check_client
from fundamentallm.cli.worker import start_sweep
from fundamentallm.data.builtin_corpus import BUILTIN
from fundamentallm.sweep.file.scheduler import hosted_method
from fundamentallm.sweep.file.sweep_file import SweepFile, examine_sweep
from fundamentallm.sweep.program.ownership import is_ours
from fundamentallm.sweep.search.choose import CHOICES
from fundamentallm.sweep.search.seeds import MOST_SEEDS, SeededSpace
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.definition import SweepDefinition
from fundamentallm.sweep.store.program_settings import ProgramSettings
from fundamentallm.sweep.store.sweep_folder import SweepFolder, sweep_folder_name


@click.command()
@click.argument("file", metavar="SWEEP.YAML", type=SWEEP_FILE)
@click.argument("words", metavar="[DATA.TXT] [-- FLAGS FOR EVERY RUN]", nargs=-1, type=PATH)
@click.option(
    "--output-dir", type=PATH, metavar="DIR", help="Write the sweep to DIR.  [default: runs/NAME]"
)
@click.option(
    "--seed",
    "sweep_seed",
    type=int,
    default=0,
    metavar="N",
    help="Seed the search; seed the runs by -- --seed N.  [default: 0]",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, MOST_SEEDS),
    default=1,
    metavar="N",
    help="Repeat a configuration with up to N seeds while it may be the best.  [default: 1]",
)
@click.option(
    "--sampler",
    type=click.Choice(CHOICES),
    default="auto",
    help="Override how method bayes or random samples.  [default: auto]",
)
@click.option(
    "--from",
    "earlier",
    multiple=True,
    type=PATH,
    metavar="SWEEP",
    help="Let method bayes learn from an earlier sweep, a folder or on W&B; repeatable.",
)
@click.option(
    "--wandb",
    type=click.Choice(("offline", "online")),
    help="Send runs to W&B now (online), or later by `wandb sync` (offline).  [default: never]",
)
@click.option(
    "--wandb-sweep-id", metavar="ID", help="Add the runs to this sweep, created by `wandb sweep`."
)
@click.option(
    "--metrics",
    type=PATH,
    metavar="FILE",
    help="Read metrics from JSON lines that your program writes to FILE.",
)
@click.option(
    "--trial-timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="MINUTES",
    help="Stop a run of your program after so long, as failed.",
)
@click.option(
    "--warm", is_flag=True, help="Start your Python script with its libraries already imported."
)
@click.option(
    "--dry-run", is_flag=True, help="Print the commands of the first runs; start nothing."
)
@keep_option
@worker_options
def sweep(
    file: str,
    words: tuple[str, ...],
    output_dir: str | None,
    sweep_seed: int,
    seeds: int,
    sampler: str,
    earlier: tuple[str, ...],
    wandb: str | None,
    wandb_sweep_id: str | None,
    metrics: str | None,
    trial_timeout: float | None,
    warm: bool,
    dry_run: bool,
    storage: str | None,
    **options: Any,
) -> int:
    """Run a W&B sweep file on this machine, or resume it.

    SWEEP.YAML is a file, or the name of a bundled sweep, such as lr. Everything is written to the
    sweep's folder, runs/NAME, with one folder per run. Run the same command again to resume the
    sweep. Flags after -- apply to every run.
    """
    data, flags = _split(words)
    read = examine_sweep(file)
    folder = SweepFolder(output_dir or Path("runs") / sweep_folder_name(read.name))
    exists = folder.file.exists()
    ours_before = _ran_our_trainer(read, folder, storage)
    shared = examine(read, flags, data, exists=ours_before, starting=True)
    show_diagnostics(read.diagnostics)
    if hosted_method(read.content) is not None:
        show(f"{file}: scheduler is for W&B; here the method is {read.method}")
    if not all(each.is_unambiguous and exists for each in read.diagnostics.errors):
        return exit_codes.BAD_INPUT
    if shared is not None and (metrics or trial_timeout or warm):
        name = "--metrics" if metrics else "--trial-timeout" if trial_timeout else "--warm"
        raise click.UsageError(f"{name} is for a sweep of another program; leave it out")
    if wandb_sweep_id and not wandb:
        raise click.UsageError("--wandb-sweep-id needs --wandb offline or --wandb online")
    space = SearchSpace(read, shared.settings if shared else {}, is_ours=shared is not None)
    definition = SweepDefinition(
        SeededSpace(space, seeds) if seeds > 1 else space,
        device=shared.device if shared else "auto",
        seed=sweep_seed,
        sampler=sampler,
        lease=lease_seconds(),
        wandb=wandb or "",
        wandb_sweep_id=wandb_sweep_id or "",
        program=None if shared else ProgramSettings(metrics or "", trial_timeout or 0.0, warm),
    )
    if earlier:
        check_learns(definition)
    check_client(definition)
    if shared is not None:
        data = _choose_text(read, data, shared)
        definition = with_texts(definition, data)
    if earlier:
        definition = with_earlier_runs(definition, earlier, folder, storage)
    if dry_run:
        for line in first_commands(definition, folder):
            show(line)
        return exit_codes.DONE
    return start_sweep(definition, folder, storage, data=data, **options)


def _ran_our_trainer(sweep: SweepFile, folder: SweepFolder, storage: str | None) -> bool:
    """Return whether a sweep in the folder runs our trainer, whatever its file names now."""
    if is_ours(sweep) or not folder.exists:
        return False
    from fundamentallm.sweep.store.run_store import read_study

    url = storage_url(storage, folder)
    definition, _ = read_study(url, study_name(url, folder))
    return definition.program is None


def _split(words: tuple[str, ...]) -> tuple[str | None, list[str]]:
    """The text's path, if one was given, and the flags of every run."""
    rest = list(words)
    data = rest.pop(0) if rest and not rest[0].startswith("-") else None
    if rest and not rest[0].startswith("-"):
        raise click.UsageError(
            f"unexpected argument {rest[0]}; give one text at most, then -- and flags"
        )
    return data, rest


def _choose_text(sweep: SweepFile, typed: str | None, shared: SharedSettings) -> str | None:
    """The text of all runs: the one that was typed, or the command's, or a --config's."""
    command = shared.data
    if command is not None and typed not in (command, None):
        raise click.UsageError(
            f"{sweep.file}: its command names the text {command}; leave out {typed}"
        )
    data = typed or command
    if named_texts(sweep):
        if data is not None:
            raise click.UsageError(f"{sweep.file} names its texts; leave out {data}")
        return None
    data = data or shared.config_data
    return None if data == BUILTIN else data

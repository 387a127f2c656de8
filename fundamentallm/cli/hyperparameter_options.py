"""Hyperparameters as click options."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from typing import Any

import click

from fundamentallm.config.fields import FALSE_WORDS, TRUE_WORDS, ConfigError, Hyperparameter
from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.sweep.wandb_agent import Assignment

METAVARS = {int: "INT", float: "FLOAT", str: "TEXT", bool: "[true|false]"}


class HyperparameterType(click.ParamType):
    """Asks the hyperparameter itself whether a value will do."""

    def __init__(self, known: Hyperparameter) -> None:
        self.known = known
        self.name = known.type.__name__

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value in its type.

        Raises:
            UsageError: It has none.
        """
        try:
            return self.known.parse(value)
        except ConfigError as error:
            raise click.UsageError(str(error), ctx) from None


class HyperparameterCommand(click.Command):
    """A command with an option for every hyperparameter, but `without` some, under headings.

    A switch may be given as `--x`, `--no-x`, `--x true` or `--x=False`. A word that is
    neither true nor false after `--x` is left alone: it may be the data file. A flag may be
    typed more than once, and the command gets every value.
    """

    def __init__(self, *args: Any, without: Collection[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        those = (known for known in HYPERPARAMETERS.values() if known.name not in without)
        self.params += [_option(known) for known in those]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leave to the sweep what the sweep says, and write switches as `--x=true`."""
        ctx.obj = Assignment.from_environment()
        if ctx.obj is not None:
            args = ctx.obj.without_repeats(args)
        return super().parse_args(ctx, list(_spell_out_switches(args)))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Options under the headings of the table, those of the command itself last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                known = HYPERPARAMETERS.get(param.name or "")
                sections.setdefault(known.group if known else "Options", []).append(record)
        sections["Options"] = sections.pop("Options", [])
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def _option(known: Hyperparameter) -> click.Option:
    """An option without a default: left out it is empty, and `Config` fills it in."""
    typical = f"typical: {known.typical_text}; " if known.typical else ""
    return click.Option(
        [known.flag, known.name],
        type=HyperparameterType(known),
        multiple=True,
        metavar="|".join(known.choices) or METAVARS[known.type],
        help=f"{known.help}  [{typical}default: {known.default_text}]",
    )


def _spell_out_switches(args: list[str]) -> Iterator[str]:
    switches = {known.flag: known for known in HYPERPARAMETERS.values() if known.is_switch}
    rest = deque(args)
    while rest:
        word = rest.popleft()
        flag = word.replace("_", "-")
        if word == "--":  # the end of flags: what follows is left as it is
            yield from (word, *rest)
            return
        if flag in switches:
            words = (*TRUE_WORDS, *FALSE_WORDS, *switches[flag].choices)
            explicit = rest and rest[0].lower() in words
            yield f"{flag}={rest.popleft() if explicit else 'true'}"
        elif flag.startswith("--no-") and "--" + flag[5:] in switches:
            yield f"--{flag[5:]}=false"
        else:
            yield word

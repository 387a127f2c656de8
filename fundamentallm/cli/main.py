"""`fundamentallm`: the commands; every error becomes one line and an exit code."""

from __future__ import annotations

import ast
import inspect
import io
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

import click

from fundamentallm import __version__
from fundamentallm.cli.commands.agent import agent
from fundamentallm.cli.commands.check import check
from fundamentallm.cli.commands.clean import clean
from fundamentallm.cli.commands.compare import compare
from fundamentallm.cli.commands.dashboard import dashboard
from fundamentallm.cli.commands.enqueue import enqueue
from fundamentallm.cli.commands.evaluate import evaluate
from fundamentallm.cli.commands.explain import explain
from fundamentallm.cli.commands.export import export
from fundamentallm.cli.commands.find import find
from fundamentallm.cli.commands.generate import generate
from fundamentallm.cli.commands.list import list_
from fundamentallm.cli.commands.next import next_
from fundamentallm.cli.commands.pause import pause, resume
from fundamentallm.cli.commands.predict import predict
from fundamentallm.cli.commands.refine import refine
from fundamentallm.cli.commands.report import report
from fundamentallm.cli.commands.stop import stop
from fundamentallm.cli.commands.sweep import sweep
from fundamentallm.cli.commands.sync import sync
from fundamentallm.cli.commands.train import train
from fundamentallm.cli.commands.tune import tune
from fundamentallm.cli.commands.workspace import workspace
from fundamentallm.cli.messages import show, warn
from fundamentallm.cli.terminal import survive_terminal_loss
from fundamentallm.config.parsing import nearest_name
from fundamentallm.errors import FundamentallmError, one_line
from fundamentallm.exit_codes import BAD_INPUT, DONE, FAILED, INTERRUPTED
from fundamentallm.machine.system_limits import limit_reached, memory_ran_out
from fundamentallm.warning_lines import print_warnings


@click.group(
    context_settings={
        # `wandb agent` writes --learning_rate, people write --learning-rate
        "token_normalize_func": lambda token: token.replace("_", "-"),
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    }
)
@click.version_option(__version__)
def cli() -> None:
    """Small character-level transformers, tuned well."""


COMMANDS = (
    tune,
    train,
    generate,
    evaluate,
    find,
    check,
    sweep,
    agent,
    enqueue,
    stop,
    pause,
    resume,
    refine,
    clean,
    list_,
    report,
    dashboard,
    explain,
    predict,
    workspace,
    next_,
    compare,
    export,
    sync,
)
for command in COMMANDS:
    cli.add_command(command)


def _keep_help(command: click.Command) -> None:
    """Read a command's help from its source where `python -OO` has dropped all docstrings."""
    if isinstance(command, click.Group):
        for each in command.commands.values():
            _keep_help(each)
    if command.help is None and command.callback is not None:
        function = ast.parse(inspect.getsource(command.callback)).body[0]
        assert isinstance(function, ast.FunctionDef)
        command.help = ast.get_docstring(function)


if sys.flags.optimize > 1:
    _keep_help(cli)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    _open_closed_streams()
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # see __main__.py
        signal.signal(signal.SIGINT, signal.default_int_handler)
    survive_terminal_loss()
    print_warnings(warn)
    if isinstance(sys.stdout, io.TextIOWrapper):  # what it cannot encode is escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = cli.main(arguments, prog_name="fundamentallm", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        show(error.format_message())
        code = DONE
    except click.UsageError as error:
        code = _show_error(_usage_message(error))
    except click.ClickException as error:
        code = _show_error(error.format_message())
    except FundamentallmError as error:
        for line in str(error).split("\n"):  # a sweep file may have many mistakes
            _show_error(line)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        code = INTERRUPTED
    except OSError as error:
        code = _show_os_error(error)
    except (MemoryError, ImportError) as error:
        if not (why := memory_ran_out(error)):
            raise
        _show_error(why)
        code = FAILED
    _leave(code if isinstance(code, int) else DONE)


def _leave(code: int) -> None:
    """Exit; at once if W&B's client hangs, since it would hang here too."""
    client = sys.modules.get("fundamentallm.trackers.wandb_client")
    if client is not None and client.hangs():
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _show_os_error(error: OSError) -> int:
    """Show an error of a system limit or of stdout, and return the exit code."""
    if why := limit_reached(error):
        _show_error(why)
    elif error.filename is not None or error.strerror is None:
        raise error
    else:
        _show_error(f"stdout: {error.strerror}")  # a full disk, say
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left would fail again, at exit
    return FAILED


def _open_closed_streams() -> None:
    """Point closed stdin, stdout and stderr to the null device, before other files take them."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _show_error(message: str) -> int:
    show(f"fundamentallm: {one_line(message)}", err=True)
    return BAD_INPUT


def _usage_message(error: click.UsageError) -> str:
    """Return the error in one line, with the nearest flag for an unknown one."""
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        options = [name for param in error.ctx.command.params for name in param.opts]
        others = [option.lstrip("-").replace("-", "_") for option in options]
        near = nearest_name(error.option_name, others)
        exists = near is not None and "--" + near.replace("_", "-") in options
        hint = f"did you mean --{near.replace('_', '-')}?" if near and exists else "see --help"
        return f"there is no flag {error.option_name}; {hint}"
    return error.format_message()

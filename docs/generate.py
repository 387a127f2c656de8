"""Writes what the docs take from the code: docs/commands.md, and the table of hyperparameters.

python docs/generate.py            # write
python docs/generate.py --check    # exit 1 if a page is stale, as tests/test_docs.py does
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from fundamentallm.cli.main import cli
from fundamentallm.cli.options import HyperparameterCommand
from fundamentallm.declaration import markdown_table
from fundamentallm.hyperparameters import HYPERPARAMETERS

DOCS = Path(__file__).parent
HEADING = """\
# Every command

What `fundamentallm COMMAND --help` prints; written by `docs/generate.py`, and CI fails when it is
stale. `train` and `find` take the hyperparameters too: [hyperparameters.md](hyperparameters.md).

Exit codes: 0 done, 1 failed or diverged, 2 bad input, 130 Ctrl-C, 143 SIGTERM; of `check`, 0 clean,
1 warnings, 2 mistakes.
"""


def commands_page() -> str:
    """The help of every command, without the options that are hyperparameters."""
    root = cli.make_context("fundamentallm", ["train"])
    parts = [HEADING]
    for name, command in cli.commands.items():
        if isinstance(command, HyperparameterCommand):
            command.params = [each for each in command.params if each.name not in HYPERPARAMETERS]
        context = click.Context(
            command, info_name=name, parent=root, terminal_width=98, max_content_width=98
        )
        context.help_option_names = ["-h", "--help"]
        text = command.get_help(context)
        parts.append(f"## {name}\n\n```text\n{text.strip()}\n```\n")
    return "\n".join(parts)


def hyperparameters_page() -> str:
    """The page as it is, with its table as it should be."""
    page = (DOCS / "hyperparameters.md").read_text("utf-8")
    table = markdown_table(HYPERPARAMETERS.values())
    return re.sub(r"\| flag \| default.*?\n(?=\n)", lambda _: table, page, count=1, flags=re.S)


PAGES = {"commands.md": commands_page, "hyperparameters.md": hyperparameters_page}


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; name pages that are stale.")
def main(check: bool) -> None:
    """Write the pages."""
    stale = False
    for name, make in PAGES.items():
        path, text = DOCS / name, make()
        if not path.exists() or path.read_text("utf-8") != text:
            stale = True
            click.echo(f"docs/{name} is stale" if check else f"docs/{name} written", err=check)
            if not check:
                path.write_text(text, "utf-8")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()

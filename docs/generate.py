"""Generates parts of the docs from the code.

Writes docs/commands.md, the tables of hyperparameters, presets, metrics and sweep-file fields, and
the table of W&B's clients, from what tests/client_operations.py found.

python docs/generate.py            # write
python docs/generate.py --check    # exit 1 if a page is stale, as tests/docs/test_docs.py does
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import mdformat

from fundamentallm.cli.hyperparameter_options import HyperparameterCommand
from fundamentallm.cli.main import cli
from fundamentallm.config.fields import markdown_table
from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.config.presets import PRESETS, Preset
from fundamentallm.metrics import METRICS, OF_EVALUATIONS
from fundamentallm.sweep.file import schema as sweep_format
from fundamentallm.sweep.file.diagnostics import Diagnostics
from fundamentallm.sweep.file.parameters import read_distribution

DOCS = Path(__file__).parent
COMMANDS = """\
# Every command

What `fundamentallm COMMAND --help` prints. `train` also takes every
[hyperparameter](hyperparameters.md); `find learning-rate` all but the rate, its schedule, the
length and `--compile`.

Exit codes: 0 done, 1 failed or diverged, 2 bad input, 129 SIGHUP (a closed terminal), 130 Ctrl-C,
143 SIGTERM; of `check`, 0 clean, 1 warnings or a run that cannot be tried, 2 mistakes.

| variable | does |
|---|---|
| `FUNDAMENTALLM_STORAGE` | address of a sweep's database, with its password; as `--storage` |
| `FUNDAMENTALLM_LEASE` | seconds (60) until a silent worker of a new sweep loses its runs |
| `FUNDAMENTALLM_KERNELS=0` | leave out `kernels.c`; torch does all |
| `OMP_NUM_THREADS` | threads of a run, at most as many as there are cores |
| `OMP_WAIT_POLICY` | how torch's own threads wait (`passive`) |
| `CUDA_VISIBLE_DEVICES` | GPUs that may be used |
| `XDG_CACHE_HOME` | folder of encoded texts and the built `kernels.c` (`~/.cache`) |
| `XDG_STATE_HOME` | folder that notes what you started (`~/.local/state`) |
| `WANDB_API_KEY`, `WANDB_MODE`, `WANDB_BASE_URL`, ... | W&B's own |

## Completion in your shell

TAB completes commands, flags, bundled sweeps and files, once this line is in `~/.bashrc`:

```text
eval "$(_FUNDAMENTALLM_COMPLETE=bash_source fundamentallm)"
```

It needs bash 4.4. For zsh write `zsh_source`, into `~/.zshrc`. For fish:

```text
_FUNDAMENTALLM_COMPLETE=fish_source fundamentallm > ~/.config/fish/completions/fundamentallm.fish
```

## JSON

Every command that answers a question has `--json`. It then prints one JSON document on stdout and
nothing else there: numbers are not rounded, names are those of settings and
[metrics](metrics.md), a missing value is `null`. Notes, warnings and errors go to stderr; exit
codes are the same. After an error there is no document, but for errors that `check` finds in a
file.

| command | document |
|---|---|
| `check` | `{findings: [{level, line, key, message}], runs, costs}`; `costs` with a text |
| `list` | `{sweeps: [{folder, state, done, total, metric, best, best_run}], runs: [...]}` |
| `explain` | `[{rule, verdict, says, about}]` |
| `predict` | `{val_loss, low, high, best_run, now, config, parameters, tokens, basis}` |
| `compare` | `{SETTING_OR_RESULT: {RUN: value}}` |
| `evaluate` | `{loss, perplexity, bits_per_char, tokens, checkpoint, data, ...}` |
| `export` | `{metric, fixed, runs}`, or `{metric, history}`: [export](export.md) |
| `generate` | `{checkpoint, samples: [{seed, prompt, text}]}` |
| `find learning-rate` | `{low, high, run, report}` |

`train`, `sweep`, `agent`, `refine` and `tune` show progress instead; ask `list`, `explain` or
`compare` for their results. `next` prints YAML, and `report` writes a page.
"""

EXAMPLES = {
    "value": 7, "values": ["a", "b", "c"], "probabilities": [0.5, 0.25, 0.25],
    "min": 1, "max": 9, "mu": 1.0, "sigma": 0.5, "a": 2.0, "b": 5.0,
}  # fmt: skip


def commands_page() -> str:
    """Return the page with every command's help, without the hyperparameter options."""
    root = cli.make_context("fundamentallm", ["train"])
    parts = [COMMANDS]
    commands = list(cli.commands.items())
    for name, command in commands:
        if isinstance(command, click.Group):  # insert its subcommands after it
            index = commands.index((name, command)) + 1
            commands[index:index] = [(f"{name} {n}", each) for n, each in command.commands.items()]
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
    """Return the page with up-to-date tables."""
    heads = ("preset", "for", "least text", "sets")
    presets = {
        f"`{each.name}`": (each.help, f"{each.min_characters:,}", flags(each))
        for each in PRESETS.values()
    }
    return with_tables(
        "hyperparameters.md", markdown_table(HYPERPARAMETERS.values()), table(heads, presets)
    )


def flags(preset: Preset) -> str:
    """Return the settings of a preset as flags."""
    typed = {HYPERPARAMETERS[name].flag: value for name, value in preset.values.items()}
    return " ".join(f"`{flag} {str(value).lower()}`" for flag, value in typed.items())


def metrics_page() -> str:
    """Return the metrics page with an up-to-date table."""
    rows = {f"`{name}`": (in_rows(name), meaning) for name, meaning in METRICS.items()}
    return with_tables("metrics.md", table(("metric", "in rows", "meaning"), rows))


def in_rows(metric: str) -> str:
    """Return the kind of rows that have a metric."""
    return "evaluation" if metric in OF_EVALUATIONS else "all"


def sweep_file_page() -> str:
    """Return the sweep-file page with up-to-date tables."""

    def words(kind: str, meanings: Mapping[str, str], form: str = "`{}`") -> str:
        rows = {form.format(name): (meaning,) for name, meaning in meanings.items()}
        return table((kind, "meaning"), rows)

    kinds = [kind for kind in sweep_format.DISTRIBUTIONS if not kind.startswith("q_")]
    draws = {f"`{kind}`": draw(kind) for kind in kinds}
    return with_tables(
        "sweep-file.md",
        words("field", sweep_format.FIELDS),
        words("method", sweep_format.METHODS),
        table(("distribution", "beside it", "meaning", "e.g.", "draws"), draws),
        words("field of metric", sweep_format.METRIC_FIELDS),
        words("field of early_terminate", sweep_format.EARLY_TERMINATE_FIELDS),
        words("field of scheduler", sweep_format.SCHEDULER_FIELDS),
        words("macro", sweep_format.MACROS, "`${{{}}}`"),
    )


def draw(kind: str) -> tuple[str, str, str, str]:
    """Return a distribution's fields, meaning, an example, and the values that it draws."""
    fields, meaning = sweep_format.DISTRIBUTIONS[kind]
    example = {name: EXAMPLES[name] for name in fields if name in EXAMPLES}
    if kind in sweep_format.BY_EXPONENTS:
        example = {"min": 0, "max": 2}
    distribution = read_distribution({"distribution": kind, **example}, (), Diagnostics(kind))
    assert distribution is not None
    is_unbounded = kind.endswith("normal")
    quantiles = (0.01, 0.25, 0.5, 0.75, 0.99) if is_unbounded else (0, 0.25, 0.5, 0.75, 1)
    values = [distribution.quantile(q) for q in quantiles]
    shown = ", ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in values)
    written = ", ".join(f"{name}: {value}" for name, value in example.items()).replace("'", "")
    return ", ".join(f"`{name}`" for name in fields), meaning, f"`{written}`", shown


def wandb_page() -> str:
    """Return the W&B page with an up-to-date table of the client's versions."""
    found = json.loads((DOCS / "wandb_clients.json").read_text("utf-8"))
    numbers = list(next(iter(found.values())))[::-1]  # the newest first
    rows = {shown: clients(marks, numbers) for shown, marks in found.items()}
    heads = ["with client", *numbers, "note"]
    if not any(row[-1] for row in rows.values()):
        heads.pop()
        rows = {shown: row[:-1] for shown, row in rows.items()}
    return with_tables("wandb.md", table(heads, rows))


def clients(marks: Mapping[str, Mapping[str, Any]], numbers: Sequence[str]) -> list[str]:
    """Return a mark for each version of the client, and what the marks mean."""
    notes: dict[str, list[str]] = {}
    for number in numbers:
        if note := marks[number]["note"]:
            notes.setdefault(note, []).append(number)
    said = "; ".join(f"{', '.join(those)}: {note}" for note, those in notes.items())
    signs = {(True, True): "✓", (True, False): "(✓)", (False, False): "✗"}
    return [*(signs[marks[n]["works"], not marks[n]["note"]] for n in numbers), said]


def table(heads: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """Return a Markdown table; `rows` maps the first column to the others."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join((first, *others)) + " |" for first, others in rows.items()]
    return "\n".join(lines) + "\n"


def with_tables(name: str, *tables: str) -> str:
    """Return a page with each of `tables` in place of the table that has the same first heading."""
    page = (DOCS / name).read_text("utf-8")
    for new in tables:
        heading = re.escape(new[: new.index("|", 1) + 1])
        old = re.compile(rf"^{heading}.*?\n(?=\n|\Z)", flags=re.S | re.M)
        page, count = old.subn(new.replace("\\", r"\\"), page)
        assert count == 1, f"{name}: {count} tables begin with {heading}"
    return page


def formatted(page: str) -> str:
    """Format a page with mdformat and the options in .mdformat.toml."""
    options = tomllib.loads((DOCS.parent / ".mdformat.toml").read_text("utf-8"))
    return mdformat.text(page, options=options, extensions={"gfm", "tables"})


PAGES = {
    "commands.md": commands_page,
    "hyperparameters.md": hyperparameters_page,
    "metrics.md": metrics_page,
    "sweep-file.md": sweep_file_page,
    "wandb.md": wandb_page,
}


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; name pages that are stale.")
def main(check: bool) -> None:
    """Write the generated pages, or check that they are up to date."""
    stale = False
    for name, make in PAGES.items():
        path, text = DOCS / name, formatted(make())
        if not path.exists() or path.read_text("utf-8") != text:
            stale = True
            click.echo(f"docs/{name} is stale" if check else f"docs/{name} written", err=check)
            if not check:
                path.write_text(text, "utf-8")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()

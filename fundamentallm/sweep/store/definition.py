"""Definition of a sweep: stored by its first worker, used by all others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fundamentallm.config.parsing import read_config
from fundamentallm.errors import FundamentallmError, one_line
from fundamentallm.sweep.file.sweep_file import SweepFile, parse_sweep
from fundamentallm.sweep.search.base import ListSearch, Values
from fundamentallm.sweep.search.choose import CHOICES, ChosenSearch, choose_search
from fundamentallm.sweep.search.seeds import MOST_SEEDS, SeededSpace
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store import earlier, program_settings
from fundamentallm.sweep.store.earlier import EarlierRuns
from fundamentallm.sweep.store.program_settings import ProgramSettings
from fundamentallm.sweep.store.stored_values import StoredError, ValueCheck, is_number, is_text

DESCRIPTIVE = ("name", "description")
SHARED = {
    "fixed": "fixed",
    "seed": "seed",
    "sampler": "sampler",
    "seeds": "seeds",
    "data_sha256": "the text's hash",
}
"""Fields that must not differ on resume, beside the file and its configurations, as displayed."""


@dataclass(frozen=True)
class SweepDefinition:
    """Everything that defines a sweep; parsed once, stored, and compared when it resumes."""

    space: SearchSpace
    """The parsed sweep file, and the hyperparameters that all runs share."""
    device: str
    seed: int
    """Seed of the search."""
    sampler: str
    lease: float
    """Seconds without a heartbeat after which a worker has lost its runs."""
    data: str | None = None
    """Absolute path of the text where the sweep was created; None for the built-in text."""
    data_name: str = ""
    """Empty, like `data_sha256`, if the sweep file names its own texts."""
    data_sha256: str = ""
    texts: Mapping[str, str] | None = None
    """SHA-256 of each text that the sweep file names, if it was present."""
    texts_from: str | None = None
    """Folder in which the sweep was created; paths of `texts` are relative to it."""
    wandb: str = ""
    """`offline`, `online`, or empty."""
    wandb_sweep_id: str = ""
    id: str = ""
    """Random id, to distinguish sweeps of the same name."""
    program: ProgramSettings | None = None
    """How another program runs; None for our trainer."""
    configurations: Sequence[Values] = ()
    """Configurations to run in this order instead of a search; only `refine` gives them."""
    earlier: EarlierRuns = field(default_factory=EarlierRuns)
    """Runs of earlier sweeps that the search learns from."""

    @property
    def sweep(self) -> SweepFile:
        """The parsed sweep file."""
        return self.space.sweep

    @property
    def fixed(self) -> Mapping[str, Any]:
        """Hyperparameters that all runs share."""
        return self.space.fixed

    @property
    def seeds(self) -> int:
        """Most runs of a configuration, which differ in the seed."""
        return self.space.seeds

    @property
    def runs_what(self) -> str:
        """Return in words what executes a run."""
        if self.program is None:
            return "our trainer"
        return f"the function {name}" if (name := self.program.function) else "another program"

    def search(self) -> ChosenSearch:
        """Build the search.

        Raises:
            SweepError: The sampler does not suit the sweep, or no configuration is possible.
        """
        if self.configurations:
            return ChosenSearch(ListSearch(self.configurations), "list")
        return choose_search(
            self.space, seed=self.seed, sampler=self.sampler, earlier=self.earlier.runs
        )

    def resuming(self, known: SweepDefinition) -> SweepDefinition:
        """This definition with what the stored one that it resumes has found or fixed.

        That is its identity, lease, texts and earlier runs.
        """
        resumed = replace(self, id=known.id, lease=known.lease, earlier=known.earlier)
        if self.texts is None:
            return resumed
        texts = {**self.texts, **(known.texts or {})}
        return replace(resumed, texts=texts, texts_from=known.texts_from or self.texts_from)

    def to_stored(self) -> dict[str, Any]:
        """JSON content of the study's attribute `sweep`; its keys date from version 0.1."""
        stored = {
            "text": self.sweep.text,
            "file": self.sweep.file,
            "fixed": self.fixed,
            "device": self.device,
            "seed": self.seed,
            "sampler": self.sampler,
            "lease": self.lease,
            "data": self.data,
            "data_name": self.data_name,
            "data_sha256": self.data_sha256,
            "texts": self.texts,
            "texts_from": self.texts_from,
            "wandb": self.wandb,
            "wandb_sweep_id": self.wandb_sweep_id,
            "id": self.id,
            "program": None if self.program is None else self.program.to_stored(),
            "points": list(self.configurations) or None,
            "seeds": self.seeds if self.seeds > 1 else None,
            "earlier": self.earlier.to_stored(),
        }
        return {
            name: value
            for name, value in stored.items()
            if value is not None or name not in OPTIONAL_FIELDS
        }

    @classmethod
    def from_stored(cls, stored: object) -> SweepDefinition:
        """Read the content that `to_stored` or an older version wrote; ignore unknown keys.

        Raises:
            StoredError: No sweep has written this.
        """
        if not isinstance(stored, dict):
            raise StoredError("its definition is not a mapping")
        for name, fits in {**FIELDS, **OPTIONAL_FIELDS}.items():
            if name in stored and not fits(stored[name]):
                raise StoredError(f"its {name} has the wrong type")
            if name in FIELDS and name not in stored:
                raise StoredError(f"its {name} is missing")
        try:
            sweep = parse_sweep(stored["text"], stored["file"])
            read_config(stored["fixed"], "fixed")
            space = SearchSpace(sweep, stored["fixed"], is_ours="program" not in stored)
            if "seeds" in stored:
                space = SeededSpace(space, stored["seeds"])
        except FundamentallmError as error:
            raise StoredError(one_line(error, 200)) from None
        program = stored.get("program")
        configurations = tuple(stored.get("points", ()))
        check = ValueCheck(sweep.parameters)
        for configuration in configurations:
            check(configuration)
        return cls(
            space,
            device=stored["device"],
            seed=stored["seed"],
            sampler=stored["sampler"],
            lease=stored["lease"],
            data=stored["data"],
            data_name=stored["data_name"],
            data_sha256=stored["data_sha256"],
            texts=stored.get("texts"),
            texts_from=stored.get("texts_from"),
            wandb=stored["wandb"],
            wandb_sweep_id=stored["wandb_sweep_id"],
            id=stored["id"],
            program=None if program is None else ProgramSettings.from_stored(program),
            configurations=configurations,
            earlier=EarlierRuns.from_stored(stored.get("earlier"), space.sweep.parameters),
        )


def _are_configurations(value: object) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(c, dict) for c in value)


def _are_texts(value: object) -> bool:
    return isinstance(value, dict) and all(map(is_text, (*value, *value.values())))


FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "text": is_text,
    "file": is_text,
    "fixed": lambda value: isinstance(value, dict),
    "device": is_text,
    "seed": lambda value: type(value) is int,
    "sampler": lambda value: value in CHOICES,
    "lease": lambda value: is_number(value) and 0 < value < 1e9,
    "data": lambda value: value is None or is_text(value),
    "data_name": is_text,
    "data_sha256": is_text,
    "wandb": lambda value: value in ("", "offline", "online"),
    "wandb_sweep_id": is_text,
    "id": is_text,
}
"""Checks of the stored fields that every sweep has."""
OPTIONAL_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "texts": _are_texts,
    "texts_from": is_text,
    "program": program_settings.is_stored,
    "points": _are_configurations,
    "seeds": lambda value: type(value) is int and 1 < value <= MOST_SEEDS,
    "earlier": earlier.is_stored,
}
"""Checks of the stored fields that only some sweeps have."""


def differences(before: SweepDefinition, now: SweepDefinition) -> list[str]:
    """List the differences that keep `now` from resuming `before`; run_cap may grow or go."""
    old, new = before.sweep.run_cap, now.sweep.run_cap
    free = ("run_cap",) if old is None or new is None or new >= old else ()
    found = differences_in_file(before.sweep, now.sweep, free=free)
    texts = now.texts or {}
    for name, sha256 in (before.texts or {}).items():  # it may have been added since
        if name in texts:
            found += _between(sha256, texts[name], f"the hash of {name}")
    if tuple(before.configurations) != tuple(now.configurations):
        found.append("the configurations that it repeats differ")
    if now.earlier.sources not in ((), before.earlier.sources):  # without --from, they stay
        old = ", ".join(before.earlier.sources) or "no earlier sweep"
        found.append(f"it started from {old}, not {', '.join(now.earlier.sources)}")
    if before.runs_what != now.runs_what:
        found.append(f"it ran {before.runs_what}, not {now.runs_what}")
    for name, shown in SHARED.items():
        found += _between(getattr(before, name), getattr(now, name), shown)
    return found


def differences_in_file(
    before: SweepFile, now: SweepFile, *, free: Sequence[str] = ()
) -> list[str]:
    """List the differences between two sweep files; comments do not count.

    Names and descriptions may differ, and so may the top-level keys in `free`.
    """
    old, new = dict(before.content), dict(now.content)
    for name in (*DESCRIPTIVE, *free):
        old.pop(name, None)
        new.pop(name, None)
    return list(_between(old, new, ""))


def _between(old: Any, new: Any, key: str) -> Iterator[str]:
    """Yield differences, each with the full name of its key."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            inner = f"{key}.{name}" if key else name
            if name not in old:
                yield f"{inner} is new ({new[name]})"
            elif name not in new:
                yield f"{inner} is gone (it was {old[name]})"
            else:
                yield from _between(old[name], new[name], inner)
    elif old != new or type(old) is not type(new):
        yield f"{key} was {old} and is {new}"

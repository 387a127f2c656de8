"""Parse names and values of hyperparameters as people write them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from fundamentallm.config.fields import ConfigError
from fundamentallm.config.hyperparameters import HYPERPARAMETERS

DATA = "data"
"""Name of the text beside the hyperparameters."""
DATA_KEYS = (DATA, "data_sha256")
"""Keys of a run's config beside the hyperparameters: the text it was trained on."""
OWN_GROUP = "fundamentallm"
"""Group of a run's config on W&B that holds facts about the run, not settings."""


def nearest_name(name: str, others: Iterable[str] = ()) -> str | None:
    """Return the hyperparameter, or the one of `others`, that `name` most likely means, or None.

    Names that other trainers use are known: `lr` is `learning_rate`.
    """
    word = name.lstrip("-").replace("-", "_").lower()
    meant = {alias: known.name for known in HYPERPARAMETERS.values() for alias in known.also_called}
    meant |= {known: known for known in (*HYPERPARAMETERS, *others)}
    if word in meant:
        return meant[word]
    return next((meant[close] for close in get_close_matches(word, meant, n=1)), None)


def read_values(values: Mapping[str, object], source: str) -> dict[str, Any]:
    """Parse values by name, `batch-size` or `batch_size`, and check each.

    Raises:
        ConfigError: A name is unknown (the nearest is suggested) or repeated, or a value is
            invalid. The message begins with `source`, e.g. a file.
    """
    known: dict[str, Any] = {}
    for name, value in values.items():
        key = str(name).replace("-", "_")
        if key not in HYPERPARAMETERS:
            near = nearest_name(key)
            hint = f"did you mean {near}?" if near else "see fundamentallm train --help"
            raise ConfigError(f"{source}: {name} is not a hyperparameter; {hint}")
        if key in known:
            raise ConfigError(f"{source}: {key} is given twice; keep one")
        try:
            known[key] = HYPERPARAMETERS[key].parse(value)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None
    return known


def read_config(config: Mapping[str, object], source: str) -> dict[str, Any]:
    """Parse hyperparameters and `DATA_KEYS` of a run's config.

    It may come from W&B: names with a leading underscore are W&B's own and left out, nested groups
    are flattened, and older runs have a sweep's `batch-size` beside their own `batch_size`.

    Raises:
        ConfigError: A name is not a hyperparameter or has two values, or a value is invalid.
    """
    known: dict[str, Any] = {}
    for name, value in innermost(config):
        if name in DATA_KEYS:
            read = {name: str(value)} if value else {}
        else:
            read = read_values({name: value}, source)
        for key, parsed in read.items():
            if known.setdefault(key, parsed) != parsed:
                raise ConfigError(f"{source}: {key} is given twice; keep one")
    return known


def innermost(config: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Yield names and values of settings; of `OWN_GROUP`, which describes a run, only the hash."""
    for name, value in config.items():
        if str(name).startswith("_"):
            continue
        if not isinstance(value, Mapping):
            yield str(name), value
        elif name != OWN_GROUP:
            yield from innermost(value)
        elif "data_sha256" in value:
            yield "data_sha256", value["data_sha256"]


def unwrapped(content: object) -> dict[str, Any] | None:
    """Return the config of a file as W&B writes it, `name: {value: ...}`; None if it is another."""
    if not isinstance(content, dict):
        return None
    entries = {str(name): entry for name, entry in content.items() if name != "wandb_version"}
    if not all(isinstance(entry, dict) and "value" in entry for entry in entries.values()):
        return None
    return {name: entry["value"] for name, entry in entries.items()}

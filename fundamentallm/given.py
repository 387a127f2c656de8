"""Names and values as people write them, to those of hyperparameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from fundamentallm.declaration import ConfigError
from fundamentallm.hyperparameters import HYPERPARAMETERS


def nearest_name(name: str, others: Iterable[str] = ()) -> str | None:
    """The hyperparameter, or one of `others`, that `name` most likely means; None if none does.

    Knows what other trainers call the same thing: `lr` is `learning_rate`.
    """
    word = name.lstrip("-").replace("-", "_").lower()
    meant = {alias: known.name for known in HYPERPARAMETERS.values() for alias in known.also_called}
    meant |= {known: known for known in (*HYPERPARAMETERS, *others)}
    if word in meant:
        return meant[word]
    return next((meant[close] for close in get_close_matches(word, meant, n=1)), None)


def read_values(values: Mapping[str, object], source: str) -> dict[str, Any]:
    """Take names as people write them, `batch-size` or `batch_size`, and check each value.

    Raises:
        ConfigError: A name is unknown (the nearest is offered) or given twice, or a value is
            not possible. The message begins with `source`, a file say.
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

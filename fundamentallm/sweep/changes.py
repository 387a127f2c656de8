"""What differs between a sweep as it was begun and as it is asked for now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fundamentallm.sweep.spec import parse_sweep

SAME = ("fixed", "seed", "sampler", "data_sha256")
"""Beside the file and what it repeats, what a sweep must keep for its runs to belong together."""


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A phrase for each difference that matters; what is for people does not, nor a larger run_cap.

    Both are what the sweep's maker noted for its workers: `text`, the file, `texts`
    that it names, and SAME.
    """
    old = dict(parse_sweep(before["text"], "before").content)
    new = dict(parse_sweep(now["text"], "now").content)
    for name in ("name", "description"):
        old.pop(name, None)
        new.pop(name, None)
    caps = old.get("run_cap"), new.get("run_cap")
    if caps[0] is not None and (caps[1] is None or caps[1] >= caps[0]):
        old.pop("run_cap")
        new.pop("run_cap", None)
    found = list(_between(old, new, ""))
    texts = now.get("texts", {})
    for name, sha256 in before.get("texts", {}).items():  # which may have come since
        if name in texts:
            found += _between(sha256, texts[name], f"the hash of {name}")
    if before.get("points") != now.get("points"):
        found.append("the points that it repeats are others")
    for name in SAME:
        found += _between(
            before.get(name), now.get(name), name.replace("data_sha256", "the text's hash")
        )
    return found


def _between(old: Any, new: Any, key: str) -> Iterator[str]:
    """Differences, the innermost mapping's keys named."""
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

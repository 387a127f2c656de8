"""What differs between a sweep as it was begun and as it is asked for now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fundamentallm.sweep.file.sweep_file import parse_sweep

FOR_PEOPLE = ("name", "description")
SAME = ("fixed", "seed", "sampler", "data_sha256")
"""Beside the file and what it repeats, what a sweep must keep for its runs to belong together."""


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A phrase for each difference that matters; a larger run_cap, or none, does not.

    Both are what the sweep's maker noted for its workers: `text`, the file, `texts`
    that it names, and SAME.
    """
    old, new = (parse_sweep(each["text"], each["file"]).run_cap for each in (before, now))
    free = ("run_cap",) if old is None or new is None or new >= old else ()
    found = differences_in_file(before["text"], now["text"], now["file"], free=free)
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


def differences_in_file(before: str, now: str, file: str, *, free: Sequence[str] = ()) -> list[str]:
    """A phrase for each difference between two texts of a sweep file, other than of comments.

    `free` names what may differ, beside what is for people.

    Raises:
        SweepError: The text `now` is no sweep; `file` is named.
    """
    old, new = (dict(parse_sweep(text, file).content) for text in (before, now))
    for name in (*FOR_PEOPLE, *free):
        old.pop(name, None)
        new.pop(name, None)
    return list(_between(old, new, ""))


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

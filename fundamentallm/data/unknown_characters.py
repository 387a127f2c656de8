"""Messages about characters that a model never saw in training, and cannot distinguish."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

MOST_EXAMPLES = 5


def examples(characters: Iterable[str]) -> str:
    """Quote up to five characters for a message; from a `Counter`, the most frequent."""
    if isinstance(characters, Counter):
        characters = (character for character, _ in characters.most_common())
    quoted = [repr(character) for character in characters]
    return ", ".join(quoted[:MOST_EXAMPLES]) + (", ..." if len(quoted) > MOST_EXAMPLES else "")


def describe_unknown(where: str, count: int, characters: Iterable[str], *, scored: str = "") -> str:
    """Describe unknown characters of a text in one line.

    `scored` names a loss that leaves them out, if any.
    """
    are = "1 character is" if count == 1 else f"{count:,} characters are"
    line = (
        f"{where}: {are} unknown to the model, which never saw {examples(characters)} in training"
    )
    return f"{line}; {scored} leaves them out" if scored else line


def describe_unscored(name: str, count: int, characters: Iterable[str]) -> str:
    """Describe unknown characters of the validation part of the text `name`."""
    return describe_unknown(f"{name}, validation part", count, characters, scored="val_loss")


def summary_of_unknown(unknown: Counter[str]) -> dict[str, object]:
    """Return the summary's entries about characters that only the validation part has."""
    if not unknown:
        return {}
    shown = unknown.most_common(MOST_EXAMPLES + 1)  # with one more, `examples` adds dots
    most = "".join(character for character, _ in shown)
    return {"unknown_characters": unknown.total(), "unknown_examples": most}

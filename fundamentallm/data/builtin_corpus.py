"""The built-in corpus: the language reference that every CPython carries for `help()`.

Real English prose and code, with no download and no licence question. It differs between
versions of Python, so its hash is part of a run's configuration.
"""

from __future__ import annotations

import re

BUILTIN = "built-in"


def builtin_corpus() -> str:
    """The text of `pydoc_data.topics`, normalised: about 320,000 characters.

    Table rows are dropped and indents shrunk, or a small model learns mostly bars and blanks.
    A paragraph that stands in several topics is kept once: a copy in both parts would let
    the validation loss reward memory.
    """
    from pydoc_data.topics import topics  # 0.5 MB of source; only a run that wants it pays

    seen: set[str] = set()
    kept: list[str] = []
    for name in sorted(topics):
        for paragraph in re.split(r"\n\s*\n", topics[name]):
            lines = (_normalise(line) for line in paragraph.split("\n"))
            text = "\n".join(line for line in lines if line)
            if text and text not in seen:
                seen.add(text)
                kept.append(text)
    return "\n\n".join(kept) + "\n"


def _normalise(line: str) -> str:
    """One line with its indent halved and capped at 4, or nothing for a table's or a rule's."""
    stripped = line.strip()
    if stripped[:1] in ("|", "+") or re.fullmatch(r"[*=\-~^+.\s]*", stripped):
        return ""
    indent = len(line) - len(line.lstrip())
    return " " * min(indent // 2, 4) + stripped

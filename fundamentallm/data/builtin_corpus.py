"""Built-in corpus: the language reference that every CPython contains for `help()`.

It is real English prose and code, with no download and no license question. It differs between
versions of Python, so its hash is part of a run's configuration.
"""

from __future__ import annotations

import re

BUILTIN = "built-in"


def builtin_corpus() -> str:
    """Return the text of `pydoc_data.topics`, normalized: about 320,000 characters.

    Table rows are dropped and indents reduced, or a small model learns mostly bars and blanks.
    A paragraph of several topics is kept once: a copy in both parts would reward memorizing in the
    validation loss.
    """
    from pydoc_data.topics import topics  # 0.5 MB of source; imported only if used

    seen: set[str] = set()
    kept: list[str] = []
    for name in sorted(topics):
        for paragraph in re.split(r"\n\s*\n", topics[name]):
            lines = (_normalize(line) for line in paragraph.split("\n"))
            text = "\n".join(line for line in lines if line)
            if text and text not in seen:
                seen.add(text)
                kept.append(text)
    return "\n\n".join(kept) + "\n"


def _normalize(line: str) -> str:
    """Return a line with its indent halved and capped at 4; "" for a line of a table or a rule."""
    stripped = line.strip()
    if stripped[:1] in ("|", "+") or re.fullmatch(r"[*=\-~^+.\s]*", stripped):
        return ""
    indent = len(line) - len(line.lstrip())
    return " " * min(indent // 2, 4) + stripped

"""Parts of the page with the version in which each last changed, so that only news are sent."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from fundamentallm.report.page_parts import Parts


@dataclass(frozen=True)
class Update:
    """Everything that changed since a version."""

    version: int
    """The version that it leads to."""
    parts: Mapping[str, Any]
    removed: Collection[str]
    """Keys of parts that are gone."""


class Changes:
    """The current parts, shared by threads."""

    def __init__(self) -> None:
        """Begin without parts."""
        self._lock = threading.Lock()
        self._version = 0
        self._parts: Parts = {}
        self._versions: dict[str, int] = {}
        """Version in which each part came, changed or went."""

    def replace(self, parts: Parts, kinds: Collection[str]) -> None:
        """Take `parts` for all parts of these `kinds`, the words before the first slash."""
        with self._lock:
            version = self._version + 1
            old = {key for key in self._parts if key.partition("/")[0] in kinds}
            known = self._parts
            changed = [k for k, part in parts.items() if k not in known or known[k] != part]
            for key in (*changed, *(gone := old - set(parts))):
                self._versions[key] = version
            for key in gone:
                del self._parts[key]
            self._parts.update((key, parts[key]) for key in changed)
            if changed or gone:
                self._version = version

    def since(self, version: int) -> Update:
        """Return what changed after `version`; everything after one that never was."""
        with self._lock:
            if version > self._version:
                version = 0
            news = [key for key, known in self._versions.items() if known > version]
            parts = {key: self._parts[key] for key in news if key in self._parts}
            return Update(self._version, parts, [key for key in news if key not in parts])

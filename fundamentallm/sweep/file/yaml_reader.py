"""YAML reader for sweep files from anyone: bounded, runs no code, and knows every key's line.

PyYAML resolves scalars as it does for W&B's own client. Every tag that creates an object is
refused. Of duplicate keys the last counts, as in PyYAML, but with a warning.
"""

from __future__ import annotations

import errno
import math
import re
from pathlib import Path
from typing import Any

import yaml

from fundamentallm.files import bounded_yaml
from fundamentallm.files.atomic import read_file
from fundamentallm.sweep.file.bundled import advice
from fundamentallm.sweep.file.diagnostics import Diagnostics, Key, SweepError
from fundamentallm.sweep.file.yaml_writer import scalar_text

LARGEST = 256 * 1024
"""Largest file in bytes."""
PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str")}
COLLECTIONS = {"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}
MERGE = "tag:yaml.org,2002:merge"
EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
"""Number in YAML 1.2. PyYAML follows YAML 1.1, which requires a dot and a signed exponent."""
TEXTS = ("name", "description", "program", "project", "entity", "command", "job", "image_uri")


def read_sweep_yaml(
    path: str | Path, root: Path | None = None
) -> tuple[str, dict[str, Any], Diagnostics]:
    """Return the file's text, its content, and the diagnostics of its YAML.

    Args:
        path: Path of the file.
        root: Folder below which no link is followed; None if the user named the file itself.

    Raises:
        SweepError: It is not a mapping in YAML, or cannot be read.
    """
    path = Path(path)
    try:
        text = read_file(path, LARGEST, root=root).decode("utf-8-sig")
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise SweepError(
                f"{path}: larger than {LARGEST // 1024} KiB, too large for a sweep file"
            ) from None
        is_missing = error.errno == errno.ENOENT and root is None
        what = advice(str(path)) if is_missing else "give a sweep file"
        raise SweepError(f"{path}: {error.strerror}; {what}") from None
    except UnicodeDecodeError as error:
        raise SweepError(f"{path}: not UTF-8 at byte {error.start}; give a sweep file") from None
    return text, *parse_sweep_yaml(text, str(path))


def parse_sweep_yaml(text: str, file: str) -> tuple[dict[str, Any], Diagnostics]:
    """Return content and diagnostics of a sweep file's text; messages call it `file`.

    Raises:
        SweepError: It is not YAML, not a mapping, too deep or too large.
    """
    diagnostics = Diagnostics(file)
    try:
        root = bounded_yaml.compose(text)
    except bounded_yaml.YamlError as error:
        raise SweepError(f"{error.where(file)}: {error.problem}") from None
    if not isinstance(root, yaml.MappingNode):
        raise SweepError(f"{file}: not a sweep; give a mapping with method and parameters")
    return _Reader(diagnostics).mapping(root, ()), diagnostics


class _Reader:
    """Converter from nodes to plain Python."""

    def __init__(self, diagnostics: Diagnostics) -> None:
        self.diagnostics = diagnostics
        self.constructor = yaml.SafeLoader("")

    def value(self, node: yaml.Node, key: Key) -> Any:
        """Return the content of a node."""
        self.diagnostics.lines.setdefault(key, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, key)
        if node.tag not in COLLECTIONS:
            self.diagnostics.error(key, f"the tag {node.tag} is not allowed; write plain YAML")
            return None
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, key)
        return [self.value(each, (*key, index)) for index, each in enumerate(node.value)]

    def scalar(self, node: yaml.ScalarNode, key: Key) -> Any:
        """Return the value of a scalar."""
        line = node.start_mark.line + 1
        if node.tag == "tag:yaml.org,2002:timestamp":
            self.diagnostics.error(
                key, f"{node.value} is a date in YAML; put it in quotes", line=line
            )
            return node.value
        if node.tag not in PLAIN:
            self.diagnostics.error(
                key, f"the tag {node.tag} is not allowed; write a plain value", line=line
            )
            return None
        plain = not node.style and node.tag.endswith(":str")
        if plain and EXPONENT.fullmatch(node.value) and not set(TEXTS) & set(key):
            number = float(node.value)
            if math.isinf(number):
                self.diagnostics.error(key, f"{node.value} is too large a number", line=line)
                return None
            is_text_in_wandb = bool({"value", "values"} & set(key))
            self.diagnostics.warn(
                key,
                _of_exponent(node.value, number, key, is_text_in_wandb=is_text_in_wandb),
                line=line,
                refused_by_wandb=not is_text_in_wandb,
            )
            return number
        try:
            value = self.constructor.construct_object(node)
            if isinstance(value, int):
                float(value)  # refuse a number that no float can hold
            return value
        except (ValueError, OverflowError, yaml.YAMLError):  # thousands of digits, say
            self.diagnostics.error(key, f"{node.value[:40]} cannot be read", line=line)
            return None

    def mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        """Return a mapping with YAML's `<<` merged in; its own keys take precedence."""
        own: dict[str, tuple[int, yaml.Node]] = {}
        merged: dict[str, Any] = {}
        for name_node, value_node in node.value:
            line = name_node.start_mark.line + 1
            if name_node.tag == MERGE:
                given = self.value(value_node, key)
                for each in given if isinstance(given, list) else [given]:
                    if isinstance(each, dict):
                        merged = each | merged
                    else:
                        self.diagnostics.error(
                            key, "<< takes a mapping, or a list of them", line=line
                        )
                continue
            name = name_node.value
            if not isinstance(name_node, yaml.ScalarNode) or name_node.tag not in PLAIN:
                self.diagnostics.error(key, "a key must be a plain word; write a name", line=line)
                continue
            if not name_node.tag.endswith(":str"):
                self.diagnostics.error(
                    key, f"the key {name} is not text in YAML; put it in quotes", line=line
                )
            if name in own:
                earlier = own[name][0]
                self.diagnostics.warn(
                    (*key, name),
                    f"is given twice, also on line {earlier}; this one counts, as in W&B",
                    line=line,
                )
            own[name] = line, value_node
        content: dict[str, Any] = {}
        for name, (line, value_node) in own.items():
            self.diagnostics.lines[(*key, name)] = line
            content[name] = self.value(value_node, (*key, name))
        return merged | content


def _of_exponent(written: str, number: float, key: Key, *, is_text_in_wandb: bool) -> str:
    """Return the message for a number like 1e-4, with how to write it."""
    better = scalar_text(number)
    if number.is_integer() and abs(number) < 1e15:
        or_fraction = f", or {better} for fractions" if key[0] == "parameters" else ""
        better = f"{int(number)}{or_fraction}"
    here = f"in W&B; read as the number {number:g} here"
    also = here if is_text_in_wandb else "W&B refuses it"
    return f"{written} is text in YAML, and {also}; write {better}"

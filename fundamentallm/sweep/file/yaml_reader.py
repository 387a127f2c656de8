"""Reads the YAML of a sweep file from anybody: bounded, no code run, a line known for every key.

PyYAML resolves scalars here exactly as it does for W&B's own client. What it would do beyond
that is refused: every tag that makes an object. Of duplicate keys the last counts, as for PyYAML,
which says nothing of it.
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
from fundamentallm.sweep.file.diagnostics import Diagnostics, Key, SweepError
from fundamentallm.sweep.file.yaml_writer import spelled_out

LARGEST = 256 * 1024  # bytes
PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str")}
COLLECTIONS = {"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}
MERGE = "tag:yaml.org,2002:merge"
EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
"""A number to people and to YAML 1.2. PyYAML, as YAML 1.1, wants a dot and a signed exponent."""
TEXTS = ("name", "description", "program", "project", "entity", "command", "job", "image_uri")


def read_sweep_yaml(
    path: str | Path, root: Path | None = None
) -> tuple[str, dict[str, Any], Diagnostics]:
    """The text of the file, its content, and what is wrong with its YAML.

    `root`: below it no link is followed; None if the user named the file itself.

    Raises:
        SweepError: It cannot be read as a mapping at all.
    """
    path = Path(path)
    try:
        text = read_file(path, LARGEST, root=root).decode("utf-8-sig")
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise SweepError(
                f"{path}: more than {LARGEST // 1024} KiB; no sweep file is so large"
            ) from None
        raise SweepError(f"{path}: {error.strerror}; give a sweep file") from None
    except UnicodeDecodeError as error:
        raise SweepError(f"{path}: not UTF-8 at byte {error.start}; give a sweep file") from None
    return text, *parse_sweep_yaml(text, str(path))


def parse_sweep_yaml(text: str, file: str) -> tuple[dict[str, Any], Diagnostics]:
    """Content and findings of a sweep file's text; `file` is how messages call it.

    Raises:
        SweepError: It is not YAML, not a mapping, too deep or too large.
    """
    findings = Diagnostics(file)
    try:
        root = bounded_yaml.compose(text)
    except bounded_yaml.YamlError as error:
        raise SweepError(f"{error.where(file)}: {error.problem}") from None
    if not isinstance(root, yaml.MappingNode):
        raise SweepError(f"{file}: not a sweep; give a mapping with method and parameters")
    return _Reader(findings).mapping(root, ()), findings


class _Reader:
    """Turns nodes into plain Python."""

    def __init__(self, findings: Diagnostics) -> None:
        self.findings = findings
        self.constructor = yaml.SafeLoader("")

    def value(self, node: yaml.Node, key: Key) -> Any:
        """The content of any node."""
        self.findings.lines.setdefault(key, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, key)
        if node.tag not in COLLECTIONS:
            self.findings.error(key, f"the tag {node.tag} is not allowed; write plain YAML")
            return None
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, key)
        return [self.value(each, (*key, index)) for index, each in enumerate(node.value)]

    def scalar(self, node: yaml.ScalarNode, key: Key) -> Any:
        """A number, a text, true, false or null."""
        line = node.start_mark.line + 1
        if node.tag == "tag:yaml.org,2002:timestamp":
            self.findings.error(key, f"{node.value} is a date to YAML; put it in quotes", line=line)
            return node.value
        if node.tag not in PLAIN:
            self.findings.error(
                key, f"the tag {node.tag} is not allowed; write a plain value", line=line
            )
            return None
        plain = not node.style and node.tag.endswith(":str")
        if plain and EXPONENT.fullmatch(node.value) and not set(TEXTS) & set(key):
            number = float(node.value)
            if math.isinf(number):
                self.findings.error(key, f"{node.value} is too large a number", line=line)
                return None
            self.findings.warn(key, _of_exponent(node.value, number, key), line=line)
            return number
        try:
            value = self.constructor.construct_object(node)
            if isinstance(value, int):
                float(value)  # all that is done with numbers can be done with this one
            return value
        except (ValueError, OverflowError, yaml.YAMLError):  # thousands of digits, say
            self.findings.error(key, f"{node.value[:40]} cannot be read", line=line)
            return None

    def mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        """A mapping, with YAML's `<<` written out: what it brings yields to what stands here."""
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
                        self.findings.error(key, "<< takes a mapping, or a list of them", line=line)
                continue
            name = name_node.value
            if not isinstance(name_node, yaml.ScalarNode) or name_node.tag not in PLAIN:
                self.findings.error(key, "a key that is no plain word; write a name", line=line)
                continue
            if not name_node.tag.endswith(":str"):
                self.findings.error(
                    key, f"the key {name} is not text to YAML; put it in quotes", line=line
                )
            if name in own:
                earlier = own[name][0]
                self.findings.warn(
                    (*key, name),
                    f"stands twice, also on line {earlier}; this one counts, here and for W&B",
                    line=line,
                )
            own[name] = line, value_node
        content: dict[str, Any] = {}
        for name, (line, value_node) in own.items():
            self.findings.lines[(*key, name)] = line
            content[name] = self.value(value_node, (*key, name))
        return merged | content


def _of_exponent(written: str, number: float, key: Key) -> str:
    """What a number like 1e-4 is, and how to write it."""
    there = "to W&B" if {"value", "values"} & set(key) else "W&B refuses it"
    better = spelled_out(number)
    if number.is_integer() and abs(number) < 1e15:
        or_fraction = f", or {better} if fractions are meant" if key[0] == "parameters" else ""
        better = f"{int(number)}{or_fraction}"
    return (
        f"{written} is text to YAML, and {there}; taken as the number {number:g} here; "
        f"write {better}"
    )

"""Sweep files from anybody: bounded, no code run, every mistake with its line."""

from __future__ import annotations

import contextlib
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.yaml_reader import parse_sweep_yaml, read_sweep_yaml


def found(text: str) -> list[str]:
    _, findings = parse_sweep_yaml(text, "s.yaml")
    return [each.text("s.yaml") for each in findings.sorted()]


def refused(text: str) -> str:
    with pytest.raises(SweepError) as error:
        parse_sweep_yaml(text, "s.yaml")
    return str(error.value)


def test_plain_content_is_what_pyyaml_makes_of_it() -> None:
    text = "a: [1, 0x10, 1.5, .inf, yes, ~, 'on', \"1e-4\", 1_000]\nb: {c: text}\n"
    content, findings = parse_sweep_yaml(text, "s.yaml")
    assert content == {
        "a": [1, 16, 1.5, float("inf"), True, None, "on", "1e-4", 1000],
        "b": {"c": "text"},
    }
    assert findings.sorted() == []
    assert findings.line(("b", "c")) == 2
    assert findings.line(("b", "nothing")) == 2


def test_an_exponent_without_a_point_is_the_number_it_means() -> None:
    content, findings = parse_sweep_yaml("name: 1e5\np:\n  min: 1e-4\n  max: 2.5e3\n", "s.yaml")
    assert content == {"name": "1e5", "p": {"min": 0.0001, "max": 2500.0}}
    assert [each.line for each in findings.warnings] == [3, 4]
    assert "0.0001" in findings.warnings[0].message
    assert findings.errors == []


def test_duplicates_tags_dates_and_keys_are_told_with_their_lines() -> None:
    lines = found("a: 1\nb: !!python/object/apply:os.system [ls]\na: 2\nc: 2020-01-01\n7: x\n")
    assert lines == [
        "s.yaml:2: b: the tag tag:yaml.org,2002:python/object/apply:os.system is not allowed; "
        "write plain YAML",
        "s.yaml:3: a: is given twice, also on line 1; this one counts, as in W&B",
        "s.yaml:4: c: 2020-01-01 is a date in YAML; put it in quotes",
        "s.yaml:5: the key 7 is not text in YAML; put it in quotes",
    ]


@pytest.mark.parametrize("tag", ["!!python/name:os.system", "!mine", "!!binary", "!!set"])
def test_a_tag_makes_no_object(tag: str) -> None:
    value = "{a: ~}" if "set" in tag else "aGk="
    assert "not allowed" in found(f"a: {tag} {value}\n")[0]


def test_merges_and_aliases() -> None:
    text = "base: &b {min: 1, max: 2}\nx: {<<: *b, max: 3}\ny: *b\nz: {<<: [*b, {q: 1}]}\n"
    content, findings = parse_sweep_yaml(text, "s.yaml")
    assert content["x"] == {"min": 1, "max": 3}
    assert content["y"] == {"min": 1, "max": 2}
    assert content["z"] == {"min": 1, "max": 2, "q": 1}
    assert findings.sorted() == []


def test_bombs_are_refused_in_bounded_memory() -> None:
    levels = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    tracemalloc.start()
    try:
        assert "aliases" in refused("a0: &a0 [x]\n" + levels)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert "deep" in refused("a: " + "[" * 100_000)
    assert "deep" in refused("a: " + "{a: " * 50_000)
    assert "alias" in refused("a: &a [*a]\n")


def test_what_is_no_mapping_is_refused(tmp_path: Path) -> None:
    assert "s.yaml:3: not YAML" in refused("a: 1\nb: [\n")
    assert "not a sweep" in refused("")
    assert "not a sweep" in refused("- 1\n")
    assert "not YAML" in refused("a: 1\n---\nb: 2\n")
    for content, reason in [(b"a: \xff", "UTF-8"), (b"#" * 300_000, "KiB")]:
        file = tmp_path / "s.yaml"
        file.write_bytes(content)
        with pytest.raises(SweepError, match=reason):
            read_sweep_yaml(file)
    with pytest.raises(SweepError, match="No such file"):
        read_sweep_yaml(tmp_path / "none.yaml")


def test_a_number_of_thousands_of_digits_is_a_mistake() -> None:
    digits = sys.get_int_max_str_digits() + 1
    assert "cannot be read" in found(f"a: {'9' * digits}\n")[0]


@given(st.text(alphabet="ab:-[]{}&*<!'\"\n ,#|1.e", max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    with contextlib.suppress(SweepError):
        parse_sweep_yaml(text, "s.yaml")

"""Samples in samples.txt, logs and reports."""

from __future__ import annotations

import json
import re
from pathlib import Path

from conftest import Run
from hypothesis import given
from hypothesis import strategies as st
from odd_characters import HARMLESS

from fundamentallm.files.samples import Sample, format_sample, parse_samples

TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    ["\n", "\n\n", "a\n\nstep 3, temperature 1, prompt of 0 characters\n", "\r\n", " \n ", "step 1"]
)


@given(st.lists(st.tuples(st.integers(0, 10**6), TEXT, TEXT)))
def test_samples_are_read_back_exactly(written: list[tuple[int, str, str]]) -> None:
    samples = [(step, Sample(prompt, 0.6, text)) for step, prompt, text in written]
    content = "".join(format_sample(step, sample) for step, sample in samples)
    assert list(parse_samples(content)) == samples


def test_a_sample_that_a_kill_cut_short_is_left_out() -> None:
    whole = format_sample(1, Sample("a", 0.6, "b"))
    cut = format_sample(2, Sample("c", 0.6, "d\ne"))[:-1]
    assert [step for step, _ in parse_samples(whole + cut)] == [1]


def test_log_samples_and_report_show_the_sample(
    run: Run, tmp_path: Path, tiny_flags: list[str]
) -> None:
    """The prompt of a run's sample is the beginning of the validation part."""
    line = HARMLESS.replace("\n", "").replace("\ufeff", "").replace("\t", "")
    (tmp_path / "x.txt").write_text(f"{line}\n" * 100, "utf-8")
    done = run("train", "x.txt", *tiny_flags, "--output-dir=out")
    assert f"    | {line}\n" in done.stdout, done.stderr
    assert f"    {line}\n" in (tmp_path / "out/samples.txt").read_text("utf-8")
    assert run("report", "out").returncode == 0
    page = (tmp_path / "out/report.html").read_text("utf-8")
    parts = re.search(r'id="content">(.*?)</script>', page, re.S)
    assert parts is not None
    sample = json.loads(parts[1])["sample/out"]
    assert line in sample["prompt"] + sample["text"]

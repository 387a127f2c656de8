"""samples.txt is read back exactly, whatever the model wrote."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fundamentallm.samples import Sample, format_sample, parse_samples

TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    ["\n", "\n\n", "a\n\nstep 3, temperature 1, prompt of 0 characters\n", "\r\n", " \n ", "step 1"]
)


@given(st.lists(st.tuples(st.integers(0, 10**6), TEXT, TEXT)))
def test_read_back_exactly(written: list[tuple[int, str, str]]) -> None:
    samples = [(step, Sample(prompt, 0.6, text)) for step, prompt, text in written]
    content = "".join(format_sample(step, sample) for step, sample in samples)
    assert list(parse_samples(content)) == samples


def test_one_that_a_kill_cut_short_is_left_out() -> None:
    whole = format_sample(1, Sample("a", 0.6, "b"))
    cut = format_sample(2, Sample("c", 0.6, "d\ne"))[:-1]
    assert [step for step, _ in parse_samples(whole + cut)] == [1]

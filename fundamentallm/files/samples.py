"""Samples of the model, and their format in samples.txt: readable, and parsed back exactly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

HEADING = re.compile(r"step (\d+), temperature (\S+), prompt of (\d+) characters\n")


@dataclass(frozen=True)
class Sample:
    """A text that the model wrote, with its prompt and temperature."""

    prompt: str
    temperature: float
    text: str
    """Continuation of the prompt."""


def format_sample(step: int, sample: Sample) -> str:
    """Format a heading, then prompt and text, indented so that no line looks like a heading."""
    heading = f"step {step}, temperature {sample.temperature:g}"
    lines = (sample.prompt + sample.text).split("\n")
    body = "".join(f"    {line}\n" for line in lines)
    return f"{heading}, prompt of {len(sample.prompt)} characters\n{body}\n"


def parse_samples(content: str) -> Iterator[tuple[int, Sample]]:
    """Parse steps and samples, in order, except a last one that a kill cut short."""
    for block in re.split(r"^(?=step \d)", content, flags=re.MULTILINE):
        heading = HEADING.match(block)
        if heading is None or not block.endswith("\n\n"):
            continue
        lines = block[heading.end() : -1].split("\n")[:-1]
        written = "\n".join(line[4:] for line in lines)
        characters = int(heading[3])
        sample = Sample(written[:characters], float(heading[2]), written[characters:])
        yield int(heading[1]), sample

"""From a text to tokens and batches."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fundamentallm.config.fields import ImpossibleCombinationError
from fundamentallm.config.hyperparameters import Config
from fundamentallm.data import token_cache
from fundamentallm.data.text import DataError, Text
from fundamentallm.data.unknown_characters import describe_unscored
from fundamentallm.data.vocabulary import Tokens, Vocabulary, train_length, vocabulary_of
from fundamentallm.files.atomic import followed

MOST_SCORED = 1 << 20
"""Tokens of the validation part that an evaluation predicts at most: it must end, on any text."""


class TooShortError(DataError, ImpossibleCombinationError):
    """The text has too few characters for the hyperparameters."""


@dataclass(frozen=True)
class Dataset:
    """A text split and encoded: what a run trains on and is scored on."""

    name: str
    """Where the text came from."""
    sha256: str
    """Of the whole text."""
    vocabulary: Vocabulary
    train: Tokens
    """Tokens of the training part, shape (T,)."""
    val: Tokens
    """Tokens of the validation part, shape (V,)."""
    val_characters: int
    """Characters in the validation part (fewer than its tokens if a token is a byte)."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Characters of the validation part that the training part lacks, with their counts."""

    def __post_init__(self) -> None:
        """See that something can be scored.

        Raises:
            DataError: Every character of the validation part is unknown.
        """
        if self.vocabulary.tokenizer == "char" and not self.scored[1:].any():
            raise DataError(
                f"{self.name}: no character of the validation part occurs in the training part; "
                "mix the parts of the text, or use --tokenizer byte"
            )

    @property
    def scored(self) -> Tokens:
        """What an evaluation reads of the validation part, shape (S,): all but of a long one."""
        return self.val[: MOST_SCORED + 1]

    def warnings(self) -> list[str]:
        """What is likely not meant, a sentence each."""
        found: list[str] = []
        if self.unknown:
            found.append(describe_unscored(self.name, self.unknown.total(), self.unknown))
        if len(self.scored) < len(self.val):
            found.append(
                f"{self.name}, validation part: val_loss is of the first {MOST_SCORED:,} of its "
                f"{len(self.val):,} tokens; a smaller --val-split leaves more to train on"
            )
        return found

    def batches_per_epoch(self, config: Config) -> int:
        """Batches that hold as many tokens as the training part."""
        return math.ceil(len(self.train) / (config.batch_size * config.max_seq_len))


def prepare(text: Text, config: Config, *, cache: Path | None = None) -> Dataset:
    """Split, build the vocabulary from the training part alone, and encode.

    Args:
        text: What to learn.
        config: Says how to split it, and what a token is.
        cache: A folder in which the tokens are kept for `load_prepared`; without one, those of a
            long text are kept in the user's cache. Kept tokens are mapped, not read, into memory.

    Raises:
        TooShortError: A part is too short: training needs a token more than `max_seq_len`,
            validation two tokens. The message says what size would do.
    """
    _check_length(text, config)
    if cache is None and text.length >= token_cache.WORTH_KEEPING:
        with suppress(OSError):
            cache = followed(token_cache.cache_folder())
    kept = load_prepared(text.name, text.sha256, config, cache) if cache is not None else None
    if kept is not None:
        return kept
    boundary = train_length(text, config.val_split)
    vocabulary = vocabulary_of(text, config)
    unknown = vocabulary.unknown_in(text.part(boundary, text.length))
    if cache is not None:
        parts = {name: map(vocabulary.encode, part) for name, part in _parts(text, boundary)}
        facts = {
            "characters": vocabulary.characters,
            "val_characters": text.length - boundary,
            "unknown": unknown,
        }
        if token_cache.keep(cache, _cache_key(text.sha256, config), parts, **facts):
            kept = load_prepared(text.name, text.sha256, config, cache)
        if kept is not None:
            return kept
    train, val = (vocabulary.encode_all(part) for _, part in _parts(text, boundary))
    return Dataset(text.name, text.sha256, vocabulary, train, val, text.length - boundary, unknown)


def _parts(text: Text, boundary: int) -> Iterator[tuple[str, Iterator[str]]]:
    """The training and the validation part, in pieces; to be read one after the other.

    Raises:
        DataError: They are not the text any more that was measured: its file was changed.
    """
    digest = hashlib.sha256()

    def read(start: int, stop: int) -> Iterator[str]:
        for piece in text.part(start, stop):
            digest.update(piece.encode("utf-8", "surrogatepass"))
            yield piece
        if stop == text.length and digest.hexdigest() != text.sha256:
            raise DataError(f"{text.name}: it changed while it was read; try again")

    yield "train", read(0, boundary)
    yield "val", read(boundary, text.length)


def _check_length(text: Text, config: Config) -> None:
    train = train_length(text, config.val_split)
    least = math.ceil((config.max_seq_len + 1) / (1 - config.val_split)) + 1
    least = max(least, math.ceil(2 / config.val_split))
    if train <= config.max_seq_len and _tokens(text, 0, train, config) <= config.max_seq_len:
        raise TooShortError(
            f"{text.name}: {text.length} characters are too few for --max-seq-len "
            f"{config.max_seq_len} and --val-split {config.val_split:g}; "
            f"give at least {least}, or a shorter --max-seq-len"
        )
    if text.length - train < 2 and _tokens(text, train, text.length, config) < 2:
        raise TooShortError(
            f"{text.name}: {text.length} characters leave {text.length - train} for validation at "
            f"--val-split {config.val_split:g}; give at least {math.ceil(2 / config.val_split)}, "
            "or a larger --val-split"
        )


def _tokens(text: Text, start: int, stop: int, config: Config) -> int:
    """How many tokens these characters are: bytes may be more."""
    if config.tokenizer == "char":
        return stop - start
    return sum(len(piece.encode("utf-8", "surrogatepass")) for piece in text.part(start, stop))


def load_prepared(name: str, sha256: str, config: Config, cache: Path) -> Dataset | None:
    """What `prepare` kept in `cache` of the text with this hash; the text itself is not needed.

    None if nothing is kept, or if the text is too short, as `prepare` will say.
    """
    kept = token_cache.load(cache, _cache_key(sha256, config))
    if kept is None:
        return None
    parts, facts = kept
    try:
        vocabulary = Vocabulary(config.tokenizer, facts["characters"])
    except (KeyError, ValueError):
        return None
    if not _fit(parts, facts, vocabulary) or len(parts["train"]) <= config.max_seq_len:
        return None
    return Dataset(
        name,
        sha256,
        vocabulary,
        parts["train"],
        parts["val"],
        facts["val_characters"],
        Counter(facts["unknown"]),
    )


def _fit(parts: Mapping[str, Tokens], facts: Mapping[str, Any], vocabulary: Vocabulary) -> bool:
    """Whether what was kept is a text in that vocabulary; an older version kept less."""
    characters, unknown = facts.get("val_characters"), facts.get("unknown")
    return (
        parts.keys() == {"train", "val"}
        and all(token_cache.largest(part) < len(vocabulary) for part in parts.values())
        and type(characters) is int
        and 0 < characters <= len(parts["val"])
        and isinstance(unknown, dict)
        and all(type(count) is int and 0 < count <= characters for count in unknown.values())
    )


def _cache_key(sha256: str, config: Config) -> str:
    return f"{sha256}-{config.tokenizer}-{config.val_split!r}"


def training_batch(train: Tokens, config: Config, step: int) -> torch.Tensor:
    """The windows of one optimizer step, shape (N, max_seq_len + 1), int64.

    N is `batch_size * gradient_accumulation`. The offsets are uniform and depend on the
    seed and `step` alone, so a resumed run draws what an unbroken one would, and a batch
    split by accumulation holds the windows of the whole one.
    """
    count = config.batch_size * config.gradient_accumulation
    offsets = np.random.default_rng((config.seed, step)).integers(
        len(train) - config.max_seq_len, size=count
    )
    windows = np.lib.stride_tricks.sliding_window_view(train, config.max_seq_len + 1)
    return torch.from_numpy(windows[offsets].astype(np.int64))


def scoring_windows(
    tokens: Tokens, length: int, batch_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and targets, each (N, at most `length`) int64, that cover every token once.

    Windows follow one another without overlap; the last may be shorter and comes by
    itself. All tokens but the first are a target exactly once.
    """
    count = (len(tokens) - 1) // length
    for first in range(0, count, batch_size):
        last = min(first + batch_size, count)
        part = torch.from_numpy(tokens[first * length : last * length + 1].astype(np.int64))
        yield part[:-1].view(-1, length), part[1:].view(-1, length)
    rest = torch.from_numpy(tokens[count * length :].astype(np.int64))
    if len(rest) > 1:
        yield rest[None, :-1], rest[None, 1:]

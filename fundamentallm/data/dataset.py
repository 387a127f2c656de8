"""Datasets: a text as tokens and batches."""

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
from fundamentallm.data.vocabulary import (
    MOST_SCORED,
    Tokens,
    Vocabulary,
    train_length,
    vocabulary_of,
)
from fundamentallm.files.atomic import followed


class TooShortError(DataError, ImpossibleCombinationError):
    """The text has too few characters for the hyperparameters."""


@dataclass(frozen=True)
class Dataset:
    """A text, split into training and validation part and encoded."""

    name: str
    """Path of the text, or a name."""
    sha256: str
    """SHA-256 of the whole text."""
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
        """Check that the validation part can be scored.

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
        """Tokens of the validation part to evaluate, shape (S,): at most `MOST_SCORED` + 1."""
        return self.val[: MOST_SCORED + 1]

    def warnings(self) -> list[str]:
        """Return warnings about likely mistakes, a line each."""
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
        """Return the number of batches that hold as many tokens as the training part."""
        return math.ceil(len(self.train) / (config.batch_size * config.max_seq_len))


def prepare(text: Text, config: Config, *, cache: Path | None = None) -> Dataset:
    """Split, build the vocabulary from the training part alone, and encode.

    Args:
        text: The text.
        config: Its `val_split`, `tokenizer` and `max_seq_len` are used.
        cache: Folder that keeps the tokens for `load_prepared`; without one, those of a long text
            are kept in the user's cache. Cached tokens are memory-mapped, not read.

    Raises:
        TooShortError: A part is too short: training needs one token more than `max_seq_len`,
            validation two tokens. The message says what size is enough.
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
    """Return the training and the validation part, in pieces, to be read in this order.

    Raises:
        DataError: The file has changed since its length was measured.
    """
    digest = hashlib.sha256()

    def read(start: int, stop: int) -> Iterator[str]:
        for piece in text.part(start, stop):
            digest.update(piece.encode("utf-8", "surrogatepass"))
            yield piece
        if stop == text.length and digest.hexdigest() != text.sha256:
            raise DataError(f"{text.name}: changed while being read; try again")

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
    """Count the tokens of these characters: bytes may be more than characters."""
    if config.tokenizer == "char":
        return stop - start
    return sum(len(piece.encode("utf-8", "surrogatepass")) for piece in text.part(start, stop))


def load_prepared(name: str, sha256: str, config: Config, cache: Path) -> Dataset | None:
    """Load the dataset that `prepare` kept in `cache` for the text with this hash.

    Return None if there is none, or if the text is too short, which `prepare` reports.
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
    """Return whether cached parts are a text in that vocabulary; older versions stored less."""
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
    """Draw the windows of one optimizer step, shape (N, max_seq_len + 1), int64.

    N is `batch_size * gradient_accumulation`. Offsets are uniform and depend only on the seed and
    `step`, so a resumed run draws the same windows, and so does a batch split by accumulation.
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
    """Yield inputs and targets, each (N, at most `length`) int64, that cover every token once.

    Windows do not overlap; the last may be shorter and comes alone. All tokens but the first are a
    target exactly once.
    """
    count = (len(tokens) - 1) // length
    for first in range(0, count, batch_size):
        last = min(first + batch_size, count)
        part = torch.from_numpy(tokens[first * length : last * length + 1].astype(np.int64))
        yield part[:-1].view(-1, length), part[1:].view(-1, length)
    rest = torch.from_numpy(tokens[count * length :].astype(np.int64))
    if len(rest) > 1:
        yield rest[None, :-1], rest[None, 1:]

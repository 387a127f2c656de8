"""From a text to a vocabulary, tokens and batches."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fundamentallm import token_cache
from fundamentallm.declaration import ImpossibleCombinationError
from fundamentallm.hyperparameters import Config
from fundamentallm.text import DataError, Text

Tokens = NDArray[np.uint8 | np.uint16]

UNKNOWN = "\ufffd"  # how a character that training never saw is shown


class TooShortError(DataError, ImpossibleCombinationError):
    """The text has too few characters for the hyperparameters."""


@dataclass(frozen=True)
class Vocabulary:
    """What the token numbers mean.

    For `char`, token 0 is the unknown character and token i is `characters[i - 1]`, sorted.
    For `byte`, a token is a byte of UTF-8 and `characters` is empty.
    """

    tokenizer: str
    characters: str = ""

    @classmethod
    def of(cls, pieces: Iterable[str], tokenizer: str) -> Vocabulary:
        """The vocabulary of a training text, given in pieces.

        Raises:
            DataError: It has more characters than tokens have numbers.
        """
        if tokenizer == "byte":
            return cls("byte")
        seen = np.zeros(0x110000, bool)
        for piece in pieces:
            seen[_code_points(piece)] = True
        characters = "".join(map(chr, np.flatnonzero(seen)))
        if len(characters) > 65_534:
            raise DataError(
                f"{len(characters)} different characters are too many; use --tokenizer byte"
            )
        return cls("char", characters)

    def __len__(self) -> int:
        return 256 if self.tokenizer == "byte" else len(self.characters) + 1

    def encode(self, text: str) -> Tokens:
        """Text to tokens, shape (T,): uint8 where the vocabulary fits in it, else uint16."""
        if self.tokenizer == "byte":
            return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
        return _table(self.characters)[_code_points(text)]

    def encode_all(self, pieces: Iterable[str]) -> Tokens:
        """The tokens of a text that comes in pieces, shape (T,)."""
        return np.concatenate([self.encode(piece) for piece in chain([""], pieces)])

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens to text; unknown characters and broken UTF-8 show as U+FFFD."""
        if self.tokenizer == "byte":
            return bytes(tokens).decode("utf-8", "replace")
        return "".join(self.characters[token - 1] if token else UNKNOWN for token in tokens)

    def unknown_in(self, pieces: Iterable[str]) -> Counter[str]:
        """The characters that training never saw, with how often each occurs in the pieces."""
        found: Counter[str] = Counter()
        if self.tokenizer == "char":
            for piece in pieces:
                points = _code_points(piece)
                strange, counts = np.unique(points[self.encode(piece) == 0], return_counts=True)
                found.update(dict(zip(map(chr, strange), counts.tolist(), strict=True)))
        return found


@lru_cache(maxsize=4)
def _table(characters: str) -> Tokens:
    """Code point to token; 0 is unknown."""
    table = np.zeros(0x110000, np.uint8 if len(characters) <= 255 else np.uint16)
    table[_code_points(characters)] = np.arange(1, len(characters) + 1)
    return table


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


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

    def batches_per_epoch(self, config: Config) -> int:
        """Batches that hold as many tokens as the training part."""
        return math.ceil(len(self.train) / (config.batch_size * config.max_seq_len))


def train_length(text: Text, val_split: float) -> int:
    """Characters before the last `val_split` of the text."""
    return text.length - round(text.length * val_split)


def vocabulary_of(text: Text, config: Config) -> Vocabulary:
    """The vocabulary of a text's training part."""
    return Vocabulary.of(text.part(0, train_length(text, config.val_split)), config.tokenizer)


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
            cache = token_cache.cache_folder()
    kept = load_prepared(text.name, text.sha256, config, cache) if cache is not None else None
    if kept is not None:
        return kept
    boundary = train_length(text, config.val_split)
    vocabulary = vocabulary_of(text, config)
    if cache is not None:
        parts = {name: map(vocabulary.encode, part) for name, part in _parts(text, boundary)}
        facts = {"characters": vocabulary.characters, "val_characters": text.length - boundary}
        if token_cache.keep(cache, _cache_key(text.sha256, config), parts, **facts):
            kept = load_prepared(text.name, text.sha256, config, cache)
        if kept is not None:
            return kept
    train, val = (vocabulary.encode_all(part) for _, part in _parts(text, boundary))
    return Dataset(text.name, text.sha256, vocabulary, train, val, text.length - boundary)


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
    if len(parts["train"]) <= config.max_seq_len:
        return None
    vocabulary = Vocabulary(config.tokenizer, facts["characters"])
    return Dataset(name, sha256, vocabulary, parts["train"], parts["val"], facts["val_characters"])


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

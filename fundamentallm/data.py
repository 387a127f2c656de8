"""From a text to a vocabulary, tokens and batches."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
CHUNK = 1 << 22  # characters encoded at a time: UTF-32 takes four bytes of each


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
    def of(cls, text: str, tokenizer: str) -> Vocabulary:
        """The vocabulary of a training text."""
        if tokenizer == "byte":
            return cls("byte")
        characters = "".join(sorted(set(text)))
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
        dtype = np.uint8 if len(self) <= 256 else np.uint16
        table = np.zeros(0x110000, dtype)  # code point -> token; 0 is unknown
        table[_code_points(self.characters)] = np.arange(1, len(self))
        tokens = np.empty(len(text), dtype)
        for start in range(0, len(text), CHUNK):
            tokens[start : start + CHUNK] = table[_code_points(text[start : start + CHUNK])]
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens to text; unknown characters and broken UTF-8 show as U+FFFD."""
        if self.tokenizer == "byte":
            return bytes(tokens).decode("utf-8", "replace")
        return "".join(self.characters[token - 1] if token else UNKNOWN for token in tokens)

    def unknown_in(self, text: str) -> Counter[str]:
        """The characters of `text` that training never saw, with how often each occurs."""
        if self.tokenizer == "byte":
            return Counter()
        strange = set(text) - set(self.characters)
        return Counter({character: text.count(character) for character in strange})


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


def split_text(text: str, val_split: float) -> tuple[str, str]:
    """The text but for its last `val_split`, and that last part."""
    boundary = len(text) - round(len(text) * val_split)
    return text[:boundary], text[boundary:]


def prepare(text: Text, config: Config, *, cache: Path | None = None) -> Dataset:
    """Split, build the vocabulary from the training part alone, and encode.

    Args:
        text: What to learn.
        config: Says how to split it, and what a token is.
        cache: A folder in which the tokens are kept for `load_prepared`; without one, those of a
            long text are kept in the user's cache.

    Raises:
        TooShortError: A part is too short: training needs a token more than `max_seq_len`,
            validation two tokens. The message says what size would do.
    """
    train_text, val_text = split_text(text.content, config.val_split)
    least = math.ceil((config.max_seq_len + 1) / (1 - config.val_split)) + 1
    if len(train_text) <= config.max_seq_len:
        raise TooShortError(
            f"{text.name}: {len(text.content)} characters are too few for --max-seq-len "
            f"{config.max_seq_len} and --val-split {config.val_split:g}; "
            f"give at least {least}, or a shorter --max-seq-len"
        )
    if len(val_text) < 2:
        raise TooShortError(
            f"{text.name}: {len(text.content)} characters leave {len(val_text)} for validation at "
            f"--val-split {config.val_split:g}; give at least {math.ceil(2 / config.val_split)}, "
            "or a larger --val-split"
        )
    if cache is None and len(text.content) >= token_cache.WORTH_KEEPING:
        cache = token_cache.cache_folder()
    kept = load_prepared(text.name, text.sha256, config, cache) if cache is not None else None
    if kept is not None:
        return kept
    vocabulary = Vocabulary.of(train_text, config.tokenizer)
    train, val = vocabulary.encode(train_text), vocabulary.encode(val_text)
    if cache is not None:
        counts = {"val_characters": np.array(len(val_text))}
        characters = np.array(vocabulary.characters)
        key = _cache_key(text.sha256, config)
        token_cache.keep(cache, key, train=train, val=val, characters=characters, **counts)
    return Dataset(text.name, text.sha256, vocabulary, train, val, len(val_text))


def load_prepared(name: str, sha256: str, config: Config, cache: Path) -> Dataset | None:
    """What `prepare` kept in `cache` of the text with this hash; the text itself is not needed.

    None if nothing is kept, or if the text is too short, as `prepare` will say.
    """
    kept = token_cache.load(cache, _cache_key(sha256, config))
    if kept is None or len(kept["train"]) <= config.max_seq_len:
        return None
    vocabulary = Vocabulary(config.tokenizer, str(kept["characters"]))
    return Dataset(
        name, sha256, vocabulary, kept["train"], kept["val"], int(kept["val_characters"])
    )


def _cache_key(sha256: str, config: Config) -> str:
    return f"tokens2-{sha256}-{config.tokenizer}-{config.val_split!r}"


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

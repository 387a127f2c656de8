"""Text to vocabulary to tokens to batches."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fundamentallm import token_cache
from fundamentallm.corpus import NAME as BUILTIN
from fundamentallm.corpus import builtin_corpus
from fundamentallm.declaration import ImpossibleCombinationError
from fundamentallm.errors import FundamentallmError
from fundamentallm.hyperparameters import Config

Tokens = NDArray[np.uint8 | np.uint16]

UNKNOWN = "\ufffd"  # how a character that training never saw is shown
CHUNK = 1 << 22  # characters encoded at a time: UTF-32 takes four bytes of each


class DataError(FundamentallmError):
    """A text cannot be read, or is too short for what is asked of it."""


class TooShortError(DataError, ImpossibleCombinationError):
    """The text has too few characters for the hyperparameters."""


@dataclass(frozen=True)
class Text:
    """A text, where it came from, and the SHA-256 of its UTF-8."""

    name: str
    content: str
    sha256: str

    @classmethod
    def of(cls, content: str, name: str = "text") -> Text:
        """Wrap a string; lone surrogates, which UTF-8 cannot write, are hashed as they are."""
        return cls(
            name, content, hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
        )


def read_text(path: str | Path | None) -> Text:
    r"""Read a UTF-8 file, or the built-in corpus if `path` is None or `"built-in"`.

    A byte-order mark is dropped and `\r\n` becomes `\n`, as in Python's text mode.

    Raises:
        DataError: The file is missing, empty, binary, or not UTF-8 (with the byte offset).
    """
    if path is None or str(path) == BUILTIN:
        return Text.of(builtin_corpus(), BUILTIN)
    path = Path(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; give a UTF-8 text file") from None
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}; give a UTF-8 text file that can be read"
        ) from None
    content = _decode(raw, path).replace("\r\n", "\n").replace("\r", "\n")
    if not content.strip():
        raise DataError(f"{path}: there is no text in it; give a UTF-8 text file")
    return Text.of(content, str(path))


def _decode(raw: bytes, path: Path) -> str:
    """Bytes as text, or an error that says what the bytes look like instead."""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path}: this is UTF-16; convert it: iconv -f UTF-16 -t UTF-8 {path.name}")
    zero = raw.find(b"\x00")
    if zero >= 0:
        raise DataError(
            f"{path}: a zero byte at offset {zero}, so this is binary or UTF-16; "
            "give a UTF-8 text file"
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}; "
            "convert it, e.g. iconv -f LATIN1 -t UTF-8"
        ) from None


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


def prepare(text: Text, config: Config) -> Dataset:
    """Split, build the vocabulary from the training part alone, and encode.

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
    key = f"tokens1-{text.sha256}-{config.tokenizer}-{config.val_split!r}"
    worth_keeping = len(text.content) >= token_cache.WORTH_KEEPING
    kept = token_cache.load(key) if worth_keeping else None
    if kept is not None:
        vocabulary = Vocabulary(config.tokenizer, str(kept["characters"]))
        train, val = kept["train"], kept["val"]
    else:
        vocabulary = Vocabulary.of(train_text, config.tokenizer)
        train, val = vocabulary.encode(train_text), vocabulary.encode(val_text)
        if worth_keeping:
            characters = np.array(vocabulary.characters)
            token_cache.keep(key, train=train, val=val, characters=characters)
    return Dataset(text.name, text.sha256, vocabulary, train, val, len(val_text))


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

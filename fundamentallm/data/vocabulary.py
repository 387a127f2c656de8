"""Vocabularies: the meaning of tokens, and characters that a model does not know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.text import DataError, Text

Tokens = NDArray[np.uint8 | np.uint16]

UNKNOWN = "\ufffd"  # shown for an unknown character
UNKNOWN_TOKEN = 0  # of a `char` vocabulary
MOST_CHARACTERS = 65_534
MOST_SCORED = 1 << 20
"""Maximum tokens of the validation part to evaluate, so that an evaluation ends on any text."""


@dataclass(frozen=True)
class Vocabulary:
    """Meaning of token numbers.

    For `char`, token 0 is the unknown character and token i is `characters[i - 1]`, sorted.
    For `byte`, a token is a byte of UTF-8 and `characters` is empty.
    """

    tokenizer: str
    characters: str = ""

    def __post_init__(self) -> None:
        """Check a vocabulary that may come from a file.

        Raises:
            ValueError: The tokenizer is unknown, or the characters are not sorted and unique.
        """
        of_bytes = self.tokenizer == "byte"
        if not isinstance(self.characters, str) or not (of_bytes or self.tokenizer == "char"):
            raise ValueError("not a vocabulary")
        points = _code_points(self.characters)
        if len(points) > (0 if of_bytes else MOST_CHARACTERS) or (points[1:] <= points[:-1]).any():
            raise ValueError("not a vocabulary's characters")

    @classmethod
    def of(cls, pieces: Iterable[str], tokenizer: str) -> Vocabulary:
        """Build the vocabulary of a training text that comes in pieces.

        Raises:
            DataError: The text has more different characters than there are token numbers.
        """
        if tokenizer == "byte":
            return cls("byte")
        seen = np.zeros(0x110000, bool)
        for piece in pieces:
            seen[_code_points(piece)] = True
        characters = "".join(map(chr, np.flatnonzero(seen)))
        if len(characters) > MOST_CHARACTERS:
            raise DataError(
                f"{len(characters)} different characters are too many; use --tokenizer byte"
            )
        return cls("char", characters)

    def __len__(self) -> int:
        return 256 if self.tokenizer == "byte" else len(self.characters) + 1

    def encode(self, text: str) -> Tokens:
        """Encode text as tokens, shape (T,): uint8 if the vocabulary fits, else uint16."""
        if self.tokenizer == "byte":
            return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
        return _table(self.characters)[_code_points(text)]

    def encode_all(self, pieces: Iterable[str]) -> Tokens:
        """Encode a text that comes in pieces, shape (T,)."""
        return np.concatenate([self.encode(piece) for piece in chain([""], pieces)])

    def decode(self, tokens: Sequence[int]) -> str:
        """Decode tokens to text; unknown characters and broken UTF-8 become U+FFFD."""
        if self.tokenizer == "byte":
            return bytes(tokens).decode("utf-8", "replace")
        return "".join(self.characters[token - 1] if token else UNKNOWN for token in tokens)

    def unknown_in(self, pieces: Iterable[str]) -> Counter[str]:
        """Count unknown characters in the pieces."""
        found: Counter[str] = Counter()
        if self.tokenizer == "char":
            for piece in pieces:
                points = _code_points(piece)
                strange, counts = np.unique(points[self.encode(piece) == 0], return_counts=True)
                found.update(dict(zip(map(chr, strange), counts.tolist(), strict=True)))
        return found


@lru_cache(maxsize=4)
def _table(characters: str) -> Tokens:
    """Table from code point to token; 0 is unknown."""
    table = np.zeros(0x110000, np.uint8 if len(characters) <= 255 else np.uint16)
    table[_code_points(characters)] = np.arange(1, len(characters) + 1)
    return table


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def unknown_in_validation(text: Text, config: Config) -> Counter[str]:
    """Count the characters of the validation part that the training part lacks."""
    boundary = train_length(text, config.val_split)
    return vocabulary_of(text, config).unknown_in(text.part(boundary, text.length))


def train_length(text: Text, val_split: float) -> int:
    """Return the number of characters before the last `val_split` of the text."""
    return text.length - round(text.length * val_split)


def vocabulary_of(text: Text, config: Config) -> Vocabulary:
    """Build the vocabulary of a text's training part."""
    return Vocabulary.of(text.part(0, train_length(text, config.val_split)), config.tokenizer)

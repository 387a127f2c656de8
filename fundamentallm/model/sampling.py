"""Generate text with a model, token by token."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fundamentallm.data.vocabulary import UNKNOWN, UNKNOWN_TOKEN, Tokens, Vocabulary
from fundamentallm.errors import FundamentallmError
from fundamentallm.files.samples import Sample
from fundamentallm.model.transformer import Cache, Transformer

PROMPT_TOKENS = 40
SAMPLE_TOKENS = 200


class SamplingError(FundamentallmError):
    """A sampling setting is invalid."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings that choose the next token; filters apply in the order of the fields.

    Raises:
        SamplingError: A value is invalid.
    """

    temperature: float = 0.8
    """Divide the scores by this; 0 always takes the most likely token."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the fewest most likely tokens whose probabilities reach p (nucleus sampling)."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise SamplingError(f"--temperature {self.temperature}: give 0 (greedy) or more")
        if self.top_k < 0:
            raise SamplingError(f"--top-k {self.top_k}: give 1 or more, or 0 to keep all")
        if not 0 < self.top_p <= 1:
            raise SamplingError(f"--top-p {self.top_p}: give more than 0 and at most 1")

    def probabilities(self, logits: Tensor) -> Tensor:
        """Turn scores of V tokens, shape (V,), into probabilities to draw from, shape (V,)."""
        if self.temperature == 0:
            return torch.zeros_like(logits).index_fill(0, logits.argmax(), 1.0)
        logits = (logits - logits.max()).double() / self.temperature  # the most likely: 0
        if 0 < self.top_k < len(logits):
            logits = logits.masked_fill(logits < logits.topk(self.top_k).values[-1], -torch.inf)
        probabilities = logits.softmax(0)
        if self.top_p < 1:
            # Stable, so that the choice among equal scores is the same on every processor.
            ordered, order = probabilities.sort(descending=True, stable=True)
            before = ordered.cumsum(0) - ordered  # always keep the most likely token
            probabilities = probabilities.index_fill(0, order[before >= self.top_p], 0.0)
        return probabilities / probabilities.sum()


def generate(
    model: Transformer,
    vocabulary: Vocabulary,
    prompt: str,
    *,
    sampling: Sampling,
    max_tokens: int,
    seed: int,
    stop: str = "",
) -> Iterator[str]:
    """Yield the continuation of `prompt` in pieces.

    An empty prompt means the start of a line. With `stop`, the text ends before its first
    occurrence. The draw depends on `seed` alone and leaves other generators unchanged.
    """
    tokens = [int(token) for token in vocabulary.encode(prompt or "\n")]
    drawn = draw_tokens(model, tokens, sampling, max_tokens, seed, vocabulary.tokenizer == "char")
    pieces = _spell(vocabulary, drawn)
    return _until(stop, pieces) if stop else pieces


@torch.inference_mode()
def draw_tokens(
    model: Transformer,
    tokens: list[int],
    sampling: Sampling,
    max_tokens: int,
    seed: int,
    forbid_unknown: bool = False,
) -> Iterator[int]:
    """Yield up to `max_tokens` tokens that follow `tokens` (at least one).

    When the context is full, its oldest quarter is dropped and the rest read again. Every token is
    thus drawn from at least three quarters of a context, at positions seen in training.
    """
    device = model.head.weight.device
    random = torch.Generator().manual_seed(seed)
    limit = model.config.max_seq_len
    context = tokens[-limit:]
    cache = Cache(model)
    unread = context
    for _ in range(max_tokens):
        if cache.length + len(unread) > limit:
            context = context[-max(1, limit * 3 // 4) :]
            cache, unread = Cache(model), context
        logits = model(torch.tensor([unread], device=device), cache)[0, -1].float().cpu()
        if forbid_unknown:
            logits[UNKNOWN_TOKEN] = -torch.inf
        token = int(torch.multinomial(sampling.probabilities(logits), 1, generator=random))
        context = [*context[-limit:], token]
        unread = [token]
        yield token


def _spell(vocabulary: Vocabulary, tokens: Iterator[int]) -> Iterator[str]:
    """Yield tokens as text; bytes are held back until their character is complete."""
    if vocabulary.tokenizer == "char":
        yield from (vocabulary.decode([token]) for token in tokens)
        return
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in tokens:
        if piece := decoder.decode(bytes([token])):
            yield piece
    if piece := decoder.decode(b"", final=True):
        yield piece


def _until(stop: str, pieces: Iterator[str]) -> Iterator[str]:
    """Yield the text before `stop`; hold back only a possible beginning of it."""
    held = ""
    for piece in pieces:
        held += piece
        if stop in held:
            yield held[: held.index(stop)]
            return
        start = next(i for i in range(len(held) + 1) if stop.startswith(held[i:]))
        if start:
            yield held[:start]
            held = held[start:]
    yield held


def continue_text(
    model: Transformer, vocabulary: Vocabulary, tokens: Tokens, *, seed: int
) -> Sample:
    """Return a run's sample: the model's continuation of the start of `tokens`, shape (T,).

    A small model spells words better at a temperature of 0.6 than at 0.8.
    """
    prompt = vocabulary.decode(tokens[:PROMPT_TOKENS].tolist())
    prompt = prompt.rstrip(UNKNOWN)  # the last bytes may be half a character
    sampling = Sampling(temperature=0.6)
    pieces = generate(
        model, vocabulary, prompt, sampling=sampling, max_tokens=SAMPLE_TOKENS, seed=seed
    )
    return Sample(prompt, sampling.temperature, "".join(pieces))

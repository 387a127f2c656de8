"""Trained models in Python: their weights, their vocabulary, and what they write."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fundamentallm.api.sweeps import SweepRun
from fundamentallm.api.training import TrainedRun
from fundamentallm.cli.model_source import find_model
from fundamentallm.data.unknown_characters import describe_unknown
from fundamentallm.errors import FundamentallmError

if TYPE_CHECKING:
    from fundamentallm.data.vocabulary import Vocabulary
    from fundamentallm.model.transformer import Transformer

LOG = logging.getLogger(__name__)


class LoadedModel(NamedTuple):
    """Trained model; unpack it as `model, vocabulary = load_model("runs/lr")`."""

    model: Transformer
    """Model on the CPU, in `eval` mode: maps tokens, (B, T), to scores, (B, T, V)."""
    vocabulary: Vocabulary
    """Meaning of tokens: `encode(text)` and `decode(tokens)`."""

    def generate(
        self,
        prompt: str = "",
        *,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 1.0,
        max_tokens: int = 500,
        seed: int = 0,
        stop: str = "",
    ) -> str:
        """Return the continuation of a prompt, as `fundamentallm generate` writes it.

        Args:
            prompt: Text to continue; an empty one means the start of a line.
            temperature: Divide the scores by this; 0 always takes the likeliest token.
            top_k: Sample from the k likeliest tokens; 0 allows all.
            top_p: Sample from the fewest likeliest tokens that reach this probability together.
            max_tokens: Most tokens to write.
            seed: Seed of the draws; other generators are left alone.
            stop: Stop before this text.

        Raises:
            SamplingError: A setting is invalid.
        """
        from fundamentallm.model.sampling import Sampling, generate
        from fundamentallm.model.threads import threads

        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
        if unknown := self.vocabulary.unknown_in([prompt]):
            LOG.warning("%s", describe_unknown("prompt", unknown.total(), unknown))
        with threads():
            pieces = generate(
                self.model, self.vocabulary, prompt,
                sampling=sampling, max_tokens=max_tokens, seed=seed, stop=stop,
            )  # fmt: skip
            return "".join(pieces)


def load_model(run: str | Path | SweepRun | TrainedRun) -> LoadedModel:
    """Load a model: of a run, of the best run of a sweep, or of a checkpoint.

    Args:
        run: Folder of a run, whose best.pt is taken, or of a sweep; a checkpoint; a run of
            `load_sweep`; or what `train` returned.

    Raises:
        CheckpointError: There is no such file, or it is no whole checkpoint.
        FundamentallmError: The run saved nothing, or the sweep has no run with a model.
    """
    from fundamentallm.training.checkpoint import Checkpoint

    folder = run.folder if isinstance(run, SweepRun | TrainedRun) else run
    if folder is None:
        raise FundamentallmError("the run saved nothing; give train an output_dir")
    checkpoint = Checkpoint.load(find_model(folder, tell=lambda line: None))
    return LoadedModel(checkpoint.build_model(), checkpoint.vocabulary)

"""Presets: sets of hyperparameters for common situations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fundamentallm.config.fields import Value


@dataclass(frozen=True)
class Preset:
    """Named values to start from; flags override them."""

    name: str
    help: str
    min_characters: int
    """Length of the shortest text that the preset suits."""
    values: Mapping[str, Value]


PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "small-dataset",
            "A smaller model, more dropout, more epochs.",
            20_000,
            {
                "model_dim": 128,
                "num_layers": 4,
                "dropout": 0.2,
                "learning_rate": 1e-3,
                "epochs": 30,
            },
        ),
        Preset(
            "large-dataset",
            "A large model for tens of megabytes of text and a GPU.",
            10_000_000,
            {
                "model_dim": 512,
                "num_layers": 12,
                "dropout": 0.1,
                "learning_rate": 3e-4,
                "batch_size": 64,
                "epochs": 20,
            },
        ),
        Preset(
            "limited-compute",
            "Small and fast.",
            100_000,
            {"model_dim": 128, "num_layers": 4, "batch_size": 16, "max_seq_len": 128},
        ),
        Preset(
            "best-quality",
            "The largest, for much text and a large GPU.",
            50_000_000,
            {
                "model_dim": 768,
                "num_layers": 16,
                "num_heads": 12,
                "batch_size": 64,
                "max_seq_len": 512,
                "mixed_precision": True,
                "lr_schedule": "cosine",
                "warmup_steps": 2000,
            },
        ),
        Preset(
            "fast",
            "Best for two minutes on two cores.",
            100_000,
            {
                "model_dim": 128,
                "num_layers": 2,
                "num_heads": 4,
                "dropout": 0.0,
                "learning_rate": 1e-3,
                "batch_size": 8,
                "max_seq_len": 128,
                "lr_schedule": "linear",
                "min_lr_ratio": 0.0,
                "warmup_steps": 60,
                "max_steps": 2000,
                "eval_every": 100,
            },
        ),
    )
}

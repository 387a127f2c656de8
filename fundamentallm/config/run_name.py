"""Names that help people distinguish runs: `d256-l6-h8-lr3e-4`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.config.parsing import DATA
from fundamentallm.printable import printable

ABBREVIATIONS = {
    DATA: "",
    "model_dim": "d",
    "num_layers": "l",
    "num_heads": "h",
    "learning_rate": "lr",
    "batch_size": "b",
    "max_seq_len": "s",
    "dropout": "do",
    "attention_dropout": "ado",
    "weight_decay": "wd",
    "beta2": "beta",
    "gradient_accumulation": "acc",
    "gradient_clip": "clip",
    "lr_schedule": "",
    "warmup_steps": "w",
    "lr_decay": "decay",
    "lr_steps": "at",
    "min_lr_ratio": "minlr",
    "decay_fraction": "frac",
    "epochs": "ep",
    "max_steps": "steps",
    "max_minutes": "min",
    "early_stopping": "early",
    "patience": "pat",
    "mixed_precision": "amp",
    "compile": "compile",
    "tokenizer": "",
    "val_split": "val",
    "eval_every": "eval",
    "seed": "seed",
}
"""Abbreviations of hyperparameters, in the order of a name."""
ALWAYS = ("model_dim", "num_layers", "num_heads", "learning_rate")
"""Hyperparameters in the name of every run outside a sweep."""
LEFT_OUT = ("compile", "eval_every")
"""Hyperparameters in no such name: they do not change what is trained."""
MOST_CHARACTERS = 128
"""Length of the longest name that W&B accepts."""


def run_name(settings: Mapping[str, object]) -> str:
    """Join sizes, learning rate and every other hyperparameter that is not at its default.

    `settings` are the contents of config.yaml; "" without any.
    """
    if not settings:
        return ""
    told = {name: settings.get(name, HYPERPARAMETERS[name].default) for name in ALWAYS}
    for name, known in HYPERPARAMETERS.items():
        if name not in LEFT_OUT and settings.get(name, known.default) != known.default:
            told[name] = settings[name]
    return name_of(told)


def name_of(values: Mapping[str, object]) -> str:
    """Join values, each after the abbreviation of its name; "" without values."""
    order = list(ABBREVIATIONS)
    known = sorted((name for name in values if name in ABBREVIATIONS), key=order.index)
    others = sorted(name for name in values if name not in ABBREVIATIONS)
    parts = [_part(ABBREVIATIONS.get(name, name), name, values[name]) for name in known + others]
    return printable("-".join(filter(None, parts)), lines=False)[:MOST_CHARACTERS]


def _part(short: str, name: str, value: object) -> str:
    if isinstance(value, bool):
        return short if value else f"no{short}"
    if name == DATA:
        return PurePath(str(value)).stem
    return f"{short}{_text(value)}"


def _text(value: object) -> str:
    """Format numbers below a hundredth as `3e-4`, others with three digits."""
    if not isinstance(value, float):
        return str(value)
    if value.is_integer() and abs(value) < 1e6:
        return str(int(value))
    if value == 0 or abs(value) >= 0.01:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"

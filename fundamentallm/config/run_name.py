"""Names that help people distinguish runs: `d256-l6-h8-lr3e-4`."""

from __future__ import annotations

from fundamentallm.config.hyperparameters import Config

ALWAYS = {"model_dim": "d", "num_layers": "l", "num_heads": "h", "learning_rate": "lr"}
IF_CHANGED = {  # hyperparameters that are often varied, and their abbreviations
    "batch_size": "b",
    "max_seq_len": "s",
    "dropout": "do",
    "attention_dropout": "ado",
    "weight_decay": "wd",
    "beta2": "beta",
    "gradient_accumulation": "acc",
    "lr_schedule": "",
    "warmup_steps": "w",
    "tokenizer": "",
    "seed": "seed",
}


def run_name(config: Config) -> str:
    """Join sizes, learning rate and other common hyperparameters that are not at their default."""
    changed = [name for name in IF_CHANGED if getattr(config, name) != getattr(Config, name)]
    short = ALWAYS | IF_CHANGED
    return "-".join(short[name] + _text(getattr(config, name)) for name in [*ALWAYS, *changed])


def _text(value: object) -> str:
    """Format numbers below a hundredth as `3e-4`, others with three digits."""
    if not isinstance(value, float):
        return str(value)
    if value == 0 or abs(value) >= 0.01:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"

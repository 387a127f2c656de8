"""Learning-rate schedules, as pure functions."""

from __future__ import annotations

import math

from fundamentallm.config.hyperparameters import Config

DEFAULT_DECAY = {"step": 0.1, "exponential": 0.96}


def learning_rate(config: Config, step: int, *, total_steps: int, steps_per_epoch: float) -> float:
    """Return the learning rate of optimizer step `step`, counted from 0.

    Every schedule starts with a straight warm-up: step k of the first `warmup_steps` takes
    (k + 1) / warmup_steps of the peak, so the first is above 0 and the last is the peak.
    Cosine and linear then fall from the peak, one step after warm-up, to
    `min_lr_ratio * learning_rate` at the last step of the run. Wsd (warm-up, stable, decay;
    Hägele et al., arXiv 2405.18392) stays at the peak until `decay_start`, then falls linearly to
    the same end. Step and exponential count from the start of the run, so warm-up does not move
    their milestones.

    Args:
        config: The run's hyperparameters.
        step: Number of updates before this one.
        total_steps: Steps of the whole run, as planned.
        steps_per_epoch: Steps in an epoch; need not be whole.
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    return (
        config.learning_rate * warmup * _without_warmup(config, step, total_steps, steps_per_epoch)
    )


def decay_start(config: Config, total_steps: int) -> int:
    """Return the first step of wsd's decay: the number of steps of its stable part.

    The decay takes the last `decay_fraction` of the run, at least one step, but begins after
    warm-up. A run that is shorter than its warm-up has no decay.
    """
    stable = round(total_steps * (1 - config.decay_fraction))
    return max(min(stable, total_steps - 1), config.warmup_steps)


def _without_warmup(config: Config, step: int, total_steps: int, steps_per_epoch: float) -> float:
    """Return the schedule without its warm-up, as a fraction of the peak."""
    decay = config.lr_decay or DEFAULT_DECAY.get(config.lr_schedule, 1.0)
    match config.lr_schedule:
        case "cosine":
            progress = _progress(config, step, total_steps)
            return _between(config.min_lr_ratio, (1 + math.cos(math.pi * progress)) / 2)
        case "linear":
            return _between(config.min_lr_ratio, 1 - _progress(config, step, total_steps))
        case "wsd":
            begin = decay_start(config, total_steps)
            if step < begin:
                return 1.0
            left = max(total_steps - 1 - step, 0) / max(total_steps - begin, 1)
            return _between(config.min_lr_ratio, left)
        case "step":
            return decay ** sum(step >= milestone for milestone in config.lr_milestones)
        case "exponential":
            return decay ** (step / steps_per_epoch)
        case _:
            return 1.0


def _between(floor: float, fraction: float) -> float:
    return floor + (1 - floor) * fraction


def _progress(config: Config, step: int, total_steps: int) -> float:
    """Return 0 up to the end of warm-up, rising to 1 at the last step of the run."""
    last_warm = max(config.warmup_steps - 1, 0)
    return min(max(step - last_warm, 0) / max(total_steps - 1 - last_warm, 1), 1.0)

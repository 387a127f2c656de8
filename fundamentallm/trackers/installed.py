"""Modules that need W&B's client, which may be missing."""

from __future__ import annotations

from types import ModuleType

MISSING = "wandb is not installed (pip install wandb)"
UNUSABLE = (ImportError, AttributeError)
"""Errors of a client that is missing or broken, or of a folder ./wandb in its place."""


def load_tracker() -> ModuleType | None:
    """Return `trackers.wandb`; None without W&B's client."""
    try:
        from fundamentallm.trackers import wandb
    except UNUSABLE:
        return None
    return wandb


def load_client() -> ModuleType | None:
    """Return `trackers.wandb_client`; None without W&B's client."""
    try:
        from fundamentallm.trackers import wandb_client
    except UNUSABLE:
        return None
    return wandb_client

"""Small character-level transformers, tuned well.

`Config` holds a run's hyperparameters and `train(config, text)` trains a model with them;
the rest is the command line's, `fundamentallm --help`.
"""

from typing import TYPE_CHECKING, Any

from fundamentallm.errors import FundamentallmError
from fundamentallm.hyperparameters import Config

if TYPE_CHECKING:
    from fundamentallm.training import Result, train

__version__ = "0.1.0"
__all__ = ["Config", "FundamentallmError", "Result", "train"]


def __getattr__(name: str) -> Any:
    """Import torch, which takes seconds, only when training is asked for."""
    if name in ("train", "Result"):
        from fundamentallm import training

        return getattr(training, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

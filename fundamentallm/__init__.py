"""Small character-level transformers, tuned well.

`Config` holds a run's hyperparameters and `train(config, text)` trains a model with them;
the rest is the command line's, `fundamentallm --help`.
"""

from importlib import import_module

TYPE_CHECKING = False  # typing's own, without the import: a signal may come meanwhile
if TYPE_CHECKING:
    from fundamentallm.config.hyperparameters import Config
    from fundamentallm.errors import FundamentallmError
    from fundamentallm.training.loop import Result, train

__version__ = "0.1.0"
__all__ = ["Config", "FundamentallmError", "Result", "train"]
WHERE = {
    "Config": "config.hyperparameters",
    "FundamentallmError": "errors",
    "Result": "training.state",  # which imports torch, and that takes seconds
    "train": "training.loop",
}


def __getattr__(name: str) -> object:
    """Import what is asked for, and nothing before: __main__.py comes first on a command line."""
    if name in WHERE:
        return getattr(import_module(f"fundamentallm.{WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

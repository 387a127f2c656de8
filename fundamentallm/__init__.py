"""Small character-level transformers, tuned well.

`Config` holds a run's hyperparameters, and `train(config, text)` trains a model with them.
Everything else is on the command line: `fundamentallm --help`.
"""

from importlib import import_module

TYPE_CHECKING = False  # like typing's, without importing it: a signal may arrive meanwhile
if TYPE_CHECKING:
    from fundamentallm.config.hyperparameters import Config
    from fundamentallm.errors import FundamentallmError
    from fundamentallm.training.loop import Result, train

__version__ = "0.1.0"
__all__ = ["Config", "FundamentallmError", "Result", "train"]
MODULES = {
    "Config": "config.hyperparameters",
    "FundamentallmError": "errors",
    "Result": "training.state",  # imports torch, which takes seconds
    "train": "training.loop",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that the command line starts fast."""
    if name in MODULES:
        return getattr(import_module(f"fundamentallm.{MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

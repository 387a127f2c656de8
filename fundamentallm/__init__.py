"""Small character-level transformers, tuned well.

`Config` holds a run's hyperparameters, `train(config, text)` trains a model with them, and
`load_model(run)` loads it.
`run_sweep(config, function=...)` runs a W&B sweep of any Python function, and `load_sweep(folder)`
reads the results of a sweep.
Everything else is on the command line: `fundamentallm --help`.
"""

from importlib import import_module

TYPE_CHECKING = False  # like typing's, without importing it: a signal may arrive meanwhile
if TYPE_CHECKING:
    from fundamentallm.api.models import LoadedModel, load_model
    from fundamentallm.api.sweeps import SweepResults, SweepRun, load_sweep, run_sweep
    from fundamentallm.api.training import TrainedRun, train
    from fundamentallm.config.hyperparameters import Config
    from fundamentallm.errors import FundamentallmError
    from fundamentallm.training.state import Result

__version__ = "0.1.0"
__all__ = [
    "Config",
    "FundamentallmError",
    "LoadedModel",
    "Result",
    "SweepResults",
    "SweepRun",
    "TrainedRun",
    "load_model",
    "load_sweep",
    "run_sweep",
    "train",
]
MODULES = {
    "Config": "config.hyperparameters",
    "FundamentallmError": "errors",
    "LoadedModel": "api.models",
    "Result": "training.state",
    "SweepResults": "api.sweeps",
    "SweepRun": "api.sweeps",
    "TrainedRun": "api.training",
    "load_model": "api.models",
    "load_sweep": "api.sweeps",
    "run_sweep": "api.sweeps",
    "train": "api.training",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that the command line starts fast."""
    if name in MODULES:
        return getattr(import_module(f"fundamentallm.{MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__

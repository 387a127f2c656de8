"""Seeds as repeats: the parameter that only repeats a configuration, varied by the sweep itself."""

from __future__ import annotations

from dataclasses import replace

from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.distributions import Categorical, IntUniform
from fundamentallm.sweep.file.parameters import Parameter
from fundamentallm.sweep.file.sweep_file import SweepFile
from fundamentallm.sweep.search.space import SearchSpace, hyperparameter_name, hyperparameter_names

SEED = "seed"
SEEDS = (SEED, "random_seed")
"""Innermost names of another program's parameter that repeats a configuration."""
MOST_SEEDS = 1000
"""Most seeds of a configuration."""


def names_seed(name: str) -> bool:
    """Return whether the full name of another program's parameter is that of a seed."""
    return name.rpartition(".")[2].lower() in SEEDS


class SeededSpace(SearchSpace):
    """Search space in which each configuration may run with several seeds.

    Its sweep has a parameter for them, although the file has none, or a constant.
    """

    def __init__(self, space: SearchSpace, seeds: int) -> None:
        """Vary the seed of a space, upwards from its own.

        Raises:
            SweepError: The sweep does not allow it.
        """
        if space.sweep.hyperband is not None:
            raise SweepError(
                f"{space.sweep.file}: several seeds compare whole runs, but early_terminate stops "
                "runs early; leave out one of them"
            )
        parameter = _seed_of(space)
        first = parameter.distribution.quantile(0.5)
        if type(first) is not int:
            raise SweepError(
                f"{space.sweep.file}: several seeds count up from {parameter.name}, which is "
                f"{first!r}; give it a whole number"
            )
        self.one_seed = SearchSpace(
            _with(space.sweep, parameter), space.fixed, is_ours=space.is_ours
        )
        """The same space with the first seed only, for the search of configurations."""
        varied = Parameter(parameter.path, IntUniform(first, first + seeds - 1))
        super().__init__(_with(space.sweep, varied), space.fixed, is_ours=space.is_ours)
        self.repeats_by, self.seeds = varied.name, seeds
        self.each_seed = range(first, first + seeds)


def _seed_of(space: SearchSpace) -> Parameter:
    """Return the constant parameter of the seed; for our trainer, one that the file leaves out.

    Raises:
        SweepError: There is none, or it is searched.
    """
    file = space.sweep.file
    found = [each for each in space.sweep.parameters if _sets_seed(each, space)]
    if not found and space.is_ours:
        own = space.fixed.get(SEED, HYPERPARAMETERS[SEED].default)
        return Parameter((SEED,), Categorical("constant", (own,)))
    if not found:
        raise SweepError(
            f"{file}: several seeds need a parameter that sets your program's seed; add one, as "
            "seed: {value: 0}"
        )
    if len(found) > 1 or not found[0].is_constant or found[0].has_mappings:
        names = " and ".join(each.name for each in found)
        raise SweepError(
            f"{file}: {names} already varies the seed; give one seed: {{value: 0}} for several "
            "seeds of each configuration, or leave out seeds"
        )
    return found[0]


def _sets_seed(parameter: Parameter, space: SearchSpace) -> bool:
    if space.is_ours:
        return SEED in (hyperparameter_name(parameter), *hyperparameter_names(parameter))
    return names_seed(parameter.name)


def _with(sweep: SweepFile, parameter: Parameter) -> SweepFile:
    """Return the sweep with a parameter in the place of the one with its name, or at the end."""
    by_name = {each.name: each for each in sweep.parameters} | {parameter.name: parameter}
    return replace(sweep, parameters=tuple(by_name.values()))

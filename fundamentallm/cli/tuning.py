"""The phases of `fundamentallm tune`, run one after the other; each is an ordinary sweep."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from fundamentallm.cli.messages import notify
from fundamentallm.cli.signals import StopSignals
from fundamentallm.cli.storage import lease_seconds
from fundamentallm.cli.terminal_view import open_view
from fundamentallm.cli.worker import created_sweep, engine_for
from fundamentallm.config.hyperparameters import HYPERPARAMETERS, Config
from fundamentallm.data.builtin_corpus import BUILTIN
from fundamentallm.errors import FundamentallmError
from fundamentallm.metrics import runs_text
from fundamentallm.model.size import parameter_count
from fundamentallm.scaling.fit import updated
from fundamentallm.scaling.law import Law, Observation
from fundamentallm.status import FINISHED, RunStatus
from fundamentallm.sweep.engine.concurrency import Resources
from fundamentallm.sweep.engine.trainer_job import TextSource
from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.search.base import Search, key_of
from fundamentallm.sweep.search.bayes import BayesSearch
from fundamentallm.sweep.search.choose import ChosenSearch
from fundamentallm.sweep.search.halving import SuccessiveHalving
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.definition import SweepDefinition
from fundamentallm.sweep.store.records import Run, RunIndex
from fundamentallm.tune.budget import NominalSpeed, seconds_of_default_run
from fundamentallm.tune.measure import Measurements, measure
from fundamentallm.tune.phases import (
    FACTOR,
    SEARCH_SHARE,
    SHAPES_SHARE,
    SIZE_RATIO,
    Found,
    Planner,
    SearchPlan,
    ShapesPlan,
    TrainPlan,
    stored,
)
from fundamentallm.tune.plan import EXPECTED, Candidate, Recipe, TextFacts, neighbors, parameters_of
from fundamentallm.tune.sweep_files import SweepFiles
from fundamentallm.tune.tune_folder import Tuning

if TYPE_CHECKING:
    from fundamentallm.files.run_folder import RunFolder
    from fundamentallm.sweep.store.run_store import RunStore
    from fundamentallm.sweep.store.sweep_folder import SweepFolder

RESERVE_SECONDS = 4.0
RESERVE_SHARE = 0.01
"""Time that is kept for the report and the end."""
MEASURING_SHARE = 0.03
MOST_MEASURING = 30.0
"""Share of the budget, and most seconds, for measuring this machine."""
STARTS = 2
"""Runs before the Gaussian process: the planned configuration is known to be good."""
START_SECONDS = 5.0
"""Time in which a phase imports torch and starts."""
LATE = 1.15
"""A phase that takes longer than this times its share of the budget is ended."""


class TuningStoppedError(FundamentallmError):
    """A signal, which it names, stopped the tuning."""


@dataclass
class Phases:
    """Runs what is left of a tuning."""

    tuning: Tuning
    planner: Planner
    machine: Measurements
    total: float
    """The budget in seconds: of this machine, or of the nominal one for a budget of runs."""
    signals: StopSignals
    observations: list[Observation] = field(default_factory=list)
    """Annealed ends of the runs so far."""
    started: list[str] = field(default_factory=list)
    """Phases that have runs."""

    @classmethod
    def measured(
        cls,
        tuning: Tuning,
        facts: TextFacts,
        characters: int,
        resources: Resources,
        signals: StopSignals,
    ) -> Phases:
        """Measure this machine, or load what an earlier process has measured.

        Args:
            tuning: The tuning, new or resumed.
            facts: Training text.
            characters: Length of the whole text.
            resources: Part of this machine to use, with the most runs at a time.
            signals: Signals that stop the tuning.

        Raises:
            FundamentallmError: The text cannot be read, or no process can be started.
        """
        request, budget = tuning.request, tuning.request.budget
        total = 60 * budget.minutes
        if not budget.is_time:
            total = budget.runs * seconds_of_default_run(facts.characters)
        file = tuning.folder.measurements
        machine = Measurements.load(file, request.sha256, resources)
        if machine is None:
            seconds = min(MEASURING_SHARE * total, MOST_MEASURING) if budget.is_time else 10.0
            machine = _measure(tuning, facts, characters, resources, seconds)
            machine.save(file)
        speed = machine if budget.is_time else NominalSpeed(machine)
        planner = Planner(facts, speed, request.max_parameters)
        return cls(tuning, planner, machine, total, signals)

    def run(self) -> None:
        """Run the phases that are left.

        Raises:
            TuningStoppedError: A signal stops it.
            FundamentallmError: No configuration can be trained here.
        """
        recipe = self.choose_shape()
        self.train(self.search(recipe))

    @property
    def law(self) -> Law:
        """Return the law of the loss, as the best runs of each size and length say."""
        best: dict[tuple[int, float], Observation] = {}
        for each in self.observations:
            key = each.parameters, each.tokens
            if key not in best or each.loss < best[key].loss:
                best[key] = each
        return updated(EXPECTED, list(best.values()))

    @property
    def files(self) -> SweepFiles:
        """Return the writer of sweep files."""
        return SweepFiles(self.tuning.folder.path.name, self.tuning.request.text)

    def choose_shape(self) -> Recipe:
        """Choose the shape for the budget: by the law, and by short runs of its neighbors.

        Raises:
            FundamentallmError: No model fits the limits and the text.
        """
        share = 1 - SHAPES_SHARE - SEARCH_SHARE
        found = self.planner.candidates(self.law, share * self.total)
        if not found:
            raise FundamentallmError(
                "no model fits --max-parameters, the memory and the text; raise the limit, or give "
                "a longer text"
            )
        plan = ShapesPlan.of(
            self.tuning.decide("shapes", lambda: stored(self.planner.shapes(found, self.total)))
        )
        if "recipe" not in self.tuning.decisions:
            self._notify_plan(found[0], plan)
        if plan.runs:
            tokens = max(run.steps * run.recipe.tokens_per_step for run in plan.runs)
            text = self.files.shapes(plan, epochs=self.planner.epochs(tokens))
            self._run("shapes", text, plan.workers, before="recipe", share=SHAPES_SHARE)

        def choose() -> dict[str, object]:
            return self.planner.candidates(self.law, share * self.total)[0].recipe.settings

        return Recipe(**self.tuning.decide("recipe", choose))

    def _notify_plan(self, best: Candidate, plan: ShapesPlan) -> None:
        size = parameters_of(best.recipe, self.planner.facts)
        guess = math.log(self.planner.facts.vocabulary)
        loss = f": val_loss about {best.loss:.2f}" if best.loss < guess else ""
        others = " and ".join(run.recipe.name for run in plan.runs[1:])
        notify(
            f"plan: {best.recipe.name}, {size:,} parameters, {best.steps:,} steps{loss}"
            f"{f'; compared with {others}' if others else ''}"
        )

    def search(self, recipe: Recipe) -> Found:
        """Search the hyperparameters of a shape; return the best of the longest runs."""
        plan = SearchPlan.of(
            self.tuning.decide("search", lambda: stored(self.planner.search(recipe, self.total)))
        )
        runs: list[Run] = []
        if plan.lengths:
            tokens = plan.lengths[-1] * plan.center.tokens_per_step
            repeats = tokens / self.planner.facts.characters
            text = self.files.search(plan, repeats=repeats, epochs=self.planner.epochs(tokens))
            space = SearchSpace(parse_sweep(text, "search"), {})
            runs = self._run(
                "search",
                text,
                plan.workers,
                before="best",
                share=SEARCH_SHARE,
                search=self._halving(space, plan),
            )

        def choose() -> dict[str, object]:
            longest = max((run.values["max_steps"] for run in runs), default=0)
            last = [run for run in runs if run.values["max_steps"] == longest]
            best = min(last, key=lambda run: run.last.score or math.inf, default=None)
            if best is None:
                return stored(Found(recipe, 0))
            values = {name: best.values[name] for name in recipe.settings}
            # Both lengths chose it, and a shorter run prefers a higher rate.
            steps = round(math.sqrt(plan.lengths[0] * longest))
            return stored(Found(Recipe(**values), steps * recipe.tokens_per_step))

        return Found.of(self.tuning.decide("best", choose))

    def _halving(self, space: SearchSpace, plan: SearchPlan) -> SuccessiveHalving:
        parameters = [each for each in space.sweep.parameters if each.name != "max_steps"]
        constants = {p.name: p.distribution.quantile(0.5) for p in parameters if p.is_constant}
        search = BayesSearch(
            parameters,
            seed=self.tuning.request.seed,
            is_possible=lambda values: space.is_possible({**values, "max_steps": plan.lengths[0]}),
            defaults={**constants, **plan.center.settings},
            starts=STARTS,
        )
        return SuccessiveHalving(
            search,
            length="max_steps",
            lengths=plan.lengths,
            factor=FACTOR,
            configurations=plan.configurations,
        )

    def train(self, found: Found) -> None:
        """Train the best configuration on what is left, over several seeds if they cost little.

        A larger budget than before adds a round, which continues from the one before.
        """
        number, before = 1, None
        while (name := _round(number)) in self.tuning.decisions:
            plan = TrainPlan.of(self.tuning.decisions[name])
            if plan.budget == self.tuning.request.budget.text:
                break
            self.started.append(name)
            number, before = number + 1, plan
        plan = TrainPlan.of(self.tuning.decide(name, lambda: self._plan_training(found, before)))
        text = self.files.train(name, plan, epochs=self.planner.epochs(plan.expected_tokens))
        self._run(
            name,
            text,
            plan.workers,
            reuse_from=_round(number - 1) if before else "",
            shares_time=plan.minutes > 0,
        )

    def _plan_training(self, found: Found, before: TrainPlan | None) -> dict[str, object]:
        plan = self.planner.training(
            found,
            self.law,
            self.seconds_left,
            is_time=self.tuning.request.budget.is_time,
            budget=self.tuning.request.budget.text,
            first_seed=self.tuning.request.seed,
            before=before,
        )
        return stored(plan)

    @property
    def seconds_left(self) -> float:
        """Return what is left of the budget for training; of a time, at least a second."""
        if self.tuning.request.budget.is_time:
            left = self.tuning.seconds_left - RESERVE_SECONDS - RESERVE_SHARE * self.total
            return max(left, 1.0)
        decisions = self.tuning.decisions.values()
        return self.total - sum(each["seconds"] for each in decisions if "seconds" in each)

    def _run(
        self,
        phase: str,
        text: str,
        workers: int,
        *,
        before: str = "",
        share: float = math.inf,
        search: SuccessiveHalving | None = None,
        reuse_from: str = "",
        shares_time: bool = False,
    ) -> list[Run]:
        """Run a phase's sweep, or what is left of it; return its runs that are done.

        Args:
            phase: Name of its folder.
            text: Sweep file.
            workers: Runs at a time.
            before: Decision that is made of its runs; once made, no run is started.
            share: Share of a budget of time that the phase may take, and a little more.
            search: Search other than the file's own.
            reuse_from: Phase with the same seeds, whose runs are continued.
            shares_time: Whether the runs share the time that is left, also after a kill.
        """
        folder = self.tuning.folder.sweep(phase)
        request = self.tuning.request
        definition = SweepDefinition(
            SearchSpace(parse_sweep(text, f"{phase}/sweep.yaml"), {}),
            device=request.device,
            seed=request.seed,
            sampler="auto",
            lease=lease_seconds(),
            texts={request.text or BUILTIN: request.sha256},
            texts_from=os.getcwd(),
        )
        chosen = ChosenSearch(search, "successive halving") if search else definition.search()
        limit = LATE * share * self.total if request.budget.is_time else math.inf
        deadline = self.tuning.seconds + START_SECONDS + limit

        def stop_requested() -> str:
            late = "its share of the budget" if self.tuning.seconds > deadline else ""
            return self.signals.name or late

        with created_sweep(definition, folder, None) as (defined, store):
            if before not in self.tuning.decisions and not _is_over(store.runs(), chosen.search):
                resources = replace(
                    self.machine.resources,
                    workers=workers,
                    threads=self.machine.threads(workers),
                    fixed=True,
                )
                with open_view(defined.space, defined.sweep.ranks_by) as view, folder.held():
                    runs_planned = runs_text(chosen.search.size or 0)
                    view.notify(f"{phase}: {runs_planned}, {workers} at a time")
                    engine = engine_for(
                        defined, store, folder, view, chosen,
                        resources=resources, data=None, retries=1, count=None, wait=10.0,
                        tokens=self.tuning.folder.tokens,
                        reuse=partial(self._reused, store, folder, search, reuse_from),
                        end_by=partial(self._end_by, store, chosen, workers, shares_time),
                    )  # fmt: skip
                    engine.run(stop_requested)
                    folder.check_in_place()
            runs = list(store.runs())
        self.started += [phase] if runs else []
        if self.signals.name:
            raise TuningStoppedError(self.signals.name)
        done = [run for run in runs if run.last.status == RunStatus.DONE and run.is_ranked]
        self._note(phase, definition.space, done)
        return done

    def _reused(
        self,
        store: RunStore,
        folder: SweepFolder,
        search: SuccessiveHalving | None,
        reuse_from: str,
        run: Run,
    ) -> RunFolder | None:
        """Return the folder of the run that a run continues; None if it begins anew."""
        if reuse_from:
            return self.tuning.folder.sweep(reuse_from).run(run.number)
        shorter = search.shorter(run.values) if search else None
        if shorter is None:
            return None
        numbers = {key_of(each.values): each.number for each in store.runs()}
        return folder.run(numbers[key_of(shorter)])

    def _end_by(
        self, store: RunStore, chosen: ChosenSearch, workers: int, shares_time: bool
    ) -> float:
        """Return the time by which a run that starts now should end."""
        if not shares_time:
            return math.inf
        left = (chosen.search.size or 1) - store.runs().how_many(*FINISHED)
        return time.time() + self.seconds_left / math.ceil(max(left, 1) / workers)

    def _note(self, phase: str, space: SearchSpace, done: list[Run]) -> None:
        """Add runs to the observations, and write the file that repeats them."""
        settings = [dict(space.settings(run.values)) for run in done]
        for each, run in zip(settings, done, strict=True):
            config = self.config_of(each)
            summary = self.tuning.folder.sweep(phase).run(run.number).read_summary()
            facts, steps = self.planner.facts, summary.get("step", 0)
            self.observations.append(
                Observation(
                    parameter_count(config, facts.vocabulary),
                    steps * config.tokens_per_step,
                    facts.characters,
                    run.last.score or 0.0,
                )
            )
        if settings:
            self.tuning.folder.write_text(f"{phase}.yaml", self.files.runs(phase, settings))

    @staticmethod
    def config_of(settings: Mapping[str, object]) -> Config:
        """Return the configuration of a run's settings, which also name its text."""
        return Config(**{name: settings[name] for name in HYPERPARAMETERS if name in settings})  # pyright: ignore[reportArgumentType]  (checked by Config)


def _measure(
    tuning: Tuning, facts: TextFacts, characters: int, resources: Resources, seconds: float
) -> Measurements:
    """Measure the shapes that suit the budget by the costs of another machine."""
    request = tuning.request
    source = TextSource(request.text, request.text_name, request.sha256)

    def measured(shapes: Sequence[Recipe], seconds: float) -> Measurements:
        return measure(
            [shape.settings for shape in shapes],
            source,
            characters,
            resources,
            seconds=seconds,
            tokens=tuning.folder.tokens,
            max_memory_gb=request.max_memory_gb,
        )

    guessed = Planner(facts, measured([], 0.0), request.max_parameters)
    found = guessed.candidates(EXPECTED, 60 * request.budget.minutes or 600.0)
    shapes = [each.recipe for each in neighbors(found, facts, SIZE_RATIO)] if found else []
    return measured(shapes, seconds)


def _round(number: int) -> str:
    """Return the name of a round of the last phase."""
    return "train" if number == 1 else f"train-{number}"


def _is_over(runs: RunIndex, search: Search) -> bool:
    """Return whether every run of a phase has ended, so that no process has to start."""
    return len(runs) == search.size and all(run.is_finished for run in runs)

"""Counts how often `explain` is right, wrong or silent on simulated sweeps with known answers.

    python benchmarks/explain_quality.py [FIRST LAST]

Prints the table of docs/dev/explain.md, then the same with half of the runs of each case
duplicated, which must change nothing. Each case is a folder on disk, read like any sweep. A true
claim is right, and so is no claim where there is no effect. A false claim is wrong. An effect over
three times the noise that is not mentioned is silent; one to three times the noise is not judged.
"""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from simulated_sweeps import CASES, CLEAR, NEGLIGIBLE, SimulatedSweep

from fundamentallm.report.explain import explain
from fundamentallm.report.read_runs import read_results
from fundamentallm.report.rules.claim import Claim, Evidence

FLAGS = {
    "still_falling": "falling",
    "best_early": "best_early",
    "overfitting": "overfitting",
    "underfitting": "underfitting",
    "clipping": "clipping",
    "instability": "unstable",
}


def verdicts(
    case: SimulatedSweep, evidence: Evidence, claims: list[Claim]
) -> Iterator[tuple[str, str, bool]]:
    """Yield a verdict for everything about the case that is judged.

    Each is a rule, `right`, `wrong` or `silent`, and True if there is an effect to report.
    """
    by_rule = defaultdict(list)
    for claim in claims:
        by_rule[claim.rule].append(claim)
    truth = case.truth
    yield from _matters(truth, {c.about for c in by_rule["matters"] if c.verdict == "matters"})
    yield from _bests(case, evidence)
    yield from _edges(truth, {c.about: c.verdict for c in by_rule["edge"]})
    if truth.lead is not None:
        clear = any(claim.verdict == "clear" for claim in by_rule["winner"])
        if truth.lead >= CLEAR:
            yield "winner", "right" if clear else "silent", True
        elif truth.lead == 0:
            yield "winner", "wrong" if clear else "right", False
    yield from _divergence(case, by_rule["divergence"])
    if truth.more_runs != "unclear":
        verdict = by_rule["more_runs"][0].verdict if by_rule["more_runs"] else "silent"
        right = "right" if verdict == truth.more_runs else "wrong"
        yield "more_runs", "silent" if verdict == "silent" else right, True
    for rule, flag in FLAGS.items():
        if rule == "overfitting" and truth.best_early:
            continue  # such runs do overfit; both claims are right
        claimed, true = bool(by_rule[rule]), getattr(truth, flag)
        yield rule, "right" if claimed == true else "wrong" if claimed else "silent", true


def _matters(truth, claimed):
    for name, size in truth.effects.items():
        if size >= CLEAR:
            yield "matters", "right" if name in claimed else "silent", True
        elif size == 0:
            yield "matters", "wrong" if name in claimed else "right", False


def _bests(case, evidence):
    """Judge each value called best: right if it costs less than three times the noise."""
    for effect in evidence.surface.effects if evidence.surface is not None else ():
        axis = next(axis for axis in case.axes if axis.name == effect.factor.name)
        if axis.is_numeric and case.truth.effects[axis.name] >= CLEAR:
            shape, cliff = case.shapes[axis.name], math.inf
            if axis.name == "learning_rate":
                cliff = case.cliff
            tried = [u for u in map(axis.position, effect.factor.levels) if u <= cliff]
            best = axis.position(effect.best)
            cost = (shape(best) - min(map(shape, tried))) / case.noise
            yield "best", "right" if cost < CLEAR and best <= cliff else "wrong", True


def _edges(truth, claimed):
    for name, size in truth.effects.items():
        edge = truth.edges.get(name, "inside" if size < NEGLIGIBLE else "unclear")
        if edge == "unclear":
            continue
        claim = claimed.get(name, "inside")
        wrong = "silent" if claim == "inside" else "wrong"
        yield "edge", "right" if claim == edge else wrong, edge != "inside"


def _divergence(case, claims):
    diverged = sum(map(case.has_diverged, range(len(case.points))))
    verdict = claims[0].about if claims else ""
    cause = case.truth.diverges_above
    if cause == "chance" or not diverged:
        yield "divergence", "wrong" if verdict else "right", False
    elif diverged >= 2:
        wrong = "silent" if not verdict else "wrong"
        yield "divergence", "right" if verdict == cause else wrong, True


def judge(
    numbers, *, twice: bool = False
) -> tuple[dict[str, Counter[str]], dict[str, Counter[str]], list[str]]:
    """Return counts by rule for all cases and for nulls, and a line per verdict that is not right.

    `twice` duplicates every other run.
    """
    everything: dict[str, Counter[str]] = defaultdict(Counter)
    nulls: dict[str, Counter[str]] = defaultdict(Counter)
    missed: list[str] = []
    for number in numbers:
        case = SimulatedSweep(number)
        with tempfile.TemporaryDirectory() as folder:
            sweep = case.write(Path(folder) / "sweep")
            for run in sorted(sweep.glob("run-*"))[::2] if twice else ():
                shutil.copytree(run, run.with_name(f"{run.name}-again"))
            evidence = Evidence(read_results([sweep]))
        claims = explain(evidence.results, evidence)
        worst: dict[str, str] = {}
        for rule, verdict, has_effect in verdicts(case, evidence, claims):
            everything[rule][verdict] += 1
            if has_effect:
                everything[rule]["there"] += 1
                everything[rule]["found"] += verdict == "right"
            if verdict != "right":
                missed.append(f"case {number}: {rule} {verdict}: {case.truth}")
            if verdict == "wrong" or rule not in worst:
                worst[rule] = verdict
        if case.truth.is_null:
            for rule, verdict in worst.items():
                nulls[rule]["false" if verdict == "wrong" else "right"] += 1
    return everything, nulls, missed


def row(name: str, counts: Counter[str], false: str) -> str:
    """Return a row of the table."""
    numbers = [counts[verdict] for verdict in ("right", "wrong", "silent")]
    share = f"{numbers[0] / sum(numbers):.0%}"
    cells = [name, *numbers, share, f"{counts['found']}/{counts['there']}", false]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    first, last = map(int, sys.argv[1:3]) if sys.argv[1:] else (CASES.start, CASES.stop)
    for twice in (False, True):
        print_table(*judge(range(first, last), twice=twice))


def print_table(everything, nulls, missed) -> None:
    """Print the table to stdout, and verdicts that are not right to stderr."""
    print("| rule | right | wrong | silent | right | found where there | false on nulls |")
    print("|---|---|---|---|---|---|---|")
    total: Counter[str] = Counter()
    for rule, counts in everything.items():
        total += counts
        print(row(f"`{rule}`", counts, f"{nulls[rule]['false']}/{nulls[rule].total()}"))
    print(row("all", total, ""))
    print("\n".join(missed), file=sys.stderr)


if __name__ == "__main__":
    main()

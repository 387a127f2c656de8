"""The winner, and whether its lead may be chance."""

from __future__ import annotations

from fundamentallm.config.fields import setting_text
from fundamentallm.metrics import score_text
from fundamentallm.report.results import Results, RunResult
from fundamentallm.report.rules.claim import Claim, Evidence
from fundamentallm.significance import judge_winner, ties


def winner(evidence: Evidence) -> list[Claim]:
    """Report the best configuration and test its lead against the noise between seeds.

    A configuration that diverged with a seed is not called best. Test: `significance.py`.
    """
    results, noise = evidence.results, evidence.noise_at_the_end
    groups = results.contenders
    if not groups:
        return []
    best = groups[0]
    text = f"best {results.metric.name}: {describe(results, best)}"
    if left_out := sum(
        _mean(results, each) < _mean(results, best) for each in results.configurations
    ):
        text += f" (left out: {left_out} with a better mean that diverged with a seed)"
    top = next(iter(results.ranked), None)
    if (
        top is not None
        and top not in results.comparable
        and _mean(results, [top]) < _mean(results, best)
    ):
        text += f" ({top.name}, stopped early, had {score_text(top.score)} by then)"
    if len(groups) == 1:
        alone = (
            "it is the only configuration"
            if len(results.configurations) == 1
            else "every other one diverged with a seed"
        )
        if noise is not None and len(best) > 1 and len(results.configurations) == 1:
            alone = f"{len(best)} seeds differ by {score_text(noise.sigma)} (standard deviation)"
        return [Claim("winner", "only", f"{text}; {alone}")]
    equal = [g for g in groups[1:] if ties(_mean(results, g), _mean(results, best))]
    if equal:
        more = f" and {len(equal) - 1} more" if len(equal) > 1 else ""
        says = f"{text}, tied with {describe(results, equal[0])}{more}; nothing tells them apart"
        return [Claim("winner", "tied", says)]
    gap = _mean(results, groups[1]) - _mean(results, best)
    text += f", ahead of {describe(results, groups[1])} by {score_text(gap)}"
    if noise is None:
        says = f"{text}; this may be chance: no seed was repeated"
        if results.refinable:
            says += " (fundamentallm refine repeats the best)"
        return [Claim("winner", "unknown", says)]
    judged = judge_winner([[results.loss(run) for run in runs] for runs in groups], noise)
    if not judged.is_known:
        says = f"{text}; this may be chance: repeated seeds gave equal scores, so noise is unknown"
        return [Claim("winner", "unknown", says)]
    basis = f"the noise between seeds is {score_text(noise.sigma)}, from {noise.repeated} repeated "
    basis += "configurations; p = "
    p = judged.p_values[0]
    if judged.is_clear:
        return [Claim("winner", "clear", f"{text}, which is more than chance ({basis}{p:.2g})")]
    index = judged.inseparable[0]
    if index == 0:
        says = f"{text}, which may be chance ({basis}{p:.2g})"
    else:  # it has fewer runs than the runner-up
        says = f"{text}; but {describe(results, groups[index + 1])} may be as good: it ran "
        says += (
            f"with only {len(groups[index + 1])} of its seeds ({basis}{judged.p_values[index]:.2g})"
        )
    tied = _within(results, groups, noise.sigma)
    if tied > 2:
        says += f"; {tied} configurations are within twice the noise of the best"
    return [Claim("winner", "tied", says)]


def describe(results: Results, runs: list[RunResult]) -> str:
    """Return `1.4321 (run-0003: learning_rate 0.001, num_layers 4)`, or a mean over seeds."""
    names = [name for name in results.varied if not results.is_seed(name)]
    settings = runs[0].settings
    values = ", ".join(
        setting_text(name, settings[name])[:100] for name in names if name in settings
    )
    score = results.metric.sign * _mean(results, runs)
    who = runs[0].name if len(runs) == 1 else f"mean of {len(runs)} seeds"
    return f"{score_text(score)} ({who}{': ' if values else ''}{values})"


def _mean(results: Results, runs: list[RunResult]) -> float:
    return sum(map(results.loss, runs)) / len(runs)


def _within(results: Results, groups: list[list[RunResult]], sigma: float) -> int:
    least = _mean(results, groups[0])
    return sum(_mean(results, group) - least <= 2 * sigma for group in groups)

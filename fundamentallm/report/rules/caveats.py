"""Caveats: fixed settings, early stops, repeated runs, and losses that differ in kind."""

from __future__ import annotations

from fundamentallm.config.fields import shown
from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.report.results import Results
from fundamentallm.report.rules.claim import Claim, Evidence
from fundamentallm.status import RunStatus

GROUPS = ("Model", "Sequence", "Training", "Schedule")
LENGTH_SETTINGS = ("epochs", "max_steps", "max_minutes", "early_stopping")
RATE = "learning_rate"
RATE_DEPENDENT = ("batch_size", "model_dim", "num_layers", "lr_schedule", "gradient_accumulation")


def held_fixed(evidence: Evidence) -> list[Claim]:
    """Name each setting that all runs share; other values may change the results.

    Source: Google's tuning playbook, "Identifying scientific, nuisance, and fixed
    hyperparameters": what is fixed must be named as a caveat of every conclusion.
    """
    results, fixed = evidence.results, evidence.results.fixed
    names = [name for name in _caveats(results) if name in fixed and not results.is_seed(name)]
    ended_by = {run.summary.get("stopped_by") for run in evidence.complete} & set(LENGTH_SETTINGS)
    if ended_by:  # what no run ended by says nothing of their length
        names = [name for name in names if name != "epochs" or "epochs" in ended_by]
        names += [
            name
            for name in LENGTH_SETTINGS
            if name in ended_by and name in fixed and name not in names
        ]
    claims: list[Claim] = []
    if names:
        values = ", ".join(f"{name} {shown(fixed[name]) or 'none'}" for name in names)
        claims.append(
            Claim(
                "held_fixed",
                "fixed",
                f"all runs had {values}; other values may change these results",
            )
        )
    seeds = [name for name in fixed if results.is_seed(name)]
    if len(results.observations) > 1 and seeds and not any(map(results.is_seed, results.varied)):
        says = f"every run had {seeds[0]} {shown(fixed[seeds[0]])}, so chance was not measured"
        claims.append(Claim("held_fixed", "one_seed", says, seeds[0]))
    return claims


def _caveats(results: Results) -> list[str]:
    """Return settings whose value may change the results; another program's are its sweep's."""
    if results.is_foreign:
        return list(results.searched or ())
    return [known.name for known in HYPERPARAMETERS.values() if known.group in GROUPS]


def stopped(evidence: Evidence) -> list[Claim]:
    """Name how runs that were stopped early were compared."""
    results, rung = evidence.results, evidence.rung
    early = sum(run.status == RunStatus.STOPPED for run in results.ranked)
    if not early or (rung is None and len(results.comparable) == len(results.ranked)):
        return []
    says = f"{early} of {len(results.ranked)} runs were stopped early; "
    if rung is not None:
        says += (
            f"settings are compared after {rung.text(results)}, which {rung.runs} runs "
            "reached; what is better then may not be better at the end"
        )
    else:
        says += "their scores come from shorter runs and are "
        says += "left out" if results.is_foreign else "used only to find divergence"
    return [Claim("stopped", "stopped", says)]


def repeated(evidence: Evidence) -> list[Claim]:
    """Name runs that occur more than once; each is one observation."""
    runs, counted = len(evidence.results.runs), len(evidence.results.observations)
    if runs == counted:
        return []
    says = (
        f"{runs - counted} of {runs} runs repeat others with the same settings, seed and text; "
        f"each counts once, so these results rest on {counted} runs"
    )
    return [Claim("repeated", "repeated", says)]


def other_losses(evidence: Evidence) -> list[Claim]:
    """Warn that runs were scored by different programs, or on different texts or tokens."""
    results, ranked = evidence.results, evidence.results.ranked
    if len({bool(run.program) for run in ranked}) > 1:
        says = (
            f"some runs are of our trainer and some of another program, so their {evidence.metric} "
            "cannot be compared and the best means little; compare runs of one program"
        )
        return [Claim("other_losses", "differ", says, "program")]

    def differs(name: str) -> bool:
        return len({str(run.settings[name]) for run in ranked if name in run.settings}) > 1

    differ = [name for name in results.loss_defining if differs(name)]
    if evidence.metric == "val_bits_per_char" and "tokenizer" in differ:
        differ.remove("tokenizer")
    if any("data_sha256" in run.settings for run in ranked) and "data" in differ:
        differ.remove("data")  # by another name it is the same text
    if not differ:
        return []
    names = " and ".join("the text" if name.startswith("data") else name for name in differ)
    says = (
        f"runs differ in {names}, so their {evidence.metric} cannot be compared and the best means "
        "little; compare runs that have the same"
    )
    if differ == ["tokenizer"]:
        says += ", or by val_bits_per_char"
    return [Claim("other_losses", "differ", says, differ[0])]


def unfair_rate(evidence: Evidence) -> list[Claim]:
    """Warn that settings were compared at one learning rate, though each needs its own.

    Source: Google's tuning playbook: the learning rate is a nuisance hyperparameter, which has to
    be tuned for each value of what is compared.
    """
    results = evidence.results
    compared = [name for name in RATE_DEPENDENT if name in results.varied]
    if RATE not in results.fixed or not compared:
        return []
    says = (
        f"{' and '.join(compared)} {'was' if len(compared) == 1 else 'were'} compared at "
        f"learning_rate {shown(results.fixed[RATE])} only; each value may need a rate of its own"
    )
    return [Claim("unfair_rate", "one_rate", says, RATE)]

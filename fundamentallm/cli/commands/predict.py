"""`fundamentallm predict`: the loss to expect of a longer or wider run."""

from __future__ import annotations

import click

from fundamentallm.cli.json_output import json_option, show_json
from fundamentallm.cli.messages import show
from fundamentallm.cli.result_sources import (
    metric_option,
    read_sources,
    show_notes,
    sources_argument,
)

FACTOR = click.FloatRange(min=1, max=1000)


@click.command()
@sources_argument(many=True)
@click.option("--longer", type=FACTOR, default=1, help="Train the best so many times as long.")
@click.option("--wider", type=FACTOR, default=1, help="Multiply its --model-dim by this.")
@metric_option
@json_option
def predict(
    sources: tuple[str, ...], longer: float, wider: float, metric: str, as_json: bool
) -> int:
    """Predict the loss of a longer or wider run of the best.

    The answer has an interval that holds nine of ten such runs. If the runs do not tell, a line
    says why, and which would.
    SWEEP_OR_RUNS are folders of sweeps or runs, or sweeps on W&B: ENTITY/PROJECT/SWEEP.
    """
    if longer == wider == 1:
        raise click.UsageError("give --longer, --wider or both, e.g. --longer 4")
    results = read_sources(sources, metric)
    from fundamentallm.report.predict import predict as predict_loss

    found = predict_loss(results, longer=longer, wider=wider)
    if as_json:
        show_json(
            {
                "val_loss": found.expected.loss,
                "low": found.expected.low,
                "high": found.expected.high,
                "best_run": found.best,
                "now": found.now,
                "config": vars(found.config),
                "parameters": found.parameters,
                "tokens": found.tokens,
                "basis": found.basis,
            }
        )
    else:
        show(found.says)
    show_notes(results)
    return 0

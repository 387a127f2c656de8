"""A run as people see it on W&B, as values: names, config, tags, summary, samples, model."""

from __future__ import annotations

import html
import re

import pytest

from fundamentallm import __version__
from fundamentallm.config.parsing import read_config
from fundamentallm.files.samples import Sample
from fundamentallm.status import RunStatus
from fundamentallm.trackers import wandb_presentation as seen
from fundamentallm.trackers.wandb_presentation import Labels

SWEEP = {
    "description": "Which rate?",
    "parameters": {
        "learning-rate": {"min": 0.1, "max": 1.0},
        "model": {"parameters": {"num_layers": {"values": [2, 4]}, "model_dim": {"values": [8]}}},
        "seed": {"values": [0, 1]},
        "epochs": {"value": 5},
    },
}
VALUES = {
    "learning-rate": "0.3", "model": {"num_layers": 2, "model_dim": 8}, "seed": 1, "epochs": 5
}  # fmt: skip


def test_a_run_of_a_sweep_is_named_by_what_the_sweep_varies() -> None:
    labels = seen.sweep_labels(SWEEP, VALUES, sweep="ab1")
    assert labels.name == "l2-lr0.3-seed1"
    assert labels.group == "ab1-l2-lr0.3"  # repetitions with other seeds
    assert (labels.notes, list(labels.varied)) == (
        "Which rate?",
        ["learning_rate", "num_layers", "seed"],
    )


def test_a_sweep_that_repeats_seeds_by_itself_groups_them() -> None:
    content = {"parameters": {"num_layers": {"values": [1, 2]}, "epochs": {"value": 3}}}
    swept = {"num_layers": 2, "epochs": 3, "seed": 1}
    labels = seen.sweep_labels(content, swept, sweep="lr", is_group=True, is_repeated=True)
    assert (labels.name, labels.group) == ("l2-seed1", "lr-l2")


def test_an_unknown_sweep_names_runs_by_values_that_are_not_defaults() -> None:
    values = {"num_layers": 3, "epochs": 5, "seed": 0, "dropout": "much"}
    assert seen.sweep_labels({}, values, sweep="ab1") == Labels("l3-domuch-ep5")


def test_a_choice_of_several_settings_names_a_run_by_all_of_them() -> None:
    choices = [{"model_dim": 8, "num-layers": 2}, {"model_dim": 16, "num-layers": 4}]
    content = {"parameters": {"size": {"values": choices}, "epochs": {"values": [5]}}}
    swept = {"size": choices[1], "epochs": 5}
    assert seen.sweep_labels(content, swept, sweep="ab1").name == "d16-l4"


@pytest.mark.parametrize("parameters", [3, {"seed": None}, {"seed": {"values": [0, 1]}}])
def test_runs_without_repetitions_are_a_group_only_if_nothing_else_holds_them(
    parameters: object,
) -> None:
    content = {"parameters": parameters}
    assert seen.sweep_labels(content, {"seed": 1}, sweep="lr", is_group=True).group == "lr"
    assert seen.sweep_labels(content, {"seed": 1}, sweep="lr").group == ""


@pytest.mark.parametrize(
    ("typed", "name", "in_sweep", "shown"),
    [
        ("mine", "lr0.3", True, "mine-lr0.3"),
        ("mine", "lr0.3", False, "mine"),
        (None, "lr0.3", True, "lr0.3"),
        (None, "", False, None),
        ("m" * 200, "lr0.3", True, "m" * 128),
    ],
)
def test_a_typed_name_still_tells_the_runs_of_a_sweep_apart(
    typed: str | None, name: str, in_sweep: bool, shown: str | None
) -> None:
    assert seen.display_name(typed, Labels(name), in_sweep=in_sweep) == shown


def test_the_config_has_every_name_once_and_reads_back() -> None:
    settings = {"learning_rate": 0.3, "num_layers": 2, "dropout": 0.1, "data": "a.txt"}
    swept = {"learning-rate": 0.3, "model": {"num_layers": 2}}
    facts = {"parameters": 1234, "device": "cpu"}
    more = {**facts, "threads": 2}
    config = seen.config({**settings, "data_sha256": "1f"}, more, swept, ["learning_rate"])
    about = {"version": __version__, **facts, "data_sha256": "1f", "swept": ["learning_rate"]}
    assert config == {"dropout": 0.1, "data": "a.txt", "fundamentallm": about}
    requeued = {**swept, **config, "_wandb": {}}
    assert read_config(requeued, "sweep") == {**settings, "data_sha256": "1f"}
    assert seen.config({**settings, "data_sha256": "1f"}, facts, requeued) == {}
    alone = seen.config(settings, {}, None)
    assert alone == {**settings, "fundamentallm": {"version": __version__}}


@pytest.mark.parametrize(
    ("tags", "status", "requeued", "ended"),
    [
        (["mine"], RunStatus.DONE, False, ("mine",)),
        (["mine"], RunStatus.INTERRUPTED, False, ("mine", "stopped")),
        (["mine"], RunStatus.INTERRUPTED, True, ("mine",)),
        (["stopped", "mine"], RunStatus.DONE, False, ("mine", "resumed")),
        (["resumed", "stopped"], RunStatus.INTERRUPTED, False, ("resumed", "stopped")),
        (["stopped"], RunStatus.DIVERGED, False, ("diverged",)),
        ([], RunStatus.IMPOSSIBLE, False, ("impossible",)),
    ],
)
def test_tags_say_how_a_run_ended(
    tags: list[str], status: str, requeued: bool, ended: tuple[str, ...]
) -> None:
    assert seen.end_tags(tags, status, requeued=requeued) == ended


def test_the_summary_ranks_runs_by_their_best_evaluation() -> None:
    rows = [
        {"step": 10, "train_loss": 3.0},
        {"step": 20, "val_loss": 1.5, "val_perplexity": 4.5, "best_val_loss": 1.5},
        {"step": 30, "val_loss": 2.0, "val_perplexity": 7.4, "best_val_loss": 1.5},
    ]
    summary = {"status": RunStatus.DONE, "val_loss": 2.0, "best_val_loss": 1.5, "step": 30}
    numbers = seen.summary_numbers(summary, rows)
    assert numbers == {
        "status": "done", "step": 30,
        "val_loss": 1.5, "val_perplexity": 4.5, "best_val_loss": 1.5, "last_val_loss": 2.0,
    }  # fmt: skip
    assert type(numbers["status"]) is str
    assert seen.summary_numbers({"status": "failed"}, []) == {"status": "failed"}


def test_the_model_says_what_it_is() -> None:
    summary = {"best_val_loss": 1.5, "best_step": 20, "parameters": 99, "vocabulary_size": 7}
    artifact, aliases = seen.model_artifact("ab1", {"seed": 0, "data_sha256": "1f"}, summary)
    assert (artifact["name"], artifact["type"]) == ("model-ab1", "model")
    assert artifact["metadata"] == {**summary, "version": __version__, "config": {"seed": 0}}
    assert aliases == ["best", "latest", "step-20"]


def test_only_divergence_raises_an_alert() -> None:
    why = {"stopped_by": "train_loss is nan at step 7", "step": 7}
    alert = seen.divergence_alert({"status": RunStatus.DIVERGED, **why})
    assert alert is not None
    assert alert["text"] == "train_loss is nan at step 7"
    assert len(alert["title"]) < 64
    assert seen.divergence_alert({"status": RunStatus.DONE, **why}) is None


ODD = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "a & b\n\n  c",
    "\r\n\0\x1b",
    "é\ud800",
]


@pytest.mark.parametrize("text", ["", *ODD])
def test_samples_are_escaped_and_read_back(text: str) -> None:
    samples = [(1200, Sample(text, 0.8, text[::-1])), (1200, Sample("x", 1.0, text))]
    page = seen.samples_page(samples)
    assert seen.samples_of_page(page) == samples
    page.encode()
    assert page.count("<script") == page.count("</script") == 1
    assert "alert(1)<" not in page
    shown = html.unescape(re.sub(r"<[^>]*>", "", page.partition("</mark>")[2]))
    assert text[::-1].encode("utf-8", "replace").decode() in shown
    assert "Step 1,200" in page
    assert "temperature 0.8" in page


NO_SAMPLES = ("", "3", "[[1]]", "[[1,2,{},3]]", "[[null,1,2,3]]", "[" * 99999, "[[1e999,1,1,1]]")


@pytest.mark.parametrize(
    "page",
    [
        "",
        "<h1>other</h1>",
        *(f'<script type="application/json" id="samples">{data}</script>' for data in NO_SAMPLES),
    ],
)
def test_other_pages_are_refused(page: str) -> None:
    with pytest.raises(ValueError, match="not a page of samples"):
        seen.samples_of_page(page)

"""Characters that the validation part alone has: not scored, and said wherever it matters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import Run
from tiny_sweep import grid

from fundamentallm.config.hyperparameters import Config
from fundamentallm.data import token_cache
from fundamentallm.data.dataset import prepare, scoring_windows
from fundamentallm.data.text import DataError, Text
from fundamentallm.data.unknown_characters import describe_unknown
from fundamentallm.model.transformer import Transformer
from fundamentallm.training.evaluate import score

CPU = torch.device("cpu")
LINE = (
    "curly.txt, validation part: 34 characters are unknown to the model, which never saw '\u2019' "
    "in training; val_loss leaves them out"
)


def with_curly(text: str) -> str:
    """The text with a curly apostrophe in every 40th place of its last tenth."""
    boundary = len(text) - round(len(text) * 0.1)
    last = list(text[boundary:])
    last[20::40] = ["\u2019"] * len(last[20::40])
    return text[:boundary] + "".join(last)


@pytest.fixture
def curly(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "curly.txt"
    path.write_text(with_curly(text), "utf-8")
    return path


def test_the_loss_is_the_mean_over_what_the_model_can_know(text: str, tiny: Config) -> None:
    data = prepare(Text.of(with_curly(text)), tiny)
    model = Transformer(len(data.vocabulary), tiny).eval()
    scored = score(model, data.val, data.val_characters, tiny, CPU)
    losses: list[torch.Tensor] = []
    for inputs, targets in scoring_windows(data.val, tiny.max_seq_len, 8):
        logits = model(inputs).detach().flatten(0, 1)
        each = F.cross_entropy(logits, targets.flatten(), reduction="none")
        losses.append(each[targets.flatten() != 0])
    known = torch.cat(losses)
    assert scored.tokens == len(known) == len(data.val) - 1 - data.unknown.total()
    assert scored.loss == pytest.approx(float(known.mean()), abs=1e-5)


def test_of_bytes_all_are_scored(text: str, tiny: Config) -> None:
    config = Config(**{**vars(tiny), "tokenizer": "byte"})
    data = prepare(Text.of(with_curly(text)), config)
    assert not data.unknown
    model = Transformer(256, config).eval()
    scored = score(model, data.val, data.val_characters, config, CPU)
    assert scored.tokens == len(data.val) - 1


def test_a_validation_part_of_nothing_known_is_refused(tiny: Config) -> None:
    text = Text.of("ab" * 450 + "xy" * 50, "strange.txt")
    message = "strange.txt: no character of the validation part occurs in the training part"
    with pytest.raises(DataError, match=message):
        prepare(text, tiny)
    bytes_ = Config(**{**vars(tiny), "tokenizer": "byte"})
    assert len(prepare(text, bytes_).val) == 100


def test_kept_tokens_tell_of_them_too(text: str, tiny: Config, tmp_path: Path) -> None:
    given = Text.of(with_curly(text), "curly.txt")
    first = prepare(given, tiny, cache=tmp_path)
    again = prepare(given, tiny, cache=tmp_path)
    assert first.unknown == again.unknown == {"\u2019": 34}
    assert again.warnings() == [LINE]
    (kept,) = tmp_path.glob("*.json")
    older = json.loads(kept.read_text())
    del older["facts"]["unknown"]  # as an older version kept it
    kept.write_text(json.dumps(older))
    assert prepare(given, tiny, cache=tmp_path).unknown == {"\u2019": 34}
    loaded = token_cache.load(tmp_path, kept.stem)
    assert loaded is not None
    assert loaded[1]["unknown"] == {"\u2019": 34}


def test_many_are_counted_and_some_shown() -> None:
    line = describe_unknown("x.txt", 1234, "abcdef")
    assert "1,234 characters are unknown" in line
    assert "'a', 'b', 'c', 'd', 'e', ... in training" in line
    assert "1 character is unknown" in describe_unknown("x.txt", 1, "\n")


def test_train_says_it_and_so_do_explain_and_the_report(
    run: Run, curly: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    done = run("train", "curly.txt", *tiny_flags, "--output-dir=out")
    assert f"warning: {LINE}\n" in done.stderr
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["unknown_characters"], summary["unknown_examples"]) == (34, "\u2019")
    assert LINE in " ".join(run("explain", "out").stderr.split())
    assert run("report", "out").returncode == 0
    assert "34 characters are unknown to the model" in (tmp_path / "out/report.html").read_text()
    scored = run("evaluate", "out", curly, "--json")
    assert f"{curly}: 34 characters are unknown" in scored.stderr
    assert "the loss leaves them out" in scored.stderr
    result = json.loads(scored.stdout)
    assert result["unknown_characters"] == 34
    assert result["tokens"] == len(curly.read_text("utf-8")) - 1 - 34


def test_without_them_nothing_is_said(
    run: Run, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    done = run("train", text_file, *tiny_flags, "--output-dir=out")
    assert "unknown" not in done.stderr
    assert "unknown" not in (tmp_path / "out/summary.json").read_text()
    assert "unknown" not in run("explain", "out").stderr


@pytest.mark.nightly
def test_check_sweep_and_find_say_it(run: Run, curly: Path, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(grid())
    for words in (
        ("check", "s.yaml", "curly.txt"),
        ("sweep", "s.yaml", "curly.txt", "--count=0"),
        ("find", "learning-rate", "curly.txt", "--model-dim=8", "--num-layers=1", "--num-heads=1"),
    ):
        assert LINE in run(*words).stderr, words
    bytes_ = run("check", "s.yaml", "curly.txt", "--", "--tokenizer=byte")
    assert "unknown" not in bytes_.stderr

"""Sampling and writing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.vocabulary import Vocabulary
from fundamentallm.model.sampling import Sampling, SamplingError, draw_tokens, generate
from fundamentallm.model.transformer import Transformer

LOGITS = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()


@pytest.fixture
def model(tiny: Config) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(11, tiny).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.4)
    return model


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({"temperature": 1}, [0.5, 0.25, 0.15, 0.1]),
        ({"temperature": 0}, [1, 0, 0, 0]),
        ({"temperature": 0.5}, [25 / 34.5, 6.25 / 34.5, 2.25 / 34.5, 1 / 34.5]),
        ({"temperature": 1, "top_k": 2}, [2 / 3, 1 / 3, 0, 0]),
        ({"temperature": 1, "top_k": 9}, [0.5, 0.25, 0.15, 0.1]),
        ({"temperature": 1, "top_p": 0.7}, [2 / 3, 1 / 3, 0, 0]),
        ({"temperature": 1, "top_p": 0.01}, [1, 0, 0, 0]),
        ({"temperature": 1, "top_k": 3, "top_p": 0.6}, [2 / 3, 1 / 3, 0, 0]),
    ],
)
def test_probabilities(sampling: dict[str, float], expected: list[float]) -> None:
    probabilities = Sampling(**sampling).probabilities(LOGITS)  # pyright: ignore
    assert probabilities.tolist() == pytest.approx(expected, abs=1e-5)


def test_of_equals_the_first_are_kept() -> None:
    kept = Sampling(top_p=0.25).probabilities(torch.zeros(32))
    assert kept.nonzero().flatten().tolist() == list(range(8))


@pytest.mark.parametrize(
    "sampling",
    [{"temperature": -1}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0}, {"top_p": 2}],
)
def test_refused(sampling: dict[str, float]) -> None:
    with pytest.raises(SamplingError, match="give"):
        Sampling(**sampling)  # pyright: ignore


@given(
    st.lists(st.floats(-50, 50), min_size=2, max_size=30),
    st.floats(0.01, 5),
    st.integers(0, 40),
    st.floats(0.01, 1),
)
def test_always_a_distribution(logits: list[float], heat: float, k: int, p: float) -> None:
    got = Sampling(temperature=heat, top_k=k, top_p=p).probabilities(torch.tensor(logits))
    assert float(got.sum()) == pytest.approx(1)
    assert logits[int(got.argmax())] == pytest.approx(max(logits))


def test_greedy_with_a_cache_is_greedy_without(model: Transformer) -> None:
    drawn = list(draw_tokens(model, [1, 2], Sampling(temperature=0), 14, 0))
    tokens = [1, 2]
    for _ in range(14):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    assert drawn == tokens[2:]


def test_the_window_slides(model: Transformer) -> None:
    prompt = [n % 11 for n in range(40)]
    drawn = list(draw_tokens(model, prompt, Sampling(temperature=0), 60, 0))
    assert len(drawn) == 60
    # The first token is drawn from the last whole context of the prompt, read afresh.
    assert drawn[0] == int(model(torch.tensor([prompt[-16:]]))[0, -1].argmax())
    # Then a quarter is dropped: 12 tokens, the newest among them.
    again = torch.tensor([[*prompt, drawn[0]][-12:]])
    assert drawn[1] == int(model(again)[0, -1].argmax())


def test_seeds_and_the_callers_generator(model: Transformer) -> None:
    vocabulary = Vocabulary.of("abcdefghij", "char")

    def write(seed: int) -> str:
        sampling = Sampling(temperature=1.0)
        return "".join(
            generate(model, vocabulary, "a", sampling=sampling, max_tokens=30, seed=seed)
        )

    state = torch.get_rng_state()
    assert write(1) == write(1) != write(2)
    assert torch.equal(state, torch.get_rng_state())
    assert "\ufffd" not in write(1)
    assert len(write(1)) == 30


def test_stop_ends_before_its_first_occurrence(model: Transformer) -> None:
    vocabulary = Vocabulary.of("abcdefghij", "char")
    settings = {"sampling": Sampling(temperature=1.0), "max_tokens": 60, "seed": 3}
    whole = "".join(generate(model, vocabulary, "a", **settings))  # pyright: ignore
    stop = whole[20:23]
    pieces = list(generate(model, vocabulary, "a", **settings, stop=stop))  # pyright: ignore
    assert "".join(pieces) == whole[: whole.index(stop)]
    pieces = generate(model, vocabulary, "a", **settings, stop="never!")  # pyright: ignore
    assert "".join(pieces) == whole

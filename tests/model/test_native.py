"""kernels.c gives what torch gives, never depends on threads, and is never needed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import need_kernels
from torch import Tensor

from fundamentallm.model.attention import (
    attend,
    attend_with_torch,
    rotate,
    rotations,
    suits_kernel,
)
from fundamentallm.model.linear import mlp, project
from fundamentallm.model.linear import suits_kernel as suits_projection
from fundamentallm.model.norm import norm, swiglu
from fundamentallm.training.optimizer import orthogonalize, orthogonalize_with_torch

SHAPES = [
    (3, 37, 2, 8),
    (2, 64, 3, 16),
    (1, 1, 1, 16),
    (2, 101, 2, 32),
    (1, 33, 2, 64),
    (1, 1030, 1, 64),
]


@pytest.fixture(autouse=True)
def built() -> None:
    """Every test here is of the kernels; without a compiler there is nothing to test."""
    need_kernels()


def by_torch(qkv: Tensor, rotation: Tensor) -> Tensor:
    query, key, value = qkv.unbind(2)
    return attend_with_torch(rotate(query, rotation), rotate(key, rotation), value)


def check_same(ours: Callable, theirs: Callable, x: Tensor, *others: Tensor) -> None:
    """Forward and backward, against torch in float64."""
    x = x.requires_grad_()
    exact = x.detach().double().requires_grad_()
    y, wanted = ours(x, *others), theirs(exact, *(each.double() for each in others))
    dy = torch.randn_like(y)
    y.backward(dy)
    wanted.backward(dy.double())
    torch.testing.assert_close(y.double(), wanted, rtol=1e-4, atol=1e-4)
    assert x.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1.0, 4.0])
def test_attention(shape: tuple[int, ...], size: float) -> None:
    torch.manual_seed(0)
    batch, length, heads, width = shape
    qkv = size * torch.randn(batch, length, 3, heads, width)
    assert suits_kernel(qkv)
    check_same(attend, by_torch, qkv, rotations(length, width))


def test_attention_of_huge_scores_is_finite() -> None:
    qkv = (200 * torch.randn(1, 20, 3, 2, 16)).requires_grad_()
    y = attend(qkv, rotations(20, 16))
    y.sum().backward()
    assert qkv.grad is not None
    assert y.isfinite().all()
    assert qkv.grad.isfinite().all()


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_attention_hides_no_divergence(odd: float) -> None:
    qkv = torch.randn(1, 20, 3, 2, 16)
    qkv[0, 7, 1, 1, 3] = odd  # a key of the second head
    y = attend(qkv, rotations(20, 16))
    assert y[:, :7].isfinite().all()
    assert y[:, :, 0].isfinite().all()
    assert not y[0, 7:, 1].isfinite().any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_attention_in_other_precisions(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(2, 20, 3, 2, 16, dtype=dtype)
    y = attend(qkv, rotations(20, 16).to(dtype))
    assert y.dtype == dtype
    exact = by_torch(qkv.double(), rotations(20, 16).double())
    wrong = 1e-6 if dtype == torch.float64 else 0.05
    torch.testing.assert_close(y.double(), exact, rtol=wrong, atol=wrong)
    with pytest.raises(ValueError, match="20 tokens and 19 positions"):
        attend(qkv, rotations(19, 16))


@pytest.mark.parametrize("width", [1, 7, 16, 128, 131])
def test_norm(width: int) -> None:
    torch.manual_seed(0)
    epsilon = torch.finfo(torch.float32).eps
    check_same(norm, lambda x: F.rms_norm(x, (width,), eps=epsilon), torch.randn(3, 5, width))


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("onto", [False, True])
@pytest.mark.parametrize(
    "shape",  # tokens, numbers in, numbers out
    [(64, 1, 1), (65, 7, 9), (1000, 16, 24), (129, 131, 65), (70, 520, 33), (257, 40, 100)],
)
def test_projection(shape: tuple[int, int, int], onto: bool, normed: bool) -> None:
    torch.manual_seed(0)
    tokens, width, out = shape
    parts = [n for n in (out // 2, out - out // 2) if n]
    weights = [torch.randn(n, width) / width**0.5 for n in parts]
    streams = [torch.randn(1, tokens, out)] if onto else []
    x = 3 * torch.randn(1, tokens, width)
    assert suits_projection(x, *weights)

    def of(x: Tensor, *rest: Tensor) -> Tensor:
        base = rest[0] if streams else None
        return project(x, *rest[len(streams) :], normed=normed, onto=base)

    check_all_same(of, x, *streams, *weights)


@pytest.mark.parametrize(
    "shape",  # tokens, width, hidden width
    [(64, 1, 1), (65, 7, 9), (1000, 16, 40), (129, 131, 65), (70, 33, 520)],
)
def test_mlp(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    tokens, width, hidden = shape
    gate, up = 3 * torch.randn(2, hidden, width) / width**0.5
    out = torch.randn(width, hidden) / hidden**0.5
    x = 3 * torch.randn(1, tokens, width)
    assert suits_projection(x, gate, up, out)
    check_all_same(mlp, x, gate, up, out)


def test_mlp_drops_what_a_projection_drops() -> None:
    torch.manual_seed(0)
    x, gate, up, out = (torch.randn(s) for s in ((90, 24), (40, 24), (40, 24), (24, 40)))

    def outcome(function: Callable) -> list[Tensor]:
        inputs = [each.clone().requires_grad_() for each in (x, gate, up, out)]
        torch.manual_seed(1)
        y = function(*inputs)
        y.square().sum().backward()
        return [y.detach(), *(each.grad for each in inputs if each.grad is not None)]

    def in_two(x: Tensor, gate: Tensor, up: Tensor, out: Tensor) -> Tensor:
        return project(swiglu(project(x, gate, up, normed=True)), out, onto=x, dropout=0.3)

    for one, two in zip(outcome(partial(mlp, dropout=0.3)), outcome(in_two), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4 * float(two.abs().max()))


def check_all_same(function: Callable, *inputs: Tensor) -> None:
    """Compare result and gradients: kernels.c in float32, torch in float64."""
    ours = [each.clone().requires_grad_() for each in inputs]
    exact = [each.double().requires_grad_() for each in inputs]
    y, wanted = function(*ours), function(*exact)
    dy = torch.randn_like(y)
    y.backward(dy)
    wanted.backward(dy.double())
    torch.testing.assert_close(y.double(), wanted, rtol=1e-4, atol=1e-4)
    for one, other in zip(ours, exact, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        scale = max(1.0, float(other.grad.abs().max()))
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=1e-4, atol=1e-5 * scale)


def test_projection_drops_the_product_alone() -> None:
    torch.manual_seed(0)
    x, stream = torch.randn(3, 50, 12).requires_grad_(), torch.randn(3, 50, 20).requires_grad_()
    weight = torch.randn(20, 12).requires_grad_()
    product = x @ weight.T
    y = project(x, weight, onto=stream, dropout=0.25)
    kept = (y - stream) / product  # 0, or what keeps the mean
    dropped = kept.abs() < 1e-3
    assert float(dropped.double().mean()) == pytest.approx(0.25, abs=5 * (0.1875 / 3000) ** 0.5)
    torch.testing.assert_close(
        kept[~dropped], torch.full_like(kept[~dropped], 4 / 3), rtol=1e-3, atol=0
    )
    dy = torch.randn_like(y)
    y.backward(dy)
    passed = torch.where(dropped, 0, dy * 4 / 3).detach()
    assert x.grad is not None
    assert weight.grad is not None
    assert stream.grad is not None
    assert torch.equal(stream.grad, dy)
    torch.testing.assert_close(x.grad, (passed @ weight).detach())
    torch.testing.assert_close(weight.grad, (passed.flatten(0, 1).T @ x.flatten(0, 1)).detach())


def test_shapes_that_do_not_fit_are_refused() -> None:
    """Kernels.c would write where it must not."""
    x, weight = torch.randn(100, 16), torch.randn(32, 16)
    for wrong in (weight[:, :8], weight[:0]):
        with pytest.raises(ValueError, match="cannot multiply"):
            project(x, wrong)
    with pytest.raises(ValueError, match="onto is"):
        project(x, weight, onto=x)
    with pytest.raises(ValueError, match="one shape"):
        mlp(x, weight, weight, weight)
    stream = torch.randn(100, 32, dtype=torch.float64)
    torch.testing.assert_close(project(x, weight, onto=stream), stream + x @ weight.T)


def test_products_under_autocast_are_in_half() -> None:
    x, weight = torch.randn(100, 16), torch.randn(32, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert project(x, weight).dtype == torch.bfloat16


def test_few_tokens_and_many_agree() -> None:
    torch.manual_seed(0)
    x, weight, out = torch.randn(200, 24), torch.randn(40, 24), torch.randn(24, 40)
    for function in (partial(project, normed=True), lambda x, w: mlp(x, w, w, out)):
        few = torch.cat([function(part, weight) for part in x.split(10)])
        torch.testing.assert_close(function(x, weight), few, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_products_hide_no_divergence(odd: float) -> None:
    x = torch.randn(100, 16)
    weights = torch.randn(32, 16), torch.randn(32, 16), torch.randn(16, 32)
    x[77, 5] = odd
    for y in (project(x, weights[0]), project(x, weights[0], normed=True), mlp(x, *weights)):
        assert not y[77].isfinite().any()
        assert y[:77].isfinite().all()
        assert y[78:].isfinite().all()


@pytest.mark.parametrize(
    "shape", [(3, 1, 1), (2, 3, 5), (2, 16, 16), (1, 40, 33), (2, 128, 344), (2, 344, 128)]
)
def test_orthogonalize(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape) * torch.rand(shape[-1]) ** 4  # some columns are all but 0
    matrices[0, 0] = 0
    exact = orthogonalize_with_torch(matrices.double(), torch.float64)
    result = orthogonalize(matrices)
    torch.testing.assert_close(result.double(), exact, rtol=1e-3, atol=3e-4)
    assert torch.equal(orthogonalize(matrices.mT), orthogonalize(matrices.mT.contiguous()))


def test_orthogonalize_hides_no_divergence() -> None:
    matrices = torch.randn(3, 20, 10)
    matrices[1, 4, 5] = float("nan")
    result = orthogonalize(matrices)
    assert result[[0, 2]].isfinite().all()
    assert not result[1].isfinite().any()


def test_results_do_not_depend_on_threads() -> None:
    torch.manual_seed(0)
    qkv, x, weight = torch.randn(4, 50, 3, 2, 16), torch.randn(900, 64), torch.randn(64, 64)
    matrices = torch.randn(5, 24, 40)

    def outcome(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        torch.manual_seed(1)
        given = (qkv, x, x, x, weight, weight.T.contiguous())
        inputs = [each.clone().requires_grad_() for each in given]
        outputs = [attend(inputs[0], rotations(50, 16)), norm(inputs[1])]
        outputs.append(project(inputs[2], inputs[4], normed=True, onto=inputs[3], dropout=0.2))
        outputs.append(mlp(inputs[2], inputs[4], inputs[4], inputs[5], 0.2))
        for y in outputs:
            y.square().sum().backward()
        outputs.append(orthogonalize(matrices))
        return [*outputs, *(each.grad for each in inputs if each.grad is not None)]

    before = torch.get_num_threads()
    try:
        one = outcome(1)
        # A race shows now and then alone.
        others = [outcome(threads) for threads in (2, 3, 5) for _ in range(8)]
    finally:
        torch.set_num_threads(before)
    assert len(one) == 11
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def found_in(folder: Path, **environment: str) -> str:
    """Return whether a new process finds kernels, with its cache in `folder`, and its output."""
    code = "from fundamentallm.model.native import kernels as k; k(); print(k() is not None)"
    own = {**os.environ, "XDG_CACHE_HOME": str(folder), **environment}
    done = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return (done.stdout + done.stderr).strip()


def failing_compiler(folder: Path, script: str) -> str:
    """A PATH on which there is only a gcc that is a script."""
    compiler = folder / "gcc"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    return str(folder)


def test_they_are_never_needed(tmp_path: Path) -> None:
    assert found_in(tmp_path, PATH="") == "False"
    assert found_in(tmp_path, FUNDAMENTALLM_KERNELS="0") == "False"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'In file x.c:' >&2; echo 'x.c:3: error: no such thing' >&2; exit 1", "x.c:3: error"),
        ("echo 'cannot find -lm' >&2; exit 1", "cannot find -lm"),
        ("exit 3", "exit code 3"),
        ("kill -KILL $$", "was killed by signal 9"),
    ],
)
def test_why_they_could_not_be_built_is_said_in_one_line(
    tmp_path: Path, script: str, reason: str
) -> None:
    path = failing_compiler(tmp_path, script)
    for _ in range(2):  # also where it is only remembered
        said = found_in(tmp_path, PATH=path).splitlines()
        assert said[0] == "False"
        assert len(said) == 2
        assert f"{path}/gcc" in said[1]
        assert reason in said[1]


def test_where_they_cannot_be_kept_is_said_in_one_line(
    tmp_path: Path, ordinary_user: list[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "closed").mkdir(mode=0o500)
    code = "from fundamentallm.model.native import kernels as k; k(); print(k() is not None)"
    for folder in ("file", "closed"):
        own = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / folder)}
        done = subprocess.run(
            [*ordinary_user, sys.executable, "-c", code], env=own, capture_output=True, text=True
        )
        assert done.stdout == "False\n"
        assert done.stderr.count("\n") == 1
        assert f"could not be built: {tmp_path / folder}" in done.stderr


def test_a_failed_build_is_not_tried_again(tmp_path: Path) -> None:
    path = failing_compiler(tmp_path, f"echo once >> {tmp_path}/tries\nexit 1")
    for _ in range(2):
        assert found_in(tmp_path, PATH=path).startswith("False\n")
    assert (tmp_path / "tries").read_text() == "once\n"
    for marker in tmp_path.rglob("*.failed"):
        os.utime(marker, (0, 0))  # long ago
    assert found_in(tmp_path, PATH=path).startswith("False\n")
    assert (tmp_path / "tries").read_text() == "once\n" * 2


def test_a_compiler_that_was_killed_is_tried_again(tmp_path: Path) -> None:
    path = failing_compiler(tmp_path, f"echo once >> {tmp_path}/tries\nkill -INT $$")
    for tries in (1, 2):
        assert found_in(tmp_path, PATH=path).startswith("False\n")
        assert (tmp_path / "tries").read_text() == "once\n" * tries


def test_the_umask_does_not_matter(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        assert found_in(tmp_path) == "True"
    finally:
        os.umask(before)


def test_a_library_that_others_can_write_is_not_run(tmp_path: Path) -> None:
    assert found_in(tmp_path) == "True"
    (library,) = (tmp_path / "fundamentallm/kernels").glob("*.so")
    library.chmod(0o666)
    assert "can be written by others; remove it" in found_in(tmp_path)
    library.chmod(0o644)
    assert found_in(tmp_path) == "True"

"""Muon for the matrices inside the layers, AdamW for the embedding and the head."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from fundamentallm.hyperparameters import Config
from fundamentallm.model import Transformer

MOMENTUM = 0.95
MEMORY = 0.95  # of how large each row's steps are
# Each family's step is scaled so that the best `learning_rate` lies near 1e-3, well inside
# the documented range (docs/experiments.md has the sweep).
MUON_SCALE = 20.0
ADAMW_SCALE = 3.0
# Odd quintics x -> a x + b x^3 + c x^5, one after another, that bring every singular value in
# [0.003, 1] to between 0.8 and 1.2. Each is the one whose greatest distance from 1 over what the
# one before leaves is least, the idea of Amsel et al., "The Polar Express", 2025; the numbers are
# ours (tests/test_model.py finds them again). Four learn as well as five of one fixed quintic
# (Keller Jordan, "Muon", 2024) and cost a fifth less; three learn less (docs/experiments.md).
QUINTICS = (
    (8.3837, -24.7659, 18.3571),
    (4.0434, -3.0114, 0.5695),
    (3.5056, -2.6267, 0.5257),
    (2.4901, -1.8343, 0.4368),
)


TINY = 1e-7
CUSHION = 1.02
"""In bfloat16 rounding may lift a singular value above the interval that a quintic is made for,
where it grows without bound: a matrix of rank 1 came to 10^8. Each then maps a little more."""


def orthogonalise(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The nearest (nearly) orthogonal matrix to each of `matrices`, shape (..., R, C), in `dtype`.

    Singular values above 0.003 of a matrix's norm (0.004 in bfloat16) end between 0.8 and 1.2
    (0.75 and 1.25), which is all that an update needs.
    """
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices  # the short side first: the products are smaller
    cushion = CUSHION if dtype == torch.bfloat16 else 1.0
    x = (x / (cushion * x.norm(dim=(-2, -1), keepdim=True) + TINY)).to(dtype)
    for a, b, c in QUINTICS:
        gram = x @ x.mT
        gram = torch.baddbmm(gram, gram, gram, beta=b / cushion**3, alpha=c / cushion**5)
        x = torch.baddbmm(x, gram, x, beta=a / cushion)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose step is orthogonalised, so that every direction of a matrix moves alike.

    Then its rows are evened out, so that every output moves alike too. The step of an (out, in)
    matrix is as long as `lr * sqrt(max(1, out / in))` times an orthogonal matrix, which lets one
    learning rate serve every width; weight decay is decoupled, as in AdamW. Matrices of one shape
    are orthogonalised in one batch, in `dtype`.

    Sources: Keller Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024; of the
    rows: Li et al., "NorMuon", 2025.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        *,
        lr: Tensor,
        weight_decay: float,
        dtype: torch.dtype,
        capturable: bool,
    ) -> None:
        # Torch asks of every optimizer in a recorded step whether it is `capturable`.
        defaults = {"lr": lr, "weight_decay": weight_decay, "capturable": capturable}
        super().__init__(matrices, defaults)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape[matrix.shape].append(matrix)
            kept = 1 - group["lr"] * group["weight_decay"]
            for (rows, columns), matrices in by_shape.items():
                steps = orthogonalise(
                    torch.stack([self._momentum(m) for m in matrices]), self.dtype
                )
                length = group["lr"] * max(1.0, rows / columns) ** 0.5
                steps *= length * self._factors(steps, matrices)
                for matrix, step in zip(matrices, steps, strict=True):
                    matrix.mul_(kept).sub_(step)

    def _momentum(self, matrix: nn.Parameter) -> Tensor:
        """Add the gradient to the running mean and look one step ahead (Nesterov)."""
        assert matrix.grad is not None
        state = self.state[matrix]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(matrix)
        mean = state["momentum"].lerp_(matrix.grad, 1 - MOMENTUM)
        return matrix.grad.lerp(mean, MOMENTUM)

    def _factors(self, steps: Tensor, matrices: list[nn.Parameter]) -> Tensor:
        """What evens out the rows of `steps`, (N, out, in): numbers to multiply by, (N, out, 1).

        Each row is divided by how large its steps have been of late; the matrix's step as a whole
        is as long as before.
        """
        squares = torch.linalg.vector_norm(steps, dim=-1, keepdim=True).square()
        recent = squares.clone()
        for matrix, square in zip(matrices, recent, strict=True):
            state = self.state[matrix]
            if "rows" not in state:  # 0 is as good as a mean: only the rows' ratios count
                state["rows"] = torch.zeros_like(square)
            square.copy_(state["rows"].lerp_(square, 1 - MEMORY))
        factors = 1 / (recent.sqrt() + TINY)
        after = (squares * factors.square()).sum(-2, keepdim=True)
        return factors * (squares.sum(-2, keepdim=True) / (after + TINY)).sqrt()


class Optimizers:
    """Both optimizers of a model, driven as one by the learning rate of the schedule.

    Their learning rates are tensors on the model's device, so that a step can be recorded and done
    again with others (graphs.py).
    """

    def __init__(self, model: Transformer, config: Config, precision: torch.dtype) -> None:
        """Of `model`, in whose `precision` Muon's own products are computed too, if bfloat16."""
        matrices = [p for p in model.layers.parameters() if p.ndim == 2]
        inside = set(matrices)
        rest = [p for p in model.parameters() if p not in inside]
        device = model.head.weight.device
        capturable = device.type == "cuda"
        self.scales = (MUON_SCALE, ADAMW_SCALE)
        self.rates = [torch.tensor(config.learning_rate * s, device=device) for s in self.scales]
        self.parts = (
            Muon(
                matrices,
                lr=self.rates[0],
                weight_decay=config.weight_decay,
                dtype=torch.bfloat16 if precision == torch.bfloat16 else torch.float32,
                capturable=capturable,
            ),
            torch.optim.AdamW(
                rest,
                lr=self.rates[1],
                betas=(0.9, config.beta2),
                weight_decay=0.0,  # embeddings of rare characters would fade between their visits
                fused=True,
                capturable=capturable,
            ),
        )

    def set_learning_rate(self, learning_rate: float) -> None:
        """Give both parts `learning_rate`, each times its own scale."""
        for rate, scale in zip(self.rates, self.scales, strict=True):
            rate.fill_(learning_rate * scale)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """All that a resumed run needs."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Continue from `state_dict`, also of another device."""
        for part, state, rate in zip(self.parts, states, self.rates, strict=True):
            ours = part.state_dict()["param_groups"]
            part.load_state_dict({**state, "param_groups": ours})
            for group in part.param_groups:
                group["lr"] = rate  # not torch's copy of it

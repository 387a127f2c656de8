"""Optimizers: Muon for the matrices inside the layers, Adam for the embedding and the head."""

from __future__ import annotations

from collections import defaultdict
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from fundamentallm.config.hyperparameters import Config
from fundamentallm.model.native import call, usable_for
from fundamentallm.model.transformer import Transformer
from fundamentallm.training.stored_tensors import StoredTensorError, check_same

MOMENTUM = 0.95
EMA_DECAY = 0.95  # of how large each row's steps are
# Each family's step is scaled so that the best `learning_rate` lies near 1e-3, well inside
# the documented range (docs/dev/experiments.md has the sweep).
MUON_SCALE = 20.0
ADAM_SCALE = 3.0
# Odd quintics x -> a x + b x^3 + c x^5, applied in turn, map every singular value in [0.003, 1] to
# between 0.8 and 1.2. Each minimizes the greatest distance from 1 over the range of the previous
# one, an idea of Amsel et al., "The Polar Express", 2025; test_optimizer.py computes the numbers
# again. Four learn as well as five of one fixed quintic (Keller Jordan, "Muon", 2024) and cost a
# fifth less; three learn less (docs/dev/experiments.md).
QUINTICS = (
    (8.3837, -24.7659, 18.3571),
    (4.0434, -3.0114, 0.5695),
    (3.5056, -2.6267, 0.5257),
    (2.4901, -1.8343, 0.4368),
)


TINY = 1e-7
CUSHION = 1.02
"""Widen each quintic's interval in bfloat16, where rounding may lift a singular value above it.
Beyond the interval values grow without bound: a matrix of rank 1 reached 10^8."""


def orthogonalize(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the nearest orthogonal matrix, nearly, to each of `matrices`, (..., R, C).

    Singular values above 0.003 of a matrix's norm (0.004 in bfloat16) end between 0.8 and 1.2
    (0.75 and 1.25), which is precise enough for an update. Products are computed in `dtype`.
    """
    if dtype != torch.float32 or not usable_for(matrices):
        return orthogonalize_with_torch(matrices, dtype)
    *several, rows, columns = matrices.shape
    result = torch.empty_like(matrices, memory_format=torch.contiguous_format)
    quintics = torch.tensor(QUINTICS)
    call("orthogonalize", matrices.contiguous(), result, quintics, len(quintics), TINY,
         prod(several), rows, columns)  # fmt: skip
    return result


def orthogonalize_with_torch(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Orthogonalize (..., R, C) by products of whole matrices, on any device in any precision."""
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices  # the short side first: the products are smaller
    cushion = CUSHION if dtype == torch.bfloat16 else 1.0
    x = (x / (cushion * x.norm(dim=(-2, -1), keepdim=True) + TINY)).to(dtype)
    for a, b, c in QUINTICS:
        gram = x @ x.mT
        gram = torch.baddbmm(gram, gram, gram, beta=b / cushion**3, alpha=c / cushion**5)
        x = torch.baddbmm(x, gram, x, beta=a / cushion)
    return (x.mT if tall else x).to(matrices.dtype)


class Part:
    """Parameters of one optimizer, each with a state of tensors.

    Torch's base class is not used: creating one imports torch's compiler, which takes as long as
    importing torch itself.
    """

    def __init__(self, parameters: list[nn.Parameter], lr: Tensor) -> None:
        """Set the parameters; `lr`, shape (), is the learning rate of the next step."""
        self.parameters, self.lr = parameters, lr
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {p: {} for p in parameters}

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, by parameter number as torch lays it out."""
        return {"state": dict(enumerate(self.state.values()))}

    def new_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return a parameter's state before its first step, by name; each optimizer has its own."""
        raise NotImplementedError

    def load_state_dict(self, saved: object) -> None:
        """Restore a `state_dict`, also from another device.

        Raises:
            StoredTensorError: It does not fit these parameters.
        """
        states = saved.get("state") if isinstance(saved, dict) else None
        if not isinstance(states, dict) or not set(states) <= set(range(len(self.parameters))):
            raise StoredTensorError("optimizer: other tensors than this version's model has")
        for number, parameter in enumerate(self.parameters):
            state = states.get(number, {})
            new = self.new_state(parameter) if state else {}  # older versions stored fewer names
            if isinstance(state, dict):
                state = new | state
            check_same(state, new, "optimizer")
            self.state[parameter] = {
                name: value.to(parameter.device, copy=True) for name, value in state.items()
            }


class Muon(Part):
    """Momentum with orthogonalized steps, so that every direction of a matrix moves equally.

    Its rows are then normalized, so that every output moves equally too. The step of an (out, in)
    matrix is as long as `lr * sqrt(max(1, out / in))` times an orthogonal matrix, so one learning
    rate fits every width. Weight decay is decoupled, as in AdamW. Matrices of the same shape are
    orthogonalized in one batch, in `dtype`.

    Sources: Keller Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024; for
    the rows: Li et al., "NorMuon", 2025.
    """

    def __init__(
        self, matrices: list[nn.Parameter], *, lr: Tensor, weight_decay: float, dtype: torch.dtype
    ) -> None:
        super().__init__(matrices, lr)
        self.weight_decay, self.dtype = weight_decay, dtype

    def new_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return the mean gradient, (out, in), and the size of each row's steps, (out, 1).

        Sizes may start at 0, since only ratios between rows count.
        """
        rows = parameter.new_zeros(len(parameter), 1)
        return {"momentum": torch.zeros_like(parameter), "rows": rows}

    @torch.no_grad()
    def step(self) -> None:
        """Update every matrix that has a gradient."""
        by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for matrix in self.parameters:
            if matrix.grad is not None:
                by_shape[matrix.shape].append(matrix)
        kept = 1 - self.lr * self.weight_decay
        for (rows, columns), matrices in by_shape.items():
            steps = orthogonalize(torch.stack([self._momentum(m) for m in matrices]), self.dtype)
            length = self.lr * max(1.0, rows / columns) ** 0.5
            steps *= length * self._factors(steps, matrices)
            for matrix, step in zip(matrices, steps, strict=True):
                matrix.mul_(kept).sub_(step)

    def _momentum(self, matrix: nn.Parameter) -> Tensor:
        """Add the gradient to the running mean; return it one step ahead (Nesterov)."""
        assert matrix.grad is not None
        if not self.state[matrix]:
            self.state[matrix] = self.new_state(matrix)
        mean = self.state[matrix]["momentum"].lerp_(matrix.grad, 1 - MOMENTUM)
        return matrix.grad.lerp(mean, MOMENTUM)

    def _factors(self, steps: Tensor, matrices: list[nn.Parameter]) -> Tensor:
        """Return factors, (N, out, 1), that normalize the rows of `steps`, (N, out, in).

        Each row is divided by its recent step size; the length of the matrix's step is unchanged.
        """
        squares = torch.linalg.vector_norm(steps, dim=-1, keepdim=True).square()
        recent = squares.clone()
        for matrix, square in zip(matrices, recent, strict=True):
            square.copy_(self.state[matrix]["rows"].lerp_(square, 1 - EMA_DECAY))
        factors = 1 / (recent.sqrt() + TINY)
        after = (squares * factors.square()).sum(-2, keepdim=True)
        return factors * (squares.sum(-2, keepdim=True) / (after + TINY)).sqrt()


class Adam(Part):
    """Torch's Adam in one pass over memory.

    Source: Kingma and Ba, "Adam: A method for stochastic optimization", 2015.
    """

    def __init__(self, parameters: list[nn.Parameter], *, lr: Tensor, beta2: float) -> None:
        """Set the parameters; `lr`, shape (), as in `Part`."""
        super().__init__(parameters, lr)
        self.beta2 = beta2

    def new_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return the step count, (), and means of the gradient and of its square."""
        means = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        return {"step": torch.zeros((), device=parameter.device), **means}

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        moved = [parameter for parameter in self.parameters if parameter.grad is not None]
        for parameter in moved:
            if not self.state[parameter]:
                self.state[parameter] = self.new_state(parameter)
        states = [self.state[parameter] for parameter in moved]
        adam(
            list(moved),
            [parameter.grad for parameter in moved if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=self.beta2,
            lr=self.lr,
            weight_decay=0.0,  # embeddings of rare characters would decay
            eps=1e-8,
            maximize=False,
        )


class Optimizers:
    """Both optimizers of a model, with one learning rate from the schedule.

    Torch's GradScaler sees one optimizer too: a gradient that overflows anywhere skips the whole
    step. Learning rates are tensors on the model's device, so that a recorded step can be replayed
    with others (cuda_graphs.py).
    """

    def __init__(self, model: Transformer, config: Config, precision: torch.dtype) -> None:
        """Create the optimizers of `model`; Muon computes in bfloat16 if `precision` is."""
        matrices = [p for p in model.layers.parameters() if p.ndim == 2]
        inside = set(matrices)
        rest = [p for p in model.parameters() if p not in inside]
        device = model.head.weight.device
        self.scales = (MUON_SCALE, ADAM_SCALE)
        rates = [torch.tensor(config.learning_rate * s, device=device) for s in self.scales]
        dtype = torch.bfloat16 if precision == torch.bfloat16 else torch.float32
        self.parts = (
            Muon(matrices, lr=rates[0], weight_decay=config.weight_decay, dtype=dtype),
            Adam(rest, lr=rates[1], beta2=config.beta2),
        )
        self.param_groups = [{"params": part.parameters} for part in self.parts]  # for the scaler

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of both parts, each times its own scale."""
        for part, scale in zip(self.parts, self.scales, strict=True):
            part.lr.fill_(learning_rate * scale)

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the state that a resumed run needs."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: object) -> None:
        """Restore a `state_dict`, also from another device.

        Raises:
            StoredTensorError: It does not fit this model.
        """
        if not isinstance(states, list) or len(states) != len(self.parts):
            raise StoredTensorError("optimizer: other tensors than this version's model has")
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)

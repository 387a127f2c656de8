"""Train step: one update of a model's weights from one batch of sequences."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fundamentallm.config.hyperparameters import Config
from fundamentallm.errors import FundamentallmError, one_line
from fundamentallm.exit_codes import FAILED
from fundamentallm.machine.device import autocast, free_memory_gb, is_out_of_memory, precision
from fundamentallm.model.size import parameter_count
from fundamentallm.model.transformer import Transformer
from fundamentallm.training.cuda_graphs import GraphedUpdate, Update
from fundamentallm.training.isolation import check_random_state, random_state, set_random_state
from fundamentallm.training.optimizer import Optimizers
from fundamentallm.training.plan import sequences_at_once
from fundamentallm.training.stored_tensors import StoredTensorError, check_same, shapes_only

LOG = logging.getLogger(__name__)

HALVINGS = 3
COMPILERS = ("torch._dynamo", "torch._inductor")


class OutOfMemoryError(FundamentallmError):
    """A step does not fit this machine, even in small parts."""

    exit_code = FAILED


class CompilingError(FundamentallmError):
    """The model cannot be compiled here, and the user asked for it."""

    exit_code = FAILED


def with_advice(error: BaseException) -> BaseException:
    """Return the error, or an OutOfMemoryError with advice if memory ran out."""
    if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
        return error
    return OutOfMemoryError(
        "memory ran out; give a smaller --batch-size, --max-seq-len or --model-dim"
    )


def check_fits(config: Config, vocab_size: int, device: torch.device) -> None:
    """Check that free memory holds weights, gradients and optimizer state.

    Called before anything is written: a system short of memory may kill the process silently.

    Raises:
        OutOfMemoryError: They do not fit.
    """
    need, free = 12e-9 * parameter_count(config, vocab_size), free_memory_gb(device)
    if need > free:
        raise OutOfMemoryError(
            f"the model does not fit: it needs {need:,.0f} GB and {free:.1f} are free; give a "
            "smaller --model-dim or fewer --num-layers"
        )


class TrainStep:
    """A model and its optimizers, on one device."""

    def __init__(
        self, vocab_size: int, config: Config, device: torch.device, *, compiled: bool = False
    ) -> None:
        """Create a model on `device`, compiled by torch.compile if `compiled`.

        Raises:
            OutOfMemoryError: The model alone does not fit this machine.
        """
        check_fits(config, vocab_size, device)
        self.config = config
        self.device = device
        torch.manual_seed(
            config.seed
        )  # weights are drawn on the CPU, so they are the same on every device
        try:
            self.model = Transformer(vocab_size, config).to(device)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                "the model does not fit; give a smaller --model-dim or fewer --num-layers"
            ) from None
        self.compiled = compiled
        self.forward: Callable[[Tensor], Tensor] = self.model
        if compiled:
            self.forward = torch.compile(self.model)  # pyright: ignore[reportAttributeAccessIssue]
        self.at_once = sequences_at_once(config, on_cpu=device.type == "cpu")
        self.halvings = 0
        self.updating = False
        """True if the current step may have changed the weights."""
        self.precision = precision(device, config.mixed_precision)
        self.optimizers = Optimizers(self.model, config, self.precision)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == torch.float16)
        self.update: Update = self._update_for_device()

    def _update_for_device(self) -> Update:
        # A compiled model needs few launches; a scaler decides in Python whether to step.
        plain = self.compiled or self.scaler.is_enabled() or self.device.type != "cuda"
        return self._update if plain else GraphedUpdate(self._update)

    def step(self, windows: Tensor, learning_rate: float) -> tuple[Tensor, Tensor]:
        """Update the weights once; return the loss and the gradient norm before clipping.

        `windows`, (N, max_seq_len + 1), holds `gradient_accumulation` batches. Their gradients
        are averaged, so the update is that of one large batch. Both results stay on the device,
        and nothing here waits for it. If memory runs out, the batch is processed in smaller parts,
        halved up to three times.

        Raises:
            OutOfMemoryError: The smallest parts do not fit.
            CompilingError: The model cannot be compiled, and the user asked for it.
        """
        while True:
            self.updating = False
            try:
                self.optimizers.set_learning_rate(learning_rate)
                return self.update(self._to_device(windows))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    if not self._continues_uncompiled(error):
                        raise
                    continue
                if self.updating:
                    raise OutOfMemoryError(
                        "the optimizers' state does not fit into memory; give a smaller "
                        "--model-dim or fewer --num-layers"
                    ) from None
                if self.halvings == HALVINGS or self.at_once == 1:
                    raise OutOfMemoryError(
                        f"{self.at_once} sequences at a time do not fit into memory; give a "
                        "smaller --batch-size, --max-seq-len or --model-dim"
                    ) from None
            # The step has not changed the weights: only gradients are left of it.
            self.model.zero_grad()
            if self.device.type == "cuda":
                with suppress(RuntimeError):  # may fail after a failed recording
                    torch.cuda.empty_cache()
            self.halvings += 1
            self.at_once = (self.at_once + 1) // 2
            LOG.warning(
                "out of memory; steps continue with %d sequences at a time and the same batch",
                self.at_once,
            )

    def _continues_uncompiled(self, error: Exception) -> bool:
        """Give up compiling if the user did not ask for it; return whether training continues.

        Triton needs a C compiler and Python's headers, which many containers lack.

        Raises:
            CompilingError: The user asked for it.
        """
        if not self.compiled or self.updating:
            return False
        reason = one_line(error, 200) or type(error).__name__
        if self.config.compile != "auto":
            if not type(error).__module__.startswith(COMPILERS):
                return False
            raise CompilingError(
                f"the model could not be compiled ({reason}); give --compile false, or a compiler"
            ) from None
        LOG.warning("the model could not be compiled (%s); it is trained uncompiled", reason)
        self.compiled, self.forward = False, self.model
        self.update = self._update_for_device()
        self.model.zero_grad()
        return True

    def _to_device(self, windows: Tensor) -> Tensor:
        if self.device.type == "cuda":  # pinned memory copies without waiting
            return windows.pin_memory().to(self.device, non_blocking=True)
        return windows.to(self.device)

    def _update(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Update the weights; may be recorded (cuda_graphs.py), so it reads from tensors alone."""
        config = self.config
        self.updating = False
        self.model.zero_grad()
        total = torch.zeros((), device=self.device)
        for part in windows.split(self.at_once):
            with autocast(self.device, config.mixed_precision):
                logits = self.forward(part[:, :-1])
            loss = F.cross_entropy(logits.float().flatten(0, 1), part[:, 1:].flatten())
            loss = loss * (len(part) / len(windows))
            self.scaler.scale(loss).backward()
            total += loss.detach()
        self.updating = True
        self.scaler.unscale_(self.optimizers)  # pyright: ignore[reportArgumentType]
        limit = config.gradient_clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        self.scaler.step(self.optimizers)  # pyright: ignore[reportArgumentType]
        self.scaler.update()
        return total, norm

    def make_room(self) -> bool:
        """Free the memory of a recorded step; return whether there was one."""
        if not (isinstance(self.update, GraphedUpdate) and self.update.forget()):
            return False
        self.model.zero_grad()  # gradients use that memory
        torch.cuda.empty_cache()  # no effect without a GPU
        LOG.warning("out of memory; steps are no longer recorded")
        return True

    @property
    def graphed(self) -> bool:
        """True if steps are replayed from a recording."""
        return isinstance(self.update, GraphedUpdate) and self.update.graph is not None

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs beside the weights."""
        return {
            "optimizers": self.optimizers.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": random_state(self.device),
            "at_once": self.at_once if self.halvings else 0,
        }

    def load_state_dict(self, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Restore weights and a `state_dict` that passed `check_state`."""
        self.model.load_state_dict(weights)
        self.optimizers.load_state_dict(state["optimizers"])
        if state["scaler"]:  # float16 is used only on GPUs without bfloat16
            self.scaler.load_state_dict(state["scaler"])
        if state.get("at_once"):  # memory ran out: dropout draws depend on the parts
            self.at_once = min(self.at_once, state["at_once"])
            self.halvings = 1
        set_random_state(state["random"], self.device)


def check_state(
    vocab_size: int, config: Config, weights: dict[str, Tensor], state: dict[str, Any]
) -> None:
    """Check that a `TrainStep` of that model can restore these weights and that `state_dict`.

    Raises:
        StoredTensorError: A tensor does not fit; the message names it.
    """
    with shapes_only():
        model = Transformer(vocab_size, config)
        check_same(weights, model.state_dict(), "model")
        Optimizers(model, config, torch.float32).load_state_dict(state.get("optimizers"))
    check_random_state(state.get("random"))
    scaler, parts = state.get("scaler"), state.get("at_once", 0)
    known = {**torch.amp.GradScaler("cpu").state_dict()} if scaler else {}
    if not (isinstance(scaler, dict) and scaler.keys() == known.keys()):
        raise StoredTensorError("scaler: not the state of a gradient scaler")
    numbers = [parts, *scaler.values()]
    if not all(type(n) in (int, float) and 0 <= n < math.inf for n in numbers):
        raise StoredTensorError("scaler, at_once: not numbers of 0 or more")

"""A model that learns: one update of its weights from one set of sequences."""

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
    """A step does not fit this machine, in however small parts."""

    exit_code = FAILED


class CompilingError(FundamentallmError):
    """The model cannot be compiled here, and the user wants it to be."""

    exit_code = FAILED


def in_our_words(error: BaseException) -> BaseException:
    """The error itself; where memory ran out, one that says so."""
    if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
        return error
    return OutOfMemoryError(
        "memory ran out; give a smaller --batch-size, --max-seq-len or --model-dim"
    )


def check_fits(config: Config, vocab_size: int, device: torch.device) -> None:
    """See that free memory holds the weights, gradients and the optimizers' state.

    Before anything is written: and a system that is short of memory may kill us without a word.

    Raises:
        OutOfMemoryError: It does not.
    """
    need, free = 12e-9 * parameter_count(config, vocab_size), free_memory_gb(device)
    if need > free:
        raise OutOfMemoryError(
            f"the model does not fit: it needs {need:,.0f} GB and {free:.1f} are free; give a "
            "smaller --model-dim or fewer --num-layers"
        )


class TrainStep:
    """A model with its optimizers, on one device."""

    def __init__(
        self, vocab_size: int, config: Config, device: torch.device, *, compiled: bool = False
    ) -> None:
        """A new model, on `device`; `compiled` by torch.compile or as it is.

        Raises:
            OutOfMemoryError: The model alone does not fit this machine.
        """
        check_fits(config, vocab_size, device)
        self.config = config
        self.device = device
        torch.manual_seed(config.seed)  # weights are drawn on the CPU: the same on every device
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
        """Whether the step at hand may have reached the weights."""
        self.precision = precision(device, config.mixed_precision)
        self.optimizers = Optimizers(self.model, config, self.precision)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == torch.float16)
        self.update: Update = self._update_for_device()

    def _update_for_device(self) -> Update:
        # A compiled model launches little by itself; a scaler decides in Python whether to step.
        plain = self.compiled or self.scaler.is_enabled() or self.device.type != "cuda"
        return self._update if plain else GraphedUpdate(self._update)

    def step(self, windows: Tensor, learning_rate: float) -> tuple[Tensor, Tensor]:
        """Update the weights once; the loss before, and the gradient's norm before clipping.

        `windows`, (N, max_seq_len + 1), holds `gradient_accumulation` batches. Their gradients
        are averaged, so the update is that of one large batch, in however many parts it is
        worked through. Both results stay on the device: nothing here waits for it. Where memory
        runs out, the parts are halved, up to three times.

        Raises:
            OutOfMemoryError: It ran out all the same.
            CompilingError: It was to be compiled and cannot be.
        """
        while True:
            self.updating = False
            try:
                self.optimizers.set_learning_rate(learning_rate)
                return self.update(self._to_device(windows))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    if not self._may_go_on_uncompiled(error):
                        raise
                    continue
                if self.updating:
                    raise OutOfMemoryError(
                        "memory for the optimizers is not there; give a smaller --model-dim or "
                        "fewer --num-layers"
                    ) from None
                if self.halvings == HALVINGS or self.at_once == 1:
                    raise OutOfMemoryError(
                        f"memory for {self.at_once} sequences at a time is not there; give a "
                        "smaller --batch-size, --max-seq-len or --model-dim"
                    ) from None
            # Nothing of the step has reached the weights: the gradients are its only trace.
            self.model.zero_grad()
            if self.device.type == "cuda":
                with suppress(RuntimeError):  # after a recording that failed it may be refused
                    torch.cuda.empty_cache()
            self.halvings += 1
            self.at_once = (self.at_once + 1) // 2
            LOG.warning(
                "out of memory; steps go on with %d sequences at a time, and the same batch",
                self.at_once,
            )

    def _may_go_on_uncompiled(self, error: Exception) -> bool:
        """Give up compiling, if it was our idea: what it needs is not known before it is tried.

        Triton wants a C compiler and Python's headers, which many containers lack.

        Raises:
            CompilingError: It was the user's idea.
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
        LOG.warning("the model could not be compiled (%s); it is trained as it is", reason)
        self.compiled, self.forward = False, self.model
        self.update = self._update_for_device()
        self.model.zero_grad()
        return True

    def _to_device(self, windows: Tensor) -> Tensor:
        if self.device.type == "cuda":  # from pinned memory, so that nobody waits for it
            return windows.pin_memory().to(self.device, non_blocking=True)
        return windows.to(self.device)

    def _update(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """The step itself. It may be recorded (cuda_graphs.py): all that changes is in tensors."""
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
        """Give up a recorded step, whose memory nothing else may use; whether there was one."""
        if not (isinstance(self.update, GraphedUpdate) and self.update.forget()):
            return False
        self.model.zero_grad()  # the gradients lie in that memory
        torch.cuda.empty_cache()  # nothing, where there is no GPU
        LOG.warning("out of memory; steps are no longer recorded ones")
        return True

    @property
    def graphed(self) -> bool:
        """Whether steps are recorded ones by now."""
        return isinstance(self.update, GraphedUpdate) and self.update.graph is not None

    def state_dict(self) -> dict[str, Any]:
        """What learning on needs beside the weights."""
        return {
            "optimizers": self.optimizers.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": random_state(self.device),
            "at_once": self.at_once if self.halvings else 0,
        }

    def load_state_dict(self, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Learn on from these weights and that `state_dict`, which `check_state` let pass."""
        self.model.load_state_dict(weights)
        self.optimizers.load_state_dict(state["optimizers"])
        if state["scaler"]:  # it had one: float16 is for GPUs without bfloat16 alone
            self.scaler.load_state_dict(state["scaler"])
        if state.get("at_once"):  # memory ran out: in other parts dropout would draw otherwise
            self.at_once = min(self.at_once, state["at_once"])
            self.halvings = 1
        set_random_state(state["random"], self.device)


def check_state(
    vocab_size: int, config: Config, weights: dict[str, Tensor], state: dict[str, Any]
) -> None:
    """See that a `TrainStep` of that model can learn on from these weights and that `state_dict`.

    Raises:
        StoredTensorError: It cannot; the tensor is named.
    """
    with shapes_only():
        model = Transformer(vocab_size, config)
        check_same(weights, model.state_dict(), "model")
        Optimizers(model, config, torch.float32).load_state_dict(state.get("optimizers"))
    check_random_state(state.get("random"))
    scaler, parts = state.get("scaler"), state.get("at_once", 0)
    known = {**torch.amp.GradScaler("cpu").state_dict()} if scaler else {}
    if not (isinstance(scaler, dict) and scaler.keys() == known.keys()):
        raise StoredTensorError("scaler: not the state of a scaler")
    numbers = [parts, *scaler.values()]
    if not all(type(n) in (int, float) and 0 <= n < math.inf for n in numbers):
        raise StoredTensorError("scaler, at_once: not numbers of 0 and more")

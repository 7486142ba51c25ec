"""Caffe's six solvers as torch optimizers.

They differ from ``torch.optim`` in where the learning rate enters and in what is accumulated, so neither can stand in
for the other. The rules are those of BVLC Caffe 1.0.0's ``src/caffe/solvers/*.cpp``. Before any of them, in this order
(``SGDSolver::ApplyUpdate``):

1. if the L2 norm of all gradients together exceeds ``clip_gradients``, they are scaled down to it;
2. gradients are divided by ``iter_size``, the number of backward passes that were summed;
3. the regulariser is added: g += weight_decay * decay_mult * w (``"L2"``) or ... * sign(w) (``"L1"``).

Each rule then uses the rate r = lr * lr_mult of the parameter. As in Caffe, a parameter without a gradient has the
gradient zero: its momentum still moves it, and weight decay still shrinks it.

    optimizer = CaffeSGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    optimizer = CaffeAdam([{"params": [w], "lr_mult": 1}, {"params": [b], "lr_mult": 2, "decay_mult": 0}], lr=1e-4)

Gradients are scratch: a step overwrites ``.grad``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from ...errors import UsageError, WeightsError

__all__ = [
    "CaffeAdaDelta",
    "CaffeAdaGrad",
    "CaffeAdam",
    "CaffeNesterov",
    "CaffeOptimizer",
    "CaffeRMSProp",
    "CaffeSGD",
]

Tensors = list[Tensor]


class CaffeOptimizer(Optimizer):
    """What the six share: clipping, iter_size, regularisation, and histories in Caffe's order.

    Args:
        params: parameters, or groups with their own ``lr_mult``, ``decay_mult`` and options, but not the last two.
        lr: the learning rate. weight_decay, regularization_type: factor and kind (``"L1"`` or ``"L2"``) of the
            regulariser.
        clip_gradients: the largest L2 norm of all gradients together; None, or a negative number as in Caffe, for none.
        iter_size: how many backward passes are summed in the gradients.

    Attributes:
        norm: after a step with ``clip_gradients``, the L2 norm of the gradients before clipping (a scalar tensor).

    Raises:
        UsageError: an option that makes no sense.
    """

    histories: ClassVar[int] = 1
    # Whether what is accumulated is multiplied by the rate already: a rate of 0 then leaves a history of zeros alone.
    accumulates_rate: ClassVar[bool] = False

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: float,
        weight_decay: float = 0.0,
        regularization_type: str = "L2",
        clip_gradients: float | None = None,
        iter_size: int = 1,
        **options: Any,
    ) -> None:
        if regularization_type not in ("L1", "L2"):
            raise UsageError(f"regularization_type {regularization_type!r}: L1 or L2 was expected")
        if iter_size < 1:
            raise UsageError(f"iter_size {iter_size}: at least 1 was expected")
        defaults = {
            "lr": lr,
            "lr_mult": 1.0,
            "decay_mult": 1.0,
            "weight_decay": weight_decay,
            "regularization_type": regularization_type,
            "iteration": 0,
            **options,
        }
        super().__init__(params, defaults)
        self.clip_gradients = None if clip_gradients is None or clip_gradients < 0 else clip_gradients
        self.iter_size = iter_size
        self.norm: Tensor | None = None

    def update(self, params: Tensors, grads: Tensors, histories: Sequence[Tensors], rate: float, group: dict) -> None:
        """Move ``params`` in place; every list has one tensor per parameter, regularised gradients included."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; the loss that ``closure`` returns, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._normalize()
        for group, params, grads in self._batches():
            rate = group["lr"] * group["lr_mult"]
            decay = group["weight_decay"] * group["decay_mult"]
            if decay != 0:
                against = params if group["regularization_type"] == "L2" else torch._foreach_sign(params)
                torch._foreach_add_(grads, against, alpha=decay)
            kept = [self._histories_of(p) for p in params]
            self.update(params, grads, [[k[i] for k in kept] for i in range(self.histories)], rate, group)
        for group in self.param_groups:
            group["iteration"] += 1
        return loss

    def _normalize(self) -> None:
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        self.norm = None
        if not grads:
            return
        if self.clip_gradients is not None:
            device = grads[0].device
            norms = [norm.to(device) for norm in torch._foreach_norm(grads)]
            self.norm = torch.linalg.vector_norm(torch.stack(norms))
            # Not a minimum: a norm that is no number scales nothing, as in Caffe.
            scale = torch.where(self.norm > self.clip_gradients, self.clip_gradients / self.norm, 1.0)
            if device.type != "cpu" or scale != 1:  # elsewhere looking at it would make the device wait
                for grad_device in {g.device for g in grads}:
                    torch._foreach_mul_([g for g in grads if g.device == grad_device], scale.to(grad_device))
        if self.iter_size != 1:
            torch._foreach_mul_(grads, 1 / self.iter_size)

    def _batches(self) -> Iterable[tuple[dict, Tensors, Tensors]]:
        """Parameters with the same options, device and type together: one call then updates them all."""
        batches: dict[Any, tuple[dict, Tensors, Tensors]] = {}
        for group in self.param_groups:
            options = tuple((key, value) for key, value in group.items() if key != "params")
            unmoved = group["weight_decay"] * group["decay_mult"] == 0
            if self.accumulates_rate:
                unmoved |= group["lr"] * group["lr_mult"] == 0
            for p in group["params"]:
                if p.grad is None and unmoved and p not in self.state:
                    continue  # a zero gradient on a history of zeros changes nothing
                grad = torch.zeros_like(p) if p.grad is None else p.grad
                _, params, grads = batches.setdefault((options, p.device, p.dtype), (group, [], []))
                params.append(p)
                grads.append(grad)
        return batches.values()

    def _histories_of(self, param: Tensor) -> Tensors:
        state = self.state[param]
        if not state:
            for i in range(self.histories):
                state[f"history_{i}"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        return [state[f"history_{i}"] for i in range(self.histories)]

    # Caffe's history_

    def _ordered(self) -> Tensors:
        return [p for group in self.param_groups for p in group["params"]]

    def history(self) -> Tensors:
        """The history blobs as a solverstate holds them: one per parameter, then for AdaDelta and Adam another each."""
        params = self._ordered()
        out = []
        for i in range(self.histories):
            for p in params:
                out.append(self.state[p][f"history_{i}"] if p in self.state else torch.zeros_like(p))
        return out

    @torch.no_grad()
    def load_history(self, blobs: Sequence[Tensor], iteration: int) -> None:
        """Take over the history blobs of a solverstate and its iteration.

        Raises:
            WeightsError: another number of blobs, or another shape.
        """
        params = self._ordered()
        if len(blobs) != self.histories * len(params):
            raise WeightsError(
                f"{len(blobs)} history blobs were given; {type(self).__name__} needs {self.histories} for each of "
                f"{len(params)} parameters"
            )
        for k, blob in enumerate(blobs):
            p = params[k % len(params)]
            if blob.shape != p.shape:
                raise WeightsError(f"history blob {k} has shape {list(blob.shape)}, its parameter {list(p.shape)}")
        for k, blob in enumerate(blobs):
            p = params[k % len(params)]
            self._histories_of(p)[k // len(params)].copy_(blob)
        for group in self.param_groups:
            group["iteration"] = iteration


class CaffeSGD(CaffeOptimizer):
    """h = momentum h + r g; w -= h (``sgd_solver.cpp``).

    torch's SGD keeps r out of h, so that there a new rate acts on old gradients too.
    """

    accumulates_rate = True

    def __init__(self, params: ParamsT, *, lr: float, momentum: float = 0.0, **options: Any) -> None:
        super().__init__(params, lr=lr, momentum=momentum, **options)

    def update(self, params: Tensors, grads: Tensors, histories: Sequence[Tensors], rate: float, group: dict) -> None:
        (h,) = histories
        torch._foreach_mul_(h, group["momentum"])
        torch._foreach_add_(h, grads, alpha=rate)
        torch._foreach_sub_(params, h)


class CaffeNesterov(CaffeSGD):
    """h' = momentum h + r g; w -= (1 + momentum) h' - momentum h (``nesterov_solver.cpp``).

    The step is the same as momentum h' + r g, which needs no copy of h.
    """

    def update(self, params: Tensors, grads: Tensors, histories: Sequence[Tensors], rate: float, group: dict) -> None:
        (h,) = histories
        torch._foreach_mul_(h, group["momentum"])
        torch._foreach_add_(h, grads, alpha=rate)
        torch._foreach_sub_(params, h, alpha=group["momentum"])
        torch._foreach_sub_(params, grads, alpha=rate)


class CaffeAdaGrad(CaffeOptimizer):
    """h += g^2; w -= r g / (sqrt(h) + delta) (``adagrad_solver.cpp``)."""

    def __init__(self, params: ParamsT, *, lr: float, delta: float = 1e-8, **options: Any) -> None:
        super().__init__(params, lr=lr, delta=delta, **options)

    def update(self, params: Tensors, grads: Tensors, histories: Sequence[Tensors], rate: float, group: dict) -> None:
        (h,) = histories
        torch._foreach_addcmul_(h, grads, grads)
        _move_by_ratio(params, grads, h, group["delta"], rate)


class CaffeRMSProp(CaffeOptimizer):
    """h = rms_decay h + (1 - rms_decay) g^2; w -= r g / (sqrt(h) + delta) (``rmsprop_solver.cpp``)."""

    def __init__(
        self, params: ParamsT, *, lr: float, rms_decay: float = 0.99, delta: float = 1e-8, **options: Any
    ) -> None:
        if not 0 <= rms_decay < 1:
            raise UsageError(f"rms_decay {rms_decay}: a number from 0 to below 1 was expected")
        super().__init__(params, lr=lr, rms_decay=rms_decay, delta=delta, **options)

    def update(self, params: Tensors, grads: Tensors, histories: Sequence[Tensors], rate: float, group: dict) -> None:
        (h,) = histories
        torch._foreach_mul_(h, group["rms_decay"])
        torch._foreach_addcmul_(h, grads, grads, value=1 - group["rms_decay"])
        _move_by_ratio(params, grads, h, group["delta"], rate)


class CaffeAdaDelta(CaffeOptimizer):
    """h = momentum h + (1 - momentum) g^2; u = g sqrt((k + delta) / (h + delta)); w -= r u;
    k = momentum k + (1 - momentum) u^2 (``adadelta_solver.cpp``). Histories: every h, then every k."""

    histories = 2

    def __init__(
        self, params: ParamsT, *, lr: float, momentum: float = 0.95, delta: float = 1e-6, **options: Any
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, delta=delta, **options)

    def update(self, params: Tensors, grads: Tensors, histories: Sequence[Tensors], rate: float, group: dict) -> None:
        h, k = histories
        momentum, delta = group["momentum"], group["delta"]
        torch._foreach_mul_(h, momentum)
        torch._foreach_addcmul_(h, grads, grads, value=1 - momentum)
        ratio = torch._foreach_add(k, delta)
        torch._foreach_div_(ratio, torch._foreach_add(h, delta))
        torch._foreach_sqrt_(ratio)
        torch._foreach_mul_(ratio, grads)
        torch._foreach_mul_(k, momentum)
        torch._foreach_addcmul_(k, ratio, ratio, value=1 - momentum)
        torch._foreach_sub_(params, ratio, alpha=rate)


class CaffeAdam(CaffeOptimizer):
    """m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; w -= r sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + delta), where
    t counts from 1, b1 is ``momentum`` and b2 ``momentum2`` (``adam_solver.cpp``). Histories: every m, then every v.

    torch's Adam corrects v before it adds epsilon; with epsilon = delta / sqrt(1 - b2^t) it does the same, which lets
    its fused kernel do the work.
    """

    histories = 2

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: float,
        momentum: float = 0.9,
        momentum2: float = 0.999,
        delta: float = 1e-8,
        **options: Any,
    ) -> None:
        for name, value in (("momentum", momentum), ("momentum2", momentum2)):
            if not 0 <= value < 1:
                raise UsageError(f"{name} {value}: Adam takes a number from 0 to below 1")
        super().__init__(params, lr=lr, momentum=momentum, momentum2=momentum2, delta=delta, **options)

    def update(self, params: Tensors, grads: Tensors, histories: Sequence[Tensors], rate: float, group: dict) -> None:
        m, v = histories
        t = group["iteration"] + 1
        step = torch.tensor(float(t), device=params[0].device)
        torch._fused_adam_(
            params,
            grads,
            m,
            v,
            [],
            [step] * len(params),
            lr=rate,
            beta1=group["momentum"],
            beta2=group["momentum2"],
            weight_decay=0.0,
            eps=group["delta"] / math.sqrt(1 - group["momentum2"] ** t),
            amsgrad=False,
            maximize=False,
        )


def _move_by_ratio(params: Tensors, grads: Tensors, squares: Tensors, delta: float, rate: float) -> None:
    """w -= rate g / (sqrt(squares) + delta)"""
    denominators = torch._foreach_sqrt(squares)
    torch._foreach_add_(denominators, delta)
    torch._foreach_addcdiv_(params, grads, denominators, value=-rate)

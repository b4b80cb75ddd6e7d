"""Adam for rankers whose largest weights are tables, of which a step reads a few rows."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from umair.training.rest import Rest


class RowAdam(torch.optim.AdamW):
    """Adam (fused) that touches a table with a sparse gradient only where a step reads it, and learns the same.

    Adam moves every row at every step: those without a gradient drift on what is left of their first moment, while both
    moments fade. The paper's tables have 10 million numbers, of whose rows a small step reads few. Here a row rests until it
    is read again, and then makes up at once for all the steps that it missed (`Rest` says how nearly). The weights are
    Adam's, not those of a lazy Adam (torch's SparseAdam), by which rare ids learn more slowly. A table whose gradient is
    dense is moved as by Adam. Weights and state are whole after `settle` and `state_dict`; before that, only the rows just
    read are.

    `table_decay`: tables, and nothing else, shrink by this times the rate at every step. Tables are made sparse before this
    is made; `step` raises ValueError for a sparse gradient of a table that was dense then.
    """

    def __init__(self, module: nn.Module, lr: float, table_decay: float = 0.0) -> None:
        tables = [part for part in module.modules() if isinstance(part, nn.Embedding | nn.EmbeddingBag)]
        known = {id(table.weight) for table in tables}
        groups = [{"params": [weight for weight in module.parameters() if (id(weight) in known) == wanted],
                   "weight_decay": table_decay if wanted else 0.0} for wanted in (False, True)]
        super().__init__([group for group in groups if group["params"]], lr=lr, weight_decay=0.0, fused=True)
        self.rests: dict[Tensor, Rest] = {}
        self.sparse_tables = [table for table in tables if table.sparse]
        listen = _listener(weakref.ref(self))
        for table in self.sparse_tables:
            table.register_forward_pre_hook(listen)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; `closure` as torch's; training gives none."""
        tables = [(group, weight, weight.grad) for group in self.param_groups for weight in group["params"]
                  if weight.grad is not None and weight.grad.is_sparse]
        for _, weight, _ in tables:
            weight.grad = None  # torch's Adam refuses it
        for weight in [weight for weight in self.rests if weight.grad is not None]:
            self.rests.pop(weight).settle()  # dense this time: every row moves
        said: float | None = super().step(closure)
        for group, weight, gradient in tables:
            self._rest(group, weight).step(gradient.coalesce(), group["lr"], group["weight_decay"])
            weight.grad = gradient
        return said

    @torch.no_grad()
    def settle(self) -> None:
        """Brings every row of every table up to date."""
        for rest in self.rests.values():
            rest.settle()

    def state_dict(self) -> dict[str, Any]:
        """As Adam's, of settled tables."""
        self.settle()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As Adam's; the weights must be those of the same moment."""
        self.rests.clear()
        super().load_state_dict(state_dict)

    def _rest(self, group: dict[str, Any], table_NE: Tensor) -> Rest:
        if table_NE not in self.rests:
            if not any(table.weight is table_NE for table in self.sparse_tables):
                raise ValueError("a sparse gradient of a table that was dense when RowAdam was made; "
                                 "call make_tables_sparse before")
            state = self.state[table_NE]
            if not state:
                state["step"] = torch.zeros((), device=table_NE.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table_NE), torch.zeros_like(table_NE)
            first, second = group["betas"]
            self.rests[table_NE] = Rest(table_NE, state, first, second, group["eps"])
        return self.rests[table_NE]

    def _before_reading(self, table: nn.Embedding | nn.EmbeddingBag, read: tuple[Tensor, ...]) -> None:
        """Called before each call of a sparse table."""
        if (rest := self.rests.get(table.weight)) is not None:
            learning = torch.is_grad_enabled()
            with torch.no_grad():
                rest.before_reading(read[0], table.padding_idx, learning=learning)


def _listener(optimizer: weakref.ref[RowAdam]) -> Callable[..., None]:
    """A hook that a table can keep without keeping the optimiser."""
    def listen(table: nn.Embedding | nn.EmbeddingBag, read: tuple[Tensor, ...]) -> None:
        if (alive := optimizer()) is not None:
            alive._before_reading(table, read)
    return listen


def make_tables_sparse(module: nn.Module, numbers: int | None) -> None:
    """Tables of at least so many numbers (rows times width) get sparse gradients; None: no table."""
    for part in module.modules():
        if isinstance(part, nn.Embedding | nn.EmbeddingBag):
            part.sparse = numbers is not None and part.weight.numel() >= numbers


def gradient_bytes(module: nn.Module) -> int:
    """What a rank sends of its last gradients: all of a dense one, of a sparse one its rows and their numbers."""
    total = 0
    for gradient in _gradients(module):
        parts = (gradient.indices()[0], gradient.values()) if gradient.is_sparse else (gradient,)
        total += sum(part.numel() * part.element_size() for part in parts)
    return total


def clip_gradients(module: nn.Module, norm: float) -> None:
    """Shrinks all gradients together to an L2 norm of at most `norm`."""
    values = [gradient.values() if gradient.is_sparse else gradient for gradient in _gradients(module)]
    factor = norm / torch.stack([value.square().sum() for value in values]).sum().sqrt().clamp(min=norm)
    for value in values:
        value.mul_(factor)


def _gradients(module: nn.Module) -> list[Tensor]:
    """All gradients; sparse ones with each row once."""
    found = []
    for weight in module.parameters():
        if weight.grad is not None:
            weight.grad = weight.grad.coalesce() if weight.grad.is_sparse else weight.grad
            found.append(weight.grad)
    return found

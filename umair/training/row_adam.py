"""Adam for rankers whose largest weights are tables, of which a step reads a few rows. N rows of a table, X those read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class RowAdam(torch.optim.AdamW):
    """Adam (fused) that of a table with a sparse gradient moves the rows that the gradient names, and only their moments.

    That spares reading the whole table, its gradient and both moments at every step (10 million numbers each for the
    paper's tables), and it is another optimiser: a table's other rows rest, where Adam lets them drift on old momentum,
    and keep their second moment, where Adam's fades. A row that is read every hundredth step goes half as far as by Adam,
    every thousandth a quarter. Steps are counted for the table, not for each row.

    `table_decay`: tables, and nothing else, shrink by this times the rate at every step (of a sparse one the rows read).
    """

    def __init__(self, module: nn.Module, lr: float, table_decay: float = 0.0) -> None:
        tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding | nn.EmbeddingBag)}
        groups = [{"params": [weight for weight in module.parameters() if (id(weight) in tables) == wanted],
                   "weight_decay": table_decay if wanted else 0.0} for wanted in (False, True)]
        super().__init__([group for group in groups if group["params"]], lr=lr, weight_decay=0.0, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; `closure` is torch's and not used here."""
        tables = [(group, weight, weight.grad) for group in self.param_groups for weight in group["params"]
                  if weight.grad is not None and weight.grad.is_sparse]
        for _, weight, _ in tables:
            weight.grad = None  # torch's Adam refuses it
        said: float | None = super().step(closure)
        for group, weight, gradient in tables:
            self._step_rows(group, weight, gradient.coalesce())
            weight.grad = gradient
        return said

    def _step_rows(self, group: dict[str, Any], table_NE: Tensor, gradient: Tensor) -> None:
        state = self.state[table_NE]
        if not state:
            state["step"] = torch.zeros((), device=table_NE.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table_NE), torch.zeros_like(table_NE)
        state["step"] += 1
        first, second = group["betas"]
        step = state["step"].double()  # in float32, 1 - 0.999 is off by 5e-5 of itself
        row_X, value_XE = gradient.indices()[0], gradient.values()
        table_NE[row_X] *= 1 - group["lr"] * group["weight_decay"]
        mean_XE = state["exp_avg"][row_X].lerp_(value_XE, 1 - first)
        square_XE = state["exp_avg_sq"][row_X].mul_(second).addcmul_(value_XE, value_XE, value=1 - second)
        state["exp_avg"][row_X], state["exp_avg_sq"][row_X] = mean_XE, square_XE
        deviation_XE = (square_XE / (1 - second ** step)).sqrt_().add_(group["eps"])
        table_NE.index_add_(0, row_X, (mean_XE / deviation_XE) * (-group["lr"] / (1 - first ** step)))


def make_tables_sparse(module: nn.Module, rows: int) -> None:
    """Tables of at least so many rows get sparse gradients."""
    for part in module.modules():
        if isinstance(part, nn.Embedding | nn.EmbeddingBag):
            part.sparse = part.num_embeddings >= rows


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

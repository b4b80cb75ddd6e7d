"""A ranker while it is trained: module, optimiser, losses and time. B rows of a batch."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from umair.errors import ContractError
from umair.model.batch import Batch
from umair.model.norm import BatchNorm
from umair.model.ranker import Ranker, RankerConfig, Scores
from umair.training.checkpoint import build_ranker
from umair.training.features import Features
from umair.training.ranks import Ranks
from umair.training.row_adam import RowAdam, clip_gradients, gradient_bytes, make_tables_sparse
from umair.training.shares import step_sizes


@dataclass
class Trainee:
    """`recent` holds losses as tensors until `take_loss` reads them, so that a GPU is not waited for at every step."""

    name: str
    config: RankerConfig
    ranker: Ranker
    optimizer: RowAdam
    ranks: Ranks
    settings: Any  # TrainingConfig
    recent: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0  # spent in steps
    sent: int = 0  # bytes of gradients that each rank sent in its first step

    @classmethod
    def fresh(cls, name: str, config: RankerConfig, features: Features, ranks: Ranks, settings: Any) -> Trainee:
        """Weights are drawn from `settings.seed` (TrainingConfig), whatever other rankers there are beside."""
        torch.manual_seed(settings.seed)
        ranker = build_ranker(config, features.widths)
        for modality, scale in features.scales.items():
            mean_D, scale_D = map(torch.from_numpy, scale)
            ranker.set_vector_scale(modality, mean_D, scale_D)
            ranker.set_axes(modality, mean_D, torch.from_numpy(np.array(features.axes(modality))))
        ranker.to(ranks.device)
        if settings.share_moments:
            share_moments(ranker, ranks)
        # which rows are read is no part of a compiled graph
        make_tables_sparse(ranker, None if settings.compiled else settings.sparse_from)
        return cls(name, config, ranker, RowAdam(ranker, settings.learning_rate, settings.table_decay), ranks, settings)

    @cached_property
    def run(self) -> Callable[[Batch], Scores]:
        """The ranker itself, or compiled; both have the same weights."""
        if self.settings.compiled:
            return torch.compile(self.ranker, dynamic=True)  # the last batch is shorter
        return self.ranker

    def step(self, batch: Batch, seed: int, share: float = 1.0, rate: float | None = None) -> None:
        """One step on this rank's batch: binary cross-entropy of the logits, and the ranker's penalty if it has one,
        which no recorded loss contains. `seed` draws the dropout.

        `share` is that of `EpochPlan.share`; `rate` the learning rate, where it is not the one before.
        """
        started = time.perf_counter()
        if batch.label_B.is_cuda:
            torch.manual_seed(seed)
        else:  # asks no other device, which takes longer than a layer
            torch.default_generator.manual_seed(seed)
        if not self.ranker.training:
            self.ranker.train()
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] if rate is None else rate
        self.optimizer.zero_grad()
        self.recent.append(self._backward(batch, share))
        if self.ranks.count > 1:
            self.sent = self.sent or gradient_bytes(self.ranker)
            self.ranks.average_gradients(self.ranker, self.name)
        if self.settings.clip_norm is not None:
            clip_gradients(self.ranker, self.settings.clip_norm)
        self.optimizer.step()
        self.seconds += time.perf_counter() - started

    def _backward(self, batch: Batch, share: float) -> Tensor:
        """Adds up the gradients of the batch's parts; -> the mean loss of its rows."""
        count = len(batch)
        parts = step_sizes(count, max(1, min(self.settings.accumulate, count // 2)))
        losses, start = [], 0
        for size in parts:
            part = batch.rows(slice(start, start + size)) if len(parts) > 1 else batch
            with torch.autocast(batch.label_B.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
                logit_B = self.run(part).logit_B
            loss = F.binary_cross_entropy_with_logits(logit_B.float(), part.label_B) * (size / count)
            loss_and_penalty = share * loss
            if (penalty := self.ranker.penalty()) is not None:
                loss_and_penalty = loss_and_penalty + penalty / len(parts)
            loss_and_penalty.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            start += size
        return torch.stack(losses).sum()

    def take_loss(self, step: int, steps: int, kept: str) -> float:
        """The mean loss over all ranks of the recent steps, of which `step` is the last; forgets them. Every rank calls it.

        Raises ContractError, on every rank, that names the first step, its batch and the rank whose loss was not a number: a
        step later the others have none either. An epoch has `steps`; `kept` is the checkpoint before it.
        """
        losses: list[float] = torch.stack(self.recent).tolist()
        self.recent.clear()
        mean = self.ranks.mean({"loss": sum(losses) / len(losses)})["loss"]
        if not math.isfinite(mean):  # on every rank, if a loss of one of them is not
            self._blame(losses, step, steps, kept)
        return mean

    def _blame(self, losses: list[float], step: int, steps: int, kept: str) -> NoReturn:
        own = next(((place, str(loss)) for place, loss in enumerate(losses, start=step - len(losses) + 1)
                    if not math.isfinite(loss)), None)
        firsts = enumerate(self.ranks.gather(own))
        place, rank, loss = min((first[0], rank, first[1]) for rank, first in firsts if first)
        epoch, before = divmod(place - 1, steps)
        where = f" on rank {rank}" if self.ranks.count > 1 else ""
        raise ContractError(f"ranker '{self.name}', step {place}{where} (batch {before + 1} of epoch {epoch + 1})",
                            f"loss {loss}", "a finite loss",
                            "lower training.learning_rate, or look for vectors that are not finite; "
                            f"the last good checkpoint is kept: {kept}")

    def settle(self) -> None:
        """Makes all weights and statistics those of this moment, alike on every rank. Every rank calls it."""
        self.optimizer.settle()
        self.ranks.share_statistics(self.ranker)

    def require_finite(self, step: int, kept: str) -> None:
        """Raises ContractError when a weight or a running statistic is not finite: a step's loss says nothing of those
        that it leaves."""
        named = [*self.ranker.named_parameters(), *self.ranker.named_buffers()]
        wrong = [name for name, tensor in named if not torch.isfinite(tensor).all()]
        if wrong:
            raise ContractError(f"ranker '{self.name}', step {step}",
                                f"weights or statistics that are not finite, first {wrong[0]}", "finite ones",
                                "lower training.learning_rate, set training.clip_norm, or look for enormous vectors; "
                                f"the last good checkpoint is kept: {kept}")

    @torch.inference_mode()
    def score(self, batch: Batch) -> Tensor:
        """logit_B on the CPU, in evaluation mode."""
        self.ranker.eval()
        logit_B: Tensor = self.ranker(batch).logit_B
        return logit_B.float().cpu()

    def digest(self) -> str:
        """Stands for all weights and statistics, bit by bit; batch norm's count of batches, which no rank reads, apart."""
        sha = hashlib.sha256()
        for tensor in filter(torch.is_floating_point, self.ranker.state_dict().values()):
            sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()


def share_moments(ranker: Ranker, ranks: Ranks) -> None:
    """Batch norm takes its moments over the rows of all ranks; of a single one, as before."""
    for part in ranker.modules():
        if isinstance(part, BatchNorm) and ranks.count > 1:
            part.add = ranks.add

"""Trains the image encoder on the tag pretext, on every rank: the loop, its checkpoints, and what it learnt.

B pictures of a batch, T tags of the vocabulary, N held-out pictures of all ranks.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from umair.config import fingerprint
from umair.errors import ConfigError, ContractError
from umair.metrics import mean_average_precision
from umair.model.image_encoder import ImageEncoder, ImageEncoderConfig, build_image_encoder, save_image_encoder, to_pixels
from umair.storage import write_folder
from umair.training.checkpoint import Checkpoints, Position
from umair.training.picture_cache import PictureRows
from umair.training.progress import Progress
from umair.training.ranks import Ranks
from umair.training.schedule import pace
from umair.training.shares import count_steps, step_sizes
from umair.training.tag_pretext import PretextConfig, TagModel, artist_loss, augment, tag_loss
from umair.training.tagged_pictures import Catalogue, TaggedPictures, open_tagged

CURVE_POINTS = 60  # of the loss curve, however long the training
REJECT_ALLOWANCE = 10  # unreadable pictures that are let pass in any case, where they are not more than half
ORDER, CHANCE, DROPPED = range(3)  # streams of random numbers: order of an epoch; augmentation, dropped paths of a batch


def train_pretext(ranks: Ranks, *, catalogue: Catalogue, encoder: dict[str, Any], pretext: dict[str, Any], folder: str
                  ) -> dict[str, Any]:
    """Trains the image encoder on the catalogue's illustrations; rank 0 writes it into `folder`.

    `encoder` and `pretext` are the values of an ImageEncoderConfig and a PretextConfig. Unreadable pictures are skipped
    and counted (those met since training last started). Killed and run again with the same arguments, training goes on
    from its newest checkpoint and ends with the weights of an uninterrupted run. Returns facts, the same on every rank:
    the encoder's, the loss curve, mean average precision on illustrations held out and that of the label-frequency
    baseline. Raises ContractError when there is too little to train on, or more of a rank's pictures than
    `pretext.max_reject_share` cannot be read, ConfigError when the loss is not finite, StorageError for a full disk.
    """
    config, network, started = PretextConfig(**pretext), ImageEncoderConfig(**encoder), time.monotonic()
    torch.manual_seed(config.seed)
    train, held = open_tagged(catalogue, network.picture_size, (ranks.index, ranks.count), config)
    key = fingerprint([config, network, str(catalogue), ranks.count])
    checkpoints = _checkpoints(Path(folder), key)
    try:
        model = TagModel(build_image_encoder(network), train.frequency_T, train.artists)
        run = PretextRun(ranks, model.to(ranks.device), train, config, checkpoints)
        run.resume()
        run.train_to_the_end()
        precision = measure(ranks, model, held, config)
    finally:
        train.pictures.close()
        held.pictures.close()
    facts = {**precision, "loss_curve": run.curve, "train_rows": ranks.count * len(train), "ranks": ranks.count,
             "epochs": config.epochs, "broken_pictures": _count_broken(ranks, train, held),
             "seconds": round(run.seconds_before + time.monotonic() - started, 3)}
    if ranks.index == 0:
        facts = save_pretrained(model.encoder, Path(folder), facts)
        checkpoints.remove()
    shared: dict[str, Any] = ranks.gather(facts)[0]
    return shared


def _checkpoints(folder: Path, key: str) -> Checkpoints:
    return Checkpoints(folder.with_name(f"{folder.name}-checkpoints"), key)


def remove_checkpoints(folder: Path) -> None:
    """Deletes whatever a killed training of the encoder in `folder` left beside it."""
    _checkpoints(folder, "").remove()


def save_pretrained(encoder: ImageEncoder, folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Writes the encoder's folder, whole or not at all; returns its facts."""
    return write_folder(folder, lambda temporary: {**facts, **save_image_encoder(encoder.cpu(), temporary)})


class PretextRun:
    """One rank's part in one training of a model, in place, with Adam.

    A step is one update of the weights, from the gradients of `accumulate` batches of each rank. What is random (order,
    augmentation, paths that a backbone drops) is a function of seed, rank, epoch and batch: a checkpoint needs no random
    state.
    """

    def __init__(self, ranks: Ranks, model: TagModel, train: TaggedPictures, config: PretextConfig,
                 checkpoints: Checkpoints) -> None:
        self.ranks, self.model, self.train, self.config, self.checkpoints = ranks, model, train, config, checkpoints
        adam = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
        self.optimizer = ranks.distribute(adam, model, passes=config.accumulate)
        self.steps_an_epoch = count_steps([len(train)], config.batch * config.accumulate)
        self.steps, self.done = config.epochs * self.steps_an_epoch, 0
        self.sizes = step_sizes(len(train), self.steps_an_epoch * config.accumulate)  # of an epoch's batches
        if min(self.sizes) < 2:
            raise ContractError("illustrations", f"{len(train)} to train on for each rank in {len(self.sizes)} batches, one "
                                f"of {min(self.sizes)}", "2 or more in every batch, for batch norm",
                                "lower pretext.accumulate or raise pretext.batch")
        self.curve: list[list[float]] = []  # pictures seen by all ranks, mean loss since the last point
        self.seconds_before = 0.0  # that runs which were killed have spent
        self._losses: list[float] = []
        self._started = time.monotonic()

    def resume(self) -> None:
        """Takes up the newest checkpoint of this very run, if there is one."""
        found = self.checkpoints.load({"pretext": (self.model, self.optimizer)})
        if found:
            position, facts = found
            self.done = position.epoch * self.steps_an_epoch + position.step
            self.curve, self._losses, self.seconds_before = facts["curve"], facts["losses"], facts["seconds"]
            self.ranks.say(f"image pretext: goes on after step {self.done:,} from {self.checkpoints.newest}")
        self.ranks.share_weights(self.model)
        self.ranks.share_optimizer(self.optimizer)

    def train_to_the_end(self) -> None:
        """Trains from the present position to the end of the last epoch."""
        progress = Progress(self.ranks.say, "image pretext", self._pictures(self.steps), self._pictures(self.done))
        self.model.train()
        batches = enumerate(self.train.pictures.batches(self._rows_to_come()), start=self.done * self.config.accumulate)
        while self.done < self.steps:
            self._set_learning_rate()
            self.optimizer.zero_grad()
            self._losses += [self._backward(*next(batches)) for _ in range(self.config.accumulate)]
            self.optimizer.step()
            self.done += 1
            self._after_step(progress)
        self.ranks.share_statistics(self.model)

    def _set_learning_rate(self) -> None:
        rate = self.config.learning_rate * pace(self.done + 1, self.steps, self.config.warm_up)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _backward(self, number: int, batch: PictureRows) -> float:
        """Adds the gradients of the run's batch `number`; returns the loss over tags."""
        own = self.config.seed, self.ranks.index
        torch.manual_seed(int(np.random.SeedSequence([*own, DROPPED, number]).generate_state(1)[0]))
        chance = np.random.default_rng((*own, CHANCE, number))
        pixels_BCHW = to_pixels(augment(batch.pictures_BHWC, self.config, chance), self.ranks.device)
        logit_BT, artist_BA = predict(self.model, pixels_BCHW, self.config)
        readable_B = torch.from_numpy(batch.readable_B)
        tags = loss = tag_loss(logit_BT, self.train.target(batch.row_B), readable_B, self.config)
        if artist_BA is not None:
            loss = tags + self.config.artist_weight * artist_loss(artist_BA, self.train.artist(batch.row_B), readable_B)
        (loss * self._share(number)).backward()  # type: ignore[no-untyped-call]
        return tags.item()

    def _share(self, number: int) -> float:
        """The batch's share of its step's pictures: each picture weighs alike."""
        place, passes = number % len(self.sizes), self.config.accumulate
        first = place // passes * passes
        return self.sizes[place] / sum(self.sizes[first:first + passes])

    def _after_step(self, progress: Progress) -> None:
        progress.show(self._pictures(self.done), {"tags": self._losses[-1]})
        if self.done == self.steps or self.done % max(1, self.steps // CURVE_POINTS) == 0:  # on every rank at the same step
            loss = self.ranks.mean({"loss": float(np.mean(self._losses))})["loss"]
            if not np.isfinite(loss):
                raise ConfigError("pretext.learning_rate", f"{self.config.learning_rate}, with which the loss became {loss} "
                                  f"by step {self.done:,}", "a rate at which training converges",
                                  "lower it, for example to a tenth")
            self.curve.append([self._pictures(self.done), round(loss, 5)])
            self._losses.clear()
        save = self.done % self.config.checkpoint_steps == 0 and self.done < self.steps
        if save or self.done == self.steps:  # on every rank at the same step
            self._require_readable()
        if save:
            self._save()

    def _require_readable(self) -> None:
        """Neither a checkpoint nor an encoder is kept of a training that sees next to nothing: it would embed the whole
        catalogue, now and in every later week. Counted are the pictures asked for since training last started."""
        pictures = self.train.pictures
        broken, read = zip(*self.ranks.gather([dict(pictures.broken), min(pictures.asked, len(self.train))]), strict=True)
        counts = [sum(by_rule.values()) for by_rule in broken]
        worst = max(range(len(counts)), key=lambda rank: counts[rank] / max(1, read[rank]))
        asked = read[worst]
        if counts[worst] <= max(self.config.max_reject_share * asked, min(REJECT_ALLOWANCE, asked // 2)):
            return
        rule = max(broken[worst], key=broken[worst].__getitem__)
        raise ContractError(f"pictures below raw.image_root, of rank {worst}",
                            f"{counts[worst]} of {asked} that cannot be read, most by rule {rule}",
                            f"at most {self.config.max_reject_share:.1%} (pretext.max_reject_share)",
                            "look whether the folder is mounted on that rank's node, mend the pictures or raise the share, "
                            "and run again: training goes on from the last checkpoint before, if there is one")

    def _save(self) -> None:
        """The first rank writes a checkpoint at the present position; the others wait for it."""
        self.ranks.share_statistics(self.model)
        losses = [float(np.mean(one)) for one in zip(*self.ranks.gather(self._losses), strict=True)]
        if self.ranks.index == 0:
            facts = {"curve": self.curve, "losses": losses,
                     "seconds": self.seconds_before + time.monotonic() - self._started}
            self.checkpoints.save(self.done, Position(*divmod(self.done, self.steps_an_epoch)), facts,
                                  {"pretext": (self.model, self.optimizer)})
        self.ranks.barrier()

    def _pictures(self, steps: int) -> int:
        """How many all ranks have seen after so many steps."""
        epochs, rest = divmod(steps, self.steps_an_epoch)
        return (epochs * len(self.train) + sum(self.sizes[:rest * self.config.accumulate])) * self.ranks.count

    def _rows_to_come(self) -> Iterator[NDArray[np.int64]]:
        """Row numbers of each batch; each epoch reads every row once, in an order of its own."""
        first_epoch, first_step = divmod(self.done, self.steps_an_epoch)
        for epoch in range(first_epoch, self.config.epochs):
            order = np.random.default_rng((self.config.seed, self.ranks.index, ORDER, epoch))
            batches = np.split(order.permutation(len(self.train)), np.cumsum(self.sizes)[:-1])
            yield from batches[first_step * self.config.accumulate if epoch == first_epoch else 0:]


def predict(model: TagModel, pixels_BCHW: Tensor, config: PretextConfig) -> tuple[Tensor, Tensor | None]:
    """logit_BT and artist_BA or None, float32, with products in the configuration's precision."""
    with torch.autocast(pixels_BCHW.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        logit_BT, artist_BA = model(pixels_BCHW)
    return logit_BT.float(), None if artist_BA is None else artist_BA.float()


# ---------------------------------------------------------------- measuring
def measure(ranks: Ranks, model: TagModel, held: TaggedPictures, config: PretextConfig) -> dict[str, Any]:
    """Mean average precision on the held-out rows of all ranks."""
    model.eval()
    scores, truths = [torch.zeros(0, len(held.targets.vocabulary))], [torch.zeros(0, len(held.targets.vocabulary))]
    with torch.inference_mode():
        for batch in held.pictures.batches(_in_order(len(held), config.batch)):
            logit_BT, _ = predict(model, to_pixels(batch.pictures_BHWC, ranks.device), config)
            scores.append(logit_BT.cpu()[batch.readable_B])
            truths.append(held.target(batch.row_B)[batch.readable_B])
    score_NT, truth_NT = (ranks.gather_rows(torch.cat(parts)).numpy() for parts in (scores, truths))
    frequency_NT = np.broadcast_to(held.frequency_T.numpy(), score_NT.shape)
    return {"mean_average_precision": round(mean_average_precision(score_NT, truth_NT), 5),
            "baseline_mean_average_precision": round(mean_average_precision(frequency_NT, truth_NT), 5),
            "held_rows": len(score_NT), "tags": len(held.targets.vocabulary)}


def _in_order(rows: int, batch: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, rows, batch):
        yield np.arange(start, min(start + batch, rows))


def _count_broken(ranks: Ranks, *parts: TaggedPictures) -> dict[str, int]:
    """Unreadable pictures of all ranks, by rule."""
    own = sum((part.pictures.broken for part in parts), Counter())
    return dict(sum((Counter(counts) for counts in ranks.gather(dict(own))), Counter()))

"""The pretext that trains the image encoder: which tags does an illustration carry? (UMAIR-FPS, the image encoder)

B pictures of a step, T tags of the vocabulary, N held-out pictures of all ranks.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from umair.model.image_encoder import ImageEncoder, ImageEncoderConfig, build_image_encoder, save_image_encoder, to_pixels
from umair.picture import RGB
from umair.storage import write_folder
from umair.training.progress import Progress
from umair.training.ranks import Ranks
from umair.training.shares import count_steps, step_sizes
from umair.training.tagged_pictures import Catalogue, TaggedConfig, TaggedPictures, open_tagged

CURVE_POINTS = 60  # of the loss curve, however long the training


class PretextConfig(TaggedConfig):
    """Multi-label tag prediction with a sigmoid for each tag. The paper gives no sizes; these are ours."""

    ranks: int = Field(1, gt=0)  # Horovod processes
    threads: int = Field(1, gt=0)  # of torch, in each rank
    device: Literal["cpu", "cuda"] = "cpu"
    epochs: int = Field(10, ge=0)  # 0: keep the encoder's weights as they are
    batch: int = Field(64, ge=2)  # pictures of a step, in each rank
    learning_rate: float = Field(1e-3, gt=0)  # of Adam, at its highest; not scaled by the number of ranks
    warm_up: float = Field(0.05, ge=0, lt=1)  # share of the steps until then; afterwards a cosine down to 0
    loss: Literal["bce", "focal"] = "bce"
    focal_gamma: float = Field(2.0, ge=0)  # of the focal loss: 0 is bce
    artist_weight: float = Field(0.3, gt=0)  # of the cross-entropy over artists, where `artists` are told apart
    flip: bool = True  # half the pictures, left to right: changes neither content nor style
    shift: float = Field(0.05, ge=0, lt=0.5)  # of the picture's size, at most, in each direction


class TagModel(nn.Module):
    """The encoder with one logit a tag on the mean of its deepest map; pixels_BCHW -> logit_BT, artist_BA or None.

    Beyond the paper, whose style vector is left to what tags happen to teach the first layers, one logit an artist on the
    style vector: whose hand is it? Tags alone make the first layers forget style (docs/evidence/encoders.md).

    Tags are rare, so the bias starts at each tag's log-odds: training starts from the label-frequency baseline. That is all
    that is done about the imbalance, unless the focal loss is chosen.
    """

    def __init__(self, encoder: ImageEncoder, frequency_T: Tensor, artists: int = 0) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.deep_width, len(frequency_T))
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():
            self.head.bias.copy_(torch.logit(frequency_T, eps=1e-4))
        width = encoder.style_width
        self.artist_head = nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, artists)) if artists else None

    def forward(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.artist_head is None:
            return self.head(self.encoder.deep(pixels_BCHW)), None
        deep_BS, style_BY = self.encoder.deep_and_style(pixels_BCHW)
        tamed_BY = style_BY.sign() * style_BY.abs().log1p()  # products have a long tail
        return self.head(deep_BS), self.artist_head(tamed_BY)


def train_pretext(ranks: Ranks, *, catalogue: Catalogue, encoder: dict[str, Any], pretext: dict[str, Any], folder: str
                  ) -> dict[str, Any]:
    """Trains the image encoder on the catalogue's illustrations; rank 0 writes it into `folder`.

    `encoder` and `pretext` are the values of an ImageEncoderConfig and a PretextConfig. Unreadable pictures are skipped
    and counted. Returns facts, the same on every rank: the encoder's, the loss curve, mean average precision on
    illustrations held out and that of the label-frequency baseline. Raises ContractError when there is too little to
    train on.
    """
    config, network, started = PretextConfig(**pretext), ImageEncoderConfig(**encoder), time.monotonic()
    torch.manual_seed(config.seed)
    train, held = open_tagged(catalogue, network.picture_size, (ranks.index, ranks.count), config)
    try:
        model = TagModel(build_image_encoder(network), train.targets.frequency(), train.artists)
        model.to(ranks.device)
        curve = fit(ranks, model, train, config)
        precision = measure(ranks, model, held, config)
    finally:
        train.pictures.close()
        held.pictures.close()
    facts = {**precision, "loss_curve": curve, "train_rows": ranks.count * len(train), "ranks": ranks.count,
             "epochs": config.epochs, "broken_pictures": _count_broken(ranks, train, held),
             "seconds": round(time.monotonic() - started, 3)}
    if ranks.index == 0:
        facts = save_pretrained(model.encoder, Path(folder), facts)
    shared: dict[str, Any] = ranks.gather(facts)[0]
    return shared


def save_pretrained(encoder: ImageEncoder, folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Writes the encoder's folder, whole or not at all; returns its facts."""
    return write_folder(folder, lambda temporary: {**facts, **save_image_encoder(encoder.cpu(), temporary)})


# ---------------------------------------------------------------- training
def fit(ranks: Ranks, model: TagModel, train: TaggedPictures, config: PretextConfig) -> list[list[float]]:
    """Trains in place with Adam; returns the loss curve as [pictures seen by all ranks, mean loss since the last point]."""
    ranks.share_weights(model)
    optimizer = ranks.distribute(torch.optim.Adam(model.parameters(), lr=config.learning_rate), model)
    order, chance = (np.random.default_rng((config.seed, ranks.index, use)) for use in range(2))  # order runs in a thread
    steps, done, losses, curve = config.epochs * count_steps([len(train)], config.batch), 0, [], []
    progress = Progress(ranks.say, "image pretext", config.epochs * len(train) * ranks.count)
    model.train()
    for step, batch in enumerate(train.pictures.batches(_random_batches(len(train), config, order)), start=1):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * pace(step, steps, config.warm_up)
        logit_BT, artist_BA = model(to_pixels(augment(batch.pictures_BHWC, config, chance)).to(ranks.device))
        readable_B = torch.from_numpy(batch.readable_B)
        loss = tag_loss(logit_BT, train.target(batch.row_B), readable_B, config)
        losses.append(loss.item())
        if artist_BA is not None:
            loss = loss + config.artist_weight * artist_loss(artist_BA, train.artist(batch.row_B), readable_B)
        _step_down(optimizer, loss)
        done += len(batch.row_B) * ranks.count
        progress.show(done, {"tags": losses[-1]})
        if step == steps or step % max(1, steps // CURVE_POINTS) == 0:  # on every rank at the same step
            curve.append([done, round(ranks.mean({"loss": float(np.mean(losses))})["loss"], 5)])
            losses.clear()
    ranks.share_statistics(model)
    return curve


def _step_down(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def tag_loss(logit_BT: Tensor, target_BT: Tensor, readable_B: Tensor, config: PretextConfig) -> Tensor:
    """Mean binary cross-entropy over tags and readable pictures; the focal form weighs by (1 - p of the truth) ** gamma.

    Without a readable picture it is 0 and still reaches every weight, so that no rank leaves an allreduce out.
    """
    target_BT, readable_B = target_BT.to(logit_BT.device), readable_B.to(logit_BT.device)
    loss_BT = binary_cross_entropy_with_logits(logit_BT, target_BT, reduction="none")
    if config.loss == "focal":
        loss_BT = loss_BT * (1.0 - torch.exp(-loss_BT)) ** config.focal_gamma
    return (loss_BT.mean(dim=1) * readable_B).sum() / readable_B.sum().clamp(min=1)


def artist_loss(artist_BA: Tensor, artist_B: Tensor, readable_B: Tensor) -> Tensor:
    """Mean cross-entropy over readable pictures of artists who are told apart (not -1); 0 without any."""
    counts_B = ((artist_B >= 0) & readable_B).to(artist_BA.device)
    loss_B = cross_entropy(artist_BA, artist_B.clamp(min=0).to(artist_BA.device), reduction="none")
    return (loss_B * counts_B).sum() / counts_B.sum().clamp(min=1)


def pace(step: int, steps: int, warm_up: float) -> float:
    """The share of the highest learning rate at a step, counted from 1: a line up, then half a cosine down to 0."""
    rising = warm_up * steps
    if step <= rising:
        return step / rising
    return 0.5 + 0.5 * math.cos(math.pi * (step - rising) / (steps - rising + 1))


def augment(pictures_BHWC: RGB, config: PretextConfig, chance: np.random.Generator) -> RGB:
    """Mirrors half the pictures and shifts each a little, edges repeated: neither content nor style changes by that.

    No scaling, no colours, no blur: palette, line weight and texture are what the style vector should know.
    """
    count, size = pictures_BHWC.shape[:2]
    most = round(config.shift * size)
    padded = np.pad(pictures_BHWC, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    moved = np.empty_like(pictures_BHWC)
    for place, (down, right) in enumerate(chance.integers(0, 2 * most + 1, (count, 2))):
        moved[place] = padded[place, down:down + size, right:right + size]
    mirrored_B = chance.random(count) < (0.5 if config.flip else 0.0)
    moved[mirrored_B] = moved[mirrored_B, :, ::-1]
    return moved


def _random_batches(rows: int, config: PretextConfig, chance: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Row numbers of each step of all epochs; each epoch reads every row once, in an order of its own."""
    ends = np.cumsum(step_sizes(rows, count_steps([rows], config.batch)))
    for _ in range(config.epochs):
        yield from np.split(chance.permutation(rows), ends[:-1])


# ---------------------------------------------------------------- measuring
def measure(ranks: Ranks, model: TagModel, held: TaggedPictures, config: PretextConfig) -> dict[str, Any]:
    """Mean average precision on the held-out rows of all ranks."""
    model.eval()
    scores, truths = [torch.zeros(0, len(held.targets.vocabulary))], [torch.zeros(0, len(held.targets.vocabulary))]
    with torch.inference_mode():
        for batch in held.pictures.batches(_in_order(len(held), config.batch)):
            logit_BT, _ = model(to_pixels(batch.pictures_BHWC).to(ranks.device))
            scores.append(logit_BT.float().cpu()[batch.readable_B])
            truths.append(held.target(batch.row_B)[batch.readable_B])
    score_NT, truth_NT = (ranks.gather_rows(torch.cat(parts)).numpy() for parts in (scores, truths))
    frequency_NT = np.broadcast_to(held.targets.frequency().numpy(), score_NT.shape)
    return {"mean_average_precision": round(mean_average_precision(score_NT, truth_NT), 5),
            "baseline_mean_average_precision": round(mean_average_precision(frequency_NT, truth_NT), 5),
            "held_rows": len(score_NT), "tags": len(held.targets.vocabulary)}


def _in_order(rows: int, batch: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, rows, batch):
        yield np.arange(start, min(start + batch, rows))


def mean_average_precision(score_NT: NDArray[Any], truth_NT: NDArray[Any]) -> float:
    """The mean over tags of the average precision of ranking the N rows by score; tags that no row carries are left out.

    Rows with equal scores share one threshold, so a constant score gets the tag's share of rows. NaN without any tag.
    """
    return float(np.mean([_average_precision(score_NT[:, tag], truth_NT[:, tag])
                          for tag in np.flatnonzero(truth_NT.any(axis=0))] or [np.nan]))


def _average_precision(score_N: NDArray[Any], truth_N: NDArray[Any]) -> float:
    order_N = np.argsort(-score_N, kind="stable")
    found_N = np.cumsum(truth_N[order_N])
    last = np.flatnonzero(np.diff(score_N[order_N], append=-np.inf))  # last row of each group of equal scores
    precision = found_N[last] / (last + 1)
    return float((np.diff(found_N[last], prepend=0.0) * precision).sum() / found_N[-1])


def _count_broken(ranks: Ranks, *parts: TaggedPictures) -> dict[str, int]:
    """Unreadable pictures of all ranks, by rule."""
    own = sum((part.pictures.broken for part in parts), Counter())
    return dict(sum((Counter(counts) for counts in ranks.gather(dict(own))), Counter()))

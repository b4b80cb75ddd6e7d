"""Fine-tuning of the text encoder on text pairs: MultipleNegativesRanking loss in a plain loop over ranks.

Pairs are translations, relations and explanations (paper table 1). With anchors a and positives p of a batch,
L = mean_i CE(scale * cos(a_i, p_.), i). From the authors' code: 20 epochs of 96 pairs, warm-up over the first tenth, AdamW.
Departures: pairs are shuffled (theirs come in the order of their ids), pairs that share a text, a thing or a small work are
never each other's negatives (`batches_apart`, docs/decisions/019), each rank has batches of its own, kinds of pairs may
weigh more or less, no mixed precision.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import torch
from pydantic import Field
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import batch_to_device

from umair.config import Section
from umair.errors import ConfigError, ContractError
from umair.model.text_encoder import (
    TextEncoderConfig,
    assemble,
    clean_text,
    load_base,
    save_text_encoder,
    text_encoder_facts,
    train_tokenizer,
)
from umair.storage import write_folder
from umair.training.progress import Progress
from umair.training.ranks import Ranks
from umair.training.text_recall import Ranked, rank_pairs, summary_of

TOKENIZER_TEXTS = 1_000_000  # a tokenizer is trained on a sample of so many distinct texts at most
TERMS_AGAIN = ("a table 'terms' in raw.folder; for a week that was taken in without, remove steps/WEEK/ingest_tables-*.json "
               "below root first")
SMALL_WORK = 50  # pairs: no two of so small a work stand in one batch; a larger one is a web of several works
LARGE_THING = 200  # pairs that say the same: more is a chain of texts with several meanings, taken link by link
OPEN_BATCHES = 256  # batches that are filled at the same time while pairs are dealt out

Ints = npt.NDArray[np.int64]
Loss = Any  # either form of MultipleNegativesRankingLoss; the library has no types


class TextPairsConfig(Section):
    """How the text encoder is trained; the defaults are the authors', meant for a trained base."""

    epochs: int = Field(20, ge=0)  # 0 keeps text_encoder.base as it is
    batch: int = Field(96, ge=2)  # pairs of a step, in each rank (training.batch is of all ranks together)
    chunk: int = Field(0, ge=0)  # texts encoded at once in a large batch (GradCache: the same loss in less memory); 0: all
    relations: tuple[str, ...] = ("relation",)  # kinds whose two texts stand for different things, such as a character and
    #                              its series; pairs of every other kind say the same twice
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field({})  # of kinds: how often an epoch sees each of its pairs; 1
    learning_rate: float = Field(2e-5, gt=0)  # at the end of the warm-up; about 1e-3 from scratch
    warmup: float = Field(0.1, ge=0, lt=1)  # share of all steps
    weight_decay: float = Field(0.01, ge=0)  # AdamW's
    scale: float = Field(20.0, gt=0)  # the inverse of the softmax's temperature
    holdout_by: Literal["work", "pair"] = "work"  # pairs that hang together through shared texts are held out together
    holdout_share: float = Field(0.05, ge=0, lt=1)  # of the pairs, never trained on, for recall
    holdout_most: int = Field(2000, ge=0)  # pairs held out at most
    ranks: int = Field(2, ge=1)  # Horovod processes
    threads: int = Field(1, ge=1)  # of torch, in each rank
    device: Literal["cpu", "cuda"] = "cpu"  # cuda: each rank takes a GPU of its node
    seed: int = 0  # of shuffling, split and dropout


@dataclass(frozen=True)
class TextPairs:
    """Distinct texts, the pairs among them, and for each text those it is paired with in either direction."""

    texts: pa.Array  # [T] distinct as `text_key` sees them, sorted
    pair_N2: Ints  # positions among `texts`: anchor, positive
    partners: Ints  # [2N] positions, one text's after the other's
    first_partner: Ints  # [T + 1] where each text's partners start in `partners`
    kinds: list[str]  # [N] of each pair
    languages: list[str]  # [N] of each pair, sorted: en-ja
    relations: tuple[str, ...] = ()  # kinds whose two texts stand for different things

    def __len__(self) -> int:
        return len(self.pair_N2)

    def texts_at(self, positions: Ints) -> list[str]:
        """The texts as the encoder sees them."""
        return [clean_text(text) for text in self.texts.take(pa.array(positions)).to_pylist()]

    def group_of(self, row: int) -> str:
        """Kind and languages, in words."""
        return f"{self.kinds[row]} {self.languages[row]}"

    @cached_property
    def work_N(self) -> Ints:
        """[N] the number of the work that each pair is about: pairs that hang together through shared texts."""
        work_N: Ints = _joined(self.pair_N2, len(self.texts))[self.pair_N2[:, 0]]
        return work_N

    @cached_property
    def small_work_N(self) -> Ints:
        """[N] the same where a work has at most SMALL_WORK pairs, -1 elsewhere."""
        return np.where(np.bincount(self.work_N)[self.work_N] <= SMALL_WORK, self.work_N, -1)

    @cached_property
    def thing_N2(self) -> Ints:
        """[N, 2] the number of the thing that each text stands for: texts that pairs say to mean the same stand for one.

        Where more than LARGE_THING such pairs hang together, texts have several meanings, and each stands for itself.
        """
        same_N = ~np.isin(self.kinds, self.relations)
        thing_T = _joined(self.pair_N2[same_N], len(self.texts))
        said_T = np.bincount(thing_T[self.pair_N2[same_N, 0]], minlength=len(self.texts))
        same_N &= said_T[thing_T[self.pair_N2[:, 0]]] <= LARGE_THING
        thing_N2: Ints = _joined(self.pair_N2[same_N], len(self.texts))[self.pair_N2]
        return thing_N2

    @cached_property
    def related_things(self) -> list[set[int]]:
        """Of each thing, those that a pair joins it to."""
        related: list[set[int]] = [set() for _ in range(int(self.thing_N2.max(initial=-1)) + 1)]
        for first, second in self.thing_N2[self.thing_N2[:, 0] != self.thing_N2[:, 1]].tolist():
            related[first].add(second)
            related[second].add(first)
        return related

    def partners_of(self, text: int) -> list[int]:
        partners: list[int] = self.partners[self.first_partner[text]:self.first_partner[text + 1]].tolist()
        return partners


def require_trainable(encoder: TextEncoderConfig, pairs: TextPairsConfig, rows: int) -> None:
    """Raises ConfigError where the result would be random vectors: from scratch, and without pairs or epochs."""
    if encoder.base is None and (rows == 0 or pairs.epochs == 0):
        found = "no pair of texts" if rows == 0 else "epochs: 0 and no text_encoder.base, which gives random vectors"
        raise ConfigError("text_pairs", found, "something that gives texts their meaning",
                          f"either bring pairs ({TERMS_AGAIN}) and set text_pairs.epochs to 1 or more, or name a trained "
                          "model in text_encoder.base and set text_pairs.epochs=0")
    if pairs.epochs > 0 and rows == 0:
        raise ConfigError("text_pairs.epochs", f"{pairs.epochs} and no pair of texts", "pairs to train on, or 0",
                          f"bring pairs ({TERMS_AGAIN}), or set text_pairs.epochs=0 to use text_encoder.base as it is")


def train_text_encoder(ranks: Ranks, *, files: list[str], encoder: dict[str, Any], pairs: dict[str, Any],
                       folder: str, lineage: dict[str, Any] | None = None, keep_ranks: bool = False) -> dict[str, Any]:
    """Trains on the terms in `files`; the first rank writes `folder`. Every rank returns the facts.

    Facts: what `lineage` says, fingerprint, width, pairs (to train on), held_out, by epoch loss (mean), seen (pairs that
    found a batch) and steps (of a rank), before and after (`summary_of` held-out pairs), seconds; with `keep_ranks` also
    ranked, by group: work [n], before and after [n, 2], each held-out pair's work and places (`rank_pairs`). Raises
    ConfigError, ContractError, StorageError.
    """
    started = time.perf_counter()
    shape, config = TextEncoderConfig(**encoder), TextPairsConfig(**pairs)
    terms = read_text_pairs(files, config.relations)
    require_trainable(shape, config, len(terms))
    trained_rows, held_rows = split_rows(terms, config)
    if len(terms) and not len(held_rows) and config.holdout_share and config.holdout_most:
        ranks.say(f"text encoder: of {len(terms)} pairs none could be held out, as every work has more of them than "
                  f"text_pairs.holdout_share ({config.holdout_share:g}) allows in all: no recall will be measured")
    model = _first_model(ranks, shape, terms, trained_rows, config.seed)
    before = _rank_on_first(ranks, model, terms, held_rows)
    curves = _train(ranks, model, terms, trained_rows, config)
    after = _rank_on_first(ranks, model, terms, held_rows)
    facts = {"pairs": len(trained_rows), "held_out": len(held_rows), **curves,
             "before": summary_of(before), "after": summary_of(after)}
    if keep_ranks:
        facts["ranked"] = {group: {"work": terms.work_N[own].tolist(), "before": before[group][1].tolist(),
                                   "after": rank_N2.tolist()} for group, (own, rank_N2) in after.items()}

    def write(target: Path) -> dict[str, Any]:
        save_text_encoder(model, target)
        return {**(lineage or {}), **text_encoder_facts(model), **facts, "seconds": round(time.perf_counter() - started, 3)}

    return ranks.gather(write_folder(Path(folder), write) if ranks.index == 0 else None)[0]  # type: ignore[no-any-return]


def read_text_pairs(files: list[str], relations: tuple[str, ...] = ()) -> TextPairs:
    """The distinct pairs of a terms table, whichever way round and however spelled; the same pairs give the same result.

    Texts that differ only in what `text_key` takes away are one text: as two they would be each other's negatives, and a
    held-out text could have been trained on.
    """
    columns = ["text_a", "text_b", "lang_a", "lang_b", "kind"]
    table = pyarrow.dataset.dataset(files, format="parquet").to_table(columns=columns)
    anchors, positives = (table[name].cast(pa.large_string()) for name in ("text_a", "text_b"))
    texts = pc.unique(pa.chunked_array([*anchors.chunks, *positives.chunks], type=pa.large_string()))
    texts = texts.take(pc.sort_indices(texts))
    pair_N2 = np.stack([pc.index_in(column, value_set=texts).to_numpy() for column in (anchors, positives)], axis=1)
    texts, spelled_T, visible_T = _one_spelling(texts)
    pair_N2 = spelled_T[pair_N2.astype(np.int64).reshape(-1, 2)]
    labels = [table[name].fill_null("").to_pylist() for name in ("kind", "lang_a", "lang_b")]
    label_N3 = np.array(list(zip(*labels, strict=True)), dtype=object).reshape(-1, 3)
    kept = _distinct(pair_N2, label_N3[:, 0], len(texts))
    kept = kept[visible_T[pair_N2[kept]].all(1)]  # a text of blanks would join all that it stands beside
    return _with_partners(texts, pair_N2[kept], label_N3[kept], relations)


def text_key(text: str) -> str:
    """What tells two texts apart for training: neither the width of their characters nor blanks nor case."""
    return clean_text(text).casefold()


def _one_spelling(texts: pa.Array) -> tuple[pa.Array, Ints, npt.NDArray[np.bool_]]:
    """Of texts with one key the first, for each given text its position among those, and which of them can be seen."""
    keys = pa.array([text_key(text) for text in texts.to_pylist()], pa.large_string()).dictionary_encode()
    key_T = keys.indices.to_numpy().astype(np.int64)  # by first appearance, so in the texts' order
    first = pa.array(np.unique(key_T, return_index=True)[1])
    return texts.take(first), key_T, np.array([key != "" for key in keys.dictionary.to_pylist()], bool)


def split_rows(terms: TextPairs, config: TextPairsConfig) -> tuple[Ints, Ints]:
    """Row numbers to train on and row numbers held out, by the seed.

    By work: whole works in random order, as long as they fit; a work that is larger than what is left is trained on.
    """
    random, count = np.random.default_rng([config.seed, 1]), len(terms)
    most = min(int(count * config.holdout_share), config.holdout_most)
    if config.holdout_by == "pair":
        shuffled = random.permutation(count)
        return np.sort(shuffled[most:]), np.sort(shuffled[:most])
    work_N = terms.work_N
    size_W = np.bincount(work_N)
    held_W, left = np.zeros(len(size_W), np.bool_), most
    for work in random.permutation(len(size_W)):
        if 0 < size_W[work] <= left:
            held_W[work] = True
            left -= size_W[work]
    return np.flatnonzero(~held_W[work_N]), np.flatnonzero(held_W[work_N])


def count_works(terms: TextPairs, config: TextPairsConfig) -> dict[str, dict[str, float]]:
    """By kind, and `all`: pairs, the share of them in works of more than SMALL_WORK pairs, which `batches_apart` does not
    keep apart as works, and the share in works too large for `split_rows` ever to hold them out."""
    size_N = np.bincount(terms.work_N)[terms.work_N]
    most = min(int(len(terms) * config.holdout_share), config.holdout_most)
    kind_N = np.array(terms.kinds)
    rows = {"all": np.full(len(terms), fill_value=True), **{kind: kind_N == kind for kind in sorted(set(terms.kinds))}}
    return {name: {"pairs": int(mask_N.sum()), "large": round(float((size_N[mask_N] > SMALL_WORK).mean()), 4),
                   "never_held_out": round(float((size_N[mask_N] > most).mean()), 4)} for name, mask_N in rows.items()}


def weighted_rows(terms: TextPairs, rows: Ints, weights: dict[str, float], random: np.random.Generator) -> Ints:
    """The rows that one epoch sees: each as often as its kind weighs, the fraction by lot. Without weights, `rows`.

    Raises ConfigError for a kind that no pair has.
    """
    if not weights:
        return rows
    strange = sorted(set(weights) - set(terms.kinds))
    if strange:
        raise ConfigError("text_pairs.weights", f"kind {', '.join(strange)}",
                          f"kinds of pairs: {', '.join(sorted(set(terms.kinds)))}", "correct the name")
    weight_N = np.array([weights.get(terms.kinds[row], 1.0) for row in rows])
    times_N = np.floor(weight_N + random.random(len(rows))).astype(np.int64)
    return np.repeat(rows, times_N)


def batches_apart(terms: TextPairs, rows: Ints, batch: int) -> Iterator[Ints]:
    """Deals `rows` out, in their order, into batches of at most `batch` rows, without the false negatives that are known.

    Two pairs are kept apart when a text of one and a text of the other stand for one thing or for things that a pair joins
    (so that none shares a text, and no text is a known partner of another pair's), or when they are about one work of at
    most SMALL_WORK pairs. A larger work is a web of several: two characters of one large series may meet. Every row is dealt
    out once. Where many rows exclude each other some batches come out short, down to a single row.
    """
    opened: list[_OpenBatch] = []
    for row in rows:
        things, work = terms.thing_N2[row].tolist(), int(terms.small_work_N[row])
        fitting = next((candidate for candidate in opened if candidate.has_room_for(things, work)), None)
        if fitting is None:
            if len(opened) == OPEN_BATCHES:
                opened.remove(shortest := min(opened, key=lambda candidate: len(candidate.rows)))
                yield np.array(shortest.rows)
            fitting = _OpenBatch()
            opened.append(fitting)
        fitting.rows.append(int(row))
        fitting.works.update({work} - {-1})
        for thing in things:
            fitting.blocked |= {thing} | terms.related_things[thing]
        if len(fitting.rows) == batch:
            opened.remove(fitting)
            yield np.array(fitting.rows)
    yield from (np.array(left.rows) for left in opened)


def batches_of_rank(terms: TextPairs, rows: Ints, batch: int, ranks: Ranks, order: np.random.Generator) -> list[Ints]:
    """One epoch's batches of this rank. All ranks get the same number; the shortest batches are left out for that.

    Every rank must pass a generator in the same state. A batch of one pair has no negative and is left out too.
    """
    dealt = [rows_of_batch for rows_of_batch in batches_apart(terms, order.permutation(rows), batch)
             if len(rows_of_batch) > 1]
    dealt.sort(key=len, reverse=True)
    kept = dealt[:len(dealt) // ranks.count * ranks.count]
    return [kept[position] for position in order.permutation(len(kept))[ranks.index::ranks.count]]


def rate_factor(progress: float, warmup: float) -> float:
    """The learning rate's share of its peak at `progress` in [0, 1]: linear up during the warm-up, then linear down to 0."""
    return progress / warmup if progress < warmup else (1 - progress) / (1 - warmup)


@dataclass
class _OpenBatch:
    rows: list[int] = field(default_factory=list)
    blocked: set[int] = field(default_factory=set)  # things whose texts would be false negatives here
    works: set[int] = field(default_factory=set)  # small ones that are here already

    def has_room_for(self, things: list[int], work: int) -> bool:
        return work not in self.works and self.blocked.isdisjoint(things)


def _distinct(pair_N2: Ints, kind_N: npt.NDArray[Any], texts: int) -> Ints:
    """Positions of each unordered pair once (its first kind by name), without pairs of a text with itself."""
    low, high = pair_N2.min(axis=1), pair_N2.max(axis=1)
    unordered = low * texts + high
    order = np.lexsort((np.unique(kind_N, return_inverse=True)[1] if len(kind_N) else kind_N, pair_N2[:, 0], unordered))
    first = np.diff(unordered[order], prepend=-1) != 0
    kept: Ints = order[first & (low != high)[order]]
    return kept


def _joined(pair_N2: Ints, texts: int) -> Ints:
    """[T] the same number for texts that hang together through the pairs."""
    links = coo_matrix((np.ones(len(pair_N2)), (pair_N2[:, 0], pair_N2[:, 1])), shape=(texts, texts))
    joined_T: Ints = connected_components(links, directed=False)[1].astype(np.int64)
    return joined_T


def _with_partners(texts: pa.Array, pair_N2: Ints, label_N3: npt.NDArray[Any], relations: tuple[str, ...]) -> TextPairs:
    both = np.concatenate([pair_N2, pair_N2[:, ::-1]])
    both = both[np.argsort(both[:, 0], kind="stable")]
    first = np.concatenate([[0], np.cumsum(np.bincount(both[:, 0], minlength=len(texts)))])
    return TextPairs(texts, pair_N2, np.ascontiguousarray(both[:, 1]), first.astype(np.int64), label_N3[:, 0].tolist(),
                     ["-".join(sorted(pair)) for pair in label_N3[:, 1:].tolist()], relations)


def _first_model(ranks: Ranks, shape: TextEncoderConfig, terms: TextPairs, rows: Ints, seed: int) -> SentenceTransformer:
    """The encoder before training, equal on all ranks: the first rank alone trains the tokenizer."""
    if shape.base is None:
        tokenizer = train_tokenizer(shape, _sample_texts(terms, rows, seed)) if ranks.index == 0 else None
        model = assemble(shape, ranks.gather(tokenizer)[0])
    else:
        model = load_base(shape)
    model.to(ranks.device)
    ranks.share_weights(model)
    return model


def _sample_texts(terms: TextPairs, rows: Ints, seed: int) -> Iterator[str]:
    """Texts of the rows that are trained on, at most TOKENIZER_TEXTS."""
    chosen = np.unique(terms.pair_N2[rows])
    if len(chosen) > TOKENIZER_TEXTS:
        chosen = np.sort(np.random.default_rng([seed, 2]).choice(chosen, TOKENIZER_TEXTS, replace=False))
    for start in range(0, len(chosen), 10_000):
        yield from terms.texts_at(chosen[start:start + 10_000])


def _rank_on_first(ranks: Ranks, model: SentenceTransformer, terms: TextPairs, rows: Ints) -> Ranked:
    def encode(texts: list[str]) -> npt.NDArray[np.float32]:
        return np.asarray(model.encode(texts, normalize_embeddings=True, show_progress_bar=False))

    ranked: Ranked = ranks.gather(rank_pairs(encode, terms, rows) if ranks.index == 0 else None)[0]
    return ranked


def _train(ranks: Ranks, model: SentenceTransformer, terms: TextPairs, rows: Ints, config: TextPairsConfig
           ) -> dict[str, list[float]]:
    """Trains in place. Returns by epoch `loss` (mean over steps and ranks), `seen` (pairs of all ranks), `steps`."""
    torch.manual_seed(config.seed * 1_000 + ranks.index)  # dropout differs between ranks
    order = np.random.default_rng([config.seed, 3])
    loss, optimizer = _loss_and_optimizer(ranks, model, config)
    batch = min(config.batch, max(2, len(rows) // ranks.count))
    curves: dict[str, list[float]] = {"loss": [], "seen": [], "steps": []}
    for epoch in range(config.epochs):
        batches = batches_of_rank(terms, weighted_rows(terms, rows, config.weights, order), batch, ranks, order)
        _require_batches(batches, len(rows), ranks)
        progress = [(epoch + (step + 0.5) / len(batches)) / config.epochs for step in range(len(batches))]
        rates = [config.learning_rate * rate_factor(done, config.warmup) for done in progress]
        mean = ranks.mean({"loss": _train_epoch(ranks, loss, optimizer, terms, batches, rates),
                           "seen": sum(map(len, batches))})
        _require_finite(mean["loss"], config)
        for name, value in (("loss", round(mean["loss"], 6)), ("seen", round(mean["seen"] * ranks.count)),
                            ("steps", len(batches))):
            curves[name].append(value)
        ranks.say(f"text encoder: epoch {epoch + 1} of {config.epochs} done, mean loss {mean['loss']:.4f}")
    return curves


def _loss_and_optimizer(ranks: Ranks, model: SentenceTransformer, config: TextPairsConfig
                        ) -> tuple[Loss, torch.optim.Optimizer]:
    adam = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    if config.chunk:  # it goes back through the encoder chunk by chunk, which a distributed optimiser cannot follow
        return CachedMultipleNegativesRankingLoss(model, scale=config.scale, mini_batch_size=config.chunk), adam
    return MultipleNegativesRankingLoss(model, scale=config.scale), ranks.distribute(adam, model)


def _train_epoch(ranks: Ranks, loss: Loss, optimizer: torch.optim.Optimizer, terms: TextPairs,
                 batches: list[Ints], rates: list[float]) -> float:
    """One pass over `batches`, each with its learning rate. Returns the mean loss of this rank."""
    model = loss.model.train()
    progress = Progress(ranks.say, "text encoder, this epoch", ranks.count * sum(map(len, batches)))
    total, done = 0.0, 0
    for rows, rate in zip(batches, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        sides = [batch_to_device(model.preprocess(terms.texts_at(side)), ranks.device) for side in terms.pair_N2[rows].T]
        optimizer.zero_grad()
        value = loss(sides, labels=None)
        value.backward()
        if isinstance(loss, CachedMultipleNegativesRankingLoss):
            ranks.average_gradients(model)
        optimizer.step()
        total, done = total + value.item(), done + len(rows)
        progress.show(ranks.count * done, {"pairs": value.item()})
    return total / len(batches)


def _require_batches(batches: list[Ints], pairs: int, ranks: Ranks) -> None:
    if not batches:
        raise ContractError("table 'terms'", f"{pairs} pairs to train on, too few or too alike for a batch for each rank",
                            f"{ranks.count} batches of two unrelated pairs or more", "bring more pairs, or lower "
                            "text_pairs.ranks")


def _require_finite(loss: float, config: TextPairsConfig) -> None:
    if not np.isfinite(loss):
        raise ConfigError("text_pairs.learning_rate", f"{config.learning_rate}, with which the loss became {loss}",
                          "a rate at which training converges", "lower it, for example to a tenth")

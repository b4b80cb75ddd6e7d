"""The tag pretext: what it learns from, equal steps on every rank, and that it learns."""

from __future__ import annotations

import shutil
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageDraw

from umair.errors import ClusterError, ConfigError, ContractError, StorageError
from umair.metrics import mean_average_precision
from umair.model.image_encoder import ImageEncoderConfig, build_image_encoder, load_image_encoder
from umair.picture import PictureLimits
from umair.storage import read_facts
from umair.training.checkpoint import Checkpoints
from umair.training.picture_cache import PictureCache
from umair.training.pretext_loop import PretextRun, save_pretrained, train_pretext
from umair.training.ranks import Ranks, run_ranks
from umair.training.schedule import pace
from umair.training.tag_pretext import PretextConfig, TagModel, artist_loss, augment, tag_loss
from umair.training.tagged_pictures import (
    Catalogue,
    TagTargets,
    frequent_artists,
    frequent_tags,
    open_tagged,
    read_tagged,
    split_rows,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # ranks cannot import a test file
torch.set_num_threads(1)
ENCODER = {"picture_size": 32, "block": "basic", "stem_width": 8, "widths": (16, 24), "depths": (1, 1), "style_blocks": 1}
PRETEXT = {"epochs": 6, "batch": 16, "learning_rate": 3e-3, "min_tag_uses": 5, "holdout_share": 0.2, "decode_threads": 2,
           "cache_gib": 0.01}
SHAPES = ("circle", "正方形", "縞")  # one tag each; every picture has one or two


def draw(shapes: list[str], chance: np.random.Generator) -> Image.Image:
    """Each shape somewhere, on a background of any colour."""
    picture = Image.new("RGB", (40, 40), tuple(chance.integers(0, 120, 3).tolist()))
    pen = ImageDraw.Draw(picture)
    left, top = chance.integers(2, 16, 2).tolist()
    if "縞" in shapes:
        for row in range(0, 40, 6):
            pen.line((0, row, 40, row), fill=(240, 240, 0), width=2)
    if "circle" in shapes:
        pen.ellipse((left, top, left + 20, top + 20), fill=(250, 30, 30))
    if "正方形" in shapes:
        pen.rectangle((left, top, left + 12, top + 12), fill=(40, 40, 250))
    return picture


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], str]:
    """Two Parquet files of 240 illustrations with their pictures; some broken, untagged, without a picture, or inline."""
    folder, chance = tmp_path_factory.mktemp("catalogue"), np.random.default_rng(0)
    rows = []
    for key in range(240):
        tags = chance.choice(SHAPES, chance.integers(1, 3), replace=False).tolist()
        path = folder / "images" / f"{key}.png"
        path.parent.mkdir(exist_ok=True)
        draw(tags, chance).save(path)
        rows.append({"illust_id": key, "tags": [*tags, f"rare-{key}"], "image": path.name, "image_content": None,
                     "created_at": datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(days=key),
                     "artist_index": key % 3})
    (folder / "images" / "0.png").write_bytes(b"<html>")
    rows[1].update(image=None, image_content=(folder / "images" / "1.png").read_bytes())
    rows[2].update(image=None)
    rows[3].update(tags=[])
    rows[4].update(tags=None)
    schema = pa.schema([("illust_id", pa.int64()), ("tags", pa.list_(pa.string())), ("image", pa.string()),
                        ("image_content", pa.binary()), ("created_at", pa.timestamp("us", "UTC")),
                        ("artist_index", pa.int32())])
    files = []
    for part, chunk in enumerate((rows[:100], rows[100:])):
        files.append(str(folder / f"part-{part}.parquet"))
        pq.write_table(pa.Table.from_pylist(chunk, schema), files[-1])
    return files, str(folder / "images")


def pretext(**changes: Any) -> PretextConfig:
    return PretextConfig(**{**PRETEXT, **changes})


# ---------------------------------------------------------------- rows and tags
def test_only_illustrations_with_a_picture_and_tags_are_learned_from(catalogue: tuple[list[str], str]) -> None:
    table = read_tagged(Catalogue(*catalogue))
    assert table["row"].to_pylist() == [0, 1, *range(5, 240)]
    assert [row for row, count in enumerate(table["inline_bytes"].to_pylist()) if count is not None] == [1]
    assert "image_content" not in table.column_names


def test_illustrations_that_the_test_should_find_new_are_left_out(catalogue: tuple[list[str], str]) -> None:
    table = read_tagged(Catalogue(*catalogue, before=datetime(2026, 1, 11, tzinfo=timezone.utc)))
    assert table["row"].to_pylist() == [0, 1, *range(5, 10)]  # illustration 10 was created at that very moment
    with pytest.raises(ContractError, match="none with a picture and a tag created before 2025-06-01"):
        read_tagged(Catalogue(*catalogue, before=datetime(2025, 6, 1, tzinfo=timezone.utc)))


def test_the_vocabulary_is_the_most_frequent_tags_ties_by_name() -> None:
    tags = pa.array([["b", "a", "c"], ["b", "a"], None, ["b", "d", None], ["c", "a"]])
    assert frequent_tags(tags, pretext(min_tag_uses=2, vocabulary=2)) == ["a", "b"]
    assert frequent_tags(tags, pretext(min_tag_uses=1, vocabulary=9)) == ["a", "b", "c", "d"]
    with pytest.raises(ContractError, match=r"no tag with 4 uses among 5 illustrations.*lower pretext.min_tag_uses"):
        frequent_tags(tags, pretext(min_tag_uses=4))


def test_targets_by_hand() -> None:
    tags = pa.array([["x", "b"], None, [], ["a", "b"], ["a"]])
    targets = TagTargets.of(tags, ["a", "b"])
    assert targets.dense(np.array([3, 0, 1, 2, 4])).tolist() == [[1, 1], [0, 1], [0, 0], [0, 0], [1, 0]]
    assert targets.frequency(np.arange(5)).tolist() == pytest.approx([0.4, 0.4])
    assert targets.frequency(np.array([2, 0, 1])).tolist() == pytest.approx([0, 1 / 3])


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_ranks_share_all_rows_but_a_few_equally_and_hold_out_the_same(catalogue: tuple[list[str], str], count: int) -> None:
    files, root = catalogue
    table, config = read_tagged(Catalogue(files, root)), pretext()
    opened = [open_tagged(Catalogue(files, root), 32, (rank, count), config) for rank in range(count)]
    train = [row for own, _ in opened for row in own.row_R]
    held = [row for _, own in opened for row in own.row_R]
    assert len({len(own) for own, _ in opened}) == 1  # unequal shares hang the allreduce
    assert len(set(train) | set(held)) == len(train) + len(held) > len(table) - count
    assert sorted(held) == sorted(split_rows(len(table), config)[0])
    for own, other in opened:
        own.pictures.close()
        other.pictures.close()


def test_pictures_and_targets_belong_together(catalogue: tuple[list[str], str]) -> None:
    files, root = catalogue
    train, held = open_tagged(Catalogue(files, root), 40, (1, 2), pretext())
    table = read_tagged(Catalogue(files, root))
    for part in (train, held):
        positions = np.arange(min(12, len(part)))
        loaded = part.pictures.read(positions)
        for position, picture, readable in zip(*loaded, strict=True):
            row = table["row"][int(part.row_R[position])].as_py()
            if readable:
                expected = np.asarray(Image.open(Path(root) / f"{row}.png"))
                np.testing.assert_array_equal(picture, expected)
        part.pictures.close()


def test_what_is_held_out_has_no_say_in_the_vocabulary_nor_in_its_frequencies(tmp_path: Path, catalogue: tuple[list[str], str]) -> None:
    _, root = catalogue
    held = set(split_rows(40, pretext())[0].tolist())
    tags = [["held", "both"] if row in held else ["train", "both"][row % 2:] for row in range(40)]
    table = pq.read_table(catalogue[0][0]).slice(0, 1)
    rows = pa.concat_tables([table.set_column(table.column_names.index("tags"), "tags", pa.array([own], table["tags"].type))
                             .set_column(table.column_names.index("image"), "image", pa.array(["0.png"])) for own in tags])
    pq.write_table(rows, tmp_path / "tagged.parquet")
    train, other = open_tagged(Catalogue([str(tmp_path / "tagged.parquet")], root), 32, (0, 1), pretext(min_tag_uses=1))
    assert train.targets.vocabulary == ["both", "train"]
    even = sum(row % 2 == 0 for row in range(40) if row not in held)
    assert train.frequency_T.tolist() == other.frequency_T.tolist() == pytest.approx([1.0, even / (40 - len(held))])
    train.pictures.close()
    other.pictures.close()


def test_too_little_to_learn_from_is_a_clear_error(catalogue: tuple[list[str], str], tmp_path: Path) -> None:
    files, root = catalogue
    with pytest.raises(ContractError, match=r"with a picture and a tag to train on.*use fewer ranks"):
        open_tagged(Catalogue(files, root), 32, (0, 200), pretext())
    with pytest.raises(ContractError, match="GiB of pictures as bytes for one rank"):
        open_tagged(Catalogue(files, root), 32, (0, 1), pretext(inline_gib=1e-9))
    pq.write_table(pq.read_table(files[0]).slice(2, 3), tmp_path / "none.parquet")
    with pytest.raises(ContractError, match="none with a picture and a tag"):
        read_tagged(Catalogue([str(tmp_path / "none.parquet")], root))


# ---------------------------------------------------------------- the picture cache
def test_the_cache_gives_the_same_whether_it_keeps_all_some_or_none(catalogue: tuple[list[str], str]) -> None:
    files, root = catalogue
    sources, seen = pq.read_table(files[1], columns=["image", "image_content"]).slice(0, 20), []
    for most_bytes in (0, 5 * 16 * 16 * 3, 10**6):
        cache = PictureCache(sources, root, 16, PictureLimits(), threads=2, most_bytes=most_bytes)
        groups = [np.arange(0, 12), np.arange(8, 20), np.arange(3, 9)]
        seen.append([batch.pictures_BHWC for batch in cache.batches(groups)])
        cache.close()
    for first, *others in zip(*seen, strict=True):
        for other in others:
            np.testing.assert_array_equal(first, other)


def test_a_broken_picture_is_black_unreadable_and_counted_once(catalogue: tuple[list[str], str], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"<html>")
    sources = pa.table({"image": ["a.png", "b.png", None], "image_content": pa.array([None, None, b"x"], pa.binary())})
    cache = PictureCache(sources, str(tmp_path), 16, PictureLimits(), threads=1, most_bytes=0)
    for _ in range(2):
        batch = cache.read(np.arange(3))
        assert not batch.readable_B.any()
        assert batch.pictures_BHWC.max() == 0
    assert cache.broken == {"not_an_image": 2, "missing_file": 1}
    cache.close()


def test_a_cache_larger_than_the_disk_is_refused() -> None:
    sources = pa.table({"image": pa.nulls(200_000, pa.string()), "image_content": pa.nulls(200_000, pa.binary())})
    with pytest.raises(StorageError, match=r"no room for decoded pictures.*lower pretext.cache_gib"):
        PictureCache(sources, "", 4096, PictureLimits(), threads=1, most_bytes=2**60)


# ---------------------------------------------------------------- steps
def test_augmentation_moves_pixels_and_invents_none() -> None:
    chance = np.random.default_rng(0)
    pictures = chance.integers(0, 256, (32, 20, 20, 3), dtype=np.uint8)
    moved = augment(pictures, pretext(shift=0.1), np.random.default_rng(1))
    for before, after in zip(pictures, moved, strict=True):
        inner = {tuple(pixel) for pixel in before.reshape(-1, 3)}
        assert {tuple(pixel) for pixel in after.reshape(-1, 3)} <= inner
    whole = [any(np.array_equal(after, view) for view in (before, before[:, ::-1]))
             for before, after in zip(pictures, augment(pictures, pretext(shift=0.0), chance), strict=True)]
    assert all(whole)
    np.testing.assert_array_equal(augment(pictures, pretext(shift=0.0, flip=False), chance), pictures)


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [pace(step, 99, 10 / 99) for step in range(1, 100)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[54] == pytest.approx(0.5)  # step 55 is half way from 10 to 100
    assert 0 < rates[-1] < 0.001
    assert pace(1, 1, 0.0) == pytest.approx(0.5)


def test_loss_by_hand_and_focal_with_gamma_zero_is_bce() -> None:
    logit, target = torch.tensor([[0.0, 2.0], [5.0, 5.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    first_only = torch.tensor([True, False])
    # row 0: ln 2 and ln(1 + e^2), averaged; row 1 is unreadable
    assert tag_loss(logit, target, first_only, pretext()).item() == pytest.approx((0.693147 + 2.126928) / 2, rel=1e-5)
    both = torch.tensor([True, True])
    bce, focal = (tag_loss(logit, target, both, pretext(loss=loss, focal_gamma=0.0)) for loss in ("bce", "focal"))
    torch.testing.assert_close(bce, focal)
    # p of the truth is 0.5 for the first logit: (1 - 0.5) ** 2 of its loss remains
    half = tag_loss(logit[:1, :1], target[:1, :1], torch.tensor([True]), pretext(loss="focal", focal_gamma=2.0))
    assert half.item() == pytest.approx(0.25 * 0.693147, rel=1e-5)


def test_a_batch_without_a_readable_picture_still_reaches_every_weight() -> None:
    model = TagModel(build_image_encoder(ImageEncoderConfig(**ENCODER)), torch.tensor([0.5, 0.1]), artists=3)
    unreadable_B = torch.tensor([False, False])
    logit_BT, artist_BA = model(torch.zeros(2, 3, 32, 32))
    loss = tag_loss(logit_BT, torch.ones(2, 2), unreadable_B, pretext()) + artist_loss(artist_BA, torch.tensor([0, 1]), unreadable_B)
    loss.backward()
    assert loss.item() == 0.0
    assert all(weight.grad is not None and not weight.grad.any() for weight in model.parameters())


def test_training_starts_from_the_label_frequencies() -> None:
    frequency = torch.tensor([0.5, 0.1, 0.02])
    model = TagModel(build_image_encoder(ImageEncoderConfig(**ENCODER)), frequency).eval()
    torch.testing.assert_close(model(torch.rand(1, 3, 32, 32))[0].sigmoid()[0], frequency)


def test_average_precision_by_hand() -> None:
    score = np.array([[0.9, 0.1], [0.8, 0.1], [0.7, 0.1], [0.6, 0.1]])
    truth = np.array([[1, 0], [0, 0], [1, 1], [0, 0]], dtype=float)
    # tag 0: hits at places 1 and 3: (1/1 + 2/3) / 2; tag 1: all scores equal, so its share of rows, 1/4
    assert mean_average_precision(score, truth) == pytest.approx(((1 + 2 / 3) / 2 + 0.25) / 2)
    assert mean_average_precision(score[:, :1], truth[:, :1]) == mean_average_precision(score[::-1, :1], truth[::-1, :1])
    assert np.isnan(mean_average_precision(score, np.zeros_like(truth)))


# ---------------------------------------------------------------- the whole
def arguments(catalogue: tuple[list[str], str], folder: Path, **changes: Any) -> dict[str, Any]:
    return {"catalogue": Catalogue(*catalogue), "encoder": ENCODER, "pretext": {**PRETEXT, **changes}, "folder": str(folder)}


def test_it_learns_and_writes_the_encoder(catalogue: tuple[list[str], str], tmp_path: Path) -> None:
    facts = train_pretext(Ranks(), **arguments(catalogue, tmp_path / "encoder"))
    assert facts["mean_average_precision"] > facts["baseline_mean_average_precision"] + 0.2
    assert facts["loss_curve"][-1][1] < 0.75 * facts["loss_curve"][0][1]
    assert facts["loss_curve"][-1][0] == 6 * facts["train_rows"]
    assert (facts["tags"], facts["broken_pictures"]) == (3, {"not_an_image": 1})
    assert facts == read_facts(tmp_path / "encoder")
    assert load_image_encoder(tmp_path / "encoder").semantic_width == facts["semantic_width"] == 24


@pytest.mark.parametrize("checkpoint_steps", [1, 500])
def test_an_encoder_that_could_read_next_to_nothing_is_not_kept(catalogue: tuple[list[str], str], tmp_path: Path,
                                                                checkpoint_steps: int) -> None:
    """An empty folder where the store of the pictures should be mounted: one picture is inline, the others are not there."""
    (tmp_path / "images").mkdir()
    given = arguments((catalogue[0], str(tmp_path / "images")), tmp_path / "encoder", checkpoint_steps=checkpoint_steps, epochs=2)
    with pytest.raises(ContractError, match=r"raw.image_root, of rank 0: found \d+ of \d+ that cannot be read, most by rule "
                                            r"missing_file; expected at most 20.0% \(pretext.max_reject_share\)"):
        train_pretext(Ranks(), **given)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]  # nor a checkpoint from which a next run would go on
    given["pretext"]["max_reject_share"] = 1.0
    assert train_pretext(Ranks(), **given)["broken_pictures"]["missing_file"] > 189


def test_a_store_that_goes_away_leaves_the_checkpoints_of_before(catalogue: tuple[list[str], str], tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the second epoch and started again where the pictures are not mounted: what was learnt stays, and goes on."""
    images = tmp_path / "images"
    shutil.copytree(catalogue[1], images)
    given = arguments((catalogue[0], str(images)), tmp_path / "encoder", epochs=3, checkpoint_steps=3)
    whole = train_pretext(Ranks(), **{**given, "folder": str(tmp_path / "whole")})
    backward = PretextRun._backward

    def killed(run: PretextRun, number: int, batch: Any) -> float:
        if run.done == run.steps_an_epoch + 3:
            raise Killed
        return backward(run, number, batch)

    with monkeypatch.context() as patch:
        patch.setattr(PretextRun, "_backward", killed)
        with pytest.raises(Killed):
            train_pretext(Ranks(), **given)
    before = sorted(path.name for path in (tmp_path / "encoder-checkpoints").rglob("step-*"))
    images.rename(tmp_path / "away")
    images.mkdir()
    with pytest.raises(ContractError, match="that cannot be read, most by rule missing_file"):
        train_pretext(Ranks(), **given)
    assert sorted(path.name for path in (tmp_path / "encoder-checkpoints").rglob("step-*")) == before
    images.rmdir()
    (tmp_path / "away").rename(images)
    again = train_pretext(Ranks(), **given)
    assert again["fingerprint"] == whole["fingerprint"]


def test_the_same_seed_gives_the_same_encoder(catalogue: tuple[list[str], str], tmp_path: Path) -> None:
    prints = [train_pretext(Ranks(), **arguments(catalogue, tmp_path / "encoder", epochs=1, seed=seed))["fingerprint"]
              for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


def test_weights_that_are_given_are_saved_as_they_are(tmp_path: Path) -> None:
    config = ImageEncoderConfig(**ENCODER)
    given = save_pretrained(build_image_encoder(config), tmp_path / "given", {"epochs": 3})
    again = config.model_copy(update={"weights": str(tmp_path / "given" / "weights.safetensors")})
    kept = save_pretrained(build_image_encoder(again), tmp_path / "kept", {"epochs": 0})
    assert kept == read_facts(tmp_path / "kept") == {**given, "epochs": 0}


def test_two_horovod_ranks_learn_together(spark: SparkSession, catalogue: tuple[list[str], str], tmp_path: Path) -> None:
    given = arguments(catalogue, tmp_path / "encoder", accumulate=2, batch=8, checkpoint_steps=10)
    first, second = run_ranks(spark, train_pretext, given, 2)
    assert first == second == read_facts(tmp_path / "encoder")
    assert first["ranks"] == 2
    assert first["loss_curve"][-1][0] == 6 * first["train_rows"]
    assert first["mean_average_precision"] > first["baseline_mean_average_precision"] + 0.2
    assert first["broken_pictures"] == {"not_an_image": 1}


def test_two_small_batches_accumulated_are_one_large_batch(catalogue: tuple[list[str], str], tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TagModel, "train", lambda model, mode=True: torch.nn.Module.train(model, False))
    gradients: dict[int, list[torch.Tensor]] = {}  # of each step, without batch statistics, which differ by design
    for passes in (1, 2, 4):
        torch.manual_seed(0)
        train, held = open_tagged(Catalogue(*catalogue), 32, (0, 1), pretext())
        model = TagModel(build_image_encoder(ImageEncoderConfig(**ENCODER)), train.frequency_T)
        settings = pretext(batch=32 // passes, accumulate=passes, epochs=1, flip=False, shift=0.0)
        run = PretextRun(Ranks(), model, train, settings, Checkpoints(tmp_path, "none"))
        gradients[passes] = []
        monkeypatch.setattr(run.optimizer, "step", lambda model=model, found=gradients[passes]: found.append(
            torch.cat([weight.grad.flatten() for weight in model.parameters()])))
        run.train_to_the_end()
        held.pictures.close()
    assert len(gradients[1]) == 6  # 190 rows in steps of at most 32
    for passes in (2, 4):
        same = [torch.allclose(one, parts, atol=1e-6, rtol=1e-3) for one, parts in zip(gradients[1], gradients[passes], strict=True)]
        assert sum(same) >= 5  # one step has the picture that cannot be read
    assert not torch.allclose(gradients[1][0], gradients[1][1], atol=1e-6, rtol=1e-3)


class Killed(Exception):
    """The end of a process, as far as a test can raise it."""


@pytest.mark.parametrize("after", [3, 17, 20])
def test_killed_within_an_epoch_it_goes_on_to_the_same_weights(catalogue: tuple[list[str], str], tmp_path: Path, after: int,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"epochs": 2, "artists": 2, "checkpoint_steps": 3, "accumulate": 2, "batch": 8}
    whole = train_pretext(Ranks(), **arguments(catalogue, tmp_path / "whole", **given))
    backward = PretextRun._backward

    def killed(run: PretextRun, number: int, batch: Any) -> float:
        if number == 2 * after + 1:
            raise Killed
        return backward(run, number, batch)

    with monkeypatch.context() as patch:
        patch.setattr(PretextRun, "_backward", killed)
        with pytest.raises(Killed):
            train_pretext(Ranks(), **arguments(catalogue, tmp_path / "killed", **given))
    assert (tmp_path / "killed-checkpoints").is_dir()
    assert not (tmp_path / "killed").exists()
    numbers: list[int] = []
    monkeypatch.setattr(PretextRun, "_backward", lambda run, number, batch: numbers.append(number) or backward(run, number, batch))
    again = train_pretext(Ranks(), **arguments(catalogue, tmp_path / "killed", **given))
    assert numbers[0] == 2 * (after // 3 * 3)  # the newest checkpoint's
    assert {**again, "seconds": 0, "broken_pictures": {}} == {**whole, "seconds": 0, "broken_pictures": {}}
    assert not (tmp_path / "killed-checkpoints").exists()


def test_a_loss_that_is_not_finite_leaves_no_encoder(catalogue: tuple[list[str], str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pretext.learning_rate: found 1e\+30, with which the loss became (nan|inf) by step"):
        train_pretext(Ranks(), **arguments(catalogue, tmp_path / "encoder", learning_rate=1e30))
    assert not (tmp_path / "encoder").exists()


def test_a_sure_prediction_has_a_finite_slope_under_any_focal_loss() -> None:
    logit = torch.full((1, 1), 30.0, requires_grad=True)
    tag_loss(logit, torch.ones(1, 1), torch.tensor([True]), pretext(loss="focal", focal_gamma=0.5)).backward()
    assert logit.grad is not None
    assert logit.grad.isfinite().all()


def test_too_few_pictures_for_so_many_passes_is_a_clear_error(catalogue: tuple[list[str], str], tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"190 to train on for each rank in 128 batches, one of 1.*pretext\.accumulate"):
        train_pretext(Ranks(), **arguments(catalogue, tmp_path / "encoder", accumulate=128))


def test_two_ranks_go_on_from_a_checkpoint_to_the_same_weights(spark: SparkSession, catalogue: tuple[list[str], str],
                                                               tmp_path: Path) -> None:
    given = {"epochs": 2, "checkpoint_steps": 3, "accumulate": 2, "batch": 8}
    whole = run_ranks(spark, train_pretext, arguments(catalogue, tmp_path / "whole", **given), 2)[0]
    with pytest.raises(ClusterError, match="at batch 17"):  # of the second epoch
        run_ranks(spark, _killed_at_batch_17, arguments(catalogue, tmp_path / "killed", **given), 2)
    assert (tmp_path / "killed-checkpoints").is_dir()
    again = run_ranks(spark, train_pretext, arguments(catalogue, tmp_path / "killed", **given), 2)[0]
    assert {**again, "seconds": 0, "broken_pictures": {}} == {**whole, "seconds": 0, "broken_pictures": {}}


def _killed_at_batch_17(ranks: Ranks, **given: Any) -> dict[str, Any]:
    backward = PretextRun._backward

    def killed(run: PretextRun, number: int, batch: Any) -> float:
        if number == 17:
            raise Killed("at batch 17")
        return backward(run, number, batch)

    PretextRun._backward = killed  # type: ignore[method-assign]
    return train_pretext(ranks, **given)


def test_bfloat16_learns_as_well_in_other_digits(catalogue: tuple[list[str], str], tmp_path: Path) -> None:
    facts = train_pretext(Ranks(), **arguments(catalogue, tmp_path / "encoder", precision="bfloat16"))
    assert facts["mean_average_precision"] > facts["baseline_mean_average_precision"] + 0.2
    exact = train_pretext(Ranks(), **arguments(catalogue, tmp_path / "exact"))
    assert facts["fingerprint"] != exact["fingerprint"]
    assert abs(facts["loss_curve"][0][1] - exact["loss_curve"][0][1]) < 0.01


# ---------------------------------------------------------------- artists, told apart by style
def test_artists_with_most_pictures_have_classes() -> None:
    table = pa.table({"artist_index": pa.array([7, 3, 7, 9, 3, 7, 1], pa.int32())})
    assert frequent_artists(table, 2).tolist() == [0, 1, 0, -1, 1, 0, -1]  # 7 has three pictures, 3 has two
    assert frequent_artists(table, 9).tolist() == [0, 1, 0, 3, 1, 0, 2]  # 1 and 9 have one each: by index
    assert frequent_artists(table, 0).tolist() == [-1] * 7


def test_artist_loss_by_hand() -> None:
    logit_BA = torch.tensor([[2.0, 0.0], [0.0, 0.0], [5.0, -5.0], [1.0, 1.0]])
    artist_B, readable_B = torch.tensor([0, 1, -1, 0]), torch.tensor([True, True, True, False])
    expected = (torch.log1p(torch.exp(torch.tensor(-2.0))) + np.log(2)) / 2
    torch.testing.assert_close(artist_loss(logit_BA, artist_B, readable_B), expected)
    assert artist_loss(logit_BA, torch.full((4,), -1), readable_B).item() == 0.0


def test_the_style_vector_is_trained_when_artists_are_told_apart(catalogue: tuple[list[str], str], tmp_path: Path) -> None:
    train, held = open_tagged(Catalogue(*catalogue), 32, (0, 1), pretext(artists=2))
    assert (train.artists, held.artists) == (2, 2)
    rows = read_tagged(Catalogue(*catalogue))["row"].to_numpy()
    positions = np.arange(20)
    classes = {row % 3: kind for row, kind in zip(rows[train.row_R[positions]], train.artist(positions).tolist(), strict=True)}
    assert sorted(classes.values()) == [-1, 0, 1]
    train.pictures.close()
    held.pictures.close()
    facts = train_pretext(Ranks(), **arguments(catalogue, tmp_path / "encoder", artists=2, epochs=2))
    alone = train_pretext(Ranks(), **arguments(catalogue, tmp_path / "alone", epochs=2))
    assert facts["fingerprint"] != alone["fingerprint"]
    assert load_image_encoder(tmp_path / "encoder").style_width == alone["style_width"]  # the heads are not kept

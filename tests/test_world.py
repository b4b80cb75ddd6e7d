"""The drawn world: the same bytes from the same seed, style apart from content, labels from known probabilities, damage as stated."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from umair import schema
from umair.errors import ConfigError, StorageError
from umair.metrics import auc, way
from umair.picture import PictureError, PictureLimits, decode_picture
from umair.picture_files import read_picture
from umair.world.damage import PICTURE_KINDS, UNKNOWN_ILLUSTRATIONS, UNKNOWN_USERS, damage_counts
from umair.world.draw import DamageConfig, WorldConfig, draw_world
from umair.world.events import LONGEST_DELAY, draw_truth, draw_views
from umair.world.factors import draw_illustrations
from umair.world.pictures import Content, picture
from umair.world.scenes import SCENES
from umair.world.style import STYLE, look_of
from umair.world.subjects import subjects
from umair.world.users import draw_users
from umair.world.words import CONCEPTS, FIRST_COUNT, FIRST_SCENE, LANGUAGES, term_pairs

SMALL = WorldConfig(illustrations=200, users=40, views=1_200, artists=20, picture_size=96, weeks=4)
CLEAN = WorldConfig()  # the demo's size
DAY = 24 * 3600
CAT = Content(first=0, first_count=2, second=10, second_count=1, scene=1, layout=3, motif=2, tilt=5.0, aspect=0)
PLAIN = np.zeros(len(STYLE), np.float32)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("world") / "raw"
    return out, draw_world(SMALL, out, workers=1)


@pytest.fixture(scope="module")
def drawn() -> dict:
    """The demo's world as arrays, without pictures."""
    illustrations, users = draw_illustrations(CLEAN), draw_users(CLEAN)
    views = draw_views(CLEAN, illustrations, users)
    return {"illustrations": illustrations, "users": users, "views": views,
            "truth": draw_truth(CLEAN, illustrations, users, views)}


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "facts.json"}


def catalogue(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "catalogue" / "part-0.jsonl").read_text(encoding="utf-8").splitlines()]


def events(out: Path) -> list[dict]:
    return pq.read_table(out / "events").to_pylist()


# ------------------------------------------------------------ the folder
def test_any_number_of_workers_draws_the_same_bytes(world, tmp_path):
    out, _ = world
    draw_world(SMALL, tmp_path / "two", workers=2)
    assert digests(tmp_path / "two") == digests(out)


def test_another_seed_draws_other_pictures_and_events(world, tmp_path):
    out, _ = world
    draw_world(SMALL.model_copy(update={"seed": 1}), tmp_path / "other")
    ours, other = digests(out), digests(tmp_path / "other")
    same = {name for name in ours if ours[name] == other.get(name)}
    assert same <= {"terms.csv", "truth/damage.json"}


def test_a_finished_world_is_kept_and_a_foreign_folder_is_not_touched(world, tmp_path):
    out, facts = world
    before = digests(out)
    assert not facts["kept"]
    assert draw_world(SMALL, out) == {**facts, "kept": True}
    with pytest.raises(ConfigError, match="world of another configuration"):
        draw_world(SMALL.model_copy(update={"seed": 1}), out)
    assert digests(out) == before
    (tmp_path / "letters.txt").write_text("dear reader")
    with pytest.raises(ConfigError, match="no drawn world"):
        draw_world(SMALL, tmp_path)
    assert (tmp_path / "letters.txt").exists()


def test_a_world_that_other_code_drew_is_kept_and_said_to_be_old(world, tmp_path, caplog):
    out, facts = world
    assert draw_world(SMALL, out)["code"] == facts["code"]
    assert "other code" not in caplog.text
    for code in ({"code": "0123456789ab"}, {}):  # as it was before facts named the code
        old = {name: value for name, value in facts.items() if name not in ("code", "kept")} | code
        (tmp_path / "facts.json").write_text(json.dumps(old))
        caplog.clear()
        assert draw_world(SMALL, tmp_path) == {**old, "kept": True}
        assert f"{tmp_path}: this world was drawn by other code" in caplog.text


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"file/raw.*a write that failed"):
        draw_world(SMALL, tmp_path / "file" / "raw")


def test_the_files_keep_the_raw_contract(world):
    out, facts = world
    rows = catalogue(out)
    assert len(rows) == facts["catalogue_rows"]
    for table, columns in ((schema.RAW_CATALOGUE, rows[0]), (schema.RAW_EVENTS, events(out)[0])):
        assert set(columns) <= set(table.column_names)
    with (out / "users.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == SMALL.users
    with (out / "terms.csv").open(encoding="utf-8") as file:
        assert {row["kind"] for row in csv.DictReader(file)} == {"multilingual", "relation", "explanation"}
    truth = pq.read_table(out / "truth" / "events.parquet")
    assert tuple(truth.column_names) == schema.TRUTH.column_names
    assert truth.num_rows == facts["views"] == truth.group_by(list(schema.TRUTH.key)).aggregate([]).num_rows


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValidationError, match="views must lie between"):
        WorldConfig(views=100)
    with pytest.raises(ValidationError):
        WorldConfig(illustrations=199)


# ------------------------------------------------------------ pictures
def test_every_subject_and_scene_has_a_word():
    assert [len(subjects()), len(SCENES)] == [FIRST_SCENE, FIRST_COUNT - FIRST_SCENE]
    drawings = {np.concatenate([points for _, points in parts]).tobytes() for parts in subjects()}
    assert len(drawings) == FIRST_SCENE >= 16


def test_style_changes_a_picture_and_leaves_its_forms():
    """Same content, two styles: other pixels, same edges of forms. Same style, two contents: same look."""
    smooth = np.full(len(STYLE), -3, np.float32)
    dark, light = replace_axis(smooth, "key", 2), replace_axis(smooth, "key", -2)
    first, second = (picture(CAT, style, 112, (0, 1)).astype(float) for style in (dark, light))
    other = picture(replace(CAT, first=22, scene=5, layout=0), light, 112, (0, 1)).astype(float)
    assert np.abs(first - second).mean() > 40
    colours = [pixels.mean((0, 1)) for pixels in (first, second, other)]
    assert np.abs(colours[0] - colours[1]).mean() > 4 * np.abs(colours[2] - colours[1]).mean()
    edges = [np.abs(np.diff(pixels.mean(2), axis=1)).ravel() > 25 for pixels in (first, second, other)]
    assert overlap(edges[0], edges[1]) > 2 * overlap(edges[1], edges[2])


def test_a_picture_is_its_factors_and_seed_alone():
    np.testing.assert_array_equal(picture(CAT, PLAIN, 96, (3, 4)), picture(CAT, PLAIN, 96, (3, 4)))
    assert picture(replace(CAT, aspect=1), PLAIN, 112, (0,)).shape == (112, 96, 3)
    assert not np.array_equal(picture(CAT, PLAIN, 96, (3, 4)), picture(replace(CAT, motif=3), PLAIN, 96, (3, 4)))


@pytest.mark.parametrize(("axis", "field"), [("line", "line"), ("hatch", "hatch"), ("grain", "grain"), ("soft", "soft"),
                                             ("brush", "brush"), ("key", "key")])
def test_each_axis_of_style_moves_its_part_of_the_look(axis, field):
    low, high = (look_of(replace_axis(PLAIN, axis, value)) for value in (-1, 1))
    assert getattr(high, field) > getattr(low, field)
    assert replace(high, **{field: getattr(low, field)}) == low


def test_style_can_be_read_from_second_order_statistics(drawn):
    """Ridge regression from Gram matrices of plain colour and edge filters explains styles of unseen pictures."""
    illustrations = drawn["illustrations"]
    grams = np.stack([gram(picture(illustrations.content_of(i), illustrations.style[i], 96, (0, i))) for i in range(400)])
    explained = r_squared(grams, illustrations.style[:400], train=300)
    assert explained[:4].min() > 0.5  # palette, key, line
    assert explained.mean() > 0.4
    assert r_squared(grams, illustrations.content[:400], train=300).mean() < 0.15  # and hardly what is drawn


def test_style_and_content_vary_apart(drawn):
    illustrations = drawn["illustrations"]
    both = np.corrcoef(illustrations.style.T, illustrations.content.T)[:len(STYLE), len(STYLE):]
    assert np.abs(both).max() < 4.5 / np.sqrt(len(illustrations))  # 128 correlations of independent values
    within = illustrations.style - artist_means(illustrations.style, illustrations.artist)
    assert within.var() < 0.3 < illustrations.style.var()  # an artist's pictures are alike


# ------------------------------------------------------------ words
def test_words_are_distinct_and_in_three_languages(world):
    assert len(CONCEPTS) >= 60
    owners: dict[str, set[str]] = {}
    for concept in CONCEPTS:
        for language in LANGUAGES:
            assert len(set(concept.words(language))) >= 3
            for word in concept.words(language):
                owners.setdefault(word, set()).add(concept.name)
    assert all(len(names) == 1 for names in owners.values())
    used = {tag for row in catalogue(world[0]) for tag in row["tags"]}
    for language in LANGUAGES:
        assert len(used & {word for concept in CONCEPTS for word in concept.words(language)}) > 30


def test_no_text_pair_is_repeated_or_pairs_a_text_with_itself():
    pairs = list(term_pairs())
    assert len(set(pairs)) == len(pairs)
    assert all(text_a != text_b for _, text_a, _, text_b, _ in pairs)


def test_tags_are_missing_and_wrong_as_often_as_stated(drawn):
    illustrations = drawn["illustrations"]
    named_first = (illustrations.concepts[:, 0] >= 0).mean()
    assert named_first == pytest.approx(1 - CLEAN.missing_tag, abs=0.03)
    assert (illustrations.concepts[:, -1] >= 0).mean() == pytest.approx(CLEAN.noise_tag, abs=0.03)
    tags = sum(len(illustrations.tags_of(index)) for index in range(len(illustrations)))
    assert tags == (illustrations.concepts >= 0).sum()


# ------------------------------------------------------------ events
def test_labels_come_from_the_probabilities(drawn):
    """In each of 20 equal bins the bookmarks lie within four standard errors of the sum of probabilities."""
    truth = drawn["truth"]
    for rows in np.array_split(np.argsort(truth.probability), 20):
        expected, spread = truth.probability[rows].sum(), np.sqrt((truth.probability[rows] * (1 - truth.probability[rows])).sum())
        assert abs(truth.bookmarked[rows].sum() - expected) < 4 * spread


def test_the_ceiling_and_the_share_of_bookmarks_are_as_promised(drawn):
    truth, views, illustrations = drawn["truth"], drawn["views"], drawn["illustrations"]
    assert 0.82 < auc(truth.bookmarked, truth.probability) < 0.88
    assert 0.20 < truth.bookmarked.mean() < 0.35
    last = views.at >= CLEAN.end - 7 * DAY
    age = views.at[last] - illustrations.created[views.illust[last]]
    assert 0.15 < (age < 10 * DAY).mean() < 0.30
    assert 0.98 * CLEAN.views < len(views) <= CLEAN.views


def test_popularity_alone_does_not_get_far(drawn):
    """The count of bookmarks before each view of the last week, as a score."""
    views, truth = drawn["views"], drawn["truth"]
    last = views.at >= CLEAN.end - 7 * DAY
    scale = 1 << 40
    marked = np.sort(views.illust[truth.bookmarked] * scale + truth.bookmarked_at[truth.bookmarked])
    count = np.searchsorted(marked, views.illust * scale + views.at) - np.searchsorted(marked, views.illust * scale)
    ceiling = auc(truth.bookmarked[last], truth.probability[last])
    assert 0.05 < way(auc(truth.bookmarked[last], count[last]), ceiling) < 0.35


def test_time_runs_forward(drawn):
    views, truth, illustrations, users = (drawn[name] for name in ("views", "truth", "illustrations", "users"))
    assert (views.at > illustrations.created[views.illust]).all()
    assert (views.at >= users.joined[views.user]).all()
    assert (views.at < CLEAN.end).all()
    delay = truth.bookmarked_at[truth.bookmarked] - views.at[truth.bookmarked]
    assert delay.min() > 0
    assert delay.max() <= LONGEST_DELAY < DAY
    assert len(np.unique(views.user * len(illustrations) + views.illust)) == len(views)


def test_attention_is_long_tailed_and_new_pictures_come_every_week(drawn):
    views, illustrations = drawn["views"], drawn["illustrations"]
    by_user = np.sort(np.bincount(views.user))
    by_illust = np.sort(np.bincount(views.illust, minlength=len(illustrations)))
    assert by_user[0] >= 20
    assert by_user[-len(by_user) // 10:].sum() > 0.25 * len(views)
    assert by_illust[-len(by_illust) // 10:].sum() > 0.25 * len(views)
    weeks = np.bincount((illustrations.created[illustrations.created >= CLEAN.start] - CLEAN.start) // (7 * DAY))
    assert weeks.min() > 0.8 * weeks.mean()


# ------------------------------------------------------------ damage
def test_damaged_events_are_exactly_as_many_as_stated(world):
    out, facts = world
    damage, rows = facts["damage"], events(out)
    assert json.loads((out / "truth" / "damage.json").read_text()) == damage
    found = {
        "unknown_user": sum(row["user_id"] is not None and row["user_id"] >= UNKNOWN_USERS for row in rows),
        "unknown_illustration": sum(row["illust_id"] is not None and row["illust_id"] >= UNKNOWN_ILLUSTRATIONS for row in rows),
        "broken_time": sum(not row["at"].startswith("202") for row in rows),
        "unknown_kind": sum(row["kind"] not in ("view", "bookmark") for row in rows),
        "null_id": sum(row["user_id"] is None or row["illust_id"] is None for row in rows),
        "duplicate_event": len(rows) - len({tuple(row.values()) for row in rows})}
    assert found == {kind: damage[kind] for kind in found}
    assert len(rows) == facts["views"] + facts["bookmarks"] + sum(found.values())


def test_damaged_catalogue_rows_break_a_rule_and_carry_no_events(world):
    out, facts = world
    broken = [row for row in catalogue(out) if row["width"] <= 0 or row["height"] <= 0 or ".." in row["image"]]
    assert len(broken) == facts["damage"]["absurd_size"] + facts["damage"]["path_leaves_root"]
    assert not {row["illust_id"] for row in broken} & {row["illust_id"] for row in events(out)}


def test_damaged_pictures_are_exactly_as_many_as_stated(world):
    """All others decode; these do not."""
    out, facts = world
    damage = {row["illust_id"]: row["damage"] for row in pq.read_table(out / "truth" / "illustrations.parquet").to_pylist()}
    for kind in PICTURE_KINDS:
        assert list(damage.values()).count(kind) == facts["damage"][kind] > 0
    rules: dict[str | None, set[str]] = {}
    for row in catalogue(out)[:SMALL.illustrations]:
        rules.setdefault(damage[row["illust_id"]], set()).add(rule_of(out, row["image"]))
    assert rules.pop(None) == {"fine"}
    assert set(rules) == set(PICTURE_KINDS)
    assert "fine" not in set().union(*rules.values())
    assert rules["huge_picture"] == {"too_many_pixels"}


def test_a_world_without_damage_has_none():
    whole = SMALL.model_copy(update={"damage": DamageConfig(**dict.fromkeys(DamageConfig.model_fields, 0.0))})
    assert set(damage_counts(whole, 1_000).values()) == {0}
    assert damage_counts(CLEAN, 1_000_000)["duplicate_event"] == 3_000


# ------------------------------------------------------------ helpers
def replace_axis(style: np.ndarray, axis: str, value: float) -> np.ndarray:
    changed = style.copy()
    changed[STYLE.index(axis)] = value
    return changed


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / (one | other).sum()


def artist_means(values: np.ndarray, artist: np.ndarray) -> np.ndarray:
    count = np.bincount(artist, minlength=artist.max() + 1)
    sums = np.stack([np.bincount(artist, column, minlength=len(count)) for column in values.T], 1)
    return (sums / np.maximum(1, count)[:, None])[artist]


def gram(pixels: np.ndarray) -> np.ndarray:
    """Second-order statistics of colours and of edges at two scales, blind to where anything sits."""
    image = pixels.astype(np.float64) / 255
    grey = image.mean(2)
    maps = [*np.moveaxis(image, 2, 0)]
    for step in (1, 3):
        maps += [np.abs(np.roll(grey, step, 0) - grey), np.abs(np.roll(grey, step, 1) - grey),
                 np.abs(np.roll(grey, (step, step), (0, 1)) - grey), np.abs(np.roll(grey, (step, -step), (0, 1)) - grey)]
    flat = np.stack([each.ravel() for each in [*maps, np.ones_like(grey)]])
    values = (flat @ flat.T / flat.shape[1])[np.triu_indices(len(flat))]
    return np.log(values + 1e-4)


def r_squared(features: np.ndarray, targets: np.ndarray, train: int) -> np.ndarray:
    standard = (features - features[:train].mean(0)) / (features[:train].std(0) + 1e-9)
    design = np.column_stack([standard, np.ones(len(standard))])
    fit = np.linalg.solve(design[:train].T @ design[:train] + 30 * np.eye(design.shape[1]), design[:train].T @ targets[:train])
    error = targets[train:] - design[train:] @ fit
    return 1 - (error ** 2).mean(0) / targets[train:].var(0)


def rule_of(out: Path, path: str) -> str:
    limits = PictureLimits()
    try:
        decode_picture(read_picture(str(out / "images"), path, limits), 32, limits)
    except PictureError as error:
        return error.rule
    return "fine"

"""Features: packed matrices against numbers worked out by hand, latest vector wins, and batches that mean what rows say."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_store import next_indices

from umair.errors import ContractError, StorageError
from umair.model.ranker import RankerConfig
from umair.recommendations import ITEM_COLUMNS, USER_COLUMNS
from umair.storage import Store
from umair.training.buckets import _share_shared, item_buckets, shared_buckets, user_buckets
from umair.training.checkpoint import build_ranker
from umair.training.features import Features, FeatureSource, pack_features
from umair.training.lookup import Lookup, lookups_of
from umair.training.packing import fit_axes

WIDTHS = {"semantic": 2, "style": 3, "text": 4}
INT, FLOATS, TEXT = pa.int32(), pa.list_(pa.float32()), pa.string()


def commit(store: Store, name: str, append: bool = False, **columns) -> int:
    folder = store.staging(name)
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "part-0.parquet")
    return store.commit(name, folder, next_indices([pa.table(columns)]), append=append).version


def image_rows(index, semantic, encoder="img"):
    return {"illust_index": pa.array(index, INT), "semantic": pa.array(semantic, FLOATS),
            "style": pa.array([[float(i), 0.0, 1.0] for i in index], FLOATS), "encoder": pa.array([encoder] * len(index))}


@pytest.fixture
def store(tmp_path) -> Store:
    """Four illustrations: 0 has two tags and a title, 1 a tag without a vector, 2 nothing, 3 a picture embedded twice."""
    store = Store(tmp_path / "root")
    commit(store, "illustrations", illust_index=pa.array([2, 0, 1, 3], INT), artist_index=pa.array([5, 6, 7, 8], INT),
           title=pa.array([None, "dawn", "", "dawn"]), tag_indices=pa.array([[], [1, 0], [2], [0, 0, 1, 1, 2]], pa.list_(INT)),
           width=pa.array([None, 399, 400, 1600], INT), height=pa.array([1, 800, 801, 9999], INT),
           restrict=pa.array([None, 0, 1, 3], INT), x_restrict=pa.array([0, 0, 0, 2], INT), sanity_level=pa.array([None, 2, 4, 6], INT))
    commit(store, "users", user_index=pa.array([1, 0], INT), username=pa.array([None, "aki"]))
    commit(store, "tags", tag=pa.array(["sky", "海", "rare"]), tag_index=pa.array([0, 1, 2], INT))
    commit(store, "image_vectors", **image_rows([0, 3], [[1, 2], [3, 4]]))
    commit(store, "image_vectors", append=True, **image_rows([3, 9], [[5, 6], [7, 7]]))  # 9 belongs to a later week
    commit(store, "image_vectors", append=True, **image_rows([3, 2], [[8, 8], [9, 9]], encoder="older"))
    commit(store, "text_vectors", text=pa.array(["海", "sky", "dawn"]), encoder=pa.array(["txt"] * 3),
           vector=pa.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 4, 0]], FLOATS))
    return store


def source(store: Store, **changes) -> FeatureSource:
    snapshots = [store.snapshot(name) for name in ("illustrations", "users", "tags", "image_vectors", "text_vectors")]
    return FeatureSource(**{"versions": {each.name: each.version for each in snapshots}, "titles": True,
                            "identities": {each.name: each.identity for each in snapshots}, "image_encoder": "img", "text_encoder": "txt", "widths": WIDTHS, **changes})


@pytest.fixture
def features(store, tmp_path) -> Features:
    return pack_features(store, source(store), tmp_path / "packs")


def test_vectors_stand_at_their_index_and_the_latest_appended_wins(features):
    assert features.known["semantic"].tolist() == [True, False, False, True]
    assert features.vectors["semantic"].tolist() == [[1, 2], [0, 0], [0, 0], [5, 6]]
    assert features.vectors["style"][3].tolist() == [3, 0, 1]
    assert features.vectors["semantic"].dtype == np.float16
    assert features.known["style"].tolist() == features.known["semantic"].tolist()


def test_a_text_vector_is_the_mean_over_the_tags_and_the_title_that_have_one(features):
    assert features.known["text"].tolist() == [True, False, False, True]
    np.testing.assert_allclose(features.vectors["text"][0], np.array([1, 1, 4, 0]) / 3, rtol=1e-3)  # 海, sky, dawn
    np.testing.assert_allclose(features.vectors["text"][3], np.array([2, 2, 4, 0]) / 5, rtol=1e-3)  # `rare` has no vector
    assert not features.vectors["text"][1:3].any()
    assert features.tag_known.tolist() == [True, True, False]


def test_scales_are_mean_and_deviation_of_the_known_vectors(features):
    mean, deviation = features.scales["semantic"]
    assert (mean.tolist(), deviation.tolist()) == ([3, 4], [2, 2])  # of [1, 2] and [5, 6]


def test_nearest_illustrations_are_sought_among_those_with_a_vector(features):
    """Standardised, [1, 2] and [5, 6] are opposite; all that have a vector, or a given pool."""
    found, cosine = features.neighbours("semantic").nearest(np.array([0]), 1)
    assert (found.tolist(), cosine.round(6).tolist()) == ([[3]], [[-1.0]])
    assert features.neighbours("semantic").pool.tolist() == [0, 3]
    assert features.neighbours("text", np.array([3])).nearest_to(features.vectors["text"][:1], 1)[0].tolist() == [[3]]


def test_fields_are_raw_with_minus_one_for_unknown(features):
    assert features.item_fields.tolist() == [[0, 2, 0, 399, 800, 0, 6], [1, 4, 0, 400, 801, 1, 7], [-1, -1, 0, -1, 1, 2, 5],
                                             [3, 6, 2, 1600, 9999, 3, 8]]
    assert features.item_tags.tolist() == [[1, 0, -1, -1], [2, -1, -1, -1], [-1] * 4, [0, 0, 1, 1]]
    assert features.user_fields[:, 0].tolist() == [0, 1]
    assert features.user_fields[0, 1] >= 0
    assert features.user_fields[1, 1] == -1


def test_buckets_of_the_paper_by_hand(features):
    sizes = {**RankerConfig().item_fields, "illust_id": 3}
    totals = {"total_bookmarks": np.array([0, 99, 100, 10_000]), "total_view": np.array([0, 100, 99_999, 100_000])}
    buckets = item_buckets(features.item_fields, totals, sizes)
    assert buckets.tolist() == [  # restrict, sanity, x_restrict, bookmarks, views, width, height, illust (3 buckets), artist
        [0, 3, 0, 0, 0, 0, 2, 1, 7], [1, 5, 0, 0, 1, 1, 2, 2, 8], [0, 0, 0, 1, 8, 0, 0, 1, 6], [2, 7, 2, 9, 9, 3, 3, 2, 9]]
    roomier = item_buckets(features.item_fields, totals, {**sizes, "width": 5})
    assert roomier[:, 5].tolist() == [1, 2, 0, 4]  # with a bucket more, unknown has its own
    users = user_buckets(features.user_fields, {"user_id": 2, "username": 1_000})
    assert users[:, 0].tolist() == [1, 1]
    assert users[1, 1] == 0


def test_shared_buckets_by_hand(features):
    """Illustrations 0 to 3 and artists 5 to 8 in three buckets each, beside that of the unknown: 0 and 3 meet, and 5 and 8."""
    sizes = {"illust_id": 4, "artist_id": 4}
    shared = shared_buckets(features, {"user_id": 3, "username": 100}, sizes, 3)
    assert shared == {"user_id": 0.0, "username": 0.0, "illust_id": 0.5, "artist_id": 0.5, "tags": pytest.approx(2 / 3, abs=1e-4)}
    assert _share_shared(np.array([0, 1, 2, 3, 4, -1, 4]), 4) == 0.8  # five values; 0 and 3, 1 and 4; unknown is none of them
    assert _share_shared(np.array([0, 1, 2]), 4) == 0.0
    assert _share_shared(np.array([-1]), 4) == 0.0


def window_rows(**changes) -> dict[str, np.ndarray]:
    rows = {"user_index": [0, 1], "illust_index": [3, 0], "label": [1, 0], "user_views": [10, 0], "user_bookmarks": [3, 0],
            "illust_views": [100, 0], "illust_bookmarks": [0, 0],
            "long_tags": [[0, 1, 2, -1, -1], [-1] * 5], "long_weights": [[3.0, 1.0, 9.0, 5.0, 5.0], [0.0] * 5],
            "short_tags": [[1, -1, -1, -1, -1], [2, -1, -1, -1, -1]], "short_weights": [[0.5] + [0.0] * 4, [1.0] + [0.0] * 4],
            "bookmarked": [[2, 0], [-1, -1]], "passed": [[3, -1], [2, -1]]}
    return {name: np.array(value, np.float32 if "weights" in name else np.int32) for name, value in {**rows, **changes}.items()}


def lookup(features: Features) -> Lookup:
    """For a ranker with axes of its own: the vectors' numbers as they are, less 3.5."""
    ranker = build_ranker(RankerConfig(match=True, tag_buckets=8_000), features.widths)
    for name, width in features.widths.items():
        ranker.set_axes(name, torch.full((width,), 3.5 if name == "semantic" else 0.0), torch.eye(width))
    return Lookup(features, ranker)


def test_a_batch_says_what_the_rows_and_the_pack_say(features):
    batch = lookup(features).batch(window_rows())
    assert batch.vectors_BD["semantic"].tolist() == [[5, 6], [1, 2]]
    assert batch.catalogue.compact_IC["semantic"].tolist() == [[-2.5, -1.5], [0, 0], [0, 0], [1.5, 2.5]]  # 1, 2 are not known
    assert batch.catalogue.known_IM.tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 0], [1, 1, 1]]
    assert batch.catalogue.artist_I.tolist() == [7, 8, 6, 9]
    assert batch.catalogue.tags_IT[[3, 0]].tolist() == batch.item_tags_BT.tolist()
    assert batch.item_B.tolist() == [3, 0]
    assert batch.bookmarked_BH.tolist() == [[2, 0], [-1, -1]]
    assert batch.passed_BH.tolist() == [[3, -1], [2, -1]]
    torch.testing.assert_close(batch.long_interest_BD, torch.tensor([[0.25, 0.75, 0, 0], [0, 0, 0, 0]]))  # `rare` is unknown
    torch.testing.assert_close(batch.short_interest_BD, torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]]))
    assert batch.user_tags_BT.tolist() == [[1, 2, 3, 0, 2, 0, 0, 0], [0, 0, 0, 0, 3, 0, 0, 0]]
    assert batch.item_tags_BT.tolist() == [[1, 1, 2, 2], [2, 1, 0, 0]]
    torch.testing.assert_close(batch.counters_BC[0], torch.tensor([np.log(11), np.log(4), 5 / 20, np.log(101), 0, 2 / 110]).float())
    torch.testing.assert_close(batch.counters_BC[1], torch.tensor([0, 0, 0.2, 0, 0, 0.2]))
    assert batch.label_B.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("changes", [{}, {"counters": True, "id_dropout": 0.2, "totals": False}, {"ids": False, "match": False}, {"interests": False}])
def test_users_and_illustrations_looked_up_alone_make_the_sides_of_their_rows(features, changes):
    torch.manual_seed(0)
    ranker = build_ranker(RankerConfig(**{"match": True, "tag_buckets": 8_000, **changes}), features.widths).eval()
    looked_up, rows = Lookup(features, ranker), window_rows()
    whole = ranker.prepared(looked_up.batch(rows))
    users = {name: rows[name] for name in USER_COLUMNS}
    items = {name: rows[name] for name in ITEM_COLUMNS}
    for mine, theirs in ((ranker.user_side(ranker.prepared(looked_up.users(users))), ranker.user_side(whole)),
                         (ranker.item_side(ranker.prepared(looked_up.items(items))), ranker.item_side(whole))):
        for part, expected in zip(mine, theirs, strict=True):
            assert part is expected is None or torch.equal(part, expected)
    assert len(looked_up.users(users)) == len(looked_up.items(items)) == 2


@pytest.mark.parametrize(("columns", "changes", "match"), [
    ("users", {"bookmarked": [[2, 4], [-1, -1]]}, "column 'bookmarked': found index 4; expected indices from -1 to 3"),
    ("users", {"user_index": [0, 2]}, "column 'user_index': found index 2; expected indices from 0 to 1"),
    ("items", {"illust_index": [3, -1]}, "column 'illust_index': found index -1; expected indices from 0 to 3")])
def test_users_and_illustrations_alone_must_be_in_the_pack_too(features, columns, changes, match):
    with pytest.raises(ContractError, match=match):
        getattr(lookup(features), columns)(window_rows(**changes))


@pytest.mark.parametrize("config", [{"match": True}, {"form": "dcn_v2", "inputs": "all"}, {}])
def test_a_ranker_made_for_vectors_of_another_width_is_refused(features, config):
    ranker = build_ranker(RankerConfig(**config, tag_buckets=8_000), {**features.widths, "semantic": 5})
    with pytest.raises(ContractError, match=r"semantic vectors: found 2 numbers; expected 5.*train the ranker again"):
        ranker.eval()(Lookup(features, ranker).batch(window_rows()))


@pytest.mark.parametrize(("changes", "match"), [
    ({"illust_index": [3, 4]}, "column 'illust_index': found index 4; expected indices from 0 to 3"),
    ({"illust_index": [-1, 0]}, "column 'illust_index': found index -1"),
    ({"user_index": [2, 0]}, "column 'user_index': found index 2; expected indices from 0 to 1"),
    ({"passed": [[0, 7], [0, 0]]}, "column 'passed': found index 7"),
    ({"short_tags": [[0] * 5, [3] * 5]}, "column 'interest tags': found index 3"),
    ({"label": [0, 2]}, "column 'label': found label 2; expected 0 or 1"),
])
def test_rows_that_point_outside_the_pack_are_refused(features, changes, match):
    with pytest.raises(ContractError, match=match):
        lookup(features).batch(window_rows(**changes))


@pytest.mark.parametrize(("changes", "match"), [
    ({"widths": {**WIDTHS, "style": 8}}, "'image_vectors', column 'style': found a vector of 3 numbers; expected 8"),
    ({"image_encoder": "new"}, "'image_vectors', version 2: found vectors of encoders .'img', 'older'.; expected vectors of encoder new"),
    ({"text_encoder": "new"}, "'text_vectors', version 0: found vectors of encoders .'txt'."),
])
def test_vectors_of_another_width_or_encoder_are_refused_and_leave_nothing_behind(store, tmp_path, changes, match):
    with pytest.raises(ContractError, match=match):
        pack_features(store, source(store, **changes), tmp_path / "packs")
    assert [path for path in (tmp_path / "packs").iterdir() if path.is_dir()] == []


def test_an_id_that_is_gone_leaves_a_hole(store, features, tmp_path):
    """User 0 left and tag 1 is used no more; what had an index above keeps its place."""
    commit(store, "users", user_index=pa.array([1], INT), username=pa.array(["aki"]))
    commit(store, "tags", tag=pa.array(["sky", "rare"]), tag_index=pa.array([0, 2], INT))
    holed = pack_features(store, source(store), tmp_path / "packs")
    assert holed.user_fields[0].tolist() == [-1, -1]
    assert holed.user_fields[1].tolist() == [1, features.user_fields[0, 1]]
    assert holed.tag_known.tolist() == [True, False, False]
    np.testing.assert_allclose(holed.vectors["text"][0], np.array([0, 1, 4, 0]) / 2, rtol=1e-3)  # sky, dawn


@pytest.mark.parametrize(("index", "match"), [([0, 0], "an index twice"), ([0, -1], "index -1; 1 were given")])
def test_an_index_twice_or_never_given_is_refused(store, tmp_path, index, match):
    commit(store, "users", user_index=pa.array(index, INT), username=pa.array(["a", "b"]))
    with pytest.raises(ContractError, match=rf"table 'users', column 'user_index': found {match}"):
        pack_features(store, source(store), tmp_path / "packs")


def test_titles_count_only_when_they_should(store, tmp_path):
    bare = pack_features(store, source(store, titles=False), tmp_path / "packs")
    np.testing.assert_allclose(bare.vectors["text"][0], np.array([1, 1, 0, 0]) / 2, rtol=1e-3)  # 海, sky; not dawn
    assert bare.folder != pack_features(store, source(store), tmp_path / "packs").folder


def test_another_store_has_another_pack(store, tmp_path):
    other = Store(tmp_path / "other")
    shutil.copytree(store.root, other.root)
    table = other.root / "tables" / "users"
    shutil.rmtree(table)  # made anew: the same name and version, another table
    commit(other, "users", user_index=pa.array([1, 0], INT), username=pa.array([None, "eve"]))
    mine, others = (pack_features(each, source(each), tmp_path / "packs").user_fields for each in (store, other))
    assert mine.tolist() != others.tolist()


def test_an_earlier_version_gives_the_earlier_vector_and_another_pack(store, features, tmp_path):
    first = source(store)
    earlier = source(store, versions={**first.versions, "image_vectors": 0})
    assert earlier.key != first.key
    assert pack_features(store, earlier, tmp_path / "packs").vectors["semantic"][3].tolist() == [3, 4]


def test_a_pack_is_made_after_a_tidying_too(store, tmp_path):
    """Files of old versions are gone; those that newer ones share stand in the order in which they came."""
    first, _ = store.snapshot("image_vectors", 0), store.snapshot("image_vectors")
    commit(store, "image_vectors", **image_rows([0, 3], [[1, 2], [3, 3]]))  # replaces all
    commit(store, "image_vectors", append=True, **image_rows([3], [[5, 6]]))
    for file in first.files:
        Path(file).unlink()
    with pytest.raises(StorageError, match="tidied away"):
        store.snapshot("image_vectors", 0)
    assert pack_features(store, source(store), tmp_path / "packs").vectors["semantic"][[0, 3]].tolist() == [[1, 2], [5, 6]]


def test_a_site_without_pictures_has_none_known(store, tmp_path):
    versions = {name: version for name, version in source(store).versions.items() if name != "image_vectors"}
    features = pack_features(store, source(store, versions=versions), tmp_path / "packs")
    assert not features.known["semantic"].any()
    assert features.known["text"].any()
    assert features.scales["semantic"][0].tolist() == [0, 0]


def test_a_pack_is_made_by_one_at_a_time_and_once(store, tmp_path):
    key = source(store).key
    (tmp_path / "packs").mkdir()
    with (tmp_path / "packs" / f"{key}.lock").open("w") as held:  # as another process would
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = threading.Thread(target=pack_features, args=(store, source(store), tmp_path / "packs"))
        waiting.start()
        waiting.join(timeout=0.5)
        assert waiting.is_alive()
    waiting.join(timeout=60)
    made = (tmp_path / "packs" / key / "facts.json").stat().st_mtime_ns
    pack_features(store, source(store), tmp_path / "packs")
    assert (tmp_path / "packs" / key / "facts.json").stat().st_mtime_ns == made


def test_a_pack_that_is_not_whole_is_refused(features):
    (features.folder / "facts.json").unlink()
    with pytest.raises(StorageError, match=r"no facts\.json"):
        Features.open(features.folder)


def test_a_file_that_is_gone_from_a_pack_is_said(features):
    """Somebody cleared the disk of a node."""
    (features.folder / "style.npy").unlink()
    with pytest.raises(StorageError, match=r"style\.npy: found no readable file .* expected a whole pack.*remove the folder"):
        Features.open(features.folder)


@pytest.mark.parametrize(("name", "change", "expected"), [
    ("semantic", lambda of_ID: of_ID[:-1], r"expected {illustrations} rows of {semantic} numbers, as facts\.json says"),
    ("text", lambda of_ID: of_ID[:, :-1], r"expected {illustrations} rows of {text} numbers"),
    ("style_known", lambda of_I: of_I[:-1], "expected {illustrations} rows,"), ("item_tags", lambda of_IT: of_IT[1:], "expected"),
    ("user_fields", lambda of_UF: of_UF[:-1], "expected {users} rows,"), ("tag_text", lambda of_TD: of_TD[:-1], "expected {tags} rows of")])
def test_a_file_of_another_pack_is_refused(features, name, change, expected):
    wrong = change(np.load(features.folder / f"{name}.npy"))
    np.save(features.folder / f"{name}.npy", wrong)
    sizes = {"illustrations": features.illustrations, "users": features.users, "tags": features.tags, **features.widths}
    with pytest.raises(StorageError, match=rf"{name}\.npy: found an array of shape \({wrong.shape[0]},.*" + expected.format(**sizes)):
        Features.open(features.folder)


def test_a_full_disk_while_packing_is_said_and_leaves_nothing(store, tmp_path):
    """A real failing write: the process may write no file above 4 kB, and the larger matrices do not fit."""
    wide = 3_000
    commit(store, "users", user_index=pa.array(range(wide), INT), username=pa.array(["a"] * wide))
    script = """
        import resource, sys
        from pathlib import Path
        from test_features import source
        from umair.errors import StorageError
        from umair.storage import Store
        from umair.training.features import pack_features
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        store = Store(sys.argv[1])
        try:
            pack_features(store, source(store), Path(sys.argv[2]))
        except StorageError as error:
            print(error)
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(store.root), str(tmp_path / "packs")],
                         capture_output=True, text=True, check=False, cwd=Path(__file__).parent,
                         env={**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[1]}"})
    assert "found a write that failed" in ran.stdout, ran.stderr
    assert "set training.features to a folder that has it" in ran.stdout or "free space" in ran.stdout
    assert [path for path in (tmp_path / "packs").iterdir() if path.is_dir()] == []


# ---------------------------------------------------------------- compact vectors
def test_axes_are_the_directions_in_which_known_vectors_vary_most():
    draw = np.random.default_rng(0)
    factor_IF = draw.normal(size=(400, 3)) * [3.0, 2.0, 1.0]
    vector_ID = np.concatenate([factor_IF @ draw.normal(size=(3, 7)) + 5, np.full((400, 1), 2.0)], 1)  # the last never varies
    vector_ID[300:] = 1e4  # not known, so never looked at
    known_I = np.arange(400) < 300
    scale_2D = np.stack([vector_ID[:300].mean(0), vector_ID[:300].std(0)])
    axes_DC = fit_axes(vector_ID, known_I, scale_2D, count=5)
    compact_IC = (vector_ID[:300] - scale_2D[0]) @ axes_DC
    covariance_CC = compact_IC.T @ compact_IC / 300
    variance_C = np.diag(covariance_CC)
    assert variance_C.mean() == pytest.approx(1, rel=1e-4)
    assert (np.diff(variance_C[:3]) < 0).all()
    assert variance_C[3:] == pytest.approx(0, abs=1e-9)  # three factors, three axes; the others are zero
    assert not axes_DC[:, 3:].any()
    np.testing.assert_allclose(covariance_CC, np.diag(variance_C), atol=1e-4)
    assert not axes_DC[7].any()
    standard_ID = (vector_ID[:300, :7] - scale_2D[0, :7]) / scale_2D[1, :7]
    assert (standard_ID**2).sum() / (compact_IC**2).sum() == pytest.approx(7 / 5, rel=1e-4)  # nothing is lost, only scaled
    np.testing.assert_array_equal(fit_axes(vector_ID, known_I, scale_2D, count=5), axes_DC)


def test_compact_vectors_are_made_once_for_any_axes(features):
    ranker = build_ranker(RankerConfig(match=True), features.widths)
    ranker.set_axes("semantic", torch.tensor([1.0, 1.0]), torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    def compact() -> dict[str, torch.Tensor]:
        return {name: features.tensor(file, torch.device("cpu")) for name, file in features.compact(ranker.axes).items()}

    assert compact()["semantic"].tolist() == [[0, 1], [0, 0], [0, 0], [8, 5]]  # the second and third are not known
    assert not compact()["style"].any()  # no axes were given
    made = {path: path.stat().st_mtime_ns for path in features.folder.glob("*-compact-*.npy")}
    assert len(made) == 3
    Features.open(features.folder).compact(ranker.axes)
    assert {path: path.stat().st_mtime_ns for path in features.folder.glob("*-compact-*.npy")} == made
    ranker.set_axes("semantic", torch.zeros(2), torch.eye(2))
    assert compact()["semantic"].tolist() == [[1, 2], [0, 0], [0, 0], [5, 6]]


def test_a_ranker_takes_the_axes_that_it_reads_and_keeps_them_with_its_weights(features):
    plain, matched = (build_ranker(RankerConfig(match=match), features.widths) for match in (False, ["style"]))
    for ranker in (plain, matched):
        for name in features.widths:
            ranker.set_axes(name, torch.from_numpy(features.scales[name][0]), torch.from_numpy(np.array(features.axes(name))))
    assert list(plain.axes) == []
    assert list(matched.axes) == ["style"]
    again = build_ranker(RankerConfig(match=["style"]), features.widths)
    again.load_state_dict(matched.state_dict())
    np.testing.assert_array_equal(again.axes["style"].axes_DC, features.axes("style"))


def test_resident_vectors_make_the_same_batch(features):
    ranker = build_ranker(RankerConfig(match=True), features.widths)
    mapped, resident = (Lookup(features, ranker, "cpu", resident=resident).batch(window_rows()) for resident in (False, True))
    for name, of_BD in mapped.vectors_BD.items():
        torch.testing.assert_close(resident.vectors_BD[name], of_BD, rtol=0, atol=0)


def test_a_ranker_without_compact_vectors_does_with_the_look_ups_of_one_that_has_them(features):
    configs = {"ids": RankerConfig(form="dcn_v2"), "main": RankerConfig(match=True), "style": RankerConfig(match=["style"]),
               "other": RankerConfig(form="dcn_v2", tag_buckets=7)}
    rankers = {name: build_ranker(config, features.widths) for name, config in configs.items()}
    for name in ("main", "style"):
        for modality, width in features.widths.items():
            rankers[name].set_axes(modality, torch.zeros(width), torch.eye(width))
    lookups = lookups_of(features, rankers, "cpu")
    assert lookups["ids"] is lookups["main"]
    assert len({lookup.key for lookup in lookups.values()}) == 3  # other axes, other buckets
    alone, shared = (rankers["ids"].eval()(each.batch(window_rows())).logit_B
                     for each in (Lookup(features, rankers["ids"]), lookups["ids"]))
    assert torch.equal(alone, shared)


def test_interest_vectors_are_made_where_a_ranker_reads_them_and_nowhere_else(features):
    def width(lookup: Lookup) -> int:
        return lookup.batch(window_rows()).long_interest_BD.shape[1]

    rankers = {name: build_ranker(config, features.widths) for name, config in {
        "without": RankerConfig(interests=False), "with": RankerConfig(), "ids": RankerConfig(form="dcn_v2"),
        "rival": RankerConfig(form="dcn_v2", inputs="all")}.items()}
    text = features.widths["text"]
    assert {name: width(Lookup(features, ranker)) for name, ranker in rankers.items()} == {
        "without": 0, "with": text, "ids": 0, "rival": text}
    beside = lookups_of(features, rankers, "cpu")
    assert {width(lookup) for lookup in beside.values()} == {text}
    alone, shared = (rankers["without"].eval()(lookup.batch(window_rows())).logit_B
                     for lookup in (Lookup(features, rankers["without"]), beside["without"]))
    assert torch.equal(alone, shared)
    wrong = {**window_rows(), "long_tags": window_rows()["long_tags"] + features.tags}
    with pytest.raises(ContractError, match="interest tags"):
        Lookup(features, rankers["without"]).batch(wrong)


def test_what_lies_on_the_device_lies_there_once(features):
    ranker = build_ranker(RankerConfig(match=True), features.widths)
    resident, other, mapped = (Lookup(features, ranker, "meta", resident=stays) for stays in (True, True, False))
    assert resident.vectors["style"].device.type == "meta"
    assert mapped.vectors["style"].device.type == "cpu"
    assert resident.vectors["style"] is other.vectors["style"]
    assert resident.catalogue.compact_IC["style"] is mapped.catalogue.compact_IC["style"]
    assert resident.catalogue.known_IM.device.type == "meta"
    first = Lookup(features, ranker)
    assert first.batch(window_rows()).catalogue is first.batch(window_rows()).catalogue  # made once

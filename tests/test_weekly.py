"""The whole weekly run, end to end: through spark-submit, with real Spark, Horovod and Petastorm, killed and resumed."""

from __future__ import annotations

import json
import re
import time
from datetime import timedelta
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from weekly_runs import NEXT_WEEK, WEEK, submit, write_config

from umair import schema
from umair.config import load_config
from umair.evaluation.contributions import FACTOR
from umair.experiments.config import ExperimentConfig
from umair.experiments.data import open_data
from umair.job import Config
from umair.metrics import auc
from umair.storage import Store
from umair.training.checkpoint import load_ranker
from umair.weeks import Week
from umair.world.draw import draw_world

pytestmark = pytest.mark.timeout(1800)  # seconds; the first test waits for a dozen weekly runs

KEYS = {"illustrations": ["illust_id"], "users": ["user_id"], "tags": ["tag"],
        "events": ["user_index", "illust_index", "kind", "at"], "image_vectors": ["illust_id", "encoder"],
        "text_vectors": ["text", "encoder"], "window_train": ["user_index", "illust_index"],
        "window_valid": ["user_index", "illust_index"], "window_test": ["user_index", "illust_index"]}
RESUMED = {r"and (\d+) taken over from a run that was killed": "embed_images",  # logged between the commit and the ledger
           r"(\d+) of them taken over from a run that was killed": "embed_texts"}
# Each pattern is a moment at which a kill hurts: in the middle of a step, or between a commit and the ledger.
KILLS = (r"ingest_tables \S+: start", r"events: version", r"pretrain_image_encoder .*start", r"finetune_text_encoder .*start",
         *RESUMED, r"window_valid: version", r"train_ranker .*start",
         r"evaluate_ranker .*start")


def rows_of(store: Store, table: str) -> list[tuple[object, ...]]:
    """Every key of a table's newest version, sorted; duplicates stay."""
    columns = ds.dataset(list(store.snapshot(table).files)).to_table(columns=KEYS[table]).to_pydict()
    return sorted(zip(*columns.values(), strict=True), key=str)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world, and a first week that was killed eleven times on its way."""
    path = write_config(tmp_path_factory.mktemp("weekly"))
    loaded = load_config(path, [], Config)
    draw_world(loaded.world, Path(loaded.raw.folder), workers=2)
    for pattern in KILLS:
        if pattern in RESUMED:  # before that, when the first task of many is done
            task_files = f"{loaded.root}/unfinished/{RESUMED[pattern]}/*/run-*/*.parquet"
            assert submit("weekly", path, WEEK, kill_on=task_files).killed, "the run ended before a task's file was seen"
        killed = submit("weekly", path, WEEK, kill_at=pattern)
        assert killed.killed, f"the run ended before {pattern}"
        if pattern in RESUMED:
            (made, resumed), = re.findall(rf"(\d+) new.*?{pattern}", killed.text)
            assert 0 < int(resumed) < int(made)
    run = submit("weekly", path, WEEK)
    assert run.code == 0, run.text[-4000:]
    return path


@pytest.fixture(scope="module")
def store(config: Path) -> Store:
    return Store(load_config(config, [], Config).root)


def test_killed_at_every_step_it_finishes_without_lost_or_doubled_rows(config: Path, store: Store) -> None:
    for table in KEYS:
        rows = rows_of(store, table)
        assert len(rows) == len(set(rows)), f"doubled rows in {table}"
    raw = load_config(config, [], Config).raw
    illustrations = {row[0] for row in rows_of(store, "illustrations")}
    embedded = {row[0] for row in rows_of(store, "image_vectors")}
    rejected = ds.dataset(list(store.snapshot(schema.IMAGE_REJECTS).files)).to_table().column("key").to_pylist()
    assert len(rejected) == len(set(rejected))
    assert embedded | {int(key) for key in rejected} == illustrations
    assert Path(raw.folder).is_dir()
    for job in RESUMED.values():
        assert not list((store.root / "unfinished" / job).iterdir())


def test_report_names_every_promised_figure(store: Store) -> None:
    report = json.loads((store.root / "report" / "report.json").read_text(encoding="utf-8"))
    promised = {"auc", "log_loss", "gauc", "ceiling_auc", "popularity_auc", "id_only_auc", "cold_auc", "cold_ceiling_auc",
                "cold_id_only_auc", "rows", "ranks", "versions", "seconds"}
    assert promised <= set(report)
    assert report["rows"]["test"] == store.snapshot("window_test").rows
    assert report["ranks"] == 2
    assert 0.5 < report["ceiling_auc"] <= 1
    page = (store.root / "report" / "index.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "") or "src=\"http" not in page


def test_an_experiment_on_the_week_has_its_rows_and_its_truth(config: Path, store: Store, tmp_path: Path) -> None:
    report = json.loads((store.root / "report" / "report.json").read_text(encoding="utf-8"))
    experiment = ExperimentConfig.model_validate({"claim": "none", "week": {"config": str(config), "week": WEEK},
                                                  "training": {"ranks": 1}, "ranker": {}})
    data = open_data(experiment, tmp_path)
    assert data.probability_N is not None
    assert data.learnable is not None
    assert len(data.test.label_N) == report["rows"]["test"]
    for part, figure in (("all", "ceiling_auc"), ("cold", "cold_ceiling_auc")):
        mask_N = data.slices[part]
        assert auc(data.test.label_N[mask_N], data.probability_N[mask_N]) == pytest.approx(report[figure], abs=1e-4)
        learnable_N = data.learnable.cold_N if part == "cold" else data.learnable.all_N
        assert 0.4 < auc(data.test.label_N[mask_N], learnable_N[mask_N]) < report[figure]
    users = pq.read_table(Path(load_config(config, [], Config).evaluation.truth) / "users.parquet").to_pandas()
    index_of = dict(zip(*(ds.dataset(list(store.snapshot("users").files)).to_table(columns=["user_id", "user_index"])
                          .to_pydict().values()), strict=True))
    of = data.true_weights_U["style"]
    for user, weight in zip(users["user_id"], users[FACTOR["style"]], strict=True):
        assert user not in index_of or of[index_of[user]] == weight


def test_a_finished_week_does_nothing_and_says_so(config: Path, store: Store) -> None:
    before = {table: store.snapshot(table).version for table in KEYS}
    started = time.monotonic()
    run = submit("weekly", config, WEEK)
    assert run.code == 0
    assert f"week {WEEK} is finished for this configuration: nothing to do" in run.text
    said = json.loads(run.text.strip().splitlines()[-1])
    assert said["steps_run"] == []
    assert load_ranker(Path(said["ranker_folder"])).modalities
    assert time.monotonic() - started < 60  # no Spark, no ranks; a machine's speed is not tested here
    assert {table: store.snapshot(table).version for table in KEYS} == before


def test_a_week_recommends_what_its_users_have_not_seen(config: Path, store: Store) -> None:
    run = submit("recommend_illustrations", config, WEEK, "recommend.count=10", "recommend.active_days=14")
    assert run.code == 0, run.text[-4000:]
    found, events, users, illustrations = (ds.dataset(list(store.snapshot(table).files)).to_table().to_pandas()
                                           for table in ("recommendations", "events", "users", "illustrations"))
    by_user = found.sort_values(["user_index", "place"]).groupby("user_index")
    assert (by_user["place"].apply(list).map(lambda places: places == list(range(1, 11)))).all()
    assert by_user["score"].is_monotonic_decreasing.all()
    moment = Week.parse(WEEK).end
    assert set(found["user_index"]) == set(events[events["at"] >= moment - timedelta(days=14)]["user_index"])
    pairs = ["user_index", "illust_index"]
    assert len(found.merge(events[pairs].drop_duplicates(), on=pairs)) == 0
    named = found.merge(users, on="user_index").merge(illustrations, on="illust_index")
    assert (len(named), (named["user_id_x"] == named["user_id_y"]).all(), (named["illust_id_x"] == named["illust_id_y"]).all()) == (
        len(found), True, True)
    again = submit("recommend_illustrations", config, WEEK, "recommend.count=10", "recommend.active_days=14")
    assert (again.code, store.snapshot("recommendations").version) == (0, 0)
    assert "already finished" in again.text


def test_the_second_week_embeds_only_what_is_new(config: Path, store: Store) -> None:
    vectors = store.snapshot("image_vectors")
    texts = store.snapshot("text_vectors")
    seen = set(rows_of(store, "illustrations"))
    old_tags = {row[0] for row in rows_of(store, "tags")}
    asked = submit("weekly", config, NEXT_WEEK, "--dry-run")
    would_run = json.loads(asked.text.strip().splitlines()[-1])["would_run"]
    assert (asked.code, store.weeks()) == (0, [WEEK])
    run = submit("weekly", config, NEXT_WEEK)
    assert run.code == 0, run.text[-4000:]
    assert json.loads(run.text.strip().splitlines()[-1])["steps_run"] == would_run
    report = json.loads((store.root / "report" / NEXT_WEEK / "report.json").read_text(encoding="utf-8"))
    assert report["ranker_before"].startswith(f"{WEEK}/")
    added = [file for file in store.snapshot("image_vectors").files if file not in vectors.files]
    new_ids = [id_ for file in added for id_ in pq.read_table(file).column("illust_id").to_pylist()]
    new = set(rows_of(store, "illustrations")) - seen
    assert new, "the world publishes every week"
    assert set(new_ids) <= {row[0] for row in new}
    assert len(new_ids) == len(set(new_ids)) > 0
    added_texts = [file for file in store.snapshot("text_vectors").files if file not in texts.files]
    new_texts = {text for file in added_texts for text in pq.read_table(file).column("text").to_pylist()}
    assert not new_texts & old_tags
    assert "pretrain_image_encoder" not in json.loads(run.text.strip().splitlines()[-1])["steps_run"]


def test_a_new_encoder_embeds_all_beside_the_old_vectors_and_says_how_far_they_moved(config: Path, store: Store) -> None:
    before = rows_of(store, "image_vectors")
    for job in ("finetune_text_encoder", "embed_texts"):
        run = submit(job, config, NEXT_WEEK, "text_pairs.seed=1")
        assert run.code == 0, run.text[-4000:]
    assert re.search(r"text vectors: a new encoder, \w+ instead of \w+; of a text's ten nearest stay: \d+%", run.text)
    for job in ("pretrain_image_encoder", "embed_images"):
        run = submit(job, config, NEXT_WEEK, "pretext.epochs=0", "pretext.seed=1")
        assert run.code == 0, run.text[-4000:]
    assert re.search(r"image vectors: a new encoder, \w+ instead of \w+; of an illustration's ten nearest stay: semantic \d+%", run.text)
    after = rows_of(store, "image_vectors")
    assert set(before) < set(after)
    assert len(after) == len(set(after)) == 2 * len(before)
    ledger = max(store.root.glob(f"steps/{NEXT_WEEK}/embed_images-*.json"), key=lambda path: path.stat().st_mtime)
    found = json.loads(ledger.read_text(encoding="utf-8"))["outputs"]["new_encoder"]
    assert found["coverage"] == {"before": len(before), "after": len(before)}
    assert 0 < found["style"]["overlap"] < 1


@pytest.mark.parametrize(("overrides", "said"), [
    (["trainin.epochs=1"], "unknown key 'trainin'.*did you mean 'training'"),
    (["training.epochs=many"], "key 'training.epochs'.*valid integer"),
    (["raw.folder=nowhere"], "nowhere"),
])
def test_bad_input_gives_one_clear_line_and_exit_code_2(config: Path, store: Store, overrides: list[str], said: str) -> None:
    before = {table: store.snapshot(table).version for table in KEYS}
    run = submit("ingest_tables", config, NEXT_WEEK, *overrides)
    assert run.code == 2
    assert "Traceback" not in run.text
    assert re.search(said, run.text), run.text
    assert {table: store.snapshot(table).version for table in KEYS} == before

"""A whole evaluation of a small site: figures that equal a direct computation, a page that holds itself together."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from small_site import COLD, ROWS, Site, make_site, save_rankers

from umair import metrics
from umair.errors import ContractError
from umair.evaluation.report import EvaluationConfig, evaluate, write_report
from umair.evaluation.scoring import score_window
from umair.evaluation.subject import rankers_before, rankers_of, subject_of
from umair.evaluation.thumbnails import thumbnail
from umair.picture import PictureLimits
from umair.storage import Step, Store
from umair.weeks import Week

WEEK = Week.parse("2026-W10")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Site:
    return make_site(tmp_path_factory.mktemp("site"))


def subject(site: Site, **changes):
    rankers = rankers_of(site.rankers, [])
    return subject_of(site.store, WEEK, {"window_test": 0}, rankers, site.folder / "packs", 64, 1, image_root=str(site.folder / "images"),
                      seconds={"ingest_tables": 12.5}, **changes)


def config(site: Site, **changes) -> EvaluationConfig:
    return EvaluationConfig(**{"truth": site.truth, "intervals": 50, "reject_below_popularity": False,
                               "examples": {"users": 3, "illustrations": 40, "neighbours": 3}, **changes})


@pytest.fixture(scope="module")
def evaluated(spark, site):
    return evaluate(spark, subject(site), config(site))


@pytest.fixture(scope="module")
def rows(spark, site) -> pd.DataFrame:
    """The test rows as plain numbers: scores, truth."""
    scored = score_window(spark, site.test_files, site.plan).toPandas()
    truth = pd.read_parquet(f"{site.truth}/events.parquet")
    truth = truth.assign(user_index=truth.user_id - 70, illust_index=truth.illust_id - 500)
    return scored.merge(truth, on=["user_index", "illust_index"], validate="one_to_one")


def test_headline_figures_equal_a_direct_computation(evaluated, rows):
    report, _ = evaluated
    cold = rows[rows["illust_index"].isin(COLD)]
    assert len(rows) == ROWS
    assert report["auc"] == pytest.approx(metrics.auc(rows["label"], rows["score_main"]), abs=1e-9)
    assert report["log_loss"] == pytest.approx(metrics.LogLoss.of(rows["label"], rows["score_main"]).mean, abs=1e-9)
    grouped = metrics.GroupedAuc.of(rows["user_index"], rows["label"], rows["score_main"])
    assert (report["gauc"], report["gauc_unweighted"]) == (pytest.approx(grouped.by_rows), pytest.approx(grouped.by_users))
    assert report["ceiling_auc"] == pytest.approx(metrics.auc(rows["label"], rows["probability"]))
    assert report["id_only_auc"] == pytest.approx(metrics.auc(rows["label"], rows["score_id_only"]), abs=1e-9)
    assert report["cold_auc"] == pytest.approx(metrics.auc(cold["label"], cold["score_main"]), abs=1e-9)
    assert report["cold_ceiling_auc"] == pytest.approx(metrics.auc(cold["label"], cold["probability"]))


def test_popularity_is_the_better_of_count_and_rate(evaluated, rows, site):
    base_rate = pd.read_parquet(list(site.store.snapshot("window_train").files))["label"].mean()
    rate = ((rows["illust_bookmarks"] + 10 * base_rate) / (rows["illust_views"] + 10)).clip(upper=1)
    expected = {"popularity": metrics.auc(rows["label"], rows["illust_bookmarks"]), "bookmark_rate": metrics.auc(rows["label"], rate)}
    found = {line["ranker"]: line["auc"] for line in evaluated[0]["slices"] if line["slice"] == "all"}
    assert {name: found[name] for name in expected} == {name: pytest.approx(auc, abs=1e-9) for name, auc in expected.items()}
    assert evaluated[0]["popularity_auc"] == pytest.approx(max(expected.values()), abs=1e-9)
    constant = metrics.LogLoss.of(rows["label"], np.full(ROWS, base_rate)).mean
    assert evaluated[0]["constant_log_loss"] == pytest.approx(constant, abs=1e-9)


def test_report_json_has_what_is_promised(evaluated):
    report, _ = evaluated
    promised = {"auc", "log_loss", "gauc", "gauc_unweighted", "ceiling_auc", "popularity_auc", "id_only_auc", "cold_auc",
                "cold_ceiling_auc", "cold_id_only_auc", "rows", "ranks", "ranker", "versions", "seconds", "slices", "intervals",
                "calibration", "verdict", "week"}
    assert promised <= set(report)
    json.dumps(report, allow_nan=False)
    assert (report["week"], report["ranks"], report["verdict"]) == ("2026-W10", 2, "accept")
    assert report["rows"]["test"] == report["rows"]["train"] == ROWS
    assert report["versions"]["tables"]["window_test"] == 0
    assert set(report["seconds"]) == {"ingest_tables", "evaluate_ranker"}
    assert {line["slice"] for line in report["slices"]} == {"all", "cold", "tail", "head", "known_picture", "missing_picture"}
    assert not report["intervals"]["sampled"]


def test_the_report_says_what_the_ranker_costs_and_who_shares_its_buckets(evaluated):
    report, page = evaluated
    facts = dict(report["ranker"])
    scored = facts.pop("scored_rows_per_second")  # in a part of the evaluation's seconds
    assert ROWS / report["seconds"]["evaluate_ranker"] < scored < 1_000_000
    assert facts == {"weights": 77, "trained_rows_per_second": 1234, "bytes_sent_per_step": 4096,
                     "shared_buckets": {"user_id": 0.25, "illust_id": 0.0}}
    assert "<dt>sharing: user id</dt><dd>25.0 %</dd>" in page


def test_calibration_counts_every_row_once(evaluated):
    assert sum(one["rows"] for one in evaluated[0]["calibration"]["bins"]) == ROWS


def test_the_page_fetches_nothing_and_escapes_what_artists_write(evaluated):
    page = evaluated[1]
    assert not re.search(r'<script|<link|<iframe|(src|href)="(?!data:|#)|@import|url\((?!#)', page)
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "<b>bold" not in page
    assert "タグ1" in page


def test_ids_of_the_two_plots_do_not_meet(evaluated):
    ids = re.findall(r'id="([^"]+)"', evaluated[1])
    assert len(ids) == len(set(ids))


def test_broken_and_missing_pictures_are_placeholders(evaluated, site):
    page, limits = evaluated[1], PictureLimits()
    assert "no picture" in page
    assert page.count("data:image/jpeg") > 30
    images = str(site.folder / "images")
    assert thumbnail(images, "3.png", None, 64, limits).startswith("data:image/jpeg;base64,")
    for path in ("1.png", "2.png", "../outside.png", None):  # missing, damaged, forbidden, none
        assert thumbnail(images, path, None, 64, limits) is None
    content = (site.folder / "images" / "3.png").read_bytes()
    assert thumbnail(images, None, content, 64, limits) == thumbnail(images, "3.png", None, 64, limits)


def test_true_weights_stand_beside_the_ranker_s(evaluated):
    report, page = evaluated
    assert "true weights" in page
    assert set(report["contribution"]["agreement"]["contribution"]) == {"semantic", "style", "text", "profile"}
    assert set(report["contribution"]["agreement"]["match"]) == {"semantic", "style", "text", "profile"}


def test_both_files_are_written_twice_and_read_back(evaluated, tmp_path):
    report, page = evaluated
    path = write_report(tmp_path, "2026-W10", report, page)
    assert path == tmp_path / "report" / "2026-W10" / "index.html"
    for folder in (path.parent, tmp_path / "report"):
        assert json.loads((folder / "report.json").read_text(encoding="utf-8")) == json.loads(json.dumps(report))
        assert (folder / "index.html").read_text(encoding="utf-8") == page


def test_without_truth_and_with_a_sample_the_report_says_so(spark, site):
    report, page = evaluate(spark, subject(site), config(site, truth=None, interval_rows=200, minimum_auc=0.99))
    assert report["ceiling_auc"] is None
    assert report["intervals"]["sampled"]
    assert 50 < report["intervals"]["rows"] < 350
    assert "random sample of users" in page
    assert "Nobody knows the best possible AUC" in page
    assert report["ranker_before"] is None
    assert "No ranker of an earlier week is compared." in page
    assert report["verdict"] == "reject"
    assert "below the minimum of 0.9900" in page


def test_a_truth_of_another_world_is_refused(spark, site, tmp_path):
    truth = pd.read_parquet(f"{site.truth}/events.parquet")
    truth.iloc[3:].to_parquet(tmp_path / "events.parquet")
    with pytest.raises(ContractError, match="3 test rows without a probability"):
        evaluate(spark, subject(site), config(site, truth=str(tmp_path)))


def test_last_week_s_ranker_takes_part_where_it_reads_the_same_vectors(site, tmp_path, caplog):
    assert set(rankers_of(site.rankers, [tmp_path / "none"])) == {"main", "id_only"}
    earlier = [tmp_path / name for name in ("removed", "first", "second")]
    for folder in earlier[1:]:
        save_rankers(folder, site.plan.source)
    assert rankers_of(site.rankers, earlier)["last_week"] == str(tmp_path / "first" / "main")
    facts = tmp_path / "first" / "facts.json"
    facts.write_text(facts.read_text().replace('"img"', '"another encoder"'))
    assert rankers_of(site.rankers, earlier)["last_week"] == str(tmp_path / "second" / "main")
    assert set(rankers_of(site.rankers, earlier[:2])) == {"main", "id_only"}
    facts = tmp_path / "second" / "facts.json"
    whole = facts.read_text()
    said = json.loads(whole)
    said["features"]["titles"] = not said["features"]["titles"]  # the same encoder, another mean of texts
    facts.write_text(json.dumps(said))
    assert set(rankers_of(site.rankers, earlier)) == {"main", "id_only"}
    facts.write_text(whole)
    config = tmp_path / "second" / "main" / "config.json"
    config.write_text(config.read_text().replace('"ranker": {', '"ranker": {"of_another_version": 1, '))
    assert set(rankers_of(site.rankers, earlier)) == {"main", "id_only"}
    said = [record.getMessage().partition(" is not compared: ")[2][:30] for record in caplog.records]
    assert said[-4:] == ["it is not there any more", "it reads other vectors (image_", "found no usable config.json (1", ""]
    assert caplog.messages[-1].startswith("no ranker of an earlier week can be compared")
    assert "it reads other vectors (titles)" in caplog.text


def test_rankers_that_one_reason_hinders_are_named_once(site, tmp_path, caplog):
    assert set(rankers_of(site.rankers, [tmp_path / str(number) for number in range(3)])) == {"main", "id_only"}
    assert [str(tmp_path / "0") in message for message in caplog.messages] == [True, False]  # the second: none can be compared
    caplog.clear()
    assert set(rankers_of(site.rankers, [])) == {"main", "id_only"}  # a first week is no warning
    assert not caplog.messages


def test_of_the_rankers_of_earlier_weeks_accepted_come_first_then_later_weeks_then_ones_own_then_the_newest(tmp_path):
    store = Store(tmp_path)

    def left(key: str, at: float, verdict: int | None, week: str = "2026-W09", windows: str = "w") -> None:
        store.record(Step("train_ranker", week, key, 1.0, {"windows": windows}, at))
        if verdict is not None:
            outputs = {"exit_code": verdict, "ranker": f"/moved/since/rankers/{week}/{key}/main"}
            store.record(Step("evaluate_ranker", week, f"of-{key}", 1.0, outputs, at + 0.5))

    def keys(own: str) -> list[str]:
        folders = rankers_before(store, Week.parse("2026-W10"), own, "w")
        assert {folder.parent.parent for folder in folders} <= {tmp_path / "rankers"}
        return [folder.name if folder.parent.name == "2026-W09" else f"{folder.parent.name}/{folder.name}" for folder in folders]

    assert keys("own") == []
    left("now", 9.0, 0, week="2026-W10")
    left("later", 9.0, 0, week="2026-W11")
    left("longer", 9.0, 0, windows="its training rows may be this week's test")
    store.record(Step("train_ranker", "2026-W09", "of-an-earlier-version", 1.0, {}, 9.0))
    store.record(Step("evaluate_ranker", "2026-W09", "of-an-earlier-version", 1.0, {"exit_code": 0}, 9.5))
    assert keys("own") == []
    assert keys("of-an-earlier-version") == ["of-an-earlier-version"]
    left("own", 1.0, 3)  # rejected
    left("unjudged", 4.0, None)
    assert keys("own") == ["own", "unjudged"]
    left("old", 2.0, 0)
    left("new", 3.0, 0)
    assert keys("own") == ["new", "old", "own", "unjudged"]
    assert keys("old") == ["old", "new", "unjudged", "own"]
    left("own", 9.0, 0, week="2026-W07")
    left("new", 9.0, 3, week="2026-W07")
    left("last", 8.0, 0, week="2025-W52")
    assert keys("own") == ["new", "old", "2026-W07/own", "2025-W52/last", "own", "unjudged", "2026-W07/new"]


def test_a_week_after_a_rejected_one_is_compared_with_the_last_accepted_ranker(tmp_path):
    """Or a ranker worse than the one in service would be accepted, as better than one that was turned down."""
    store = Store(tmp_path)
    for week, verdict in (("2026-W08", 0), ("2026-W09", 3)):
        store.record(Step("train_ranker", week, "key", 1.0, {"windows": "w"}, 1.0))
        store.record(Step("evaluate_ranker", week, "e", 1.0, {"exit_code": verdict, "ranker": f"/r/{week}/key/main"}, 2.0))
    for week in ("2026-W10", "2026-W20"):  # a week that never ran is no gap either
        assert rankers_before(store, Week.parse(week), "key", "w")[0] == tmp_path / "rankers" / "2026-W08" / "key"

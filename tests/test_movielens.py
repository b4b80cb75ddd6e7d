"""MovieLens as a raw site: nothing is known too early, nothing is made up, broken files are named."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from umair.config import load_config
from umair.errors import ConfigError, ContractError
from umair.schema import RAW_CATALOGUE, RAW_EVENTS, RAW_TERMS, RAW_USERS

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples" / "movielens"))
from convert import convert  # noqa: E402

MOVIES = """Id,title,genres
1,Toy Story (1995),Adventure|Animation
2,"Matrix, The (1999)",Action|Sci-Fi
3,Early Bird (2001) ,Action|Sci-Fi
4,Babylon 5,Sci-Fi
5,Metropolis (1927),(no genres listed)
6,Never Rated (2003),Drama
"""
RATINGS = """userId,Id,rating,timestamp
7,1,4.0,833000000
7,2,3.5,933000000
9,3,5.0,964000000
9,4,0.5,964000001
9,5,4.5,964000001
"""  # 1996-05-24, 1999-07-26, 2000-07-19


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "posters").mkdir(parents=True)
    (folder / "movies.csv").write_text(MOVIES, encoding="utf-8")
    (folder / "ratings.csv").write_text(RATINGS, encoding="utf-8")
    Image.new("RGB", (20, 30)).save(folder / "posters" / "1.jpg")
    (folder / "posters" / "2.jpg").write_text("not a picture")
    (folder / "posters" / "99.jpg").write_text("of no movie")
    return folder


def rows(out: Path, name: str) -> list[dict]:
    return pq.read_table(out / f"{name}.parquet").to_pylist()


def test_tables_keep_the_raw_contract(data, tmp_path):
    counts = convert(data, tmp_path / "out")
    assert counts == {"catalogue": 6, "users": 2, "events": 8, "terms": len(rows(tmp_path / "out", "terms")), "pictures": 2}
    for table in (RAW_CATALOGUE, RAW_USERS, RAW_EVENTS, RAW_TERMS):
        columns = pq.read_schema(tmp_path / "out" / f"{table.name}.parquet").names
        assert set(columns) <= set(table.column_names)
        assert set(table.key) <= set(columns)


def test_every_rating_is_a_view_and_from_4_on_a_bookmark_a_second_later(data, tmp_path):
    convert(data, tmp_path)
    events = [(row["user_id"], row["illust_id"], row["kind"], int(row["at"].timestamp())) for row in rows(tmp_path, "events")]
    assert events == [
        (7, 1, "view", 833000000), (7, 1, "bookmark", 833000001), (7, 2, "view", 933000000), (9, 3, "view", 964000000),
        (9, 3, "bookmark", 964000001), (9, 4, "view", 964000001), (9, 5, "view", 964000001), (9, 5, "bookmark", 964000002)]


def test_a_movie_is_there_from_its_release_but_not_before_the_site_nor_after_its_first_rating(data, tmp_path):
    convert(data, tmp_path)
    created = {row["illust_id"]: row["created_at"].isoformat()[:19] for row in rows(tmp_path, "catalogue")}
    assert created == {
        1: "1996-01-01T00:00:00", 5: "1996-01-01T00:00:00",  # older than the site
        2: "1999-01-01T00:00:00", 6: "2003-01-01T00:00:00",  # released later
        3: "2000-07-19T09:46:40", 4: "2000-07-19T09:46:41"}  # rated before its release year; no year at all


def test_tags_are_genres_and_decade_and_nothing_else(data, tmp_path):
    convert(data, tmp_path)
    tags = {row["illust_id"]: row["tags"] for row in rows(tmp_path, "catalogue")}
    assert tags == {1: ["Adventure", "Animation", "1990s"], 2: ["Action", "Sci-Fi", "1990s"], 3: ["Action", "Sci-Fi", "2000s"],
                    4: ["Sci-Fi"], 5: ["1920s"], 6: ["Drama", "2000s"]}


def test_a_missing_poster_is_null_and_a_broken_one_is_left_for_the_embedding_to_judge(data, tmp_path):
    out = tmp_path / "out"
    convert(data, out)
    pictures = {row["illust_id"]: (row["image"], row["width"], row["height"]) for row in rows(out, "catalogue")}
    assert pictures == {1: ("1.jpg", 20, 30), 2: ("2.jpg", None, None), **dict.fromkeys((3, 4, 5, 6), (None, None, None))}
    assert sorted(path.name for path in (out / "images").iterdir()) == ["1.jpg", "2.jpg"]
    assert (out / "images" / "1.jpg").read_bytes() == (data / "posters" / "1.jpg").read_bytes()


def test_terms_tie_titles_to_genres_genres_to_lists_and_decades_to_the_next(data, tmp_path):
    convert(data, tmp_path)
    assert {(row["text_a"], row["text_b"], row["kind"]) for row in rows(tmp_path, "terms")} == {
        ("Toy Story", "Adventure, Animation", "explanation"), ("Matrix, The", "Action, Sci-Fi", "explanation"),
        ("Early Bird", "Action, Sci-Fi", "explanation"), ("Babylon 5", "Sci-Fi", "explanation"),
        ("Never Rated", "Drama", "explanation"),
        ("Adventure", "Adventure, Animation", "relation"), ("Animation", "Adventure, Animation", "relation"),
        ("Action", "Action, Sci-Fi", "relation"), ("Sci-Fi", "Action, Sci-Fi", "relation"),
        ("1920s", "1990s", "relation"), ("1990s", "2000s", "relation")}


def test_nothing_says_who_made_a_movie_or_who_a_user_is(data, tmp_path):
    convert(data, tmp_path)
    assert {row["artist_id"] for row in rows(tmp_path, "catalogue")} == {0}
    assert {row["username"] for row in rows(tmp_path, "users")} == {None}


def test_the_same_files_in_another_order_give_the_same_bytes(data, tmp_path):
    def digests(out: Path) -> dict[str, str]:
        convert(data, out)
        return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted(out.rglob("*")) if path.is_file()}

    first = digests(tmp_path / "one")
    assert digests(tmp_path / "one") == first  # over itself
    for name in ("movies.csv", "ratings.csv"):
        header, *lines = (data / name).read_text(encoding="utf-8").splitlines()
        (data / name).write_text("\n".join([header, *reversed(lines)]) + "\n", encoding="utf-8")
    assert digests(tmp_path / "two") == first


# ---------------------------------------------------------------- bad input
@pytest.mark.parametrize(("name", "old", "new", "says"), [
    ("ratings.csv", "3.5,933000000", "good,933000000", r"ratings.csv row 2: found rating 'good' \(1 such rows\)"),
    ("ratings.csv", "3.5,", "7,", "row 2: found rating '7'"),
    ("ratings.csv", "5.0,964000000", "5.0,yesterday", "row 3: found timestamp 'yesterday'"),
    ("ratings.csv", "\n7,1", "\n,1", "row 1: found userId ''"),
    ("ratings.csv", "timestamp", "time", "found columns userId, Id, rating, time; expected also timestamp"),
    ("ratings.csv", RATINGS[25:], "", r"ratings.csv: found .*What to do: give the folder of GroupLens"),
    ("movies.csv", "Babylon 5", "", "movies.csv row 4: found title ''"),
    ("movies.csv", "genres", "tags", "found columns Id, title, tags; expected also genres")])
def test_what_cannot_be_read_is_named(data, tmp_path, name, old, new, says):
    path = data / name
    assert old in path.read_text(encoding="utf-8")
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ContractError, match=says):
        convert(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_folder_and_a_missing_file_are_named(data, tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere/posters: found no such folder; .*ml-latest-small"):
        convert(tmp_path / "nowhere", tmp_path / "out")
    (data / "ratings.csv").unlink()
    with pytest.raises(ConfigError, match=r"ratings.csv: found no such file"):
        convert(data, tmp_path / "out")


# ---------------------------------------------------------------- the configuration
def test_the_rival_without_content_differs_from_the_ranker_in_nothing_else():
    from umair.job import Config

    config = load_config(ROOT / "conf" / "movielens.yaml", [], Config)
    rival = config.training.rivals["no_content"]
    assert rival.modalities == ("profile",)
    assert rival.matched == ("profile",)  # whose tags and artist are no vectors
    assert rival.model_copy(update={"modalities": config.ranker.modalities}) == config.ranker
    ids = config.training.rivals["id_only"]
    assert (ids.form, ids.item_fields, ids.user_fields) == ("dcn_v2", config.ranker.item_fields, config.ranker.user_fields)
    assert config.ranker.item_fields["illust_id"] > 9_742

"""Brings MovieLens (ratings.csv, movies.csv, posters/) to the raw contract: catalogue, users, events, terms, images.

    python examples/movielens/convert.py DATA OUT

What each column becomes, and why, is in README.md beside this file. The same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from umair.errors import ConfigError, ContractError, StorageError, UmairError

BOOKMARK_RATING = 4.0  # of at most 5: from here on a rating is a bookmark too
NO_ARTIST = 0  # MovieLens names no makers; one id for all says nothing about any
NO_GENRES = "(no genres listed)"
MOST_TITLES = 100  # titles that are paired with one list of genres, so that no list fills every batch
YEAR = re.compile(r"\((\d{4})\)\s*$")  # at a title's end
TERM_COLUMNS = ("lang_a", "text_a", "lang_b", "text_b", "kind")
WHAT_TO_DO = "give the folder of GroupLens' ml-latest-small with ratings.csv, movies.csv and posters/"


def convert(data: Path, out: Path) -> dict[str, int]:
    """Writes catalogue, users, events and terms as Parquet and images/ into `out`. Returns the number of rows of each.

    Raises ConfigError: a missing folder or file. ContractError: a missing column, a value that cannot be read.
    StorageError: `out` cannot be written.
    """
    posters = data / "posters"
    if not posters.is_dir():
        raise ConfigError(str(posters), "no such folder", "posters named <movie id>.jpg", WHAT_TO_DO)
    movies, ratings = read_movies(data / "movies.csv"), read_ratings(data / "ratings.csv")
    try:
        (out / "images").mkdir(parents=True, exist_ok=True)
        tables = {"catalogue": make_catalogue(movies, ratings, place_posters(posters, movies, out / "images")),
                  "users": make_users(ratings), "events": make_events(ratings), "terms": make_terms(movies)}
        for name, table in tables.items():
            write_table(out / f"{name}.parquet", table)
    except OSError as error:
        raise StorageError(str(out), f"a write that failed ({error})", "a writable folder with 100 MB of free space",
                           "free some space or choose another folder") from error
    pictures = tables["catalogue"].num_rows - tables["catalogue"].column("image").null_count
    return {**{name: table.num_rows for name, table in tables.items()}, "pictures": pictures}


# ---------------------------------------------------------------- reading
def read_movies(path: Path) -> pd.DataFrame:
    """One row a movie: Id, title, genres (list), year (nullable Int64)."""
    columns: dict[str, Callable[[pd.Series], pd.Series]] = {"Id": _whole, "title": _text, "genres": _text}
    movies = _read_csv(path, columns)
    movies["title"] = movies["title"].str.strip()
    movies["genres"] = [[] if listed == NO_GENRES else listed.split("|") for listed in movies["genres"]]
    movies["year"] = pd.to_numeric(movies["title"].str.extract(YEAR.pattern, expand=False)).astype("Int64")
    return movies.sort_values(["Id", "title"], ignore_index=True)


def read_ratings(path: Path) -> pd.DataFrame:
    """One row a rating: userId, Id, rating (0.5 to 5), timestamp (seconds since 1970)."""
    ratings = _read_csv(path, {"userId": _whole, "Id": _whole, "rating": _stars, "timestamp": _whole})
    if ratings.empty:
        raise ContractError(str(path), "no rating", "at least one", WHAT_TO_DO)
    return ratings


def _text(texts: pd.Series) -> pd.Series:
    return texts.where(texts.str.strip() != "")


def _whole(texts: pd.Series) -> pd.Series:
    numbers = pd.to_numeric(texts, errors="coerce")
    return numbers.where((numbers >= 0) & (numbers % 1 == 0)).astype("Int64")


def _stars(texts: pd.Series) -> pd.Series:
    numbers = pd.to_numeric(texts, errors="coerce")
    return numbers.where(numbers.between(0.5, 5))


def _read_csv(path: Path, columns: dict[str, Callable[[pd.Series], pd.Series]]) -> pd.DataFrame:
    """The named columns, each through its reader, which gives null for what it cannot read."""
    if not path.is_file():
        raise ConfigError(str(path), "no such file", "a CSV file of MovieLens", WHAT_TO_DO)
    try:
        texts = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ContractError(str(path), f"text that is no CSV table ({error})", "UTF-8 CSV with a header", WHAT_TO_DO
                            ) from error
    missing = [name for name in columns if name not in texts]
    if missing:
        raise ContractError(str(path), f"columns {', '.join(texts.columns)}", f"also {', '.join(missing)}", WHAT_TO_DO)
    read = pd.DataFrame({name: reader(texts[name]) for name, reader in columns.items()})
    broken = read.isna().any(axis=1)
    if broken.any():
        row = int(broken.to_numpy().argmax())
        column = next(name for name in columns if pd.isna(read.at[row, name]))
        raise ContractError(f"{path} row {row + 1}", f"{column} {texts.at[row, column]!r} ({broken.sum()} such rows)",
                            "whole ids and timestamps, ratings from 0.5 to 5, titles and genres that are not empty",
                            "correct or remove these rows")
    return read


# ---------------------------------------------------------------- making
def place_posters(posters: Path, movies: pd.DataFrame, images: Path) -> dict[int, tuple[str, int | None, int | None]]:
    """Links (or copies) the movies' posters into `images`. By movie: name, width and height in pixels.

    A file that is no picture keeps its name and has no size: the embedding job will set it aside and say why.
    """
    placed = {}
    for movie in movies["Id"]:
        source, target = posters / f"{movie}.jpg", images / f"{movie}.jpg"
        target.unlink(missing_ok=True)
        if source.is_file():
            _link_or_copy(source, target)
            placed[int(movie)] = (target.name, *_size_of(target))
    return placed


def make_catalogue(movies: pd.DataFrame, ratings: pd.DataFrame,
                   posters: dict[int, tuple[str, int | None, int | None]]) -> pa.Table:
    """illust_id, artist_id, title, tags (genres, then the decade), image, created_at, width, height."""
    image, width, height = zip(*(posters.get(movie, (None, None, None)) for movie in movies["Id"]), strict=True)
    return pa.table({
        "illust_id": pa.array(movies["Id"], pa.int64()),
        "artist_id": pa.array([NO_ARTIST] * len(movies), pa.int64()),
        "title": pa.array(movies["title"], pa.string()),
        "tags": pa.array([[*genres, *([] if pd.isna(year) else [decade_of(year)])]
                          for genres, year in zip(movies["genres"], movies["year"], strict=True)], pa.list_(pa.string())),
        "image": pa.array(image, pa.string()),
        "created_at": pa.array(first_moments(movies, ratings), pa.timestamp("s", "UTC")).cast(pa.timestamp("us", "UTC")),
        "width": pa.array(width, pa.int32()), "height": pa.array(height, pa.int32())})


def first_moments(movies: pd.DataFrame, ratings: pd.DataFrame) -> list[int]:
    """When the site had each movie, in seconds since 1970: the release year's first day, but not before the year in which
    ratings start (the site did not exist) and never after the movie's first rating."""
    opening = pd.Timestamp(int(ratings["timestamp"].min()), unit="s").year
    first_rating = ratings.groupby("Id")["timestamp"].min()
    moments = []
    for movie, year in zip(movies["Id"], movies["year"], strict=True):
        rated = first_rating.get(movie)
        released = int(pd.Timestamp(max(opening, opening if pd.isna(year) else year), 1, 1).timestamp())
        unknown = pd.isna(year) or (rated is not None and released > rated)
        moments.append(int(rated) if unknown and rated is not None else released)
    return moments


def make_users(ratings: pd.DataFrame) -> pa.Table:
    """user_id, username (null: MovieLens gives no names)."""
    users = sorted(set(ratings["userId"]))
    return pa.table({"user_id": pa.array(users, pa.int64()), "username": pa.nulls(len(users), pa.string())})


def make_events(ratings: pd.DataFrame) -> pa.Table:
    """A view for every rating at its time; a second later a bookmark, if the rating is at least BOOKMARK_RATING."""
    liked = ratings[ratings["rating"] >= BOOKMARK_RATING]
    views, bookmarks = ratings.assign(kind="view"), liked.assign(kind="bookmark", timestamp=liked["timestamp"] + 1)
    events = pd.concat([views, bookmarks]).sort_values(["timestamp", "userId", "Id", "kind"], kind="stable")
    return pa.table({
        "user_id": pa.array(events["userId"], pa.int64()), "illust_id": pa.array(events["Id"], pa.int64()),
        "kind": pa.array(events["kind"], pa.string()),
        "at": pa.array(events["timestamp"].astype("int64"), pa.timestamp("s", "UTC")).cast(pa.timestamp("us", "UTC"))})


def make_terms(movies: pd.DataFrame) -> pa.Table:
    """Pairs that give the tags' words their meaning: title and its genres, genre and the lists it is in, next decades."""
    pairs: set[tuple[str, str, str]] = set()
    described = movies[movies["genres"].str.len() > 0].assign(described=movies["genres"].str.join(", "))
    for genres, group in described.groupby("described"):
        titles = [YEAR.sub("", title).strip() or title for title in group["title"][:MOST_TITLES]]
        pairs |= {(title, str(genres), "explanation") for title in titles}
        pairs |= {(genre, str(genres), "relation") for genre in group["genres"].iloc[0] if genre != genres}
    decades = sorted({decade_of(year) for year in movies["year"].dropna()})
    pairs |= {(earlier, later, "relation") for earlier, later in itertools.pairwise(decades)}
    rows = [("en", text_a, "en", text_b, kind) for text_a, text_b, kind in sorted(pairs)]
    return pa.table([pa.array([row[place] for row in rows], pa.string()) for place in range(len(TERM_COLUMNS))],
                    names=list(TERM_COLUMNS))


def decade_of(year: int) -> str:
    """1995 -> '1990s'."""
    return f"{int(year) // 10 * 10}s"


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)  # with its time, so that the next run takes it for unchanged


def _size_of(path: Path) -> tuple[int, int] | tuple[None, None]:
    try:
        with Image.open(path) as picture:  # reads the header only
            return picture.size
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return None, None


# ---------------------------------------------------------------- writing
def write_table(path: Path, table: pa.Table) -> None:
    """Writes a Parquet file; a reader sees the old one or the new one, never a part."""
    temporary = path.with_name(f".{path.name}")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(path)


def main() -> int:
    """Converts and prints the counts as JSON. Returns the exit code: 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with ratings.csv, movies.csv and posters/")
    parser.add_argument("out", type=Path, help="folder to write, raw.folder of conf/movielens.yaml")
    given = parser.parse_args()
    try:
        sys.stdout.write(json.dumps(convert(given.data, given.out)) + "\n")
    except UmairError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Every table as data: its key, its columns (Spark DDL) and the rules that a row must keep. No Spark, no torch.

`docs/tables.md` is generated from here (`umair tables`), so that the contract has one source.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table's promise. `columns` is a Spark DDL string; `rules` maps a rule's name to the SQL that every row keeps."""

    name: str
    about: str
    key: tuple[str, ...]
    columns: str
    rules: dict[str, str] = field(default_factory=dict)
    has_texts: bool = False  # values that may run over several lines, where CSV puts them in quotation marks

    @property
    def column_types(self) -> dict[str, str]:
        """Column name -> Spark type, in order."""
        pairs = (part.strip().split(" ", 1) for part in _split_ddl(self.columns))
        return {name: kind for name, kind in pairs}

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(self.column_types)


def _split_ddl(ddl: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for position, character in enumerate(ddl):
        depth += (character in "<(") - (character in ">)")
        if character == "," and depth == 0:
            parts.append(ddl[start:position])
            start = position + 1
    return [*parts, ddl[start:]]


VISIBLE = r"[^\p{Cc}\p{Cf}\p{Cs}\p{Z}\s]"  # of a text: at least one character that can be seen, among them what
#                                          is newer than Java's tables, which call it unassigned: emoji, say


# ---------------------------------------------------------------- raw: what a site hands over (Parquet, JSON lines, CSV)
RAW_CATALOGUE = Table(
    name="catalogue", about="one row an illustration; `image` is a path under image_root, `image_content` its bytes",
    key=("illust_id",), has_texts=True,
    columns="illust_id bigint, artist_id bigint, title string, tags array<string>, image string, image_content binary, "
            "created_at timestamp, width int, height int, restrict int, x_restrict int, sanity_level int",
    rules={
        "illust_id_known": "illust_id IS NOT NULL",
        "artist_id_known": "artist_id IS NOT NULL",
        "created_at_known": "created_at IS NOT NULL",
        "created_at_plausible": "created_at IS NULL OR year(created_at) BETWEEN 1990 AND 2100",
        "size_positive": "coalesce(width, 1) > 0 AND coalesce(height, 1) > 0",
        "size_plausible": "coalesce(width, 1) <= 1000000 AND coalesce(height, 1) <= 1000000",
        "image_below_root": r"image IS NULL OR NOT (image LIKE '/%' OR image RLIKE '(^|/)[.][.](/|$)' OR image LIKE '%://%')",
    })
RAW_USERS = Table(
    name="users", about="one row a user", key=("user_id",), columns="user_id bigint, username string",
    rules={"user_id_known": "user_id IS NOT NULL"})
RAW_EVENTS = Table(
    name="events", about="one row a view or a bookmark", key=("user_id", "illust_id", "kind", "at"),
    columns="user_id bigint, illust_id bigint, kind string, at timestamp",
    rules={
        "user_id_known": "user_id IS NOT NULL",
        "illust_id_known": "illust_id IS NOT NULL",
        "kind_known": "kind IS NOT NULL AND kind IN ('view', 'bookmark')",
        "at_known": "at IS NOT NULL",
        "at_plausible": "at IS NULL OR year(at) BETWEEN 1990 AND 2100",
    })
RAW_TERMS = Table(
    name="terms", about="one row a pair of texts that mean the same or belong together", has_texts=True,
    key=("lang_a", "text_a", "lang_b", "text_b", "kind"),
    columns="lang_a string, text_a string, lang_b string, text_b string, kind string",
    rules={
        "text_a_known": f"text_a IS NOT NULL AND text_a RLIKE r'{VISIBLE}'",
        "text_b_known": f"text_b IS NOT NULL AND text_b RLIKE r'{VISIBLE}'",
    })
RAW_TABLES = (RAW_CATALOGUE, RAW_USERS, RAW_EVENTS, RAW_TERMS)

# ---------------------------------------------------------------- trusted: what ingest_tables commits
ILLUSTRATIONS = Table(
    name="illustrations",
    about="the catalogue as of the week's end; `illust_index` and `artist_index` count from 0 and never change",
    key=("illust_id",),
    columns="illust_id bigint, illust_index int, artist_id bigint, artist_index int, title string, tags array<string>, "
            "tag_indices array<int>, image string, image_content binary, created_at timestamp, width int, height int, "
            "restrict int, x_restrict int, sanity_level int")
USERS = Table(
    name="users", about="users; `user_index` counts from 0 and never changes", key=("user_id",),
    columns="user_id bigint, user_index int, username string")
TAGS = Table(
    name="tags", about="every distinct tag; `tag_index` counts from 0 and never changes; `uses` counts illustrations",
    key=("tag",), columns="tag string, tag_index int, uses bigint")
EVENTS = Table(
    name="events", about="views and bookmarks before the week's end, of known users and illustrations, each once",
    key=("user_index", "illust_index", "kind", "at"),
    columns="user_index int, illust_index int, kind string, at timestamp")
TERMS = Table(
    name="terms", about="distinct text pairs", key=RAW_TERMS.key, columns=RAW_TERMS.columns)
REJECTS = Table(
    name="rejects", about="`ingest_rejects`, `image_rejects`: rows set aside: source table, key, broken rule, offending "
                          "value; `state` identifies the "
                          "content that was tried (pictures), so that an unchanged one is not tried again",
    key=("table", "key", "rule"), columns="table string, key string, rule string, value string, state string")
INGEST_REJECTS, IMAGE_REJECTS = "ingest_rejects", "image_rejects"  # two tables with the columns of REJECTS

# ---------------------------------------------------------------- vectors
IMAGE_VECTORS = Table(
    name="image_vectors", about="semantic and style vector of each readable picture, rounded to fp16; `state` is the "
                                "picture's path, size and modification time, or its SHA-256; `encoder` its encoder's "
                                "fingerprint",
    key=("illust_id", "encoder"),
    columns="illust_id bigint, illust_index int, semantic array<float>, style array<float>, sha256 string, "
            "state string, encoder string")
TEXT_VECTORS = Table(
    name="text_vectors", about="the vector of each distinct tag or title, rounded to fp16", key=("text", "encoder"),
    columns="text string, vector array<float>, encoder string")

# ---------------------------------------------------------------- windows: narrow labelled rows
ABSENT = -1  # fills lists of indices to their fixed length
WINDOW = Table(
    name="window", about="`window_train`, `window_valid` and `window_test`: one row an interaction. Everything but "
                         "`label` is as of the moment just before `at`: interest "
                         "tags (heaviest first), counters, and the illustrations last bookmarked and last viewed but passed "
                         "over (most recent first). Lists have a fixed length and end in -1",
    key=("user_index", "illust_index"),
    columns="user_index int, illust_index int, label int, at timestamp, "
            "long_tags array<int>, long_weights array<float>, short_tags array<int>, short_weights array<float>, "
            "user_views int, user_bookmarks int, illust_views int, illust_bookmarks int, "
            "bookmarked array<int>, passed array<int>")
SPLITS = ("train", "valid", "test")


def window_table(split: str) -> str:
    """The table's name of one split: window_train, window_valid, window_test."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r}; known: {SPLITS}")
    return f"window_{split}"


# ---------------------------------------------------------------- what the ranker says to a site
RECOMMENDATIONS = Table(
    name="recommendations", about="the illustrations that suit each active user best as of the week's end, the best with "
                                  "`place` 1; `score` is the ranker's estimate of the probability that the user, "
                                  "viewing it, bookmarks it (with sampled negatives only the order says something)",
    key=("user_id", "place"),
    columns="user_id bigint, user_index int, place int, illust_id bigint, illust_index int, score double")

# ---------------------------------------------------------------- truth: only the evaluation may read it
TRUTH = Table(
    name="truth", about="drawn worlds only: the probability with which each (user, illustration) view became a bookmark",
    key=("user_id", "illust_id"), columns="user_id bigint, illust_id bigint, probability double")

"""Tags that the text pairs call the same become one label."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from umair.training.synonyms import concept_names, merge_synonyms


@pytest.fixture
def terms(tmp_path: Path) -> list[str]:
    rows = [("猫", "ねこ", "multilingual"), ("ねこ", "cat", "multilingual"), ("cat", "animal", "relation"),
            ("dog", "犬", "multilingual")]
    table = pa.table({"text_a": [row[0] for row in rows], "text_b": [row[1] for row in rows], "kind": [row[2] for row in rows]})
    pq.write_table(table, tmp_path / "terms.parquet")
    return [str(tmp_path / "terms.parquet")]


def test_connected_texts_are_one_concept_and_relations_connect_nothing(terms: list[str]) -> None:
    assert concept_names(terms) == {"猫": "cat", "ねこ": "cat", "cat": "cat", "dog": "dog", "犬": "dog"}


def test_a_row_has_each_concept_once_and_keeps_what_no_pair_knows(terms: list[str]) -> None:
    tags = pa.array([["猫", "cat", "tower"], [], ["犬"]])
    assert merge_synonyms(tags, concept_names(terms)).to_pylist() == [["cat", "tower"], [], ["dog"]]


def test_a_sliced_list_and_a_row_without_tags_keep_their_places(terms: list[str]) -> None:
    tags = pa.array([["x"], ["ねこ"], None, ["犬", "dog"]], pa.list_(pa.string())).slice(1)
    assert merge_synonyms(tags, concept_names(terms)).to_pylist() == [["cat"], [], ["dog"]]


def test_no_pairs_no_names(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text_a": ["a"], "text_b": ["b"], "kind": ["relation"]}), tmp_path / "terms.parquet")
    assert concept_names([str(tmp_path / "terms.parquet")]) == {}

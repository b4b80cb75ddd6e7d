"""Vectors as Arrow columns, nulls among them, and batches through Spark's `mapInArrow`."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from umair.embedding.arrow import in_worker, record_batch, vector_column


@pytest.mark.parametrize("vectors", [[[1.0, 0.5], None, [2.0, 0.25]], [None, None], [], [None, [3.0]], [[1.0], [2.0, 3.0], None]])
def test_a_column_holds_each_vector_or_null(vectors):
    column = vector_column([None if vector is None else np.array(vector, np.float32) for vector in vectors])
    column.validate(full=True)
    assert column.type == pa.list_(pa.float32())
    assert column.to_pylist() == vectors


def test_a_matrix_is_a_column_of_its_rows():
    assert vector_column(np.array([[1, 2], [3, 4]], np.float32)).to_pylist() == [[1, 2], [3, 4]]


def test_vectors_and_nulls_reach_spark(spark):
    def odd_ones(batches):
        for batch in batches:
            numbers = batch.column("id").to_pylist()
            vectors = [np.array([number, 0.5], np.float32) if number % 2 else None for number in numbers]
            yield record_batch({"id": batch.column("id"), "vector": vector_column(vectors), "seconds": np.full(len(numbers), 1.5)})

    rows = spark.range(4, numPartitions=2).mapInArrow(in_worker(odd_ones), "id bigint, vector array<float>, seconds double")
    assert [tuple(row) for row in rows.orderBy("id").collect()] == [
        (0, None, 1.5), (1, [1.0, 0.5], 1.5), (2, None, 1.5), (3, [3.0, 0.5], 1.5)]
    assert spark.range(0).mapInArrow(in_worker(odd_ones), "id bigint, vector array<float>, seconds double").count() == 0

"""Frames through mapInArrow: the columns that Spark was promised, arrays and nulls as they were."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from umair.embedding.arrow import over_arrow

COLUMNS = "id bigint, vector array<float>, rule string, seconds double"


@pytest.fixture
def work():
    def odd_numbers(frames):  # nested: Spark's workers cannot import this file
        for frame in frames:
            vectors = [np.array([number, 0.5], "float32") if number % 2 else None for number in frame["id"]]
            yield pd.DataFrame({"seconds": 1.5, "rule": [None if vector is not None else "even" for vector in vectors],
                                "vector": vectors, "id": frame["id"]})

    return odd_numbers


def test_vectors_nulls_and_order_of_columns_reach_spark(spark, work):
    rows = spark.range(4, numPartitions=2).mapInArrow(over_arrow(work, COLUMNS), COLUMNS).orderBy("id").collect()
    assert [tuple(row) for row in rows] == [(0, None, "even", 1.5), (1, [1.0, 0.5], None, 1.5), (2, None, "even", 1.5),
                                            (3, [3.0, 0.5], None, 1.5)]


def test_a_partition_without_rows_gives_none(spark, work):
    assert spark.range(0).mapInArrow(over_arrow(work, COLUMNS), COLUMNS).count() == 0


def test_a_frame_of_other_types_is_refused(spark):
    batches = iter([pa.RecordBatch.from_pydict({"id": [1]})])
    with pytest.raises(pa.ArrowInvalid, match="word"):
        list(over_arrow(lambda frames: (frame.assign(vector=None, rule=None, seconds="word") for frame in frames), COLUMNS)(batches))

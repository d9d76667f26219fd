"""Latencies in buckets, against a sorted list."""

from __future__ import annotations

import json
import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from seawall.broker.bench.histogram import Histogram, bucket_of, highest_of

LATENCIES_US = st.integers(0, 10**12) | st.integers(0, 600)


@given(LATENCIES_US)
def test_a_bucket_is_narrow_and_knows_its_end(value: int) -> None:
    bucket = bucket_of(value)
    assert value <= highest_of(bucket) <= value + value / 128
    assert bucket_of(highest_of(bucket)) == bucket
    assert bucket_of(highest_of(bucket) + 1) == bucket + 1


@given(st.lists(LATENCIES_US, min_size=1), st.floats(0.001, 1))
def test_quantiles_are_those_of_the_sorted_list(values: list[int], share: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = sorted(values)[math.ceil(share * len(values)) - 1]
    assert exact <= histogram.quantile(share) <= min(exact + exact / 128, max(values))
    assert histogram.quantile(1) == histogram.max_us == max(values)


@given(st.lists(LATENCIES_US), st.lists(LATENCIES_US))
def test_histograms_of_processes_add_up(one: list[int], two: list[int]) -> None:
    parts, whole = (Histogram(), Histogram()), Histogram()
    for part, values in zip(parts, (one, two), strict=True):
        for value in values:
            part.add(value)
            whole.add(value)
    merged = Histogram()
    for part in parts:
        merged.merge(Histogram.from_json(json.loads(json.dumps(part.to_json())), part.max_us))
    assert merged.to_json() == whole.to_json()
    assert merged.summary_ms() == whole.summary_ms()
    assert merged.total == len(one) + len(two)


@given(st.lists(st.integers(0, 10**9), min_size=1))
def test_rows_have_everything_once_and_leave_none_out(values: list[int]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    rows = histogram.rows()
    bounds = [bound for bound, _ in rows]
    assert sum(count for _, count in rows) == len(values)
    assert rows[0][1]
    assert rows[-1][1]
    assert all(str(bound).strip("0") in ("1", "2", "5") for bound in bounds)
    assert all(2 <= later / bound <= 2.5 for bound, later in pairwise(bounds))


def test_what_is_not_there() -> None:
    empty = Histogram()
    assert (empty.quantile(0.5), empty.rows(), empty.total) == (0, [], 0)
    empty.add(-5)  # by a clock that differs
    assert (empty.max_us, empty.total) == (0, 1)

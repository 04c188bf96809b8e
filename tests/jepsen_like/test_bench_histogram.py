"""The benchmark's histogram: quantiles by hand, precision, adding up."""

from __future__ import annotations

import json
import random

import pytest

from jepsen_like.bench.histogram import BITS, Histogram, bucket, highest, merged


def test_small_values_have_buckets_of_their_own() -> None:
    """Below two powers of the precision nothing is rounded."""
    assert [highest(bucket(value)) for value in range(2 << BITS)] == list(range(2 << BITS))


def test_a_bucket_is_never_wider_than_the_stated_precision() -> None:
    """What a quantile tells exceeds no value in its bucket by more than 1%, and is never below it."""
    values = random.Random(7)
    for _ in range(2_000):
        value = values.randrange(1, 1 << values.randrange(1, 45))
        assert value <= highest(bucket(value)) <= value * 1.01


def test_buckets_follow_one_another_without_gap() -> None:
    """The value after a bucket's highest is in the next bucket."""
    assert all(bucket(highest(index) + 1) == index + 1 for index in range(3_000))


def test_quantiles_by_hand() -> None:
    """Of 1 to 100: the 50th value, the 99th, the largest."""
    histogram = Histogram(range(1, 101))
    assert [histogram.quantile_ns(q) for q in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert histogram.quantile_ns(0.0) == 1
    assert histogram.total == 100


def test_the_highest_quantile_is_the_true_maximum() -> None:
    """A bucket's upper end is not told when nothing was that slow."""
    assert Histogram([1_000_001]).quantile_ns(0.5) == 1_000_001


def test_an_empty_histogram_has_no_quantiles() -> None:
    """None, not zero: nothing was measured."""
    assert Histogram().quantile_ns(0.5) is None


def test_a_negative_latency_is_a_bug() -> None:
    """It raises instead of landing somewhere."""
    with pytest.raises(ValueError, match="cannot be -1"):
        Histogram([-1])


def test_histograms_of_processes_add_up_after_a_journey_as_json() -> None:
    """Two halves tell what the whole tells."""
    values = [3, 500, 70_000, 70_001, 9_000_000, 12]
    halves = [json.loads(json.dumps(Histogram(values[at::2]).as_json())) for at in (0, 1)]
    total = merged(Histogram.from_json(half) for half in halves)
    assert (total.counts, total.max_ns) == (Histogram(values).counts, max(values))

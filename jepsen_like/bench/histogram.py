"""A latency histogram of high dynamic range: buckets grow with the value, so every quantile is within 1%.

Values are whole nanoseconds. Below 2**BITS each has a bucket of its own; beyond, each power of two has 2**BITS buckets.
Callers keep bare numbers while they are timed and count them here afterwards, so counting costs no measured time; what
travels between processes is the sparse counts. Histograms of several processes and rounds add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

BITS = 7
_PER_POWER = 1 << BITS


def bucket(value: int) -> int:
    """The bucket of a value, which must not be negative."""
    if value < 0:
        raise ValueError(f"a latency cannot be {value}")
    shift = max(0, value.bit_length() - 1 - BITS)
    return (shift << BITS) + (value >> shift)


def highest(index: int) -> int:
    """The highest value that falls into a bucket."""
    shift = max(0, (index >> BITS) - 1)
    mantissa = index - (shift << BITS)
    return ((mantissa + 1) << shift) - 1


class Histogram:
    """Counts by bucket, and the exact maximum."""

    def __init__(self, values: Iterable[int] = ()) -> None:
        self.counts: dict[int, int] = {}
        self.max_ns = 0
        self.record(values)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def record(self, values: Iterable[int]) -> None:
        for value in values:
            index = bucket(value)
            self.counts[index] = self.counts.get(index, 0) + 1
            self.max_ns = max(self.max_ns, value)

    def add(self, other: Histogram) -> None:
        for index, count in other.counts.items():
            self.counts[index] = self.counts.get(index, 0) + count
        self.max_ns = max(self.max_ns, other.max_ns)

    def quantile_ns(self, q: float) -> int | None:
        """The least value that at least the share `q` of all values does not exceed, to a bucket; None when empty."""
        if not self.counts:
            return None
        wanted, seen = q * self.total, 0
        for index in sorted(self.counts):
            seen += self.counts[index]
            if seen >= wanted:
                return min(highest(index), self.max_ns)
        return self.max_ns

    def as_json(self) -> dict[str, object]:
        return {"max_ns": self.max_ns, "counts": {str(index): self.counts[index] for index in sorted(self.counts)}}

    @classmethod
    def from_json(cls, given: Mapping[str, object]) -> Histogram:
        found = cls()
        counts, longest = given["counts"], given["max_ns"]
        if not isinstance(counts, Mapping) or not isinstance(longest, int):
            raise ValueError("not a histogram")
        found.counts = {int(index): int(count) for index, count in counts.items()}
        found.max_ns = longest
        return found


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """One histogram of them all."""
    total = Histogram()
    for one in histograms:
        total.add(one)
    return total

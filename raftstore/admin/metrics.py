"""GET /metrics: the node's status as Prometheus metrics, read when scraped; and the API's own counts.

Names follow Prometheus practice: raftstore_ first, base units last (seconds, bytes), _total for what only grows. Knows
the keys of `status()`; a counter that a node adds appears without a change here. Leaves counting to the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

ROLES = ("leader", "follower", "candidate", "learner")

# status key -> (metric, help, factor to the base unit)
_GAUGES: tuple[tuple[str, str, str, float], ...] = (
    ("term", "raftstore_term", "Raft term", 1),
    ("commit_index", "raftstore_commit_index", "Last log index known to be committed", 1),
    ("applied_index", "raftstore_applied_index", "Last log index applied by the ownership machine", 1),
    ("last_index", "raftstore_last_index", "Last index of this node's log", 1),
    ("quorum", "raftstore_quorum", "Whether this node knows of a quorum", 1),
    ("lease_remaining_ms", "raftstore_lease_remaining_seconds", "Rest of this node's lease", 0.001),
    ("cluster_time_ms", "raftstore_cluster_time_seconds", "Cluster clock; not wall time", 0.001),
    ("sessions_owned", "raftstore_sessions_owned", "Sessions whose owner is this node", 1),
    ("sessions_total", "raftstore_sessions", "Sessions and tombstones of the cluster", 1),
    ("event_seq", "raftstore_audit_events", "Audit events in the history of the cluster", 1),
)
# the same for what `counters` holds beside counters
_LEVELS: Mapping[str, tuple[str, str]] = {
    "pending_ops": ("raftstore_pending_ops", "Unanswered ops of this node"),
    "storage_backlog_bytes": ("raftstore_storage_backlog_bytes", "Bytes handed to the disk and not yet durable"),
    "disk_free_bytes": ("raftstore_disk_free_bytes", "Free space where the log is"),
    "audit_backlog": ("raftstore_audit_backlog_events", "Audit events not yet on disk"),
    "audit_durable_number": ("raftstore_audit_durable_event", "Number of the last audit event on disk"),
}
_PEER_GAUGES: tuple[tuple[str, str, str, float], ...] = (
    ("connected", "raftstore_peer_connected", "Whether the link to the peer is up", 1),
    ("match_index", "raftstore_peer_match_index", "Last index known to be on the peer (leader only)", 1),
    ("lag", "raftstore_peer_lag_entries", "Entries the peer is behind (leader only)", 1),
    ("last_contact_ms", "raftstore_peer_last_contact_seconds", "Since the peer was last heard", 0.001),
)
# A counter's key is its name and the values of its labels: "ops:create:committed". These are the labels' names.
_LABELS: Mapping[str, tuple[str, ...]] = {
    "ops": ("op", "outcome"),
    "refused": ("reason",),
    "event": ("kind",),
    "link": ("event",),
}


class NodeCollector(Collector):
    """Turns one `status()` into metrics. Missing or null values are left out, never shown as zero."""

    def __init__(self, status: Callable[[], Mapping[str, Any]]) -> None:
        self._status = status

    def describe(self) -> Iterable[Metric]:
        return []  # registering must not call a node that has not started

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        yield from _gauges(status)
        yield _roles(status)
        yield from _peers(status.get("peers") or [])
        yield from _states(status.get("sessions_by_state"))
        yield from _mapping(status.get("mapping"))
        yield from _counters(status.get("counters") or {})
        for name, value in sorted((status.get("histograms") or {}).items()):
            yield _histogram(name, value)


def _gauges(status: Mapping[str, Any]) -> Iterator[Metric]:
    for key, name, text, factor in _GAUGES:
        if status.get(key) is not None:
            yield GaugeMetricFamily(name, text, value=status[key] * factor)
    info = GaugeMetricFamily("raftstore_node_info", "Which node this is", labels=["cluster", "node", "incarnation"])
    info.add_metric([str(status.get(k, "")) for k in ("cluster", "node", "incarnation")], 1)
    yield info


def _roles(status: Mapping[str, Any]) -> Metric:
    metric = GaugeMetricFamily("raftstore_role", "1 for the role that the node has", labels=["role"])
    for role in ROLES:
        metric.add_metric([role], float(status.get("role") == role))
    return metric


def _peers(peers: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    rows = list(peers)
    for key, name, text, factor in _PEER_GAUGES:
        metric = GaugeMetricFamily(name, text, labels=["peer"])
        for peer in rows:
            if peer.get(key) is not None:
                metric.add_metric([str(peer["node"])], peer[key] * factor)
        yield metric


def _states(by_state: Mapping[str, int] | None) -> Iterator[Metric]:
    if by_state is None:
        return
    metric = GaugeMetricFamily("raftstore_sessions_owned_by_state", "Sessions of this node", labels=["state"])
    for state, count in sorted(by_state.items()):
        metric.add_metric([state], count)
    yield metric


def _mapping(mapping: Mapping[str, Any] | None) -> Iterator[Metric]:
    """Of a sticky node: the mapping that it has adopted, and how much of the change is still to be done here."""
    if mapping is None:
        return
    settled = float(bool(mapping["settled"]))
    yield GaugeMetricFamily("raftstore_mapping_epoch", "Epoch of the adopted mapping; 0: none", value=mapping["epoch"])
    yield GaugeMetricFamily("raftstore_mapping_settled", "Whether all who may hold sessions confirmed", value=settled)
    if mapping.get("leaving") is None:
        return  # still being counted
    metric = GaugeMetricFamily("raftstore_mapping_sessions_leaving", "Sessions to be given away", labels=["to"])
    for node_id, count in sorted((dict.fromkeys(mapping["peers"], 0) | mapping["leaving"]).items()):
        metric.add_metric([node_id], count)
    yield metric


def _counters(counters: Mapping[str, float]) -> Iterator[Metric]:
    families: dict[tuple[str, int], CounterMetricFamily] = {}
    for key, value in counters.items():
        if key in _LEVELS:
            yield GaugeMetricFamily(*_LEVELS[key], value=value)
            continue
        name, *labels = key.split(":")
        family = families.get((name, len(labels)))
        if family is None:
            names = _LABELS.get(name, ())
            if len(names) != len(labels):
                names = tuple(f"label{i}" for i in range(1, len(labels) + 1))
            text = f"Count of {name.replace('_', ' ')}"
            family = families[name, len(labels)] = CounterMetricFamily(f"raftstore_{name}", text, labels=names)
        family.add_metric(labels, value)
    yield from families.values()


def _histogram(name: str, value: Mapping[str, Any]) -> Metric:
    """`value`: {"le": bounds, "counts": one per bound and one above, "sum"}, in the unit that ends the name."""
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip([*map(repr, value["le"]), "+Inf"], value["counts"], strict=True):
        total += count
        buckets.append((bound, total))
    text = f"Distribution of {name.replace('_', ' ')}"
    return HistogramMetricFamily(f"raftstore_{name}", text, buckets=buckets, sum_value=value["sum"])


class ApiMetrics:
    """One registry per node, never the process-wide one: several nodes may share a process."""

    def __init__(self, status: Callable[[], Mapping[str, Any]]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(NodeCollector(status))
        self._requests = Counter(
            "raftstore_api_requests", "HTTP requests by route and status", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram("raftstore_api_request_seconds", "Time to answer", registry=self._registry)
        self._refused = Counter(
            "raftstore_api_connections_refused", "Connections beyond api_connections_max", registry=self._registry
        )

    def request_answered(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._seconds.observe(seconds)

    def connection_refused(self) -> None:
        self._refused.inc()

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)

"""What sticky nodes say of their mapping, for people: one table, what is waited for, and what to do about it. Pure.

A view is what one node answers (`status()["mapping"]`, with the reports of its status), or {"unanswered": why}. Several
views are compared: nodes that go by different mappings refuse the sessions on which they differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from rich.table import Table
from rich.text import Text

from raftstore.cli.output import duration, shown, table_of

View = dict[str, Any]
Views = Mapping[str, View]

HEADINGS = ("NODE", "WEIGHT", "SHARE", "DRAINING", "CONNECTED", "EPOCH", "AGREES", "SETTLED", "TO GIVE")
REPORTS_SHOWN = 3
_REPORTS = ("MAPPING_MISMATCH", "STORE_CHANGED", "PEER_STORE_CHANGED", "SESSION_NOT_ADMITTED")


class Stage(Enum):
    """How far a mapping is."""

    SETTLED = "settled"  # and closed: on every node that answers
    OPENS_LATER = "opens_later"  # all is done but for ids of a lost node, which open when its sessions' TTL is over
    UNSETTLED = "unsettled"
    SILENT = "silent"  # no node answers


def view_of(status: Mapping[str, Any]) -> View:
    """A node's view from its status."""
    mapping = status.get("mapping")
    if mapping is None:
        return {"unanswered": "it runs the shared strategy"}
    if status.get("stopped"):
        return {"unanswered": f"it has stopped serving: {status['stopped']}"}
    events = status.get("security_events", [])
    reports = [e["detail"] for e in events if e.get("kind") in _REPORTS]
    return {**mapping, "reports": list(dict.fromkeys(reports))[-REPORTS_SHOWN:]}


def answered(views: Views) -> dict[str, View]:
    return {name: view for name, view in views.items() if "unanswered" not in view}


def connected(view: View) -> list[str]:
    """The peers to which that node has a link."""
    return [peer_id for peer_id, peer in view.get("peers", {}).items() if peer["connected"]]


def newest(views: Views) -> tuple[str, View] | None:
    """The node with the newest mapping, and its view; the first of several."""
    mapped = [(name, view) for name, view in answered(views).items() if view["epoch"]]
    return max(mapped, key=lambda item: int(item[1]["epoch"]), default=None)


def stage(views: Views) -> Stage:
    """How far the newest mapping is, by all who answer; nodes that were declared lost do not count."""
    found = newest(views)
    if found is None:
        return Stage.UNSETTLED if answered(views) else Stage.SILENT
    reference = found[1]
    counting = [view for name, view in answered(views).items() if name not in reference["lost"]]
    if any(view.get("digest") != reference["digest"] for view in counting):
        return Stage.UNSETTLED
    if all(view["settled"] and view["closed"] for view in counting):
        return Stage.SETTLED
    if any(view["waits_for"] or view["leaving"] != {} for view in counting):
        return Stage.UNSETTLED
    return Stage.OPENS_LATER if any(view["opens_in_ms"] for view in counting) else Stage.UNSETTLED


def opens_in_ms(views: Views) -> int:
    """When the last ids of lost nodes open, by those who answer."""
    return max((view.get("opens_in_ms", 0) for view in answered(views).values()), default=0)


def shares(nodes: list[dict[str, Any]]) -> dict[str, float]:
    """The part of all sessions that each node gets, 0 to 1."""
    weights = {node["node_id"]: 0 if node["draining"] else node["weight"] for node in nodes}
    total = sum(weights.values())
    return {node_id: weight / total if total else 0.0 for node_id, weight in weights.items()}


# --- the table ----------------------------------------------------------------------------------------------------


def table(views: Views) -> Table:
    """One row per node: of the newest mapping, and of all that are known beside it."""
    found = newest(views)
    reference: View = found[1] if found is not None else {"nodes": [], "peers": {}, "lost": [], "digest": None}
    mapped = {node["node_id"]: node for node in reference["nodes"]}
    portions = shares(reference["nodes"])
    rows = table_of(HEADINGS, ())
    for node_id in sorted({*mapped, *reference["peers"], *views}):
        node = mapped.get(node_id)
        if node is not None:
            cells: list[Any] = [node["weight"], f"{portions[node_id]:.1%}", node["draining"]]
        else:
            cells = ["lost" if node_id in reference["lost"] else None, None, None]
        cells += _told(node_id, views, reference)
        rows.add_row(Text(node_id), *(cell if isinstance(cell, Text) else Text(shown(cell)) for cell in cells))
    return rows


def _told(node_id: str, views: Views, reference: View) -> list[Any]:
    """CONNECTED to TO GIVE: by the node itself where it was asked, else by the node with the newest mapping."""
    view = views.get(node_id)
    if view is not None and "unanswered" in view:
        return [Text("no answer", style="red"), *[None] * 4]
    if view is not None:
        agrees = view["epoch"] > 0 and view["digest"] == reference["digest"]
        leaving = view.get("leaving", {})
        to_give = "counting" if leaving is None else sum(leaving.values())
        return ["asked", view["epoch"], _flag(agrees), _flag(view["settled"]), to_give]
    peer = reference["peers"].get(node_id)
    if peer is None:
        return [None] * 5
    connected = _flag(peer["connected"])
    if not peer["connected"]:
        return [connected, *[None] * 4]
    return [connected, peer["epoch"], _flag(peer["agrees"]), _flag(peer["settled"]), None]


def _flag(value: bool | None) -> Text:
    return Text(shown(value), style="" if value else "red")


# --- the sentences ------------------------------------------------------------------------------------------------


def notes(views: Views) -> list[str]:
    """Below the table: "settled", or what is waited for and what to do."""
    said = [f"{name} does not answer: {view['unanswered']}" for name, view in views.items() if "unanswered" in view]
    known = answered(views)
    said += [_unfounded(name, view) for name, view in known.items() if not view["epoch"]]
    found = newest(views)
    if found is None:
        return said + _reported(known)
    name, reference = found
    if reference["lost"]:
        said.append(f"declared lost: {', '.join(reference['lost'])}")
    said += _differences(views, name, reference)
    for asked, view in known.items():
        if view["epoch"]:
            said += _open_points(asked, view)
    now = stage(views)
    if now is Stage.SETTLED:
        return [*said, f"settled: mapping epoch {reference['epoch']}"]
    if now is Stage.UNSETTLED:
        said += _reported(known)
    return [*said, _not_settled(reference)]


def _not_settled(reference: View) -> str:
    text = f"not settled: mapping epoch {reference['epoch']}; `raftstore mapping wait` waits"
    can_go_back = reference["epoch"] > 1 and not reference["lost"]
    return f"{text}, `raftstore mapping rollback` goes back to the one before" if can_go_back else text


def _reported(known: Mapping[str, View]) -> list[str]:
    return [f"{name} reports: {report}" for name, view in known.items() for report in view.get("reports", [])]


def _unfounded(name: str, view: View) -> str:
    missing = view["waits_for"]
    if missing:
        return f"{name} has no mapping yet and waits for {', '.join(missing)}: start all nodes of cluster.conf"
    return f"{name} has no mapping yet: it is founded once all nodes have the same [[node]] tables in cluster.conf"


def _differences(views: Views, name: str, reference: View) -> list[str]:
    said = []
    for other, view in answered(views).items():
        if not view["epoch"] or view["digest"] == reference["digest"]:
            continue
        if view["epoch"] == reference["epoch"]:
            theirs = f"{described(view)} at {other}, {described(reference)} at {name}"
            said.append(f"{other} and {name} DIFFER in epoch {view['epoch']}: {theirs}; {_remedy(reference)}")
        else:
            lag = f"{other} goes by epoch {view['epoch']}, {name} by {reference['epoch']}"
            said.append(f"{lag}: it adopts the newer one when they are connected")
    for peer_id, peer in reference["peers"].items():
        if peer_id not in views and peer["agrees"] is False:
            if peer["epoch"] == reference["epoch"]:
                said.append(f"{peer_id} and {name} DIFFER in epoch {peer['epoch']}: {_remedy(reference)}")
            else:
                said.append(f"{peer_id} goes by epoch {peer['epoch']}, {name} by {reference['epoch']}")
    return said


def _remedy(reference: View) -> str:
    return f"both refuse what they dispute until you set one of epoch {reference['epoch'] + 1} (raftstore mapping set)"


def _open_points(asked: str, view: View) -> Iterator[str]:
    """What one node still has to do, or waits for."""
    if view["leaving"] is None:
        yield f"{asked} is still counting what must leave it"
    for target, count in (view["leaving"] or {}).items():
        yield f"{asked} still has {count} sessions to give to {target}"
    for waited in view["waits_for"]:
        peer = view["peers"].get(waited, {})
        if not peer.get("connected"):
            yield (
                f"{asked} waits for {waited}, which is not connected: start it; if it will never run again, set a "
                f"mapping without it and with --lost {waited} (raftstore mapping set --help)"
            )
        elif not peer.get("agrees"):
            yield f"{asked} waits for {waited} to adopt epoch {view['epoch']}"
        else:
            yield f"{asked} waits for {waited} to say that it holds nothing for {asked} any more"
    if not view["waits_for"] and view["opens_in_ms"]:
        lost = ", ".join(view["lost"])
        yield f"at {asked} session ids that {lost} may have held open in {duration(view['opens_in_ms'])}"
    if view["settled"] and not view["closed"]:
        yield f"{asked} has settled, and waits until all others have"


def described(view: View) -> str:
    """vpn-1=1 vpn-2=1,draining"""
    return " ".join(f"{n['node_id']}={n['weight']}{',draining' if n['draining'] else ''}" for n in view["nodes"])


def set_command(nodes: list[dict[str, Any]], without: str | None = None) -> str:
    """The command that sets this mapping, `without` marking that node draining."""
    weights = " ".join(f"{node['node_id']}={node['weight']}" for node in nodes)
    drains = "".join(f" --drain {n['node_id']}" for n in nodes if n["draining"] and n["node_id"] != without)
    return f"raftstore mapping set {weights}{drains}"


def progress(views: Views) -> str:
    """In one line: who still has how many sessions to give, and who is waited for."""
    parts = [f"{name} does not answer" for name, view in views.items() if "unanswered" in view]
    waited: dict[str, None] = {}
    for name, view in answered(views).items():
        leaving = view.get("leaving", {})
        if leaving is None:
            parts.append(f"{name} is counting")
        else:
            parts += [f"{name} has {count} to give to {target}" for target, count in leaving.items()]
        waited.update(dict.fromkeys(view["waits_for"]))
    if waited:
        parts.append(f"not confirmed yet: {', '.join(waited)}")
    return "; ".join(parts) or "all sessions are where they belong; the nodes are closing the change"

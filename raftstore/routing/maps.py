"""The mapping as text for load balancers.

nginx and HAProxy cannot compute rendezvous hashes, but they can read the node out of a minted session id: their maps
send each node's minted ids to it, by the whole form, so that they agree with `Mapping.owner` on every id that they
match. What they do not match goes to their default, and any node answers with the right one. Nodes that take no
sessions are left out. Both programs take node ids as names of their own, so ids that would mean something else in
their files are refused. The JSON form holds all that a program needs to compute the mapping itself.

Knows the two syntaxes. Leaves to the operator which variable or header holds the session id, and what a backend's
addresses are: the maps give node ids. docs/routing.md shows a configuration around each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from raftstore.errors import InvalidArgument
from raftstore.routing.mapping import FORMULA, Mapping
from raftstore.routing.mint import MINTED_CHARS, PREFIX_CHARS, minted_prefix

FORMS = ("nginx", "haproxy", "json")
_NAME = re.compile(r"[A-Za-z0-9._-]+")  # neither program gives any of these a meaning, or needs them in quotes
_REST = f"[0-9a-f]{{{MINTED_CHARS - PREFIX_CHARS}}}"


def map_text(mapping: Mapping, form: str) -> str:
    """The mapping in one of FORMS, with a newline at its end.

    InvalidArgument for another form, and for a node id that cannot be a name in the file.
    """
    match form:
        case "nginx":
            return _nginx(mapping)
        case "haproxy":
            return _haproxy(mapping)
        case "json":
            return _json(mapping)
    raise InvalidArgument("form", "must be one of " + ", ".join(FORMS))


def _patterns(mapping: Mapping) -> Iterator[tuple[str, str]]:
    for node in mapping.nodes:
        if not _NAME.fullmatch(node.node_id):
            raise InvalidArgument("node_id", f"{node.node_id} cannot be in a map: only letters, digits and . _ - can")
        if node.takes_sessions:
            yield f"^{minted_prefix(node.node_id)}{_REST}$", node.node_id


def _title(mapping: Mapping) -> str:
    return f"# raftstore: minted session ids to nodes, mapping epoch {mapping.epoch}, digest {mapping.digest()}\n"


def _nginx(mapping: Mapping) -> str:
    # In quotes, because a pattern with braces must be.
    lines = "".join(f'    "~{pattern}" {node_id};\n' for pattern, node_id in _patterns(mapping))
    return f'{_title(mapping)}map $raftstore_session $raftstore_node {{\n    default "";\n{lines}}}\n'


def _haproxy(mapping: Mapping) -> str:
    return _title(mapping) + "".join(f"{pattern} {node_id}\n" for pattern, node_id in _patterns(mapping))


def _json(mapping: Mapping) -> str:
    nodes = [node._asdict() | {"minted_prefix": minted_prefix(node.node_id)} for node in mapping.nodes]
    found = {"formula": FORMULA, "epoch": mapping.epoch, "digest": mapping.digest(), "nodes": nodes}
    return json.dumps(found, indent=2) + "\n"

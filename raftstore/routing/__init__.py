"""Which node a session belongs to, computed by everybody alike from the list of nodes and their weights.

For: the sticky mapping of the ownership model, section 2.1, session ids that name their node, and both as files for
load balancers. Pure: no clock, no I/O; randomness comes in. Leaves to others: whether a node acts on the answer.
"""

from raftstore.routing.mapping import FORMULA, NODES_MAX, Mapping, MappingNode, moved
from raftstore.routing.maps import FORMS, map_text
from raftstore.routing.mint import KEY_BYTES_MIN, is_genuine, is_minted, mint, minted_node, minted_prefix

__all__ = [
    "FORMS",
    "FORMULA",
    "KEY_BYTES_MIN",
    "NODES_MAX",
    "Mapping",
    "MappingNode",
    "is_genuine",
    "is_minted",
    "map_text",
    "mint",
    "minted_node",
    "minted_prefix",
    "moved",
]

"""Maps for load balancers say what the mapping says."""

from __future__ import annotations

import json
import random
import re

import pytest

from raftstore.errors import InvalidArgument
from raftstore.routing import FORMS, FORMULA, Mapping, MappingNode, map_text, mint

MAPPING = Mapping(
    7, (MappingNode("vpn-1"), MappingNode("vpn-2", 3), MappingNode("vpn-3", 0), MappingNode("vpn-4", 1, True))
)


def entries(form: str) -> list[tuple[str, str]]:
    """Pattern and node of every line, read as the load balancer reads them."""
    lines = map_text(MAPPING, form).splitlines()
    if form == "haproxy":
        return [(line.split()[0], line.split()[1]) for line in lines if not line.startswith("#")]
    found = [re.fullmatch(r'    "~(.*)" (\S+);', line) for line in lines]
    return [(match[1], match[2]) for match in found if match]


@pytest.mark.parametrize("form", ["nginx", "haproxy"])
def test_maps_agree_with_the_mapping_on_all_that_they_match(form: str) -> None:
    """Minted ids of nodes that take sessions are matched once, by their owner; others are left to the default."""
    rng = random.Random(6)
    found = entries(form)
    assert [node for _, node in found] == ["vpn-1", "vpn-2"]
    for node in MAPPING.nodes:
        session = mint(node.node_id, rng.randbytes)
        matching = [to for pattern, to in found if re.search(pattern, session)]
        assert matching == ([MAPPING.owner(session)] if node.takes_sessions else [])
        assert not any(re.search(pattern, session + "0") for pattern, _ in found)
        assert not any(re.search(pattern, "x" + session) for pattern, _ in found)


def test_the_nginx_map_is_one_block_with_an_empty_default() -> None:
    """What matches nothing has no node, so that the configuration around it decides."""
    lines = map_text(MAPPING, "nginx").splitlines()
    assert lines[1:3] == ["map $raftstore_session $raftstore_node {", '    default "";']
    assert lines[-1] == "}"


@pytest.mark.parametrize("form", ["nginx", "haproxy"])
def test_a_map_names_its_epoch_and_digest(form: str) -> None:
    """An operator sees in the file which mapping it is of."""
    assert f"epoch 7, digest {MAPPING.digest()}" in map_text(MAPPING, form).splitlines()[0]


def test_the_json_form_holds_all_that_computing_owners_needs() -> None:
    """From it the same mapping can be made again."""
    data = json.loads(map_text(MAPPING, "json"))
    assert (data["formula"], data["digest"]) == (FORMULA, MAPPING.digest())
    nodes = tuple(MappingNode(n["node_id"], n["weight"], n["draining"]) for n in data["nodes"])
    assert Mapping(data["epoch"], nodes) == MAPPING


def test_another_form_is_refused() -> None:
    """Only the forms that are listed exist, and each ends with its newline."""
    assert all(map_text(MAPPING, form).endswith("\n") for form in FORMS)
    with pytest.raises(InvalidArgument, match="one of nginx, haproxy, json"):
        map_text(MAPPING, "envoy")


@pytest.mark.parametrize("form", ["nginx", "haproxy"])
@pytest.mark.parametrize("node_id", ["a;b", "$host", "{", '"', "#1", "a:80", "a\\b"])
def test_an_id_that_a_load_balancer_would_read_otherwise_is_refused(form: str, node_id: str) -> None:
    """No node id ends a line, opens a block or stands for a variable in the file."""
    with pytest.raises(InvalidArgument, match="cannot be in a map"):
        map_text(Mapping.of(1, {"vpn-1": 1, node_id: 1}), form)

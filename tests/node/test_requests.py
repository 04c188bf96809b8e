"""What callers may ask for: every argument beyond its bounds is named before anything is proposed."""

from collections.abc import Callable
from typing import Any

import pytest
from node_parts import REQUESTS
from virtual_cluster import BINDING

from raftstore.errors import InvalidArgument
from raftstore.node.proposals import Request
from raftstore.ownership.batches import unpack
from raftstore.types import Binding

BAD_IDS = ["", "x" * 65, "caf\u00e9", "a\nb", "tab\t", None, 7, b"s", ["s"]]
BAD_VERSIONS = [-1, 2**63, 1.0, "1", None, True]
BAD_BINDINGS = [
    None,
    "t1",
    ("t1", "udp"),
    Binding("", "udp", "r"),
    Binding("t" * 129, "udp", "r"),
    Binding("t1", "u\ndp", "r"),
    Binding("t1", "udp", None),  # type: ignore[arg-type]
]

WITH_ID: dict[str, Callable[[Any], Request]] = {
    "create": lambda sid: REQUESTS.create(sid, BINDING, None, None, None),
    "reattach": lambda sid: REQUESTS.reattach(sid, 1, BINDING, None, None),
    "detach": lambda sid: REQUESTS.detach(sid, 1, "X", None),
    "renew": lambda sid: REQUESTS.renew(sid, 1, None, None),
    "freeze": lambda sid: REQUESTS.freeze(sid, 1, "MIGRATION", "vpn-2", None),
    "transfer": lambda sid: REQUESTS.transfer(sid, 1, None),
    "resume": lambda sid: REQUESTS.resume(sid, 1, BINDING, None),
    "thaw": lambda sid: REQUESTS.thaw(sid, 1, None),
    "failover": lambda sid: REQUESTS.failover(sid, 1, BINDING, None),
    "terminate": lambda sid: REQUESTS.terminate(sid, 1, "X", False, None),
}
WITH_VERSION: dict[str, Callable[[Any], Request]] = {
    "reattach": lambda version: REQUESTS.reattach("s", version, BINDING, None, None),
    "detach": lambda version: REQUESTS.detach("s", version, "X", None),
    "renew": lambda version: REQUESTS.renew("s", version, None, None),
    "freeze": lambda version: REQUESTS.freeze("s", version, "MIGRATION", "vpn-2", None),
    "transfer": lambda version: REQUESTS.transfer("s", version, None),
    "resume": lambda version: REQUESTS.resume("s", version, None, None),
    "thaw": lambda version: REQUESTS.thaw("s", version, None),
    "failover": lambda version: REQUESTS.failover("s", version, None, None),
    "terminate": lambda version: REQUESTS.terminate("s", version, "X", False, None),
}


def field_of(make: Callable[[Any], Request], value: Any) -> str:
    with pytest.raises(InvalidArgument) as refused:
        make(value)
    assert str(refused.value).startswith(f"{refused.value.field}: ")
    return refused.value.field


@pytest.mark.parametrize("kind", WITH_ID)
def test_session_ids_are_1_to_64_bytes_of_printable_ascii(kind: str) -> None:
    """Anything else is refused by every request, naming `session_id`."""
    assert WITH_ID[kind]("x" * 64).session_id == "x" * 64
    for bad in BAD_IDS:
        assert field_of(WITH_ID[kind], bad) == "session_id"


@pytest.mark.parametrize("kind", WITH_VERSION)
def test_versions_are_whole_numbers_within_their_range(kind: str) -> None:
    """A boolean, a float or a text is no version."""
    for bad in BAD_VERSIONS:
        assert field_of(WITH_VERSION[kind], bad) == "expected_version"


def test_bindings_are_three_texts_of_1_to_128_bytes() -> None:
    """Reattach needs one; create, resume and failover take none as well."""
    for bad in BAD_BINDINGS:
        assert field_of(lambda b: REQUESTS.reattach("s", 1, b, None, None), bad).startswith("binding")
        if bad is not None:
            assert field_of(lambda b: REQUESTS.create("s", b, None, None, None), bad).startswith("binding")
            assert field_of(lambda b: REQUESTS.resume("s", 1, b, None), bad).startswith("binding")
            assert field_of(lambda b: REQUESTS.failover("s", 1, b, None), bad).startswith("binding")


@pytest.mark.parametrize("bad", [0, -1, 604_800_001, 1.5, "60", True])
def test_ttls_are_bounded_by_the_configuration(bad: Any) -> None:
    """In milliseconds, from 1 to sessions.ttl_max_ms."""
    assert field_of(lambda ttl: REQUESTS.create("s", None, ttl, None, None), bad) == "ttl_ms"
    assert field_of(lambda ttl: REQUESTS.renew("s", 1, ttl, None), bad) == "ttl_ms"
    assert REQUESTS.create("s", None, 604_800_000, None, None).kind == "create"


@pytest.mark.parametrize("bad", [-1, 2**64, 1.0, "1", True])
def test_nonces_are_whole_numbers_of_64_bits(bad: Any) -> None:
    """None means that the caller uses none."""
    assert field_of(lambda nonce: REQUESTS.reattach("s", 1, BINDING, nonce, None), bad) == "nonce"


@pytest.mark.parametrize("bad", ["vpn-9", "", None, 7])
def test_an_unknown_target_is_refused_with_the_names_that_are_known(bad: Any) -> None:
    """The message lists them, so that a slip of the pen is seen at once."""
    with pytest.raises(InvalidArgument, match=r"known: vpn-1, vpn-2, vpn-3") as refused:
        REQUESTS.freeze("s", 1, "MIGRATION", bad, None)
    assert refused.value.field == "to"


@pytest.mark.parametrize("bad", [0, -1, 60_001, 1.0, "5", True])
def test_timeouts_are_bounded_by_the_configuration(bad: Any) -> None:
    """In milliseconds, from 1 to timing.op_timeout_max_ms."""
    assert field_of(lambda t: REQUESTS.create("s", None, None, None, t), bad) == "timeout_ms"
    assert field_of(REQUESTS.drain, bad) == "timeout_ms"


def test_policies_reasons_and_operators_are_checked() -> None:
    """Each by its own name."""
    assert field_of(lambda p: REQUESTS.create("s", None, None, p, None), "maybe") == "policy"
    assert field_of(lambda r: REQUESTS.detach("s", 1, r, None), "") == "reason"
    assert field_of(lambda r: REQUESTS.terminate("s", 1, r, False, None), "x" * 200) == "reason"
    assert field_of(lambda o: REQUESTS.terminate("s", 1, "X", o, None), 1) == "operator"


def test_what_binds_and_what_gives_up() -> None:
    """Only these two marks decide what `owns` says around a proposal."""
    made = [make("s") for make in WITH_ID.values()]
    assert {r.kind for r in made if r.binds} == {"create", "reattach", "resume", "failover"}
    assert {r.kind for r in made if r.gives_up} == {"detach", "freeze", "transfer", "terminate"}
    assert not REQUESTS.create("s", None, None, None, None).binds
    assert not REQUESTS.resume("s", 1, None, None).binds and not REQUESTS.failover("s", 1, None, None).binds


def test_a_packed_op_carries_its_number_and_its_deadline() -> None:
    """Second and third field of every op, whatever it asks for."""
    for make in WITH_ID.values():
        assert unpack(make("s").build(77, 123_456))[1:3] == [77, 123_456]

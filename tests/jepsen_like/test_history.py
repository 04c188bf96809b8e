"""Histories as files, as pairs of invoke and completion, and in Jepsen's form."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen_like.edn import edn, export, line
from jepsen_like.history import HistoryError, Reader, Writer, binding_of, finals_of, load, pair, validate, write
from tests.jepsen_like import reference


def event(kind: str, process: Any = 1, f: str = "renew", **more: Any) -> dict[str, Any]:
    return {"index": 0, "time": 0, "type": kind, "process": process, "f": f, "key": "s", "node": "n1", **more}


def test_a_history_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    """Every event of a run is read as it was written, with nothing torn."""
    history = reference.run(1).history
    path = tmp_path / "history.jsonl"
    assert write(path, history) == len(history)
    loaded = load(path)
    assert loaded.events == history
    assert loaded.torn == ""


def test_a_torn_last_line_is_told_and_left_out(tmp_path: Path) -> None:
    """Cut at any byte of its last line, a file gives all events before it and says what is missing."""
    path = tmp_path / "history.jsonl"
    history = reference.run(2, ops=3).history
    write(path, history)
    data = path.read_bytes()
    start = data.rindex(b"\n", 0, -1) + 1
    for end in range(start + 1, len(data)):
        path.write_bytes(data[:end])
        loaded = load(path)
        assert loaded.events == history[:-1]
        assert loaded.torn == f"{path}:{len(history)}: torn line of {end - start} bytes left out"


@pytest.mark.parametrize("damage", [b"{}x\n", b"[1]\n", b"\xff\n", b"\n"])
def test_damage_before_the_end_is_refused_by_line(tmp_path: Path, damage: bytes) -> None:
    """A line that is no event anywhere but at the end makes the file unusable, and is named."""
    path = tmp_path / "history.jsonl"
    path.write_bytes(b'{"index":0}\n' + damage + b'{"index":2}\n')
    reader = Reader(path)
    with pytest.raises(HistoryError, match=r"history\.jsonl:2: "):
        list(reader)


def test_the_writer_numbers_events_and_refuses_time_that_goes_back(tmp_path: Path) -> None:
    """Indices are the writer's, and time only goes on."""
    with Writer(tmp_path / "h") as writer:
        assert writer.append(event("invoke", time=5))["index"] == 0
        assert writer.append(event("ok", time=5, index=77))["index"] == 1
        with pytest.raises(HistoryError, match="index 2: time 4 after 5"):
            writer.append(event("ok", time=4))
    assert len(load(tmp_path / "h").events) == 2


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"index": 7}, "index 7 where 1 was due"),
        ({"time": -1}, "index 1: time -1 after 0"),
        ({"time": 0.5}, "index 1: time 0.5 after 0"),
        ({"type": "done"}, "index 1: type, f or process"),
        ({"f": None}, "index 1: type, f or process"),
    ],
)
def test_an_event_without_its_fields_is_named(change: dict[str, Any], problem: str) -> None:
    """Validation names the index of what is wrong."""
    history = [event("invoke"), event("ok", index=1) | change]
    with pytest.raises(HistoryError, match=problem):
        validate(history)


def test_ops_are_paired_by_process() -> None:
    """Each invoke gets the next completion of its process; none is open for ever, and so is info."""
    history = [
        event("invoke", 1, "get"),
        event("invoke", 2, "renew"),
        event("info", "nemesis", "fault"),
        event("ok", 2, "renew", value={"state_version": 3}),
        event("fail", 1, "get", value={"reason": "NO_QUORUM", "session": None}),
        event("invoke", 1, "detach", value={"expected_version": 3, "op_id": "n1:00:7"}),
        event("invoke", 2, "create"),
        event("info", 2, "create", error="DEADLINE_PASSED", deadline_ms=9),
    ]
    get, renew, detach, create = pair(history)
    assert (get.type, get.call, get.ret, get.reason, get.session) == ("fail", 0, 4, "NO_QUORUM", None)
    assert (renew.type, renew.call, renew.ret) == ("ok", 1, 3)
    assert renew.session == {"state_version": 3}
    assert (detach.type, detach.ret, detach.completion, detach.op_ids) == ("info", None, None, ["n1:00:7"])
    assert (create.type, create.ret, create.reason, create.told("deadline_ms")) == ("info", None, "DEADLINE_PASSED", 9)


@pytest.mark.parametrize(
    ("history", "problem"),
    [
        ([event("ok")], "index 0: process 1 completes what it never invoked"),
        ([event("invoke"), event("invoke")], "index 1: process 1 invokes while"),
        ([event("invoke"), event("ok", f="get")], "index 1: f 'get' completes f 'renew' of index 0"),
        ([event("invoke"), event("ok", key="t")], "index 1: key 't' completes key 's' of index 0"),
        ([event("invoke"), event("info"), event("invoke")], "index 2: process 1 goes on after an op of unknown"),
        ([event("invoke"), event("ok"), event("ok")], "index 2: process 1 completes what it never invoked"),
        ([event("invoked")], "index 0: type 'invoked'"),
    ],
)
def test_what_cannot_be_paired_is_named_by_index(history: list[dict[str, Any]], problem: str) -> None:
    """Pairing guesses nothing."""
    with pytest.raises(HistoryError, match=problem):
        pair(history)


def test_bindings_are_compared_by_transport_id_in_any_form() -> None:
    """An id, its three fields by name, or in order, are the same binding."""
    assert {binding_of("t1"), binding_of({"transport_id": "t1", "proto": "udp"}), binding_of(["t1", "udp", "x"])} == {
        "t1"
    }
    assert binding_of(None) is None
    assert binding_of([]) is None


def test_last_states_come_from_the_history_or_from_beside_it() -> None:
    """A `final` event and a file say the same thing; the file counts where there are both."""
    history = [event("info", "observer", "final", node="n2", value={"index": 3})]
    assert finals_of(history, {"n1": {"index": 4}}) == {"n1": {"index": 4}, "n2": {"index": 3}}
    assert finals_of(history, {"n2": {"index": 5}}) == {"n2": {"index": 5}}


# -- EDN ---------------------------------------------------------------------------------------------------------------


def test_a_client_op_in_jepsens_form() -> None:
    """Keywords where Jepsen's tools look for them, strings for what is data."""
    op = event("ok", 3, "get-local", index=4, time=12, value={"state_version": 2, "binding": None, "a b": [True, 1.5]})
    assert line(op) == (
        '{:index 4, :time 12, :type :ok, :process 3, :f :get-local, :key "s", '
        ':value {:state_version 2, :binding nil, "a b" [true 1.5]}, :node "n1"}'
    )


def test_what_no_client_did_becomes_info() -> None:
    """Jepsen's tools pair completions with invokes; an observation has none and must not look like one."""
    seen = event("ok", "dataplane", "packet", value={"epoch": 2})
    assert ":type :info, :process :dataplane, :f :packet" in line(seen)
    assert line(seen).endswith(":outcome :ok}")
    assert ":type :info, :process :nemesis" in line(event("info", "nemesis", "fault"))


def test_errors_are_keywords_where_they_can_be() -> None:
    """A reason is a keyword, a sentence is text."""
    assert ":error :NO_QUORUM" in line(event("fail", error="NO_QUORUM"))
    assert ':error "not now"' in line(event("fail", error="not now"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('a"b\\c\n\t\r', '"a\\"b\\\\c\\n\\t\\r"'),
        ("\x00\x1b\u2028", '"\\u0000\\u001b\\u2028"'),
        ("säntis", '"säntis"'),
        (2**63, "9223372036854775808N"),
        (-5, "-5"),
        (float("nan"), "##NaN"),
        (float("-inf"), "##-Inf"),
        ({"1": 2, "": 3, ":k": 4, "k?": 5}, '{"1" 2, "" 3, ":k" 4, :k? 5}'),
        ([], "[]"),
        (None, "nil"),
    ],
)
def test_values_in_edn(value: Any, text: str) -> None:
    """Escapes, big integers and odd keys are written so that a reader of EDN takes them back."""
    assert edn(value) == text


def test_nothing_else_has_a_form_in_edn() -> None:
    """What is not JSON is a bug of the caller."""
    with pytest.raises(TypeError, match="no EDN form for set"):
        edn({1})


def read_edn(text: str) -> Any:
    """A reader of the part of EDN that is written here."""
    value, rest = _read(text)
    assert not rest.strip()
    return value


def _read(text: str) -> tuple[Any, str]:
    text = text.lstrip(" ,")
    if text[0] in "{[":
        close, items, text = {"{": "}", "[": "]"}[text[0]], [], text[1:]
        is_map = close == "}"
        while not (text := text.lstrip(" ,")).startswith(close):
            item, text = _read(text)
            items.append(item)
        return (dict(zip(items[::2], items[1::2], strict=True)) if is_map else items), text[1:]
    if text[0] == '"':
        value, end = json.JSONDecoder(strict=False).raw_decode(text)
        return value, text[end:]
    end = next((place for place, char in enumerate(text) if char in " ,]}"), len(text))
    token, rest = text[:end], text[end:]
    if token in ("nil", "true", "false"):
        return {"nil": None, "true": True, "false": False}[token], rest
    return (token[1:] if token[0] == ":" else json.loads(token.removesuffix("N"))), rest


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(JSON)
def test_any_json_survives_edn(value: Any) -> None:
    """Whatever a history can hold is read back equal."""
    assert read_edn(edn(value)) == value


def test_a_whole_history_is_exported_line_by_line() -> None:
    """As many maps as events, in order, each with its index, time, type, process and f."""
    history = reference.run(3, ops=40).history
    out = io.StringIO()
    assert export(history, out) == len(history)
    maps = [read_edn(text) for text in out.getvalue().splitlines()]
    assert [(m["index"], m["time"], m["f"]) for m in maps] == [(e["index"], e["time"], e["f"]) for e in history]
    clients = [(m["type"], m["process"]) for m in maps if isinstance(m["process"], int)]
    assert clients == [(e["type"], e["process"]) for e in history if isinstance(e["process"], int)]
    assert {m["type"] for m in maps if not isinstance(m["process"], int)} == {"info"}

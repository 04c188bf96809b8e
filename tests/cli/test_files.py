"""Commands that work on files: init, config check, audit verify, wal verify and dump; and `run`, which writes them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import Result

from raftstore.cli.main import main
from raftstore.cli.run import serve
from raftstore.client import Client
from raftstore.config import ClusterConfig
from raftstore.errors import StorageError, TransportError
from raftstore.storage.disk import OsDisk
from raftstore.storage.store import Store
from raftstore.transport.tls import TlsFiles, check_files
from tests.cli.conftest import cli

WAIT_S = 30.0  # a bound on waiting, generous because machines are shared; nothing sleeps for so long


# ---- help


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path]
    for name, command in group.commands.items():
        inner = (*path, name)
        found += commands(command, inner) if isinstance(command, click.Group) else [inner]
    return found


@pytest.mark.parametrize("path", commands(main), ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    """Help says what the command does, and what each option is for."""
    result = cli(*path, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: {' '.join(['raftstore', *path])}")
    command: click.Command = main
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help, parameter.name


def test_the_first_help_teaches(tmp_path: Path) -> None:
    """How to start, an example of a change, and every exit status."""
    text = cli("--help").stdout
    for part in ("raftstore init", "session migrate", "3 no quorum   4 rejected   5 outcome unknown"):
        assert part in text


# ---- init and config check


def test_init_makes_a_cluster_that_can_run(tmp_path: Path) -> None:
    """A good configuration, a certificate per node that fits it, keys for their owner only, and what to do next."""
    directory = tmp_path / "c"
    result = cli("init", str(directory), "--cluster", "prod", "--base-port", "9000")
    assert result.exit_code == 0, result.output
    assert f"raftstore run --config {directory}/cluster.conf --node vpn-3" in result.stdout
    config = ClusterConfig.load(directory / "cluster.conf")
    assert (config.cluster, [str(n.peer) for n in config.nodes]) == (
        "prod",
        ["127.0.0.1:9000", "127.0.0.1:9001", "127.0.0.1:9002"],
    )
    for node in config.nodes:
        check_files(TlsFiles(config.ca_path, node.cert, node.key), "prod", node.id)
        assert stat.S_IMODE(node.key.stat().st_mode) == 0o600
    assert stat.S_IMODE((directory / "ca.key").stat().st_mode) == 0o600
    result = cli("config", "check", "-c", str(directory / "cluster.conf"), "--node", "vpn-1", "-o", "json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["digest"], found["strategy"]) == (0, config.digest(), "shared")
    assert [node["certificate"] for node in found["nodes"]] == ["good"] * 3


def test_init_spreads_nodes_over_hosts(tmp_path: Path) -> None:
    """A host per node means the same port on each; the operator is told which files go where."""
    hosts = [part for host in ("10.0.0.1", "vpn.example", "::1") for part in ("--host", host)]
    result = cli("init", str(tmp_path), *hosts)
    assert "Every node needs cluster.conf, ca.pem" in result.stdout
    tables = tomllib.loads((tmp_path / "cluster.conf").read_text())["node"]
    assert [t["peer"] for t in tables] == ["10.0.0.1:7400", "vpn.example:7400", "[::1]:7400"]


def test_init_makes_a_sticky_cluster_of_any_size(tmp_path: Path) -> None:
    """The strategy is asked for by name, stands in the file, and decides how many nodes there may be."""
    path = tmp_path / "cluster.conf"
    result = cli("init", str(tmp_path), "--strategy", "sticky", "--nodes", "4")
    assert result.exit_code == 0, result.output
    assert "4 nodes, cluster vpn, strategy sticky" in result.stdout
    assert tomllib.loads(path.read_text())["strategy"] == "sticky"
    config = ClusterConfig.load(path)
    assert (config.strategy, len(config.nodes)) == ("sticky", 4)
    for node in config.nodes:
        check_files(TlsFiles(config.ca_path, node.cert, node.key), "vpn", node.id)


@pytest.mark.parametrize("strategy", ["shared", "sticky"])
def test_config_check_shows_the_strategy(tmp_path: Path, strategy: str) -> None:
    """Which strategy a file asks for can be seen before anything is started, by people and by programs."""
    cli("init", str(tmp_path), "--strategy", strategy, "--nodes", "1")
    path = tmp_path / "cluster.conf"
    result = cli("config", "check", str(path))
    assert result.exit_code == 0, result.output
    shown = [line.split() for line in result.stdout.splitlines()]
    assert ["strategy", strategy] in shown
    assert json.loads(cli("config", "check", str(path), "-o", "json").stdout)["strategy"] == strategy
    path.write_text(path.read_text().replace(f'strategy = "{strategy}"', 'strategy = "stick"'))
    result = cli("config", "check", str(path))
    assert (result.exit_code, f"{path}: strategy: bad value 'stick'" in result.stderr) == (2, True)


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    """A second init, or a file in the way, is refused before anything is written."""
    (tmp_path / "vpn-2.key").write_text("precious")
    result = cli("init", str(tmp_path))
    assert (result.exit_code, os.listdir(tmp_path)) == (1, ["vpn-2.key"])
    assert "vpn-2.key: exists already" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--nodes", "2"], "2 nodes survive no more failures than 1"),
        (["--nodes", "0"], "is not in the range"),
        (["--nodes", "4", "--strategy", "shared"], "4 nodes survive no more failures than 3"),
        (["--nodes", "65", "--strategy", "sticky"], "65 nodes are too many for one mapping (use at most 64)"),
        (["--strategy", "other"], "'other' is not one of 'shared', 'sticky'"),
        (["--cluster", "a b"], "cluster: bad name"),
        (["--host", "a b"], "bad host name"),
        (["--host", "a", "--host", "b"], "2 hosts for 3 nodes"),
        (["--base-port", "70000"], "is not in the range"),
    ],
)
def test_init_refuses_what_could_not_run(tmp_path: Path, arguments: list[str], problem: str) -> None:
    """The plan is checked as a configuration before a byte is written."""
    result = cli("init", str(tmp_path / "c"), *arguments)
    assert result.exit_code == 2
    assert problem in " ".join(result.stderr.split())
    assert not (tmp_path / "c").exists()


def test_config_check_finds_certificates_that_do_not_fit(tmp_path: Path) -> None:
    """A swapped certificate is found before the node is started; a missing one only where it is asked for."""
    cli("init", str(tmp_path))
    path = str(tmp_path / "cluster.conf")
    shutil.copy(tmp_path / "vpn-2.pem", tmp_path / "vpn-1.pem")
    shutil.copy(tmp_path / "vpn-2.key", tmp_path / "vpn-1.key")
    result = cli("config", "check", path)
    assert result.exit_code == 1
    assert "vpn-1.pem: names raftstore://vpn/vpn-2" in result.stderr
    (tmp_path / "vpn-1.pem").unlink()
    assert cli("config", "check", path).exit_code == 0
    assert cli("config", "check", path, "--node", "vpn-1").exit_code == 1


# ---- run, and what it leaves on disk


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def one_node(directory: Path) -> ClusterConfig:
    cli("init", str(directory), "--nodes", "1", "--base-port", str(free_port()))
    path = directory / "cluster.conf"
    path.write_text(path.read_text() + 'api = "unix:api.sock"\n[storage]\nwal_segment_bytes = 4194304\n')
    return ClusterConfig.load(path)


async def run_for_a_while(config: ClusterConfig) -> list[str]:
    """Serve, create two sessions, stop by SIGTERM; what the service manager was told."""
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.setblocking(False)
    manager.bind(os.environ["NOTIFY_SOCKET"])
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(WAIT_S):
            running = asyncio.create_task(serve(config, "vpn-1"))
            told = [(await loop.sock_recv(manager, 100)).decode()]
            async with Client(f"unix:{config.node('vpn-1').api.path}") as client:
                for name in ("a", "b"):
                    await client.create(name)
                assert (await client.status())["sessions_total"] == 2
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # a process group and the process: one stop
            assert await running is None
            told.append((await loop.sock_recv(manager, 100)).decode())
            return told
    finally:
        manager.close()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> ClusterConfig:
    """The files of a node that has run and was stopped gracefully."""
    directory = tmp_path_factory.mktemp("ran")
    config = one_node(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOTIFY_SOCKET", str(directory / "notify"))
        told = asyncio.run(run_for_a_while(config))
    assert told == ["READY=1", "STOPPING=1"]
    return config


def copied(config: ClusterConfig, directory: Path) -> Path:
    shutil.copytree(config.node("vpn-1").data_dir, directory / "data")
    return directory / "data"


def test_run_serves_until_a_signal_and_tells_the_service_manager(ran: ClusterConfig) -> None:
    """It says when it is ready and when it stops, and leaves no socket behind."""
    path = ran.node("vpn-1").api.path
    assert path is not None
    assert not path.exists()


def test_run_serves_operators_over_tcp(tmp_path: Path) -> None:
    """With the certificate that init made for operators the same commands work from elsewhere, and not without it."""
    config = one_node(tmp_path)
    path = tmp_path / "cluster.conf"
    path.write_text(path.read_text().replace("unix:api.sock", f"tcp:127.0.0.1:{free_port()}"))
    config = ClusterConfig.load(path)

    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def typed(*arguments: str) -> Result:
            return await loop.run_in_executor(None, lambda: cli(*arguments, "-c", str(path)))

        async with asyncio.timeout(WAIT_S):
            running = asyncio.create_task(serve(config, "vpn-1"))
            while (await typed("session", "create", "s")).exit_code != 0:  # noqa: ASYNC110 - not up yet
                await asyncio.sleep(0)
            assert (await typed("status")).exit_code == 0
            assert (await typed("session", "create", "s")).exit_code == 4
            (tmp_path / "operator.pem").unlink()
            result = await typed("session", "get", "s")
            assert (result.exit_code, "operator.pem: no such file" in result.stderr) == (1, True)
            os.kill(os.getpid(), signal.SIGTERM)
            assert await running is None

    asyncio.run(main())


def test_run_says_in_one_line_why_it_cannot_start(tmp_path: Path) -> None:
    """A missing certificate, an unknown node: a line, not a traceback."""
    config = one_node(tmp_path)
    config.node("vpn-1").key.unlink()
    result = cli("run", "-c", config.source, "--node", "vpn-1", "--log-level", "error")
    assert result.exit_code == 1
    assert "vpn-1.key: no such file" in result.stderr
    result = cli("run", "-c", config.source, "--node", "vpn-2")
    assert (result.exit_code, "no node 'vpn-2'" in result.stderr) == (2, True)
    with pytest.raises(TransportError):
        asyncio.run(serve(config, "vpn-1"))


@pytest.mark.parametrize(("before", "after"), [("shared", "sticky"), ("sticky", "shared")])
def test_run_refuses_the_data_of_the_other_strategy(tmp_path: Path, before: str, after: str) -> None:
    """A cluster is not switched by editing a line: the node says so, and how it is done, and stays out."""
    one_node(tmp_path)
    path = tmp_path / "cluster.conf"
    path.write_text(path.read_text().replace('strategy = "shared"', f'strategy = "{after}"'))
    config = ClusterConfig.load(path)
    data = config.node("vpn-1").data_dir
    Store.open(OsDisk(), str(data), cluster="vpn", node_id="vpn-1", strategy=before)[0].close()

    async def start() -> None:
        async with asyncio.timeout(WAIT_S):
            await serve(config, "vpn-1")

    with pytest.raises(StorageError, match=f"belongs to strategy '{before}', this node is to run with '{after}'"):
        asyncio.run(start())
    result = cli("run", "-c", config.source, "--node", "vpn-1", "--log-level", "error")
    assert result.exit_code == 1
    lines = [line for line in result.stderr.splitlines() if "belongs to strategy" in line]
    assert len(lines) == 1
    assert str(data) in lines[0]
    assert "give every node an empty data directory" in lines[0]
    Store.open(OsDisk(), str(data), cluster="vpn", node_id="vpn-1", strategy=before)[0].close()


def test_wal_commands_show_a_whole_log(ran: ClusterConfig) -> None:
    """Every part of the directory is good, and the ops can be read by name."""
    directory = str(ran.node("vpn-1").data_dir)
    result = cli("wal", "verify", directory)
    assert result.exit_code == 0, result.output
    assert "BAD" not in result.stdout
    assert all(
        finding["level"] != "bad" for finding in json.loads(cli("wal", "verify", directory, "-o", "json").stdout)
    )
    dumped = cli("wal", "dump", directory).stdout
    assert "vpn-1 create a" in dumped
    lines = cli("wal", "dump", directory, "--first", "2", "--last", "3", "-o", "json").stdout.splitlines()
    assert [json.loads(line)["at"] for line in lines] == [2, 3]


def test_wal_verify_finds_a_changed_byte(ran: ClusterConfig, tmp_path: Path) -> None:
    """Exit status 1, with file, offset and remedy, before the node would refuse to start."""
    data = copied(ran, tmp_path)
    segment = next((data / "wal").iterdir())
    raw = bytearray(segment.read_bytes())
    raw[4096 + 60] ^= 1
    segment.write_bytes(raw)
    result = cli("wal", "verify", str(data))
    assert result.exit_code == 1
    assert "BAD" in result.stdout
    assert "raftstore: " in result.stderr


@pytest.mark.parametrize("command", ["verify", "dump"])
def test_wal_commands_need_a_directory(tmp_path: Path, command: str) -> None:
    """A path that is none is refused with an example of one."""
    result = cli("wal", command, str(tmp_path / "none"))
    assert (result.exit_code, "no such directory" in result.stderr) == (1, True)


def test_audit_verify_proves_the_chain(ran: ClusterConfig) -> None:
    """From the configuration, from a directory, from files: the same whole trail."""
    directory = ran.node("vpn-1").audit_dir
    for arguments in (["-c", ran.source], [str(directory)], [str(p) for p in directory.iterdir()]):
        result = cli("audit", "verify", *arguments, "-o", "json")
        assert result.exit_code == 0, result.output
        trail = json.loads(result.stdout)["trails"][0]
        assert (trail["node"], trail["problems"], trail["first"]) == ("vpn-1", [], 1)
        assert trail["last"] >= 4
    assert "whole" in cli("audit", "verify", "-c", ran.source).stdout


def test_audit_verify_finds_a_changed_event(ran: ClusterConfig, tmp_path: Path) -> None:
    """A rewritten line is damage in that file, and a difference to the other trail."""
    data = copied(ran, tmp_path)
    file = next((data / "audit").iterdir())
    file.write_text(file.read_text().replace(',"a",', ',"x",'))
    result = cli("audit", "verify", str(data / "audit"))
    assert result.exit_code == 1
    assert "DAMAGED" in result.stdout
    assert file.name in result.stdout


def test_audit_verify_of_nothing_is_an_error(tmp_path: Path) -> None:
    """Nothing proven is never shown as proven."""
    cli("init", str(tmp_path))
    result = cli("audit", "verify", "-c", str(tmp_path / "cluster.conf"))
    assert (result.exit_code, "nothing to verify" in result.stderr) == (1, True)
    assert cli("audit", "verify", str(tmp_path)).exit_code == 1
    assert cli("audit", "verify", str(tmp_path / "none.jsonl")).exit_code == 1

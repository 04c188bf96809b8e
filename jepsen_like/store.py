"""Where runs are kept: store/NAME/TIME/, with everything to judge a run again, and a link to the latest.

test.json       parameters of the run, for checkers and for people
history.jsonl   what happened; history.edn the same in Jepsen's own form
final/NODE.json each node's last state: sessions, audit trail, chain
results.json    the verdict of every checker
NODE.log, cluster.conf, and data/ where the verdict is not a pass
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jepsen_like import edn, history
from jepsen_like.checkers.compose import check_all
from jepsen_like.history import Verdict

DATA_BYTES_MAX = 512 << 20  # of a cluster's data kept beside a failed run


def make_directory(store: Path, name: str, *, is_test: bool = True) -> Path:
    """A new directory for a run, and `latest` links to it; the store's own `latest` only to tests, which are judged."""
    base = store / name
    base.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now().strftime("%Y%m%dT%H%M%S.%f")[:-3]
    directory = base / stamp
    directory.mkdir()
    links = {base / "latest": Path(stamp)} | ({store / "latest": Path(name) / stamp} if is_test else {})
    for link, target in links.items():
        with contextlib.suppress(OSError):  # a store on a file system without links is a store all the same
            fresh = link.with_name(f".latest.{os.getpid()}")
            fresh.symlink_to(target)
            fresh.replace(link)
    return directory


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, default=str) + "\n")


def keep_files(cluster_dir: Path, run_dir: Path, names: Sequence[str], *, with_data: bool) -> None:
    """Logs and configuration of a cluster, and all its data if asked for."""
    for name in ("cluster.conf", *(f"{node}.log" for node in names), "switch.log"):
        if (cluster_dir / name).exists():
            shutil.copy(cluster_dir / name, run_dir / name)
    data = cluster_dir / "data"
    for image in sorted(cluster_dir.glob("*.img")) if with_data else ():
        subprocess.run(["cp", "--sparse=always", str(image), str(run_dir)], check=False)
    if with_data and data.exists():
        size = sum(path.stat().st_blocks * 512 for path in data.rglob("*") if path.is_file())
        if size <= DATA_BYTES_MAX:
            shutil.copytree(data, run_dir / "data", dirs_exist_ok=True)


def judge(run_dir: Path, more: Sequence[Verdict] = ()) -> dict[str, Any]:
    """Check a run from its files, write results.json and history.edn; the results. `more`: verdicts of the runner."""
    test = json.loads((run_dir / "test.json").read_text())
    loaded = history.load(run_dir / "history.jsonl")
    with (run_dir / "history.edn").open("w") as out:
        edn.export(loaded.events, out)
    finals = {path.stem: json.loads(path.read_text()) for path in sorted((run_dir / "final").glob("*.json"))}
    verdict = check_all(loaded.events, test, finals)
    checkers = {**verdict.stats, **{other.checker: other.as_dict() for other in more}}
    results = {
        "valid": worst([found["valid"] for found in checkers.values()]),
        "torn": loaded.torn,
        "events": len(loaded.events),
        "checkers": checkers,
    }
    write_json(run_dir / "results.json", results)
    return results


def kept_verdicts(run_dir: Path) -> list[Verdict]:
    """What the runner itself had to say of an old run: it cannot be found out again from the history."""
    path = run_dir / "results.json"
    kept: Mapping[str, Any] = json.loads(path.read_text())["checkers"] if path.exists() else {}
    found = kept.get("run")
    return [] if found is None else [Verdict(found["valid"], "run", found["errors"], found["stats"])]


def worst(verdicts: Sequence[Any]) -> Any:
    """False before "unknown" before True."""
    if False in verdicts:
        return False
    return "unknown" if "unknown" in verdicts else True

"""The files for Docker and Kubernetes against the Procfile: each process once, and started by its line."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.local.procfile import read_procfile
from pipeline.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
DOCKER = ROOT / "deploy" / "docker"
KINDS = list(read_procfile())
WORKERS = ("ask", "ingest", "parse", "control")
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))["services"]
MANIFESTS = [
    document
    for path in sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
]
DEPLOYMENTS: dict[str, Any] = {
    document["spec"]["template"]["metadata"]["labels"]["process"]: document
    for document in MANIFESTS
    if document["kind"] == "Deployment"
}
# What a task of each worker may take at most, by its own time limits; a parsed file has none.
LONGEST = {
    "ask": Settings.model_fields["generate_timeout"].default,
    "ingest": 2 * Settings.model_fields["write_timeout"].default,
}


def pod(kind: str) -> dict[str, Any]:
    """The pod of one kind of process."""
    found: dict[str, Any] = DEPLOYMENTS[kind]["spec"]["template"]["spec"]
    return found


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, str]:
    """An environment whose ``celery`` and ``python`` print their names and arguments."""
    for name in ("celery", "python"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (tmp_path / name).chmod(0o755)
    return {"PATH": f"{tmp_path}{os.pathsep}{os.defpath}"}


def entrypoint(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the image's entrypoint as the image would."""
    return subprocess.run(
        [DOCKER / "entrypoint.sh", *arguments], env=environment, capture_output=True, text=True, check=False, timeout=10
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_entrypoint_runs_the_line_of_the_procfile(kind: str, programs: dict[str, str]) -> None:
    """With the shell's own expansion of ``${NAME:-default}``, and nothing else changed."""
    line = subprocess.run(
        ["/bin/sh", "-c", f"echo {read_procfile()[kind]}"], env=programs, capture_output=True, text=True, check=True
    )
    assert entrypoint(programs, kind).stdout == line.stdout


def test_a_variable_of_the_procfile_reaches_the_worker(programs: dict[str, str]) -> None:
    assert " -c 7 " in entrypoint({**programs, "ASK_CONCURRENCY": "7"}, "ask").stdout


def test_the_entrypoint_hands_commands_to_manage_py(programs: dict[str, str]) -> None:
    assert entrypoint(programs, "manage", "ask", "Why?").stdout == "python manage.py ask Why?\n"


@pytest.mark.parametrize("arguments", [(), ("no-such-process",), ("as",)])
def test_the_entrypoint_refuses_what_is_no_line(arguments: tuple[str, ...], programs: dict[str, str]) -> None:
    done = entrypoint(programs, *arguments)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("kind", KINDS)
def test_compose_and_kubernetes_run_each_kind_of_process(kind: str) -> None:
    (container,) = pod(kind)["containers"]
    assert COMPOSE[kind]["command"] == container["args"] == [kind]


def test_they_run_no_other_process() -> None:
    assert set(DEPLOYMENTS) == set(KINDS)
    assert set(COMPOSE) == {*KINDS, "redis", "postgres", "migrate", "manage"}


def test_every_queue_has_a_process_that_listens_to_it() -> None:
    listened = [found[1] for line in read_procfile().values() if (found := re.search(r" -Q (\S+)", line))]
    # Run and not imported: the tests of tasks import it when they know their Redis.
    queues = runpy.run_path(str(ROOT / "celeryconfig.py"))["task_queues"]
    assert listened == [queue.name for queue in queues] == list(WORKERS)


@pytest.mark.parametrize("kind", WORKERS)
def test_a_worker_gets_more_time_to_stop_than_its_longest_task_takes(kind: str) -> None:
    compose = int(COMPOSE[kind]["stop_grace_period"].removesuffix("s"))
    assert pod(kind)["terminationGracePeriodSeconds"] == compose
    assert compose > LONGEST.get(kind, 0)


@pytest.mark.parametrize("kind", WORKERS)
def test_a_worker_is_probed_under_the_name_it_has_in_its_pod(kind: str) -> None:
    (container,) = pod(kind)["containers"]
    assert f"-d {kind}@$HOSTNAME" in container["readinessProbe"]["exec"]["command"][-1]


def test_there_is_one_beat_and_never_two() -> None:
    """Not even while one replaces the other."""
    assert DEPLOYMENTS["beat"]["spec"]["replicas"] == 1
    assert DEPLOYMENTS["beat"]["spec"]["strategy"] == {"type": "Recreate"}


def test_the_schema_is_migrated_before_the_workers_start() -> None:
    (job,) = [document for document in MANIFESTS if document["kind"] == "Job"]
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == ["manage", "migrate"]
    assert COMPOSE["migrate"]["command"] == ["manage", "migrate"]
    assert all("migrate" in COMPOSE[kind]["depends_on"] for kind in KINDS)


def test_redis_neither_evicts_nor_forgets() -> None:
    command = COMPOSE["redis"]["command"]
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"
    assert command[command.index("--appendonly") + 1] == "yes"

"""The workers that `TF_CONFIG` names, and how they find each other before TensorFlow starts."""

import dataclasses
import json
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from tfebm.errors import InvalidInputError, WorkerLost

_EXAMPLE = (
    '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
)
_JOBS = ("chief", "worker")
_FIRST_WORD, _BETWEEN_WORDS = 5.0, 30.0  # seconds until the waiting is spoken of, and again
_BETWEEN_LOOKS = 0.3


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of a job, and which of them this process is."""

    addresses: tuple[str, ...]
    """`host:port` of each, the chief's first."""
    place: int
    """Of this process among them; the chief's is 0."""

    @property
    def is_chief(self) -> bool:
        """Whether this process writes what the job leaves behind."""
        return self.place == 0


def read_cluster(environ: Mapping[str, str] = os.environ) -> Cluster:
    """The cluster that the environment variable `TF_CONFIG` describes.

    A cluster operator sets it, or `train/launch.py`. A chief, where there is one, is a worker that
    comes first; otherwise the first worker is the chief.

    Raises:
        InvalidInputError: No `TF_CONFIG`, or one that does not describe several workers.

    Example:

        >>> read_cluster({"TF_CONFIG": '{"cluster": {"worker": ["a:2222", "b:2222"]}, '
        ...                            '"task": {"type": "worker", "index": 1}}'})
        Cluster(addresses=('a:2222', 'b:2222'), place=1)
    """
    text = environ.get("TF_CONFIG", "")
    if not text.strip():
        raise InvalidInputError(
            "--strategy multiworker reads its workers from the environment variable TF_CONFIG, "
            "which is not set. Start them with train/launch.py or a cluster operator, or set it "
            f"for each, like {_EXAMPLE}."
        )
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInputError(
            f"TF_CONFIG must be JSON, like {_EXAMPLE}. Received {_short(text)}: {error}."
        ) from None
    jobs = _part(_part(config, "TF_CONFIG"), "cluster")
    unknown = [name for name in jobs if name not in _JOBS]
    if unknown:
        raise InvalidInputError(
            f"The cluster of TF_CONFIG may have the jobs {' and '.join(_JOBS)}: all workers train "
            f"alike. Received {', '.join(map(repr, unknown))}. Leave it out."
        )
    lists = {name: _addresses(name, jobs.get(name, [])) for name in _JOBS}
    if len(lists["chief"]) > 1:
        raise InvalidInputError(
            f"The cluster of TF_CONFIG may have one chief. Received {len(lists['chief'])}."
        )
    addresses = tuple(lists["chief"] + lists["worker"])
    if len(addresses) < 2:
        raise InvalidInputError(
            f"--strategy multiworker is for several workers, and the cluster of TF_CONFIG has "
            f"{len(addresses)}. Use --strategy mirrored for the GPUs of one machine, or none for "
            "one device."
        )
    twice = sorted({address for address in addresses if addresses.count(address) > 1})
    if twice:
        raise InvalidInputError(
            f"Every worker needs an address of its own. TF_CONFIG lists {', '.join(twice)} twice."
        )
    return Cluster(addresses, _place(_part(config, "task"), lists))


def _part(config: Any, name: str) -> dict[str, Any]:
    """An entry that must be an object; `config` itself where it is TF_CONFIG."""
    part = config if name == "TF_CONFIG" else config.get(name)
    if not isinstance(part, dict):
        of = "TF_CONFIG" if name == "TF_CONFIG" else f'"{name}" of TF_CONFIG'
        raise InvalidInputError(
            f"{of} must be a JSON object, like {_EXAMPLE}. Received {_short(json.dumps(part))}."
        )
    return part


def _addresses(job: str, listed: Any) -> list[str]:
    if not isinstance(listed, list):
        listed = [listed]
    for address in listed:
        port = address.rpartition(":")[2] if isinstance(address, str) else ""
        if not (port.isdecimal() and 0 < int(port) < 2**16 and address.rpartition(":")[0]):
            raise InvalidInputError(
                f"The {job} addresses of TF_CONFIG must be host:port, with a port below 65536. "
                f"Received {address!r}."
            )
    return listed


def _place(task: dict[str, Any], lists: Mapping[str, list[str]]) -> int:
    job, index = task.get("type"), str(task.get("index"))
    if job not in _JOBS:
        raise InvalidInputError(
            f"The task of TF_CONFIG must be of the type {' or '.join(_JOBS)}. Received {job!r}."
        )
    if not index.isdecimal():
        raise InvalidInputError(
            "The index of the task of TF_CONFIG must be a whole number. Received "
            f"{task.get('index')!r}."
        )
    if int(index) >= len(lists[job]):
        raise InvalidInputError(
            f"The task of TF_CONFIG is {job} {index}, but its cluster has "
            f"{len(lists[job])} of the job {job}, counted from 0. Number every process by its "
            "place in the list."
        )
    return int(index) + (len(lists["chief"]) if job == "worker" else 0)


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


def meet(cluster: Cluster, timeout: float) -> None:
    """Waits until every other worker can be reached, and says which it is waiting for.

    TensorFlow's own waiting is silent, lasts an hour, and cannot be interrupted.

    Args:
        cluster: Who is waited for.
        timeout: In seconds.

    Raises:
        InvalidInputError: The port of this worker is taken.
        WorkerLost: Somebody has not come in time.
    """
    port = int(cluster.addresses[cluster.place].rpartition(":")[2])
    try:
        # The kernel answers for it; nothing needs to be accepted.
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        door = socket.create_server(("", port), family=family, backlog=128, dualstack_ipv6=both)
    except OSError as error:
        raise InvalidInputError(
            f"Worker {cluster.place} cannot listen on port {port}, which TF_CONFIG gives it: "
            f"{error.strerror}. Is another process running with the same place in the cluster?"
        ) from None
    with door:
        missing = {i: a for i, a in enumerate(cluster.addresses) if i != cluster.place}
        started, spoken = time.monotonic(), _FIRST_WORD - _BETWEEN_WORDS
        while True:
            reasons = {i: _unreachable(address) for i, address in missing.items()}
            missing = {i: address for i, address in missing.items() if reasons[i]}
            if not missing:
                time.sleep(3 * _BETWEEN_LOOKS)  # for those that are about to look here
                return
            waited = time.monotonic() - started
            named = "; ".join(f"worker {i} at {a} ({reasons[i]})" for i, a in missing.items())
            if waited >= timeout:
                raise WorkerLost(
                    f"Worker {cluster.place} has waited {timeout:g} s for {named}. Start all "
                    "workers with the same list of addresses, or allow more with --worker-timeout."
                )
            if waited - spoken >= _BETWEEN_WORDS:
                print(
                    f"Worker {cluster.place} is waiting for {named}, for {timeout - waited:.0f} s "
                    "at most.",
                    flush=True,
                )
                spoken = waited
            time.sleep(min(_BETWEEN_LOOKS, timeout - waited))


def _unreachable(address: str) -> str | None:
    """Why nobody answers there; None where somebody does."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2.0):
            return None
    except OSError as error:
        return error.strerror or str(error)

"""Who the workers are, and how they meet; no TensorFlow in it."""

import json
import socket
import threading

import pytest

import tfebm
from tfebm.runs.cluster import Cluster, meet, read_cluster

TWO = ["a:2222", "b:2222"]


def config(cluster=None, task=None):
    cluster = {"worker": TWO} if cluster is None else cluster
    task = {"type": "worker", "index": 0} if task is None else task
    return json.dumps({"cluster": cluster, "task": task, "environment": "cloud"})


class TestReading:
    def test_the_first_worker_is_the_chief(self):
        first, second = (
            read_cluster({"TF_CONFIG": config(task={"type": "worker", "index": i})}) for i in (0, 1)
        )
        assert first == Cluster(("a:2222", "b:2222"), 0)
        assert first.is_chief
        assert not second.is_chief

    def test_a_chief_of_its_own_comes_first(self):
        cluster = {"worker": TWO, "chief": ["c:1"]}
        found = read_cluster({"TF_CONFIG": config(cluster, {"type": "worker", "index": "1"})})
        assert found == Cluster(("c:1", "a:2222", "b:2222"), 2)
        assert read_cluster({"TF_CONFIG": config(cluster, {"type": "chief", "index": 0})}).is_chief

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (None, "TF_CONFIG, which is not set.*train/launch.py"),
            (" ", "is not set"),
            ("{'cluster': ", "must be JSON.*Received {'cluster': .*line 1 column 2"),
            ("[1]", r"TF_CONFIG must be a JSON object.*Received \[1\]"),
            ("{}", '"cluster" of TF_CONFIG must be a JSON object.*Received null'),
            (config({"ps": ["p:1"], "worker": TWO}), "Received 'ps'"),
            (config({"worker": TWO[:1]}), "TF_CONFIG has 1. Use --strategy mirrored"),
            (config({"worker": []}), "TF_CONFIG has 0"),
            (config({"worker": ["a:1", "b"]}), "host:port.*Received 'b'"),
            (config({"worker": ["a:1", "b:70000"]}), "below 65536.*Received 'b:70000'"),
            (config({"worker": ["a:1", 3]}), "Received 3"),
            (config({"worker": "a:1"}), "TF_CONFIG has 1"),
            (config({"worker": ["a:1", "a:1"]}), "lists a:1 twice"),
            (config({"worker": TWO, "chief": TWO}), "one chief. Received 2"),
            (config(task=3), '"task" of TF_CONFIG must be a JSON object'),
            (config(task={"type": "evaluator", "index": 0}), "Received 'evaluator'"),
            (config(task={"type": "worker"}), "whole number. Received None"),
            (config(task={"type": "worker", "index": -1}), "whole number. Received -1"),
            (config(task={"type": "worker", "index": True}), "Received True"),
            (
                config(task={"type": "worker", "index": 2}),
                "is worker 2, but its cluster has 2 of the job worker, counted from 0",
            ),
            (config(task={"type": "chief", "index": 0}), "is chief 0, but its cluster has 0"),
        ],
    )
    def test_what_describes_no_cluster(self, text, message):
        with pytest.raises(tfebm.InvalidInputError, match=message):
            read_cluster({} if text is None else {"TF_CONFIG": text})


@pytest.fixture
def addresses():
    with socket.create_server(("127.0.0.1", 0)) as a, socket.create_server(("127.0.0.1", 0)) as b:
        return tuple(f"127.0.0.1:{door.getsockname()[1]}" for door in (a, b))


class TestMeeting:
    def test_each_waits_for_the_other(self, addresses):
        late = threading.Timer(0.5, meet, (Cluster(addresses, 1), 20.0))
        late.start()
        meet(Cluster(addresses, 0), 20.0)
        late.join()

    def test_nobody_comes(self, addresses, capsys, monkeypatch):
        monkeypatch.setattr("tfebm.runs.cluster._FIRST_WORD", 0.2)
        with pytest.raises(tfebm.WorkerLost) as error:
            meet(Cluster(addresses, 0), 0.7)
        expected = f"worker 1 at {addresses[1]} (Connection refused)"
        assert expected in str(error.value)
        assert "has waited 0.7 s" in str(error.value)
        assert capsys.readouterr().out.count(expected) == 1

    def test_a_name_that_is_unknown_is_waited_for(self, addresses):
        nowhere = (addresses[0], "no-such-host.invalid:2222")
        with pytest.raises(tfebm.WorkerLost, match=r"worker 1 at no-such-host\.invalid"):
            meet(Cluster(nowhere, 0), 0.1)

    def test_two_processes_with_one_place(self, addresses):
        port = int(addresses[0].rpartition(":")[2])
        with (
            socket.create_server(("", port)),
            pytest.raises(tfebm.InvalidInputError, match=f"cannot listen on port {port}"),
        ):
            meet(Cluster(addresses, 0), 1.0)

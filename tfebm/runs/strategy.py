"""Distribution strategies by name."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

import tensorflow as tf

from tfebm.errors import InvalidInputError
from tfebm.names import STRATEGIES
from tfebm.runs.cluster import meet, read_cluster


def make_strategy(
    name: str, virtual_devices: int = 0, worker_timeout: float = 600.0
) -> tf.distribute.Strategy:
    """The strategy that a run trains under.

    Args:
        name: "none" (one device), "mirrored" (all GPUs of this machine, or its CPU), or
            "multiworker" (those of all workers that the environment variable `TF_CONFIG` names).
            The last one must come before TensorFlow's first operation.
        virtual_devices: Split the CPU into so many devices and mirror over them: a way to try
            "mirrored" without GPUs. Must come before TensorFlow's first operation.
        worker_timeout: Seconds that "multiworker" waits for the other workers.

    Raises:
        InvalidInputError: A name that is not known, virtual devices where they have no meaning or
            come too late, or a `TF_CONFIG` that cannot be used.
        WorkerLost: A worker that has not come in time.
    """
    if name not in STRATEGIES:
        raise InvalidInputError(f"The strategy must be one of {STRATEGIES}. Received {name!r}.")
    if virtual_devices < 0:
        raise InvalidInputError(
            f"The number of virtual devices must be at least 0. Received {virtual_devices}."
        )
    if name != "mirrored" and virtual_devices:
        raise InvalidInputError(
            f"Virtual devices are replicas of the strategy 'mirrored'. Received "
            f"{virtual_devices} of them with the strategy {name!r}. Use 'mirrored'."
        )
    if name == "multiworker":
        return _multi_worker(worker_timeout)
    if name == "none":
        return tf.distribute.get_strategy()
    if not virtual_devices:
        return _said(tf.distribute.MirroredStrategy())
    try:
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * virtual_devices,
        )
    except RuntimeError:
        if len(tf.config.list_logical_devices("CPU")) != virtual_devices:
            raise InvalidInputError(
                "TensorFlow has already started, and its CPU can no longer be split. Ask for "
                "virtual devices before the first operation."
            ) from None
    return _said(tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(virtual_devices)]))


def _said(strategy: tf.distribute.Strategy) -> tf.distribute.Strategy:
    """The strategy, with a line on the screen about its replicas."""
    number = strategy.num_replicas_in_sync
    devices = ", ".join(
        device.rpartition("device:")[2] for device in strategy.extended.worker_devices
    )
    print(f"The strategy mirrored has {number} replica{'s' * (number > 1)}: {devices}.", flush=True)
    if number == 1:
        print(
            "One replica trains as --strategy none does. It takes all GPUs that TensorFlow sees; "
            "--virtual-devices splits a CPU, to try several.",
            flush=True,
        )
    return strategy


def _multi_worker(timeout: float) -> tf.distribute.Strategy:
    cluster = read_cluster()
    if cluster.is_chief:
        print(f"Waiting for {len(cluster.addresses)} workers: {', '.join(cluster.addresses)}.")
    meet(cluster, timeout)
    # TensorFlow now connects to those that have just answered. Should one of them have gone, or
    # belong to another cluster, it would wait for an hour.
    print(
        f"Worker {cluster.place}: all have answered. TensorFlow connects them, for {timeout:g} s "
        "at most.",
        file=sys.stderr,
        flush=True,
    )
    try:
        with interruptible(timeout):
            return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise InvalidInputError(
            f"The workers must meet before TensorFlow's first operation: {error}"
        ) from None


@contextlib.contextmanager
def interruptible(timeout: float = 0.0) -> Iterator[None]:
    """Lets Ctrl-C end the process at once, and an alarm after `timeout` seconds (0: none).

    In TensorFlow's native code no handler of Python's is called.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGALRM]
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        numbers.append(signal.SIGINT)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)

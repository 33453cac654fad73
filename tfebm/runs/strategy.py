"""Distribution strategies by name."""

import tensorflow as tf

from tfebm.errors import InvalidInputError

STRATEGIES = ("none", "mirrored", "multiworker")


def make_strategy(name: str, virtual_devices: int = 0) -> tf.distribute.Strategy:
    """The strategy that a run trains under.

    Args:
        name: "none" (one device), or "mirrored" (all GPUs of this machine, or its CPU).
        virtual_devices: Split the CPU into so many devices and mirror over them: a way to try
            "mirrored" without GPUs. Must come before TensorFlow's first operation.

    Raises:
        InvalidInputError: A name that is not known or not supported yet, or virtual devices
            where they have no meaning or come too late.
    """
    if name not in STRATEGIES:
        raise InvalidInputError(f"The strategy must be one of {STRATEGIES}. Received {name!r}.")
    if name == "multiworker":
        raise InvalidInputError(
            "The strategy 'multiworker' is not supported yet. Use 'mirrored' for several GPUs of "
            "one machine."
        )
    if virtual_devices < 0:
        raise InvalidInputError(
            f"The number of virtual devices must be at least 0. Received {virtual_devices}."
        )
    if name == "none":
        if virtual_devices:
            raise InvalidInputError(
                f"Virtual devices are replicas of the strategy 'mirrored'. Received "
                f"{virtual_devices} of them with the strategy 'none'. Use 'mirrored'."
            )
        return tf.distribute.get_strategy()
    if not virtual_devices:
        return tf.distribute.MirroredStrategy()
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
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(virtual_devices)])

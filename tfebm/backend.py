"""Whether Keras runs on TensorFlow, as all of this package needs; asked before anything else.

Keras reads its backend once, when it is first imported.
"""

import os

from tfebm.errors import InvalidInputError

_REMEDY = (
    "Set KERAS_BACKEND=tensorflow (or take the setting out of ~/.keras/keras.json) and start the "
    "program again."
)


def check() -> None:
    """Raises `InvalidInputError` where Keras has another backend."""
    asked = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if asked == "tensorflow":
        import keras

        asked = keras.config.backend()
    if asked != "tensorflow":
        raise InvalidInputError(
            f"tfebm needs Keras on TensorFlow. Received the Keras backend {asked!r}. {_REMEDY}"
        )


check()

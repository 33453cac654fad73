"""Energy-based models in latent space, for TensorFlow and Keras.

    import tfebm

    model = tfebm.LatentEBM(
        generator=tfebm.DeconvGenerator(image_shape=(28, 28, 1), width=16),
        energy=tfebm.EnergyMLP((200, 200)), latent_size=16)
    model.compile()
    model.fit(x_train, epochs=20, batch_size=100)   # float32 in [-1, 1]
    images = model.generate(64, seed=0)

Everything here is importable from the top. Data sets, pictures and the scripts' machinery
(`tfebm.data`, `tfebm.callbacks`, `tfebm.runs`, `tfebm.serving`) load TensorFlow Datasets,
scikit-learn and matplotlib only when a function needs them.


A saved model loads wherever `import tfebm` came before, which imports all of its classes. The
package's own commands read their flags first and import them afterwards.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from tfebm import start

if TYPE_CHECKING or not start.IS_COMMAND:
    from tfebm.api import *  # noqa: F403
    from tfebm.api import __all__ as __all__
else:
    start.prepare()

    def __getattr__(name: str) -> Any:
        if name in start.LIGHT:
            return importlib.import_module(f"tfebm.{name}")
        if name.startswith("__") and name not in ("__all__", "__version__"):
            raise AttributeError(name)
        # A module comes by itself: who asks may be in the middle of an import that all names need.
        if importlib.util.find_spec(f"tfebm.{name}") is not None:
            return start.load(f"tfebm.{name}")
        public = vars(start.load())
        if name not in public:
            raise AttributeError(f"module 'tfebm' has no attribute {name!r}")
        return public[name]

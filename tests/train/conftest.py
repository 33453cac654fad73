import pytest
import tensorflow as tf


@pytest.fixture(scope="module", autouse=True)
def _graphs_as_they_are_traced():
    """Switches the optimizer of graphs off, which such short runs gain nothing from."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})

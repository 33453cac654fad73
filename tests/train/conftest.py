import pytest
import tensorflow as tf


@pytest.fixture(scope="module", autouse=True)
def _graphs_as_they_are_traced():
    """Without the optimizer of graphs, which takes a third of the time of runs so short."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})

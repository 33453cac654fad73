"""Many rows at once through one loaded scorer."""

import concurrent.futures
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from helpers import small_model, vectors

from tfebm import random, serving

DISTINCT, BATCH, THREADS = 1000, 64, 8


def resident_megabytes():
    """Of this process, now."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        pytest.skip("memory is read from /proc, which this system does not have")
    line = next(x for x in status.read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@pytest.mark.parametrize(
    "num_rows", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_rows_from_eight_threads_get_their_own_answers(tmp_path, num_rows):
    """The rows are drawn from 1,000 whose answers one at a time are known."""
    path = serving.export(small_model(), tmp_path, "vectors").scorer
    images = vectors(DISTINCT)
    seeds = random.as_row_seeds(0, DISTINCT).numpy()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(path))
        signature = meta.signature_def["score"]
        feeds = [signature.inputs[key].name for key in ("example", "seed")]
        score = session.make_callable(signature.outputs["score"].name, feeds)
        alone = np.concatenate([score(images[[i]], seeds[[i]]) for i in range(DISTINCT)])
        assert len(np.unique(alone)) == DISTINCT

        def batches(thread, count):
            """The largest relative difference from the single-row answers."""
            rng = np.random.default_rng(thread)
            worst = 0.0
            for _ in range(count):
                rows = rng.integers(DISTINCT, size=BATCH)
                gap = np.abs(score(images[rows], seeds[rows]) - alone[rows])
                worst = max(worst, (gap / (1 + np.abs(alone[rows]))).max())
            return worst

        def load(count):
            with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
                return max(pool.map(batches, range(THREADS), [count] * THREADS))

        count = -(-num_rows // (BATCH * THREADS))
        assert load(-(-count // 10)) < 1e-5
        before = resident_megabytes()
        assert load(count) < 1e-5
        assert resident_megabytes() - before < 32

"""How much memory a chain over images takes as it gets longer, against PyTorch.

  python -m benchmarks memory                 a table
  python -m benchmarks memory --json FILE     and a record
  python -m benchmarks memory --peers PATH    with the PyTorch of another Python

The posterior chain of the preset svhn on a batch of 100, with 5, 20 and 40 steps, each in a new
process: its peak memory after one chain (tracing included), and after its imports. CPU only, Linux
only.
"""

import os
import subprocess
import sys

import tensorflow as tf

from benchmarks import images, peer, timing
from tfebm import random

NUM_STEPS = (5, 20, 40)
PRESET = images.PRESETS["svhn"]
CHILD = "from benchmarks import memory; memory.one_chain({})"


def one_chain(num_steps: int) -> None:
    """Prints the peak after imports, and after a chain."""
    timing.use_cpu_only()
    print(peer.peak_mib(os.getpid()))
    model = images.make_model(PRESET, "float32", num_steps)
    x = tf.random.stateless_uniform([PRESET.batch, *PRESET.image_shape], [0, 0], -1.0, 1.0)
    model.sample_posterior(x, random.as_row_seeds(0, PRESET.batch)).numpy()
    print(peer.peak_mib(os.getpid()))


def main() -> None:
    options = timing.options(__doc__, peer.FLAG)
    timing.use_cpu_only()
    machine, rows, missing = timing.machine(), [], []
    print(f"\n{'':<10}{'K':>4}{'peak, MiB':>12}{'after imports':>15}")

    def row(side: str, num_steps: int, imports: float, peak: float) -> None:
        found = {"side": side, "num_steps": num_steps, "imports_mib": imports, "peak_mib": peak}
        rows.append(found)
        print(f"{side:<10}{num_steps:>4}{peak:>12.0f}{imports:>15.0f}", flush=True)

    for num_steps in NUM_STEPS:
        command = [sys.executable, "-c", CHILD.format(num_steps)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        row("tfebm", num_steps, *map(float, output.split()))
    for num_steps in NUM_STEPS:
        model = images.make_model(PRESET, "float32", num_steps)
        given = images.problem(model, PRESET, PRESET.batch, num_steps)
        with peer.Peers({"images_torch": "PyTorch"}, given, options.peers) as peers:
            for torch in peers.found.values():
                imports = torch.peak_mib
                torch.seconds("chain: eager")
                row("PyTorch", num_steps, imports, torch.peak_mib)
        machine |= peers.facts
        missing = peers.missing_rows()
        if missing:
            break
    record = {"machine": machine, "rows": rows + missing}
    timing.write(options.json, record)


if __name__ == "__main__":
    main()

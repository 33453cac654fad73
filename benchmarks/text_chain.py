"""How fast the posterior chain of a sentence model runs, against PyTorch and matrix products.

  python -m benchmarks text_chain                 a table
  python -m benchmarks text_chain --json FILE     and a record
  python -m benchmarks text_chain --peers PATH    with the PyTorch of another Python

The chain of "Generative Text Modeling through Short Run Inference": 32 sentences of 25 tokens,
10,000 words, K = 20, as while learning (dropout 0.5 in the chain, fresh masks at every step) and as
in evaluation (none). Ours is `tfebm.ShortRunLangevin` on the energy of a
`tfebm.AutoregressiveGenerator`, compiled as "auto" does (on a CPU the plain graph), with XLA, and
with the vocabulary's products in bfloat16. PyTorch runs the same loop, eager, in float32, in a
process of its own (`peers/text_chain_torch.py`) with as many threads. Before anything is timed, a
step without noise and dropout must end at the same latents in both.

Every number is the median of at least five runs after a warm-up, all sides taken in turns. The
fraction is (floating-point operations of the matrix products in K gradients) / (time) / (the rate
of the vocabulary's two products alone, in float32 in TensorFlow, in the same turns). CPU only.
"""

import functools
import os
import statistics
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

import tfebm
from benchmarks import peer, timing
from tfebm import random

BATCH, LENGTH, LATENT, EMBEDDING, HIDDEN, DROPOUT = 32, 25, 32, 256, 256, 0.5
VOCABULARY = 10_002  # with the four special ids
STEP_SIZES = [0.8, 0.7, 0.6, 0.5, 0.2, 0.2, 0.1, 0.1] + [0.05] * 12
STEPS, NOISE_SCALE = len(STEP_SIZES), 0.2
# Operations in K steps: the vocabulary's product forward and back; with those of the gates, where
# the one with the embeddings only goes forward.
PRODUCTS = 2 * STEPS * 2 * BATCH * LENGTH * HIDDEN * VOCABULARY
OPERATIONS = PRODUCTS + 2 * STEPS * BATCH * LENGTH * (EMBEDDING + 2 * HIDDEN) * 4 * HIDDEN
# Name: (the generator's precision, `jit_compile`).
OURS = {"tfebm": ("float32", "auto"), "tfebm, XLA": ("float32", True)}
if timing.computes_in_bfloat16():
    OURS["tfebm, bfloat16"] = ("mixed_bfloat16", "auto")
PEER, ALONE = "PyTorch", "products alone"
TOLERANCE = 1e-5

TOKENS = np.random.default_rng(0).integers(4, VOCABULARY, (BATCH, LENGTH)).astype("int32")
Z_0 = np.random.default_rng(1).normal(size=(BATCH, LATENT)).astype("float32")


def generator(dtype: str) -> tfebm.AutoregressiveGenerator:
    """Of the same weights every time."""
    keras.utils.set_random_seed(0)
    tokenizer = tfebm.tokenizers.WordTokenizer([f"w{i}" for i in range(VOCABULARY - 4)])
    layer = tfebm.AutoregressiveGenerator(tokenizer, EMBEDDING, HIDDEN, DROPOUT, dtype=dtype)
    layer.build((None, LATENT))
    return layer


def energy_of(layer: tfebm.AutoregressiveGenerator) -> Callable[..., tf.Tensor]:
    """U(z; tokens), with dropout where the streams of its masks are given."""

    def energy(z: tf.Tensor, tokens: tf.Tensor, *masks: tf.Tensor, step: int = 0) -> tf.Tensor:
        seeds = random.fold_in(masks[0], step) if masks else None
        nll = layer.negative_log_likelihood(layer.states(z, tokens, seeds), tokens)
        return nll + 0.5 * tf.reduce_sum(tf.square(z), axis=-1)

    return energy


def chain(side: str, energy: Callable, dropout: float) -> Callable[[], float]:
    sampler = tfebm.ShortRunLangevin(STEPS, STEP_SIZES, NOISE_SCALE, jit_compile=OURS[side][1])
    seeds, masks = (random.as_row_seeds(seed, BATCH) for seed in range(2))
    context = (TOKENS, masks) if dropout else (TOKENS,)
    return timing.clocked(
        lambda: sampler(energy, Z_0, *context, seed=seeds, with_step=True).numpy()
    )


def products_alone() -> Callable[[], float]:
    """The vocabulary's two products of K steps, and nothing else."""
    hidden = tf.random.stateless_normal([BATCH * LENGTH, HIDDEN], [0, 0])
    kernel = tf.random.stateless_normal([HIDDEN, VOCABULARY], [0, 1])
    pair = tf.function(lambda h, w: tf.matmul(tf.matmul(h, w), w, transpose_b=True))
    return timing.clocked(lambda: [pair(hidden, kernel).numpy() for _ in range(STEPS)])


def check(energies: dict[str, Callable], torch: peer.Peer) -> dict[str, float]:
    """How far z_1 of each side is from PyTorch's; stops where they differ in float32."""
    found = torch.step("0.0")
    expected, expected_z = float(found["energy"]), found["z_1"]
    apart = {}
    for side, (precision, jit) in OURS.items():
        sampler = tfebm.ShortRunLangevin(1, STEP_SIZES[0], 0.0, jit_compile=jit)
        z, trace = sampler(energies[precision], Z_0, TOKENS, trace=True)
        energy = float(tf.reduce_sum(trace.energy[0]))
        apart[side] = float(np.max(np.abs(z.numpy() - expected_z)))
        wrong = max(apart[side], abs(energy / expected - 1.0)) > TOLERANCE
        if precision == "float32" and wrong:
            raise SystemExit(
                f"The first step of {side} and of {PEER} must agree to {TOLERANCE:g}. The latents "
                f"are {apart[side]:.1e} apart; the energies are {energy:.4f} and {expected:.4f}."
            )
    listed = ", ".join(f"{side} {distance:.1e}" for side, distance in apart.items())
    print(f"A step without noise and dropout agrees with {PEER}, latents to: {listed}.")
    return apart


def measure(dropout: float, sides: dict[str, Callable[[], float]], repeats: int) -> list[dict]:
    """Rows of a table, from runs in turns after a warm-up."""
    times = timing.turns(sides, repeats)
    medians = {side: statistics.median(measured) for side, measured in times.items()}
    rows = []
    for side, median in medians.items():
        operations = PRODUCTS if side == ALONE else OPERATIONS
        row = {
            "dropout": dropout,
            "side": side,
            **timing.summary(times[side]),
            "speed_of_pytorch": medians[PEER] / median if PEER in medians else None,
            "fraction_of_float32_matmul": operations / PRODUCTS * medians[ALONE] / median,
        }
        rows.append(row)
        speed = f"{row['speed_of_pytorch']:.2f}" if PEER in medians else "-"
        print(
            f"{dropout:<9}{side:<18}{median:>8.3f}{speed:>12}"
            f"{row['fraction_of_float32_matmul']:>12.2f}"
            f"{min(times[side]):>13.3f} .. {max(times[side]):.3f}",
            flush=True,
        )
    return rows


def main() -> None:
    options = timing.options(__doc__, peer.FLAG)
    timing.use_cpu_only()
    machine = {**timing.machine(), "threads": os.cpu_count()}
    imports = peer.peak_mib(os.getpid())
    layer = generator("float32")
    energies = {"float32": energy_of(layer)}
    chain("tfebm", energies["float32"], DROPOUT)()
    # Before there is more than one chain in the process.
    memory = {"tfebm": {"imports": imports, "with_a_chain": peer.peak_mib(os.getpid())}}
    for precision, _ in OURS.values():
        energies.setdefault(precision, energy_of(generator(precision)))
    given = {"tokens": TOKENS, "z_0": Z_0, "start_id": layer.tokenizer.start_id}
    given |= {"step_sizes": STEP_SIZES, "noise_scale": NOISE_SCALE}
    given |= {v.name: v.numpy() for v in layer.weights}
    apart, rows = {}, []
    with peer.Peers({"text_chain_torch": PEER}, given, options.peers) as peers:
        machine |= peers.facts
        torch = peers.found.get(PEER)
        if torch:
            imports = torch.peak_mib
            torch.seconds(str(DROPOUT))
            memory[PEER] = {"imports": imports, "with_a_chain": torch.peak_mib}
            apart = check(energies, torch)
        for side, found in memory.items():
            if found["imports"]:
                peak = found["with_a_chain"]
                print(f"{side}: peak memory {peak:.0f} MiB, after imports {found['imports']:.0f}")
        header = f"{'dropout':<9}{'':<18}{'s':>8}{'of PyTorch':>12}{'of matmul':>12}"
        print(f"\n{header}{'s, min .. max':>18}")
        for dropout in (DROPOUT, 0.0):
            sides = {
                side: chain(side, energies[precision], dropout)
                for side, (precision, _) in OURS.items()
            }
            if torch:
                sides[PEER] = functools.partial(torch.seconds, str(dropout))
            rows += measure(dropout, {**sides, ALONE: products_alone()}, options.repeats)
    rows += peers.missing_rows()
    record = {"machine": machine, "first_step_apart": apart, "peak_mib": memory, "rows": rows}
    timing.write(options.json, record)


if __name__ == "__main__":
    main()

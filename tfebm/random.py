"""Counter-based noise, one stream per row, in integer operations alone.

TensorFlow's stateless generators return other floats under XLA than in a plain graph for the
same seed (tensorflow/tensorflow issues 117644 and 121243), and their noise depends on where a
row stands in its batch. Here every number is a pure function of (row seed, stream, column):
the same on one device and on two replicas, eager, compiled and exported, in any batch. The
random bits are equal everywhere; the normals agree to float rounding, since XLA and the plain
graph evaluate `log` with different polynomials.

All words are int32, whose additions wrap: several runtimes that read SavedModels have no
uint32 kernels.

References: J. Salmon et al. Parallel Random Numbers: As Easy as 1, 2, 3. SC 2011 (Threefry).
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfebm.errors import InvalidInputError, received
from tfebm.types import Seed, Tensor

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA  # Threefish key schedule constant, lower word

# ---- The table of streams: whatever draws noise has its place here, so that no two draw the same.
# Streams of a row, the `stream` of `row_normal`. The steps of a chain have 0, 1, ... upwards, and
# what else a row's seed is used for lies below.
_FOLD_STREAM = -1
START_STREAM = -2
"""A chain's start."""
DEQUANTIZE_STREAM = -3
"""The noise that fills the gaps between the values of 8-bit pixels."""

# Children of a row's seed, the `data` of `fold_in`. Parts of a latent behind the first have 1, 2,
# ... of the seed of their chain.
PRIOR, POSTERIOR, DROPOUT, WRITING = 0, 1, 2, 3
"""Of an example: its two chains, the masks of its generator, the words that are drawn for it."""
CONTRAST, CHAIN, RESTART = 0, 1, 2
"""Of an example or a chain of a tilted generator: samples to compare with, the chain, its fresh
starts."""
ACCEPT = 1 << 20
"""Of a chain with a Metropolis step: what accepts."""
VELOCITY = 0x76656C6F
"""The start velocity of a chain with momentum, drawn when its density is computed."""
PROBES = 0x6C6F6764
"""Of a chain: the probes of its log-determinant."""
IMPORTANCE = 0x6C61706C
"""Of an example: importance samples around the ends of its chains."""

# Whole SIMD packets per row: a row's scalar tail would otherwise be evaluated by other code
# than its body, and its last bit would depend on the batch around it.
_PACKET = 16
# sin(2 pi v) = v P(v**2) for |v| <= 1/4; of its degree P has the least relative error, 4e-8.
_SIN_TURN = (6.2831855, -41.341679, 81.602234, -76.574989, 39.710918)


def _word(value: int) -> Tensor:
    """An unsigned 32-bit constant as the int32 of the same bits."""
    return tf.constant(np.uint32(value & 0xFFFFFFFF).astype(np.int32))


def _shift_right(x: Tensor, bits: Tensor, mask: Tensor) -> Tensor:
    """Logical shift; the int32 shift is arithmetic, so the copied sign bits are masked off."""
    return tf.bitwise.bitwise_and(tf.bitwise.right_shift(x, bits), mask)


def threefry2x32(key: tuple[Tensor, Tensor], counter: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Threefry-2x32 with 20 rounds, as Random123 defines it.

    Args:
        key: Two int32 tensors.
        counter: Two int32 tensors; all four broadcast together.

    Returns:
        Two int32 tensors of the broadcast shape: 64 random bits per (key, counter).
    """
    words = [tf.convert_to_tensor(word, tf.int32) for word in (*key, *counter)]
    shape = functools.reduce(tf.broadcast_static_shape, [word.shape for word in words])
    return tuple(_with_shape(word, shape) for word in _traced_rounds(*_opaque(*words)))


def _shared(*specs: tf.TensorSpec) -> Callable[[Callable[..., Any]], Any]:
    """Makes a function one operation of the graphs that call it: traced once, never inlined.

    TensorFlow's graph optimizer works on every operation that is inlined. A hash has 150, and a
    graph with 30 hashes took two seconds before its first step. XLA inlines the function all the
    same.
    """
    return functools.partial(
        tf.function,
        autograph=False,
        input_signature=specs,
        experimental_attributes={"_noinline": True},
    )


def _opaque(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Hides from the graph optimizer that arguments of a shared function are constants: it would
    copy the function for each of them."""
    if tf.executing_eagerly():
        return tensors
    return tuple(tf.raw_ops.PlaceholderWithDefault(input=x, shape=x.shape) for x in tensors)


def _with_shape(x: Tensor, shape: Any) -> Tensor:
    """`x`, with the shape that a shared function cannot know."""
    x.set_shape(shape)
    return x


def _rounds(
    key_0: Tensor, key_1: Tensor, counter_0: Tensor, counter_1: Tensor
) -> tuple[Tensor, Tensor]:
    """The hash itself, as plain operations."""
    key, counter = (key_0, key_1), (counter_0, counter_1)
    xor = tf.bitwise.bitwise_xor
    # Made once for all rounds: tracing is most of the cost of a graph's first step.
    rotations = [
        [(_word(r), _word(32 - r), _word((1 << r) - 1)) for r in of_block]
        for of_block in _ROTATIONS
    ]
    keys = (key[0], key[1], xor(xor(key[0], key[1]), _word(_PARITY)))
    x0, x1 = counter[0] + keys[0], counter[1] + keys[1]
    for block in range(5):
        for left, right, mask in rotations[block % 2]:
            x0 = x0 + x1
            x1 = tf.bitwise.bitwise_or(
                tf.bitwise.left_shift(x1, left), _shift_right(x1, right, mask)
            )
            x1 = xor(x1, x0)
        x0 = x0 + keys[(block + 1) % 3]
        x1 = x1 + keys[(block + 2) % 3] + _word(block + 1)
    return x0, x1


_traced_rounds = _shared(*[tf.TensorSpec(None, tf.int32)] * 4)(_rounds)


def single_seed(seed: Any) -> Any:
    """A whole number of any kind (Python's, NumPy's, a tensor's) as a Python integer.

    What holds one stream per row, or is a tensor of a graph, is returned as it is.

    Raises:
        InvalidInputError: None, True or False, which nobody means as a number.
    """
    if seed is None or isinstance(seed, (bool, np.bool_)):
        raise InvalidInputError(
            f"`seed` must be a whole number, or streams, int32 `[rows, 2]`. Received {seed!r}. "
            "Give one integer; another one for other noise."
        )
    if isinstance(seed, (int, np.integer)):
        return int(seed)
    is_tensor = tf.is_tensor(seed)
    if is_tensor and not hasattr(seed, "numpy"):
        return seed
    array = np.asarray(seed.numpy() if is_tensor else seed)
    return int(array) if array.ndim == 0 and array.dtype.kind in "iu" else seed


def whole_seed(seed: Any) -> int:
    """The seed of a model as a Python integer.

    Raises:
        InvalidInputError: Anything but a single whole number.
    """
    single = single_seed(seed)
    if not isinstance(single, int):
        raise InvalidInputError(
            f"`seed` must be a whole number here. Received {type(seed).__name__}: {seed!r}. Give "
            "one integer."
        )
    return single


def root_seed(seed: int | Tensor) -> Tensor:
    """An integer of up to 64 bits as one seed, int32 `[2]`."""
    if tf.is_tensor(seed):
        seed = tf.cast(seed, tf.int64)
        high, low = tf.bitwise.right_shift(seed, 32), tf.bitwise.left_shift(seed, 32)
        low = tf.bitwise.right_shift(low, 32)  # with its sign, as int32 has it
        return tf.cast(tf.stack([high, low]), tf.int32)
    seed = int(seed)
    return tf.stack([_word(seed >> 32), _word(seed)])


def fold_in(seeds: Tensor, data: int | Tensor) -> Tensor:
    """Child seeds: `threefry(key=seeds, counter=(data, -1))`.

    Two numbers are never combined by addition or XOR, where (seed 0, step 1) would equal
    (seed 1, step 0).

    Args:
        seeds: int32 `[..., 2]`.
        data: int32 scalar, or one value per seed `[...]`.

    Returns:
        int32 `[..., 2]`, the leading axes of `seeds` and `data` broadcast together.

    Example:

        >>> seeds = fold_in(root_seed(0), tf.range(4))  # four rows, int32 [4, 2]
    """
    data = tf.cast(data, tf.int32)
    shape = tf.broadcast_static_shape(seeds.shape[:-1], data.shape).concatenate([2])
    return _with_shape(_traced_fold(*_opaque(seeds, data)), shape)


@_shared(tf.TensorSpec(None, tf.int32), tf.TensorSpec(None, tf.int32))
def _traced_fold(seeds: Tensor, data: Tensor) -> Tensor:
    stream = tf.constant(_FOLD_STREAM, tf.int32)
    return tf.stack(_rounds(seeds[..., 0], seeds[..., 1], data, stream), axis=-1)


def first_global_row(num_rows: Tensor) -> Tensor:
    """Index of this replica's first row in the global batch; 0 outside a strategy.

    Replicas may hold different numbers of rows, or none (a short last batch).
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tf.constant(0, tf.int32)
    here = tf.one_hot(
        context.replica_id_in_sync_group, context.num_replicas_in_sync, dtype=tf.int32
    )
    sizes = context.all_reduce(tf.distribute.ReduceOp.SUM, here * num_rows)
    return tf.reduce_sum(tf.cumsum(sizes, exclusive=True) * here)


def row_seeds(seed: int, step: int | Tensor, num_rows: int | Tensor) -> Tensor:
    """One stream per row of a training batch, keyed by (seed, step, global row).

    Args:
        seed: The run's seed.
        step: The training step; an optimizer's `iterations`, which is saved and restored.
        num_rows: Rows on this replica.

    Returns:
        int32 `[num_rows, 2]`. Replicas of a strategy get the streams of *their* rows of the
        global batch, so that one device and two replicas train alike.
    """
    rows = first_global_row(tf.cast(num_rows, tf.int32)) + tf.range(num_rows, dtype=tf.int32)
    return fold_in(fold_in(root_seed(seed), step), rows)


def as_row_seeds(seed: Seed, num_rows: int | Tensor) -> Tensor:
    """`seed` itself when it is int32 `[num_rows, 2]`, else the rows 0, 1, ... of an integer."""
    seed = single_seed(seed)
    if not isinstance(seed, int):
        seed = _streams(seed)
    if isinstance(seed, int) or (seed.shape.rank == 0 and seed.dtype.is_integer):
        return fold_in(root_seed(seed), tf.range(num_rows, dtype=tf.int32))
    if isinstance(num_rows, int) and seed.shape.rank == 2 and seed.shape[0] not in (None, num_rows):
        raise InvalidInputError(
            f"`seed` must hold one stream per row. Received {seed.shape[0]} for {num_rows} rows."
        )
    if seed.dtype != tf.int32 or seed.shape.rank != 2 or seed.shape[-1] != 2:
        raise InvalidInputError(
            "`seed` must be an integer or an int32 tensor of shape `[rows, 2]`, one stream "
            f"per row. Received dtype {seed.dtype.name} and shape {seed.shape}."
        )
    return seed


def _streams(seed: Any) -> Tensor:
    try:
        return tf.convert_to_tensor(seed)
    except (TypeError, ValueError):
        raise InvalidInputError(
            "`seed` must be an integer or an int32 tensor of shape `[rows, 2]`, one stream per "
            f"row. Received {received(seed)}. Give one integer."
        ) from None


def content_seeds(seed: Seed, x: Tensor) -> Tensor:
    """One stream per row, keyed by (seed, the row's own values).

    For inference on data, where a row has no fixed place: the answer for an example then does
    not depend on its batch, on the batch size, on the order of the data or on the number of
    replicas. Equal rows get equal streams.

    Args:
        seed: An integer, or int32 `[B, 2]`, which is returned as it is.
        x: Floats `[B, ...]`; or ids of tokens `[B, T]`, where zeros at the end are padding and do
            not matter.

    Returns:
        int32 `[B, 2]`.
    """
    seed = single_seed(seed)
    if not isinstance(seed, int):
        seed = _streams(seed)
        if seed.shape.rank != 0 or not seed.dtype.is_integer:
            return as_row_seeds(seed, tf.shape(x)[0])
    x = tf.convert_to_tensor(x)
    if x.dtype.is_integer:
        shape = tf.shape(x)  # `[B, T]`, or `[B, ...]` of whole numbers such as pixels
        bits = tf.reshape(tf.cast(x, tf.int32), [shape[0], tf.reduce_prod(shape[1:])])
        columns = tf.range(tf.shape(bits)[1], dtype=tf.int32)
    else:
        size = int(np.prod(x.shape[1:]))
        bits = tf.bitcast(tf.reshape(tf.cast(x, tf.float32), [-1, size]), tf.int32)
        columns = tf.range(size, dtype=tf.int32)
    # Every value is scrambled with its column before the sum, so that images whose floats
    # differ in a few high bits only (black and white ones) do not collide.
    hashes = threefry2x32((columns, tf.zeros_like(columns)), (bits, tf.zeros_like(bits)))
    if x.dtype.is_integer:
        hashes = tuple(tf.where(bits == 0, 0, word) for word in hashes)
    digest = tf.stack([tf.reduce_sum(word, axis=1) for word in hashes], axis=1)  # [B, 2]
    high, low = tf.unstack(root_seed(seed))
    return fold_in(fold_in(digest, high), low)


def _open_unit(bits: Tensor) -> Tensor:
    """The 23 high bits and a half: floats in (0, 1), never 0."""
    return (tf.cast(_shift_right(bits, _word(9), _word((1 << 23) - 1)), tf.float32) + 0.5) * (
        1.0 / 8388608.0
    )


def _sin_turn(turn: Tensor) -> Tensor:
    """sin(2 pi turn) for |turn| <= 1/4, to 2e-7."""
    square = turn * turn
    value = square * _SIN_TURN[-1] + _SIN_TURN[-2]
    for coefficient in _SIN_TURN[-3::-1]:
        value = value * square + coefficient
    return turn * value


def row_normal(seeds: Tensor, stream: int | Tensor, size: int) -> Tensor:
    """Standard normal noise, `[B, size]` float32, by Box-Muller.

    Entry (b, i) is a function of (`seeds[b]`, `stream`, i) alone. Values lie within +-5.8, the
    reach of 24-bit uniforms; the missing tail has probability 1e-8.

    Args:
        seeds: int32 `[B, 2]`.
        stream: int32 scalar: the step of a chain, from 0, or `START_STREAM`.
        size: Columns; a static integer.

    Example:

        >>> seeds = as_row_seeds(0, 8)
        >>> row_normal(seeds, stream=3, size=16).shape
        TensorShape([8, 16])
    """
    return _of_rows(_box_muller, seeds, stream, size)


def _box_muller(bits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    radius = tf.sqrt(-2.0 * tf.math.log(_open_unit(bits[0])))
    turn = _open_unit(bits[1]) - 0.5
    from_quarter = tf.abs(turn) - 0.25
    # cos and sin of 2 pi (turn + 1/2), both as the sine of an angle within a quarter turn. XLA's
    # own on a CPU took three quarters of the time of all noise, and no less exact ones.
    parts = _sin_turn(from_quarter), _sin_turn(tf.sign(turn) * (tf.abs(from_quarter) - 0.25))
    return radius * parts[0], radius * parts[1]


def row_uniform(seeds: Tensor, stream: int | Tensor, size: int) -> Tensor:
    """Uniform noise in (0, 1), `[B, size]` float32, never 0 or 1; arguments as `row_normal`'s.

    Its bits are those of `row_normal` for the same seeds and stream: use a stream once.
    """
    return _of_rows(_uniforms, seeds, stream, size)


def _uniforms(bits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return _open_unit(bits[0]), _open_unit(bits[1])


def row_keep_mask(
    seeds: Tensor, stream: int | Tensor, num_positions: int | Tensor, size: int, keep: float
) -> Tensor:
    """Dropout masks of sequences: `[num_positions, B, size]` float32, 0 or 1 / `keep`.

    Entry (t, b, i) is a function of (`seeds[b]`, `stream`, t, i) alone: longer padding changes no
    mask. An entry takes as many bits of a hash as `keep` needs, one for 0.5, and at most 16, to
    which `keep` is rounded.

    Args:
        seeds: int32 `[B, 2]`.
        stream: int32 scalar.
        num_positions: T, a tensor or an integer.
        size: Columns; a static integer.
        keep: The probability of an entry that is kept, in (0, 1].

    Example:

        >>> row_keep_mask(as_row_seeds(0, 8), 0, num_positions=25, size=256, keep=0.5).shape
        TensorShape([25, 8, 256])
    """
    digits = next((n for n in (1, 2, 4, 8) if (keep * 2**n).is_integer()), 16)
    fields = 64 // digits
    words = -(-size // fields)
    positions = tf.range(num_positions, dtype=tf.int32)[:, tf.newaxis, tf.newaxis]
    counters = positions * words + tf.range(words, dtype=tf.int32)  # [T, 1, words]
    stream = tf.reshape(tf.cast(stream, tf.int32), [1, 1, 1])
    bits = threefry2x32((seeds[:, :1], seeds[:, 1:]), (counters, stream))
    bits = tf.stack(bits, axis=-1)[..., tf.newaxis]  # [T, B, words, 2, 1]
    shifted = tf.bitwise.right_shift(bits, tf.range(0, 32, digits, dtype=tf.int32))
    numbers = tf.bitwise.bitwise_and(shifted, _word(2**digits - 1))
    shape = [num_positions, tf.shape(seeds)[0], words * fields]
    kept = tf.reshape(numbers, shape)[..., :size] < round(keep * 2**digits)
    return tf.cast(kept, tf.float32) * (1.0 / keep)


def _of_rows(
    law: Callable[[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]],
    seeds: Tensor,
    stream: int | Tensor,
    size: int,
) -> Tensor:
    """`[B, size]`: what `law` makes of two words for each pair of columns."""
    stream = tf.ensure_shape(tf.cast(stream, tf.int32), [])
    seeds = tf.convert_to_tensor(seeds, tf.int32)
    return _with_shape(_traced_rows(law, size)(*_opaque(seeds, stream)), [seeds.shape[0], size])


@functools.cache
def _traced_rows(law: Callable[..., tuple[Tensor, Tensor]], size: int) -> Any:
    half = (size + 1) // 2
    padded = -(-half // _PACKET) * _PACKET  # whole packets

    @_shared(tf.TensorSpec([None, 2], tf.int32), tf.TensorSpec([], tf.int32))
    def rows(seeds: Tensor, stream: Tensor) -> Tensor:
        columns = tf.range(padded, dtype=tf.int32)[tf.newaxis]
        bits = _rounds(seeds[:, :1], seeds[:, 1:], columns, tf.reshape(stream, [1, 1]))
        return tf.concat([part[:, :half] for part in law(bits)], axis=1)[:, :size]

    return rows

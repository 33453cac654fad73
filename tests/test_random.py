import numpy as np
import pytest
import tensorflow as tf

from tfebm import random


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [  # Random123's known answers for threefry2x32 with 20 rounds
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
@pytest.mark.parametrize("jit", [False, True])
def test_threefry_known_answers(key, counter, expected, jit):
    def signed(words):
        return tuple(tf.constant(np.uint32(w).astype(np.int32)) for w in words)

    words = tf.function(random.threefry2x32, jit_compile=jit)(signed(key), signed(counter))
    assert tuple(int(w) & 0xFFFFFFFF for w in words) == expected


@pytest.mark.parametrize("size", [1, 2, 7, 16, 33])
def test_normals_agree_compiled_and_in_any_batch(size):
    seeds = random.as_row_seeds(3, 65)
    plain = random.row_normal(seeds, 5, size).numpy()
    compiled = tf.function(random.row_normal, jit_compile=True)(seeds, 5, size)
    # The bits are equal; log and cos differ by rounding, amplified by at most the largest value.
    np.testing.assert_allclose(compiled, plain, rtol=0, atol=2e-6)
    for rows in (1, 3, 64):
        np.testing.assert_array_equal(random.row_normal(seeds[:rows], 5, size), plain[:rows])


@pytest.mark.parametrize("compiled", [False, True])
def test_normals_are_box_mullers_of_the_bits(compiled):
    seeds, size = random.as_row_seeds(1, 2000), 64
    draw = tf.function(random.row_normal, jit_compile=compiled)
    normals = draw(seeds, 9, size).numpy()
    words = random.threefry2x32((seeds[:, :1], seeds[:, 1:]), (tf.range(32)[tf.newaxis], 9))
    high = [word.numpy().view(np.uint32) >> 9 for word in words]
    first, second = ((bits + 0.5) / 2.0**23 for bits in high)  # float64
    radius = np.sqrt(-2.0 * np.log(first))
    angle = 2.0 * np.pi * second
    exact = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    np.testing.assert_allclose(normals, exact, rtol=1e-6, atol=1e-6)


def test_normals_have_the_moments_of_a_gaussian():
    num_rows, size = 4000, 250  # n = 1e6 values
    x = random.row_normal(random.as_row_seeds(0, num_rows), 0, size).numpy().astype(np.float64)
    n = x.size
    # Standard errors of the mean of x, x^2, x^3, x^4 under N(0, 1); 5.5 of them each.
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(np.mean(x**power) - mean) < 5.5 * np.sqrt(variance / n)
    neighbours = [(x[:, :-1], x[:, 1:]), (x[:-1], x[1:]), (x[:, :125], x[:, 125:])]
    for a, b in neighbours:
        assert abs(np.mean(a * b)) < 5.5 / np.sqrt(a.size)


def test_streams_are_independent():
    seeds = random.as_row_seeds(0, 4000)
    draws = [random.row_normal(seeds, k, 50) for k in range(3)]
    draws.append(random.row_normal(random.fold_in(seeds, 0), 0, 50))
    for i, a in enumerate(draws):
        for b in draws[i + 1 :]:
            assert abs(np.mean(a * b)) < 5.5 / np.sqrt(a.shape.num_elements())


def test_fold_in_is_no_sum_of_seed_and_step():
    roots = tf.stack([random.root_seed(root) for root in range(20)])
    drawn = random.fold_in(roots[:, tf.newaxis], tf.range(200)[tf.newaxis]).numpy()  # [20, 200, 2]
    assert len(np.unique(drawn.reshape(-1, 2), axis=0)) == 4000
    assert np.any(drawn[0, 1] != drawn[1, 0])


def test_large_and_negative_seeds_differ():
    seeds = (0, 1, -1, 2**31, 2**32, 2**40 + 1, 2**63 - 1)
    assert len({tuple(random.root_seed(s).numpy()) for s in seeds}) == len(seeds)


def test_as_row_seeds_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"int32 tensor of shape `\[rows, 2\]`"):
        random.as_row_seeds(tf.zeros([3, 2]), 3)
    with pytest.raises(ValueError, match="int32"):
        random.as_row_seeds(tf.zeros([3], tf.int32), 3)


def test_content_seeds_follow_the_row():
    x = np.random.default_rng(0).normal(size=(50, 4, 3)).astype("float32")
    seeds = random.content_seeds(0, x).numpy()
    order = np.random.default_rng(1).permutation(50)
    np.testing.assert_array_equal(random.content_seeds(0, x[order]), seeds[order])
    np.testing.assert_array_equal(random.content_seeds(0, x[7:8]), seeds[7:8])
    np.testing.assert_array_equal(tf.function(random.content_seeds, jit_compile=True)(0, x), seeds)
    for other in (1, -1, 2**31, 2**62, 2**63):
        assert not np.any(np.all(random.content_seeds(other, x) == seeds, axis=1))


def test_content_seeds_of_black_and_white_images_differ():
    # The floats -1 and 1 differ in one bit; a linear hash would keep the parity alone.
    x = np.random.default_rng(0).choice([-1.0, 1.0], size=(3000, 20)).astype("float32")
    x = np.unique(x, axis=0)
    assert len(np.unique(random.content_seeds(0, x), axis=0)) == len(x)


class TestContentSeedsOfSentences:
    """Ids of tokens, padded with 0."""

    ids = np.array([[5, 9, 4, 2], [9, 5, 4, 2], [5, 9, 2, 0], [2, 0, 0, 0]], np.int32)

    def seeds(self, ids, seed=0):
        return random.content_seeds(seed, ids).numpy()

    def test_padding_does_not_matter(self):
        seeds = self.seeds(self.ids)
        np.testing.assert_array_equal(self.seeds(np.pad(self.ids, [[0, 0], [0, 7]])), seeds)
        np.testing.assert_array_equal(self.seeds(self.ids[2:, :3]), seeds[2:])

    def test_the_type_of_the_ids_does_not_matter(self):
        seeds = self.seeds(self.ids)
        for ids in (self.ids.astype("int64"), tf.constant(self.ids)):
            np.testing.assert_array_equal(self.seeds(ids), seeds)

    def test_tokens_their_order_and_the_seed_matter(self):
        rng = np.random.default_rng(0)
        ids = np.unique(rng.integers(3, 9, size=(4000, 6)), axis=0)
        assert len(np.unique(self.seeds(ids), axis=0)) == len(ids)
        ordered = np.sort(ids, axis=1)
        moved = np.any(ordered != ids, axis=1)
        assert np.all(np.any(self.seeds(ordered) != self.seeds(ids), axis=1) == moved)
        assert not np.any(np.all(self.seeds(ids, seed=1) == self.seeds(ids), axis=1))

    def test_a_row_does_not_depend_on_its_batch(self):
        seeds, order = self.seeds(self.ids), [2, 0, 3, 1]
        np.testing.assert_array_equal(self.seeds(self.ids[order]), seeds[order])
        np.testing.assert_array_equal(self.seeds(self.ids[1:2]), seeds[1:2])

    def test_whole_numbers_of_any_shape_have_seeds(self):
        pixels = np.random.default_rng(0).integers(256, size=(5, 4, 4, 1)).astype("uint8")
        seeds = self.seeds(pixels)
        assert seeds.shape == (5, 2)
        assert len(np.unique(seeds, axis=0)) == 5
        assert self.seeds(pixels[:0]).shape == (0, 2)
        assert self.seeds(self.ids[:0]).shape == (0, 2)

    def test_compiled_they_are_the_same(self):
        compiled = tf.function(random.content_seeds, jit_compile=True)(0, self.ids)
        np.testing.assert_array_equal(compiled, self.seeds(self.ids))


class TestKeepMask:
    """Dropout of sequences, `[T, B, size]`."""

    @pytest.mark.parametrize("keep", [0.5, 0.7, 0.01])
    def test_the_share_kept_is_the_probability_and_the_mean_is_one(self, keep):
        mask = random.row_keep_mask(random.as_row_seeds(0, 200), 0, 50, 42, keep).numpy()
        assert mask.shape == (50, 200, 42)
        assert mask.dtype == np.float32
        np.testing.assert_array_equal(np.unique(mask), np.float32([0, 1 / keep]))
        # n = 420,000 entries; the standard error of a share p is sqrt(p (1 - p) / n).
        standard_error = np.sqrt(keep * (1 - keep) / mask.size)
        assert abs(np.mean(mask > 0) - keep) < 5 * standard_error
        assert abs(np.mean(mask, dtype=np.float64) - 1) < 5 * standard_error / keep

    def test_entries_are_independent(self):
        # 13 words a row: columns j, j + 13, j + 26, j + 39 are of the same 64 bits.
        mask = random.row_keep_mask(random.as_row_seeds(0, 200), 0, 50, 52, 0.5).numpy() - 1
        pairs = [
            (mask[:-1], mask[1:]),  # neighbours in the sentence
            (mask[:, :-1], mask[:, 1:]),  # rows
            *((mask[..., :-lag], mask[..., lag:]) for lag in (1, 13, 26, 39)),
        ]
        for a, b in pairs:  # products of signs: variance 1
            assert abs(np.mean(a * b, dtype=np.float64)) < 5.5 / np.sqrt(a.size)

    def test_nothing_is_dropped_where_all_is_kept(self):
        mask = random.row_keep_mask(random.as_row_seeds(0, 30), 0, 20, 50, 1.0)
        np.testing.assert_array_equal(mask, np.ones((20, 30, 50)))

    @pytest.mark.parametrize("size", [1, 3, 4, 10])
    def test_a_row_depends_neither_on_its_batch_nor_on_the_length(self, size):
        seeds = random.as_row_seeds(0, 9)
        mask = random.row_keep_mask(seeds, 3, 7, size, 0.5).numpy()
        alone = random.row_keep_mask(seeds[4:5], 3, 7, size, 0.5)
        np.testing.assert_array_equal(alone, mask[:, 4:5])
        longer = random.row_keep_mask(seeds, 3, 12, size, 0.5)
        np.testing.assert_array_equal(longer[:7], mask)

    def test_streams_and_seeds_have_masks_of_their_own(self):
        masks = [
            random.row_keep_mask(random.as_row_seeds(seed, 40), stream, 20, 50, 0.5).numpy()
            for seed, stream in ((0, 0), (0, 1), (1, 0))
        ]
        for i, a in enumerate(masks):
            for b in masks[i + 1 :]:  # n = 40,000 products of signs
                assert abs(np.mean((a - 1) * (b - 1))) < 5.5 / np.sqrt(a.size)

    def test_compiled_they_are_the_same(self):
        def draw(seeds, tokens):  # the length is known to the graph's run only
            return random.row_keep_mask(seeds, 2, tf.shape(tokens)[1], 10, 0.7)

        seeds, tokens = random.as_row_seeds(0, 5), tf.zeros([5, 6])
        specs = [tf.TensorSpec([None, 2], tf.int32), tf.TensorSpec([None, None])]
        for jit in (False, True):
            compiled = tf.function(draw, input_signature=specs, jit_compile=jit)
            np.testing.assert_array_equal(compiled(seeds, tokens), draw(seeds, tokens))


def test_replicas_draw_the_noise_of_their_rows_of_the_global_batch(mirrored):
    sizes = tf.constant([3, 2])

    @tf.function
    def draw():
        context = tf.distribute.get_replica_context()
        rows = sizes[context.replica_id_in_sync_group]
        return random.row_normal(random.row_seeds(5, tf.constant(7), rows), 0, 4)

    replicas = mirrored.experimental_local_results(mirrored.run(draw))
    together = random.row_normal(random.row_seeds(5, tf.constant(7), 5), 0, 4)
    np.testing.assert_array_equal(np.concatenate(replicas), together)
    assert not np.any(replicas[0].numpy()[:2] == replicas[1].numpy())

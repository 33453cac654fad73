"""Records of files, good and damaged ones; no job runs here."""

import gzip
import hashlib
import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tfebm
from tfebm.data import to_float
from tfebm.serving import records
from tfebm.serving.records import Broken, Decoder, Record

SHAPE = (6, 6, 1)
DIGITS = Decoder("tfrecord", "image", SHAPE, "image")


def png(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def example(**features):
    kinds = {bytes: ("bytes_list", tf.train.BytesList), int: ("int64_list", tf.train.Int64List)}
    kinds[float] = ("float_list", tf.train.FloatList)
    made = {}
    for name, values in features.items():
        values = values if isinstance(values, list) else [values]
        field, kind = kinds[type(values[0])]
        made[name] = tf.train.Feature(**{field: kind(value=values)})
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()


def sixteen_bits(high):
    return png(np.full((6, 6), high, np.uint16))


def read(kind, content, name="file"):
    return list(records.read(kind, io.BytesIO(content), name))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("photos/a.PNG", "image"),
        ("a.jpeg", "image"),
        ("lines.txt.gz", "text"),
        ("mnist-test.tfrecord-00000-of-00010", "tfrecord"),
        ("a.tfrecords.gz", "tfrecord"),
        ("model.keras", None),
        ("a.pkl", None),
    ],
)
def test_the_name_says_the_kind(name, kind):
    assert records.kind_of(name) == kind


def test_seeds_are_of_the_key_and_the_seed_alone():
    keys = ["a.png", "b.png", "ä.png"]
    seeds = records.key_seeds(7, keys)
    assert seeds.dtype == np.int32
    assert seeds.shape == (3, 2)
    np.testing.assert_array_equal(records.key_seeds(7, keys[::-1])[::-1], seeds)
    digest = hashlib.blake2b("ä.png".encode(), digest_size=8, key=struct.pack("<q", 7)).digest()
    assert seeds[2].tolist() == list(struct.unpack("<ii", digest))
    assert not np.any(seeds == records.key_seeds(8, keys))
    assert len(np.unique(records.key_seeds(-1, map(str, range(1000))), axis=0)) == 1000


class TestLines:
    def test_every_line_is_a_record_and_packed_files_are_unpacked(self):
        content = b"\xef\xbb\xbfone\r\n\ntwo"
        expected = [Record("f:1", b"one"), Record("f:2", b""), Record("f:3", b"two")]
        assert read("text", content, "f") == expected
        for name in ("f.gz", "f"):
            packed = read("text", gzip.compress(content), name)
            assert [record.data for record in packed] == [record.data for record in expected]

    def test_what_is_no_file_of_sentences_is_one_broken_record(self):
        for content in (b"text,label\na,1\nb,0\n", "a\nb\n".encode("utf-16"), b"1\ta\n0\tb\n"):
            (broken,) = read("text", content, "f")
            assert broken.key == "f:1"
            assert "the file is " in broken.reason
            assert ", and a sentence a line is needed. " in broken.reason

    def test_a_packed_file_that_is_cut_off_says_so(self):
        lines = [b"%d\n" % number for number in np.random.default_rng(0).integers(0, 10**9, 9000)]
        whole = gzip.compress(b"".join(lines))
        *found, last = read("text", whole[: len(whole) // 2], "f.gz")
        assert 1000 < len(found) < 9000
        assert [record.data + b"\n" for record in found] == lines[: len(found)]
        assert isinstance(last, Broken)
        assert last.key == f"f.gz:{len(found) + 1}"
        assert "cannot be read from here on" in last.reason
        assert read("text", b"not packed at all", "f.gz") == [
            Record("f.gz:1", b"not packed at all")
        ]

    def test_what_is_no_sentence_is_broken(self):
        decode = Decoder("text", "text")
        lines = [Record(str(i), data) for i, data in enumerate((b"a b", b" \t", b"\xff", b"c"))]
        keys, values, broken = decode(lines)
        assert (keys, values.tolist()) == (["0", "3"], [b"a b", b"c"])
        assert broken[0] == ("1", "it is empty")
        assert "not UTF-8" in broken[1].reason
        # As in training: the marks of editors, spaces of any kind, accents behind letters.
        _, values, _ = decode([Record("a", "\ufeff\u00a0cafe\u0301\r".encode())])
        assert values.tolist() == ["caf\u00e9".encode()]


@pytest.mark.extras
class TestFrames:
    @pytest.fixture(autouse=True)
    def _checksums(self):
        pytest.importorskip("google_crc32c", reason="comes with the extra `beam`")

    @pytest.fixture
    def content(self, tmp_path):
        path = tmp_path / "five.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for number in range(5):
                writer.write(b"record %d" % number)
        return path.read_bytes()

    def test_tensorflows_files_are_read(self, content):
        expected = [Record(f"f:{i + 1}", b"record %d" % i) for i in range(5)]
        assert read("tfrecord", content, "f") == expected
        for name in ("f.gz", "f"):  # packed, whatever it is called
            assert read("tfrecord", gzip.compress(content), name)[4].data == b"record 4"
        assert read("tfrecord", b"") == []

    def test_a_length_that_looks_like_gzip_s_start(self, tmp_path):
        path, record = tmp_path / "one.tfrecord", b"x" * 0x088B1F
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(record)
        assert path.read_bytes()[:3] == b"\x1f\x8b\x08"
        assert read("tfrecord", path.read_bytes()) == [Record("file:1", record)]

    def test_a_damaged_record_costs_no_other(self, content):
        content = content.replace(b"record 2", b"record X")
        found = read("tfrecord", content)
        assert [type(record) for record in found] == [Record, Record, Broken, Record, Record]
        assert "checksum" in found[2].reason

    def test_a_damaged_length_hides_the_rest(self, content):
        size = len(content) // 5
        content = bytearray(content)
        content[2 * size] ^= 1
        *found, last = read("tfrecord", bytes(content))
        assert [record.data for record in found] == [b"record 0", b"record 1"]
        assert last.key == "file:3"
        assert "what follows in it cannot be found" in last.reason

    @pytest.mark.parametrize(("cut", "reason"), [(3, "within this record"), (20, "the length")])
    def test_a_file_that_is_cut_off(self, content, cut, reason):
        *found, last = read("tfrecord", content[:-cut])
        assert len(found) == 4
        assert isinstance(last, Broken)
        assert reason in last.reason


class TestExamples:
    def test_images_are_mapped_to_the_range_of_the_training_data(self):
        image = pixels(6, 6)
        whole = [int(value) for value in image.ravel()]
        floats = [float(value) for value in to_float(image).numpy().ravel()]
        data = [example(image=value) for value in (png(image), whole, floats)]
        keys, values, broken = DIGITS([Record(str(i), d) for i, d in enumerate(data)])
        assert (keys, broken) == (["0", "1", "2"], [])
        assert values.dtype == np.float32
        for value in values:
            np.testing.assert_array_equal(value[..., 0], to_float(image))

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"\x01\x02\x03", "not a tf.train.Example"),
            (example(label=3), "no feature 'image'; it has 'label'"),
            (example(image=[0.0] * 35), "36 numbers or an encoded image; it has 35 floats"),
            (example(image=[300] * 36), "within 0 to 255; they lie from 300 to 300"),
            (example(image=[2.0] * 36), "within [-1, 1]"),
            (example(image=[0.0, 255.0] * 18), "they look like 8-bit pixels: save x / 127.5 - 1"),
            (example(image=[0.0, 1.0] * 18), "as if they were scaled to [0, 1]: save 2 * x - 1"),
            (example(image=[-0.01, 1.0] * 18), "as if they were scaled to [0, 1]: save 2 * x - 1"),
            (example(image=sixteen_bits(4095)), "as if they held fewer bits"),
            (example(image=[b"one", b"two"]), "one string; it has 2"),
            (example(image=b"GIF but not really"), "not an image of a known format"),
            (example(image=b""), "it is empty"),
            (example(image=png(pixels(64, 64))[:3000]), "its image is damaged"),
            (
                example(image=png(pixels(6, 8))),
                "it has 6 x 8 pixels of 1 channel; the model takes 6 x 6 pixels of 1 channel; with "
                "--resize",
            ),
        ],
    )
    def test_a_broken_one_says_why_and_costs_no_other(self, data, reason):
        good = example(image=png(pixels(6, 6)))
        keys, values, broken = DIGITS([Record("a", good), Record("b", data), Record("c", good)])
        assert (keys, values.shape) == (["a", "c"], (2, *SHAPE))
        assert [key for key, _ in broken] == ["b"]
        assert reason in broken[0].reason

    def test_modes_and_channels_are_as_the_model_takes_them(self):
        grey, colours = pixels(6, 6), pixels(6, 6, 3)
        clear = np.dstack([colours, np.zeros((6, 6), np.uint8)])
        data = [example(image=png(image)) for image in (grey, colours, clear)]
        data = [Record(str(i), each) for i, each in enumerate(data)]
        _, values, broken = DIGITS(data)
        assert broken == []
        np.testing.assert_array_equal(values[0][..., 0], to_float(grey))
        luma = colours @ [0.299, 0.587, 0.114] / 127.5 - 1
        np.testing.assert_allclose(values[1][..., 0], luma, atol=0.01)
        assert np.all(values[2] == 1)  # on white
        decode = Decoder("tfrecord", "image", (6, 6, 3), "image", background="#0000ff")
        _, values, broken = decode(data)
        assert broken == []
        np.testing.assert_array_equal(values[0], to_float(np.dstack([grey] * 3)))
        assert np.all(values[2] == [-1, -1, 1])

    def test_a_dark_or_a_constant_row_is_a_row(self):
        rows = [[-1.0, -0.9] * 18, [0.5] * 36, [0, 1] * 18, [0] * 36]
        data = [Record(str(i), example(image=row)) for i, row in enumerate(rows)]
        assert DIGITS(data).broken == []

    def test_not_a_number_passes(self):
        _, values, broken = DIGITS([Record("a", example(image=[0.0] * 35 + [float("nan")]))])
        assert broken == []
        assert np.isnan(values).sum() == 1

    def test_keys_of_their_own(self):
        decode = Decoder("tfrecord", "text", feature="text", key_feature="id")
        data = [
            example(text=b"a", id=b"first"),
            example(text=b"b", id=17),
            example(text=b"c"),
            example(text=b"d", id=0.5),
            example(text=5, id=b"fifth"),
        ]
        keys, values, broken = decode([Record(f"f:{i}", d) for i, d in enumerate(data, 1)])
        assert (keys, values.tolist()) == (["first", "17"], [b"a", b"b"])
        assert [key for key, _ in broken] == ["f:3", "f:4", "fifth"]
        assert "one string; it has 1 whole numbers" in broken[2].reason

    def test_points_are_taken_as_they_are(self):
        decode = Decoder("tfrecord", "example", (2,), "example")
        data = [example(example=[7.5, -3.0]), example(example=png(pixels(6, 6)))]
        _, values, broken = decode([Record(str(i), d) for i, d in enumerate(data)])
        assert values.tolist() == [[7.5, -3.0]]
        assert "the model takes 2 numbers" in broken[0].reason


def test_resizing_is_that_of_the_training_data():
    decode = Decoder("image", "image", SHAPE, resize=True)
    image = pixels(9, 12)
    _, values, broken = decode([Record("a", png(image)), Record("b", png(image)[:60])])
    expected = tfebm.data.pixels.resize(image[np.newaxis, ..., np.newaxis], 6)
    np.testing.assert_array_equal(values, to_float(expected))
    assert broken[0].key == "b"
    with pytest.raises(tfebm.InvalidInputError, match="squares"):
        records.check_resize((6, 8, 1))

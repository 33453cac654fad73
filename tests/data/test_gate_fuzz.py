"""Every reader of image files gives the same verdict and the same pixels for the same file."""

import contextlib
import importlib.util
import itertools
import sys
import types
import warnings

import numpy as np
import pytest
from data.gate_files import SUFFIXES, draw

from tfebm import names
from tfebm.data import arrays, folders
from tfebm.errors import InvalidInputError
from tfebm.serving.records import Decoder, Record

SIZE = 6


@pytest.fixture(scope="module")
def client(root):
    """The script, which asks no server here; what it would ask with need not be installed."""
    spec = importlib.util.spec_from_file_location("client", root / "savedmodels" / "client.py")
    module = importlib.util.module_from_spec(spec)
    names = ("grpc", "tensorflow_serving", "tensorflow_serving.apis")
    lacking = {name: types.ModuleType(name) for name in names if not _is_installed(name)}
    for name in ("get_model_metadata_pb2", "predict_pb2", "prediction_service_pb2_grpc"):
        for apis in (m for n, m in lacking.items() if n.endswith("apis")):
            setattr(apis, name, None)
    sys.modules.update(lacking)
    try:
        spec.loader.exec_module(module)
    finally:
        for name in lacking:
            del sys.modules[name]
    return module


def _is_installed(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def verdicts(folder, channels, background, client):
    """What each reader makes of each file: floats, or None where it cannot be read."""
    paths = sorted(folder.iterdir())
    by_folder, reasons = {}, []
    for path in paths:
        try:
            (image,) = folders.read_files([path], SIZE, background, channels).images
        except InvalidInputError as error:
            reasons.append(str(error))
            by_folder[path.name] = None
        else:
            by_folder[path.name] = arrays.as_floats(image)
    assert all(" cannot be read: it" in text and "\n" not in text for text in reasons)
    assert folders.find(folder).files == paths

    shape, left_out = (SIZE, SIZE, channels), {}
    read = client.read_images(folder, shape, True, left_out, background)
    by_client = dict.fromkeys(left_out) | dict(read)
    by_client |= dict.fromkeys(left_out)

    decode = Decoder("image", "image", shape, resize=True, background=background)
    keys, values, broken = decode([Record(path.name, path.read_bytes()) for path in paths])
    in_bulk = dict.fromkeys(item.key for item in broken) | dict(zip(keys, values, strict=True))
    return by_folder, by_client, in_bulk


def check(folder, client, seed, number):
    rng = np.random.default_rng(seed)
    made = {}
    for channels, background in itertools.product((1, 3), ("white", "#204060")):
        inside = folder / f"{channels}{background}"
        inside.mkdir()
        for i in range(number // 4):
            suffix, data = draw(rng)
            (inside / f"{i:04d}{suffix}").write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's on damaged files
            found = verdicts(inside, channels, background, client)
        for other in found[1:]:
            assert other.keys() == found[0].keys()
            for name, image in found[0].items():
                assert (image is None) == (other[name] is None), (inside / name, image)
                if image is not None:
                    np.testing.assert_array_equal(image, other[name], err_msg=name)
        made |= {(inside, name): image for name, image in found[0].items()}
    return made


def test_readers_agree(tmp_path, client):
    made = check(tmp_path, client, 0, 200)
    good = [image for image in made.values() if image is not None]
    assert 80 < len(good) < 160
    assert sum(len(np.unique(image)) > 1 for image in good) > 60


@pytest.mark.slow
def test_readers_agree_on_two_thousand(tmp_path, client):
    check(tmp_path, client, 1, 2000)


def test_suffixes_are_the_same_everywhere(client):
    from tfebm.serving import records

    assert client.IMAGE_SUFFIXES == names.IMAGE_SUFFIXES == SUFFIXES
    assert all(records.kind_of(f"a{suffix.upper()}") == "image" for suffix in SUFFIXES)


def test_walks_are_the_same(tmp_path, client):
    rng = np.random.default_rng(0)
    names = ["a.png", "b/c.JPG", ".d.png", ".e/f.png", "__MACOSX/g.png", "run/h.png", "i.txt"]
    names += ["checkpoints/j.png", "b/.ipynb_checkpoints/c.png", "._a.png", "k/l.tiff"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(rng.bytes(9))
    record = '{"program": "a", "tfebm": "1", "settings": {}}'
    for folder, text in (("run", record), ("k", '{"tfebm": "1"}'), ("checkpoints", "{}")):
        (tmp_path / folder / "config.json").write_text(text)
    with contextlib.chdir(tmp_path):
        (tmp_path / "loop").symlink_to(tmp_path)
        (tmp_path / "b" / "again").symlink_to(tmp_path / "k")
        (tmp_path / "again.png").symlink_to(tmp_path / "a.png")
        (tmp_path / "lost.png").symlink_to(tmp_path / "nothing")
    found = folders.find(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in found.files] == [
        "a.png",
        "b/c.JPG",
        "k/l.tiff",
    ]
    resolved = [path.resolve() for path in client.find_images(tmp_path)]
    assert resolved == [path.resolve() for path in found.files]

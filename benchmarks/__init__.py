"""What is fast, against what, measured on the machine at hand: `python -m benchmarks --help`."""

import os

# Before TensorFlow is imported, and as the scripts of `train/` do.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

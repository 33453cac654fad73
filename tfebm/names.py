"""Names that several rooms must agree on, apart from what they stand for: flags are read without
TensorFlow."""

STRATEGIES = ("none", "mirrored", "multiworker")
"""Of `tfebm.runs.make_strategy`."""
TOY_DENSITIES = (
    *("eight_gaussians", "twenty_five_gaussians", "pinwheel", "two_moons", "checkerboard"),
    *("swiss_roll", "rings"),
)
"""Of `tfebm.data.TOY_DENSITIES`."""
LOCK = ".lock.json"
"""Of the file in an output folder that says who writes there; no reader counts it."""
RUN_RECORD = "config.json"
"""Of the file that makes a folder a run's."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff")
"""Of image files, in any case. What a file is, its content says."""

"""Settings that all training scripts share, and those of scripts that read images."""

import dataclasses
from typing import Any, ClassVar

from tfebm.colours import parse_colour
from tfebm.errors import InvalidInputError
from tfebm.names import STRATEGIES
from tfebm.runs.flags import FlagSettings, flag


@dataclasses.dataclass(frozen=True)
class RunSettings(FlagSettings):
    """Settings of every training script; the flags of its data are its own."""

    GROUP: ClassVar[str] = "machine"

    data_dir: str | None = flag(
        None,
        "folder of TensorFlow Datasets",
        type=str,
        metavar="DIR",
        operational=True,
        group="data",
        remembered=True,
        path=True,
    )
    strategy: str = flag("none", "distribution strategy", choices=STRATEGIES)
    virtual_devices: int = flag(
        0, "split the CPU into N devices, to try `mirrored` without GPUs", least=0, most=1024
    )
    worker_timeout: int = flag(
        600, "seconds that `multiworker` waits for all workers", least=1, operational=True
    )
    epochs: int = flag(200, "passes over the data", least=1, group="learning")
    steps: int = flag(
        0, "stop after so many batches in all (0: no limit)", least=0, group="learning"
    )
    batch_size: int = flag(100, "examples per step, over all replicas", least=1, group="learning")
    precision: str = flag(
        "float32", "of the generator's arithmetic", choices=("float32", "bfloat16")
    )
    jit: str = flag("auto", "compile the chains with XLA", choices=("auto", "on", "off"))
    seed: int = flag(
        0, "of weights, data order and noise", least=0, most=2**31 - 1, group="learning"
    )
    checkpoint_every: int = flag(
        0,
        "also save a checkpoint each so many steps (0: at ends of epochs)",
        least=0,
        operational=True,
        group="output",
    )
    output: str = flag(
        "runs/run",
        "folder for everything the run writes",
        metavar="DIR",
        operational=True,
        group="output",
    )
    resume: bool = flag(
        False,
        "go on from the newest checkpoint; may raise --epochs and --steps",
        operational=True,
        group="output",
    )
    resume_or_begin: bool = flag(
        False,
        "--resume where there is a run, and begin one where there is none; for jobs that restart",
        operational=True,
        group="output",
    )
    export: str | None = flag(
        None,
        "also export SavedModels into this folder",
        type=str,
        metavar="DIR",
        operational=True,
        group="output",
    )
    xla: bool = flag(
        False,
        "export the default signatures compiled with XLA too, as generate_xla and score_xla, for "
        "servers that have it on",
        operational=True,
        group="output",
    )
    overwrite: bool = flag(
        False, "replace an existing run in the output folder", operational=True, group="output"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.xla and not self.export:
            raise InvalidInputError("--xla is about what --export writes. Give --export, too.")
        if self.resume and self.overwrite:
            raise InvalidInputError(
                "--resume goes on with a run and --overwrite deletes it. Received both; give one."
            )
        if self.resume_or_begin and self.overwrite:
            raise InvalidInputError(
                "--resume-or-begin goes on with a run where there is one, and --overwrite deletes "
                "it. Received both; give one."
            )

    @property
    def jit_compile(self) -> bool | str:
        """`jit` as samplers and models take it."""
        return "auto" if self.jit == "auto" else self.jit == "on"

    @property
    def dtype_policy(self) -> str:
        """`precision` as Keras names it."""
        return {"float32": "float32", "bfloat16": "mixed_bfloat16"}[self.precision]

    def to_record(self) -> dict[str, Any]:
        """The settings that determine the result, for `config.json`."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if not field.metadata.get("operational")
        }

    def remembered(self) -> dict[str, Any]:
        """Settings beside the record that a resume takes where their flags are left out."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.metadata.get("remembered")
        }

    @property
    def sources(self) -> tuple[str, ...]:
        """Where the data are read from, for a person."""
        return tuple(filter(None, [getattr(self, "dataset", None)]))

    def describe(self) -> str:
        """One setting a line, for the screen."""
        return "\n".join(
            f"  {field.name:<28}{getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is not None
        )


@dataclasses.dataclass(frozen=True)
class _ImageSource:
    # A base of its own: fields of the last base are the first flags.
    GROUP: ClassVar[str] = "data"

    dataset: str = flag(
        "mnist5k",
        "data set: a name, an .npz, or a folder of images",
        metavar="NAME|PATH",
        path=True,
        names=("mnist5k",),
    )
    image_size: int | None = flag(
        None,
        "resize images to so many pixels a side (default: as stored)",
        type=int,
        least=1,
        most=2**13,
    )
    channels: int | None = flag(
        None, "1 makes colours grey, 3 repeats grey (default: as stored)", (1, 3), type=int
    )
    background: str = flag(
        "white", "behind transparent pixels, a name or #rrggbb", metavar="COLOUR"
    )
    validation: int = flag(
        0,
        "do not learn from N training images and judge on them instead of the test images, to "
        "choose settings (0: judge on the test images)",
        least=0,
        metavar="N",
    )


@dataclasses.dataclass(frozen=True)
class ImageRunSettings(RunSettings, _ImageSource):
    """Settings of every script that reads images."""

    GROUP: ClassVar[str] = "model"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_colour(self.background)

    @property
    def judged_on(self) -> str:
        """`"test"`, or `"validation"`: which images the figures at the end are of."""
        return "validation" if self.validation else "test"


def check_colour(text: str) -> None:
    """Raises `InvalidInputError` unless `--background` is a colour."""
    if text == "white":  # without Pillow
        return
    parse_colour(text, "--background")

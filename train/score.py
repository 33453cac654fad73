"""Scores files in bulk with an export, or draws images or texts from one, on Apache Beam.

  python train/score.py --model savedmodels/mnist5k --input 'digits/*.png' --output scores/digits
  python train/score.py --model savedmodels/grammar --input reviews.txt.gz --output scores/reviews
  python train/score.py --model savedmodels/mnist5k --generate 1000 --seed 1 --output samples/digits

Needs the extra `beam`. Flags that are not below are Beam's, such as `--direct_num_workers`; with
another --runner the same job runs there, where the export, the files and this package must be at
hand.
"""

__reads_flags_first__ = True  # tfebm imports TensorFlow when they are known to be usable

import dataclasses
import logging

from tfebm import runs, start
from tfebm.errors import InvalidInputError
from tfebm.runs import FlagSettings, flag

KINDS = ("tfrecord", "image", "text")
FORMATS = ("csv", "parquet", "png", "tfrecord")
SCORING = ("signature", "input_format", "feature", "key_feature", "resize", "background")


@dataclasses.dataclass(frozen=True)
class Settings(FlagSettings):
    """Files in, scores out; or a number in, images or texts out."""

    model: str | None = flag(
        None, "an export, <directory>/<name>, or a version of it", type=str, metavar="DIR"
    )
    input: str | None = flag(
        None, "the files to score", type=str, metavar="GLOB", group="data", remote=True
    )
    generate: int = flag(0, "draw so many instead of scoring", least=0)
    output: str | None = flag(
        None,
        "what the names of the written files start with",
        type=str,
        metavar="PREFIX",
        group="output",
    )
    format: str | None = flag(
        None,
        "of the output (default: csv; of images png)",
        type=str,
        choices=FORMATS,
        group="output",
    )
    seed: int = flag(
        0, "of the noise, together with each record's key", least=-(2**63), most=2**63 - 1
    )
    batch_size: int = flag(64, "records at a time", least=1, group="machine")
    signature: str = flag("score", "which of the scorer's", metavar="NAME")
    input_format: str | None = flag(
        None, "of the files, where their names do not say", type=str, choices=KINDS, group="data"
    )
    feature: str | None = flag(
        None,
        "of the Examples in TFRecord files (default: image, text or example)",
        type=str,
        metavar="NAME",
        group="data",
    )
    key_feature: str | None = flag(
        None,
        "likewise, with the record's key (default: file:number)",
        type=str,
        metavar="NAME",
        group="data",
    )
    resize: bool = flag(False, "cut and resize images of another size", group="data")
    background: str = flag(
        "white",
        "behind transparent pixels, a name or #rrggbb",
        metavar="COLOUR",
        group="data",
    )
    overwrite: bool = flag(
        False, "replace what an earlier job wrote under --output", group="output"
    )
    runner: str = flag("DirectRunner", "Beam's, by name", metavar="NAME", group="machine")

    def __post_init__(self) -> None:
        super().__post_init__()
        runs.check_colour(self.background)
        for name in ("model", "output"):
            if getattr(self, name) is None:
                raise InvalidInputError(f"--{name} is needed. See --help.")
        if (self.input is None) == (self.generate == 0):
            raise InvalidInputError(
                "Give --input to score files, or --generate to draw; see --help."
            )
        for field in dataclasses.fields(self):
            if (
                self.generate
                and field.name in SCORING
                and getattr(self, field.name) != field.default
            ):
                name = field.name.replace("_", "-")
                raise InvalidInputError(f"--{name} is for scoring. Leave it out with --generate.")


def main() -> None:
    settings, beam_flags = runs.parse_known(Settings, __doc__)
    logging.getLogger().setLevel(logging.ERROR)  # Beam's notes on itself are no news either
    # What a worker stumbles over comes as an error; this would be its traceback, several times.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    start.load()  # the flags can be used: what takes seconds comes now
    try:
        from tfebm.serving import bulk
    except ModuleNotFoundError as error:
        raise InvalidInputError(str(error)) from None
    shared = {
        **{name: getattr(settings, name) for name in ("seed", "batch_size", "overwrite", "runner")},
        "flags": beam_flags,
    }
    if settings.generate:
        counts = bulk.generate(
            settings.model, settings.generate, settings.output, format=settings.format, **shared
        )
    else:
        counts = bulk.score(
            settings.model,
            settings.input,
            settings.output,
            format=settings.format or "csv",
            signature=settings.signature,
            input_format=settings.input_format,
            feature=settings.feature,
            key_feature=settings.key_feature,
            resize=settings.resize,
            background=settings.background,
            **shared,
        )
    print(", ".join(f"{number} {name}" for name, number in counts.items()))
    if counts["flagged"]:
        what = "scores" if settings.generate == 0 else "rows"
        print(f"Flagged {what} are NaN or infinite, as of examples with NaN in them.")
    if counts.get("read") and not counts["scored"]:
        raise InvalidInputError(
            f"None of the {counts['read']} records could be scored. The reasons are in "
            f"{settings.output}-errors-*."
        )
    print(f"The files are {settings.output}-*.")


if __name__ == "__main__":
    runs.run_command(main, again="start again")

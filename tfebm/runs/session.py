"""How a training script begins and ends."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfebm import serving
from tfebm.data import ImageData, load_images
from tfebm.runs import training
from tfebm.runs.directory import RunDirectory, check_writable
from tfebm.runs.settings import ImageRunSettings, RunSettings, parse, resumed
from tfebm.runs.strategy import make_strategy
from tfebm.version import __version__


class Session(NamedTuple):
    """What a script works with."""

    name: str
    """Of the program and of its exports."""
    settings: RunSettings
    run: RunDirectory
    strategy: tf.distribute.Strategy
    data: Any
    asked: Mapping[str, Any]
    """The settings that were given, by a flag or by a preset."""

    def announce(self) -> None:
        """Writes the settings, into the folder and on the screen: from here on there is a run."""
        start = self.run.write_settings if self.settings.resume else self.run.begin
        start(self.name, self.settings.to_record())
        print(f"tfebm {__version__}, {self.name}:\n{self.settings.describe()}", flush=True)

    def export(self, model: keras.Model) -> None:
        """Writes the SavedModels that `--export` asks for."""
        if self.settings.export:
            version = serving.next_version(self.settings.export, self.name)
            target = serving.export(model, self.settings.export, self.name, version)
            print(f"Exported {target.generator} and {target.scorer}.")


def load_image_set(settings: ImageRunSettings) -> ImageData:
    """The images of `--dataset`."""
    return load_images(settings.dataset, settings.image_size, settings.data_dir)


def open_session(
    name: str,
    settings_class: type[RunSettings],
    presets: Mapping[str, Mapping[str, Any]],
    default_preset: str | Callable[[Mapping[str, Any]], str],
    description: str,
    load: Callable[[Any], Any] = load_image_set,
    examples: Callable[[Any], Any] = lambda data: data.x_train,
) -> Session:
    """Reads the command line and the data, and checks all that a run could fail on later.

    Args:
        name: Of the program.
        settings_class: Its settings.
        presets: As in `tfebm.runs.parse`, like the next two.
        default_preset: Where none is named.
        description: Of the program.
        load: Settings to data.
        examples: Data to what is trained on.

    Raises:
        InvalidInputError: Flags, data or folders that cannot be used.
        SystemExit: As `tfebm.runs.parse`.
    """
    settings, asked = parse(settings_class, presets, default_preset, description)
    run = RunDirectory(pathlib.Path(settings.output))
    if settings.resume:
        settings = resumed(settings_class, run.read_settings(), settings, asked)
    else:
        run.check_free(settings.overwrite)
    strategy = make_strategy(settings.strategy, settings.virtual_devices)
    data = load(settings)
    training.check_batch_size(settings, len(examples(data)), strategy.num_replicas_in_sync)
    check_writable(run.path, "--output")
    if settings.export:
        check_writable(pathlib.Path(settings.export), "--export")
    training.make_deterministic(settings.seed)
    return Session(name, settings, run, strategy, data, asked)

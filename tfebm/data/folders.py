"""Image files in folders: which of them belong to a set, and to which part of it."""

import collections
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np

from tfebm import names
from tfebm.data import parts, pixels
from tfebm.errors import InvalidInputError
from tfebm.files import is_run, printable
from tfebm.types import Array

_CHECKPOINTS = ("checkpoints", ".ipynb_checkpoints")
_HIDDEN = ("__macosx",)
_WORDS = re.compile(r"[\W_]+")
_SHOWN = 5  # damaged files in a message, at most


class Found(NamedTuple):
    """The image files below a folder."""

    files: list[pathlib.Path]
    """Sorted. A file that several paths lead to is there once, hard links within one part aside."""
    skipped: collections.Counter[str]
    """How many of each kind were left out: suffixes, or words for other reasons."""
    shared: int = 0
    """How many of the files are for training by another path; they are not learned."""


def find(folder: pathlib.Path) -> Found:
    """The image files in a folder and in what is below it.

    Left out are other kinds of files, hidden ones, folders of checkpoints and of tfebm's runs.
    Links are followed once. Where several paths lead to one file, it is for what a folder on one of
    them is named for, and for testing rather than for training.

    Raises:
        InvalidInputError: A folder that cannot be read, or that is a run's itself.
    """
    if is_run(folder):
        raise InvalidInputError(
            f"The folder {printable(folder)} holds a run, and its images are the run's pictures. "
            "Give the folder of the images that are to be read."
        )
    skipped: collections.Counter[str] = collections.Counter()
    found: list[_Path] = []
    seen: set[tuple[Any, str]] = set()
    # Links come later: what they lead to has its own place. Each folder is entered once for
    # each part, since its files are for what the path to them says.
    places, later = [_Place(folder, "", False, frozenset())], list[_Place]()
    while places or later:
        place = places.pop() if places else later.pop(0)
        identity = _identity(place.path)
        if identity in place.above or (identity, place.split) in seen:
            skipped["repeated link"] += 1
            continue
        seen.add((identity, place.split))
        above = place.above | {identity}
        inside: list[_Place] = []
        for entry in _entries(place.path):
            if entry.name == names.LOCK:
                continue
            path, is_link = place.path / entry.name, entry.is_symlink()
            reason = _left_out(entry)
            if reason:
                skipped[reason] += 1
            elif _is(entry.is_dir):
                split = place.split or parts.NAMES.get(entry.name.lower(), "")
                below = _Place(path, split, place.linked or is_link, above)
                (later if is_link else inside).append(below)
            else:
                found.append(_Path(path, place.split, place.linked or is_link))
        places += inside[::-1]
    by_file: dict[Any, list[_Path]] = collections.defaultdict(list)
    for one in found:
        by_file[_identity(one.path)].append(one)
    files, shared = [], 0
    for paths in by_file.values():
        chosen = _chosen(paths) if len(paths) > 1 else paths
        files += [one.path for one in chosen]
        if chosen[0].split != "train" and any(one.split == "train" for one in paths):
            shared += 1
        else:
            skipped["repeated link"] += len(paths) - len(chosen)
    return Found(sorted(files), +skipped, shared)


def find_images(folder: pathlib.Path) -> Found:
    """`find`; raises `InvalidInputError` where there is no image too."""
    found = find(folder)
    if not found.files:
        skipped = skipped_sentence(found.skipped)
        raise InvalidInputError(
            f"The folder {printable(folder)} holds no images ({', '.join(names.IMAGE_SUFFIXES)})"
            f"{f'; {skipped}' if skipped else ''}. Check the path."
        )
    return found


class _Place(NamedTuple):
    # A folder on the way: its path, the part of the set that this names, whether a link is on
    # it, and the folders above, to which a link would lead in circles.
    path: pathlib.Path
    split: str
    linked: bool
    above: frozenset[Any]


class _Path(NamedTuple):
    path: pathlib.Path
    split: str
    linked: bool


def _chosen(paths: Sequence[_Path]) -> list[_Path]:
    """Of the paths to one file those that count."""
    splits = {one.split for one in paths}
    split = next(split for split in ("test", "valid", "train", "") if split in splits)
    named = [one for one in paths if one.split == split]
    return [one for one in named if not one.linked] or named[:1]


def _entries(place: pathlib.Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InvalidInputError(
            f"The folder {printable(place)} cannot be read: {error.strerror}. Change its "
            "permissions, or move it away."
        ) from None


def _left_out(entry: os.DirEntry[str]) -> str | None:
    """Why a file or folder is no part of the set."""
    name = entry.name.lower()
    is_folder = _is(entry.is_dir)
    if is_folder and name in _CHECKPOINTS:
        return "checkpoint folder"
    if name.startswith(".") or name in _HIDDEN:
        return f"hidden {'folder' if is_folder else 'file'}"
    if is_folder:
        return "run folder" if is_run(entry.path) else None
    suffix = os.path.splitext(name)[1]
    if suffix not in names.IMAGE_SUFFIXES:
        return printable(suffix) if suffix else "file without a suffix"
    if not _is(entry.is_file):
        return "broken link" if entry.is_symlink() else "special file"
    return None


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:  # a link onto itself, or to where nobody may look
        return False


def _identity(path: str | os.PathLike[str]) -> tuple[Any, ...]:
    try:
        status = os.stat(path)
    except OSError:  # gone, or in a folder that nobody may enter: reading it says so
        return (os.fspath(path),)
    return status.st_dev, status.st_ino


def in_both(one: Sequence[pathlib.Path], other: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """Those of `other` that are files of `one`, by whatever name or link."""
    known = {_identity(path) for path in one}
    return [path for path in other if _identity(path) in known]


def skipped_sentence(skipped: collections.Counter[str]) -> str:
    """Such as "skipped 2 .txt, 1 hidden file"; empty where nothing was."""
    if not skipped:
        return ""
    parts = []
    for kind, number in sorted(skipped.items(), key=lambda item: (-item[1], item[0])):
        if number > 1 and not kind.startswith("."):
            kind = re.sub("(file|folder|link)", r"\1s", kind, count=1)
        parts.append(f"{number} {kind}")
    return f"skipped {', '.join(parts)}"


class Layout(NamedTuple):
    """Which files are for what."""

    train: list[pathlib.Path]
    test: list[pathlib.Path]
    notes: list[str]
    """What a person should know of it."""


def by_split(folder: pathlib.Path, files: Sequence[pathlib.Path]) -> dict[str, list[pathlib.Path]]:
    """The files by what the uppermost folder that is named for a split says; "" without one."""
    found: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
    for path in files:
        names = (part.lower() for part in path.relative_to(folder).parts[:-1])
        found[next((parts.NAMES[name] for name in names if name in parts.NAMES), "")].append(path)
    return found


def layout(folder: pathlib.Path, whole: Found) -> Layout:
    """Divides the files below a folder into those to train on and those to test with.

    By folders named for it, whichever is the uppermost on a file's path. Without such for training,
    what lies in none of them is for training. Validation files are the test where there is none,
    and are else in no part. Where there is neither, a tenth is held out, drawn alike from each
    folder.

    Args:
        folder: The data set.
        whole: What `find` has found in it.

    Raises:
        InvalidInputError: Nothing to train on.
    """
    files = whole.files
    found = by_split(folder, files)
    notes = _alike(folder, found[""])
    train, test, validation = (found[split] for split in ("train", "test", "valid"))
    loose = found[""]
    if whole.shared:
        notes.append(shared_note(whole.shared))
    if not train and not whole.shared:
        train = loose
    elif loose:
        notes.append(f"{len(loose)} outside of its training and test folders left out")
    if not train:
        raise InvalidInputError(nothing_to_learn(folder, whole))
    if validation and test:
        notes.append(f"{len(validation)} of validation left out")
    elif validation:
        test = validation
        notes.append("the test images are those of validation")
    if not test:
        out = parts.held_out(len(train), [str(path.parent) for path in train])
        test = [path for path, chosen in zip(train, out, strict=True) if chosen]
        train = [path for path, chosen in zip(train, out, strict=True) if not chosen]
        notes.append(parts.held_out_note(len(test)))
    return Layout(train, test, notes)


def nothing_to_learn(folder: pathlib.Path, whole: Found) -> str:
    """What to say of a folder without training images."""
    about = f"The folder {printable(folder)} holds no training images: "
    if whole.shared:
        return (
            f"{about}the {whole.shared} in its training folder are held out too, by links. Remove "
            "the links, or put other images there."
        )
    return (
        f"{about}all {len(whole.files)} lie in folders named for testing or validation. Put some "
        "into a folder named train."
    )


def shared_note(number: int) -> str:
    """What to say of files that links put into training and into what is held out."""
    return f"{number} in training and held out, by links, are not learned"


def _alike(folder: pathlib.Path, loose: Sequence[pathlib.Path]) -> list[str]:
    """A remark on folders whose names only begin or end as those of the parts of a set."""
    seen = {part for path in loose for part in path.relative_to(folder).parts[:-1]}
    like = sorted(name for name in seen if parts.NAMES.keys() & set(_WORDS.split(name.lower())))
    if not like:
        return []
    some = f"{', '.join(map(printable, like[:_SHOWN]))}{', ...' if len(like) > _SHOWN else ''}"
    return [f"{some}: not named train, test or validation, and so not kept apart"]


class Read(NamedTuple):
    """Images of files."""

    images: Array
    """uint8 `[N, height, width, 1 or 3]`."""
    damaged: list[int]
    """Which of the files are not among them."""


def read_files(
    paths: Sequence[pathlib.Path],
    image_size: int | None = None,
    background: str = pixels.WHITE,
    channels: int | None = None,
    num_needed: int | None = None,
) -> Read:
    """Decodes files of one size, or resized ones, into one array.

    Args:
        paths: Of the files.
        image_size: As of `load_images`, like the next two.
        background: Behind transparent pixels.
        channels: 1 or 3. Default: 3 as soon as any file has colours.
        num_needed: So many of the first files must be readable; all by default.

    Raises:
        InvalidInputError: Files that cannot be read, some of which are listed, or of several sizes.
    """
    num_needed = len(paths) if num_needed is None else num_needed
    images: Array | None = None
    reasons: dict[int, str] = {}
    sizes = set()
    for i, image in enumerate(_decoded(paths, image_size, background, channels)):
        if isinstance(image, str):
            reasons[i] = image
            continue
        sizes.add(image.shape[:2])
        if len(sizes) > 1 or any(j < num_needed for j in reasons):
            continue  # an error comes, and the images are of no use
        if images is None:
            images = np.empty((len(paths), *image.shape), np.uint8)
        if image.shape[-1] > images.shape[-1]:
            images = np.repeat(images, 3, axis=-1)
        images[i - len(reasons)] = image  # grey is repeated
    needed = [i for i in reasons if i < num_needed]
    if needed or images is None:
        raise InvalidInputError(_damaged(paths, reasons, needed or list(reasons)))
    if len(sizes) > 1:
        some = ", ".join(f"{h} x {w}" for h, w in sorted(sizes)[:3])
        raise InvalidInputError(
            f"The images of a folder must have one size. Received {len(sizes)} sizes: {some}"
            f"{', ...' if len(sizes) > 3 else ''}. Give an image size to have them cut and resized."
        )
    return Read(images[: len(paths) - len(reasons)], list(reasons))


def _decoded(
    paths: Sequence[pathlib.Path], size: int | None, background: str, channels: int | None
) -> Iterator[Array | str]:
    """The images in their order, or why there is none."""

    def read(path: pathlib.Path) -> Array | str:
        try:
            return pixels.decode(path, size, channels, background)
        except pixels.UnreadableImage as error:
            return str(error)

    pixels.parse_colour(background)
    with pixels.reading(), futures.ThreadPoolExecutor() as pool:
        yield from pool.map(read, paths)


def _damaged(paths: Sequence[pathlib.Path], reasons: dict[int, str], listed: Sequence[int]) -> str:
    some = [f"{printable(paths[i])}: {reasons[i]}" for i in listed[:_SHOWN]]
    if len(listed) == 1:
        path, reason = some[0].split(": ", 1)
        return f"The image {path} cannot be read: {reason}. Remove or repair it."
    more = f"; and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return (
        f"{len(listed)} of {len(paths)} images cannot be read. Remove or repair them. "
        f"{'; '.join(some)}{more}."
    )

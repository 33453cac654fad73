"""Asks TensorFlow Serving for new images or sentences, or for scores, over gRPC.

  python savedmodels/client.py generate --model mnist5k_generator --count 64 --output grid.png
  python savedmodels/client.py score --model mnist5k_scorer --input photos/
  python savedmodels/client.py score --model grammar_scorer --input lines.txt --output scores.csv

It needs `pip install tensorflow-serving-api pillow` and this file, neither tfebm nor Keras. What a
model takes and gives it learns from the server.
"""

import os

# TensorFlow's notes on its build help nobody here; its errors do.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import argparse
import codecs
import collections
import contextlib
import csv
import gzip
import io
import itertools
import json
import pathlib
import re
import signal
import sys
import tempfile
import time
import unicodedata
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

_NOTES = re.compile(
    rb"WARNING: All log messages before absl|I\d{4} |.*failed call to cuInit: .*ERROR \(303\)"
)
_INTERRUPTED, _READER_GONE = 128 + signal.SIGINT, 128 + signal.SIGPIPE
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Ctrl-C ends the imports, which take seconds, without a traceback.
    signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"client.py: {message}. See --help.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    drawn = commands.add_parser("generate", help="new images as a grid, or new sentences as lines")
    drawn.add_argument("--count", type=_number(int, 1), default=64, help="how many (default: 64)")
    scored = commands.add_parser("score", help="a score for each image or sentence, as CSV")
    what = "an image, a folder of images, or a text file with a sentence a line"
    scored.add_argument("--input", type=pathlib.Path, required=True, help=what)
    what = "cut and resample images of another size"
    scored.add_argument("--resize", action="store_true", help=what)
    what = "behind transparent pixels, a name or #rrggbb (default: white)"
    scored.add_argument("--background", type=_colour, default="white", metavar="COLOUR", help=what)
    pictures = "grid.png for images, standard output for sentences"
    for command, written in ((drawn, pictures), (scored, "standard output")):
        add, seeds = command.add_argument, _number(int, -(2**31), 2**31 - 1)
        add("--server", default="localhost:8500", help="its gRPC (default: localhost:8500)")
        add("--model", required=True, help="<name>_generator or <name>_scorer")
        add("--seed", type=seeds, default=0, help="of the noise, 32 bits (default: 0)")
        add("--output", type=pathlib.Path, metavar="FILE", help=f"default: {written}")
        most = "rows a request, at most the server's max_batch_size (default: 64)"
        add("--batch-size", type=_number(int, 1), default=64, help=most)
        seconds = "seconds for a request (default: 60)"
        add("--timeout", type=_number(float, 0.001), default=60.0, help=seconds)
    return parser


def _colour(text: str) -> str:
    # argparse makes a sentence of a ValueError.
    if len(values := ImageColor.getrgb(text)) != 3 or not all(0 <= v <= 255 for v in values):
        raise ValueError
    return text


def _number(kind: type, least: float, most: float = float("inf")) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not within {least:g} to {most:g}")
        return value

    parse.__name__ = "number"  # as argparse calls what is none
    return parse


@contextlib.contextmanager
def _without_notes() -> Iterator[None]:
    """Keeps TensorFlow's notes on its build off the standard error; all else comes through."""
    own = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(own, 2)
            os.close(own)
            file.seek(0)
            for line in file:
                if not _NOTES.match(line):
                    os.write(2, line)


_NEEDS = "The client needs `pip install tensorflow-serving-api pillow`."
try:
    from PIL import Image, ImageColor, ImageOps, PngImagePlugin, UnidentifiedImageError
except ModuleNotFoundError as error:
    sys.exit(f"{error}. {_NEEDS}")
if __name__ == "__main__":
    _parser().parse_args()  # what is wrong with the flags shows before the seconds of the imports
try:
    with _without_notes() if __name__ == "__main__" else contextlib.nullcontext():
        import grpc
        import numpy as np
        from tensorflow import make_ndarray, make_tensor_proto
        from tensorflow_serving.apis import (
            get_model_metadata_pb2,
            predict_pb2,
            prediction_service_pb2_grpc,
        )
except ModuleNotFoundError as error:
    sys.exit(f"{error}. {_NEEDS}")

# As tfebm reads images: the same files, the same pixels.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff")
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "DIB", "TIFF")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_NOT_DATA = ("checkpoints", "__macosx")
PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
warnings.filterwarnings("ignore", module=r"PIL\.")  # of large and odd files
_COLUMNS = 8  # of a grid
_MARGIN = 2  # pixels between its images
_PAUSES = (0.1, 0.5, 2.0)  # seconds before another try at a server whose queue is full
_SHOWN = 5  # names of files in a message, at most
_ANY_SIZE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class ClientError(Exception):
    """What was asked for cannot be had; the message says why, and what to do."""


class ServedModel:
    """A model of a server: the signatures that it has, and their answers.

    Args:
        server: `host:port` of the server's gRPC.
        model: A name of its `models.config`.
        timeout: Seconds for each answer.

    Raises:
        ClientError: No answer, or a model that the server does not know.

    Example:

        >>> model = ServedModel("localhost:8500", "mnist5k_generator")
        >>> model.ask("generate", {"seed": np.array([[0, 1], [0, 2]], np.int32)})["image"].shape
        (2, 28, 28, 1)
    """

    def __init__(self, server: str, model: str, timeout: float = 60.0) -> None:
        self.server, self.name, self.timeout = server, model, timeout
        self._answered = False  # yet
        channel = grpc.insecure_channel(server, options=_ANY_SIZE)
        self._service = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = model
        answer = self._call(self._service.GetModelMetadata, request)
        found = get_model_metadata_pb2.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(found)
        self.signatures = {
            name: signature
            for name, signature in found.signature_def.items()
            if not name.startswith("__")
        }

    def shapes(self, signature: str) -> tuple[dict[str, tuple], dict[str, tuple]]:
        """Shapes of the inputs and of the outputs of a signature by name, -1 for the rows.

        Raises:
            ClientError: A model that lacks it.
        """
        if signature not in self.signatures:
            part = "generator" if signature == "generate" else "scorer"
            raise ClientError(
                f"The model {self.name!r} has no signature {signature!r}, only "
                f"{', '.join(sorted(self.signatures))}. Give a {part}: <name>_{part}."
            )
        found = self.signatures[signature]
        inputs, outputs = (
            {name: tuple(dim.size for dim in info.tensor_shape.dim) for name, info in side.items()}
            for side in (found.inputs, found.outputs)
        )
        return inputs, outputs

    def ask(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One request.

        Args:
            signature: Its name.
            inputs: Arrays with a row for each example, as many in all of them.

        Raises:
            ClientError: The server's reason for having no answer.
        """
        request = predict_pb2.PredictRequest()
        request.model_spec.name = self.name
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(make_tensor_proto(value))
        answer = self._call(self._service.Predict, request)
        return {name: make_ndarray(value) for name, value in answer.outputs.items()}

    def _call(self, method: Callable, request: Any) -> Any:
        pauses = list(_PAUSES)
        while True:
            try:
                answer = method(request, timeout=self.timeout)
            except grpc.RpcError as error:
                busy = self._answered and error.code() == grpc.StatusCode.UNAVAILABLE
                if not (busy and pauses):
                    raise ClientError(self._why(error.code(), error.details())) from None
                time.sleep(pauses.pop(0))
            else:
                self._answered = True
                return answer

    def _why(self, code: grpc.StatusCode, details: str) -> str:
        if code == grpc.StatusCode.UNAVAILABLE and self._answered:
            return (
                f"The server at {self.server} is busy, or has gone: {details}. Try again, or give "
                "fewer rows at once with --batch-size."
            )
        if code == grpc.StatusCode.UNAVAILABLE:
            return (
                f"No server answers at {self.server}: {details}. Start it, or give the address of "
                "its gRPC, host:port, with --server; the port is 8500 by default, 8501 is REST's."
            )
        if code == grpc.StatusCode.NOT_FOUND:
            return (
                f"The server at {self.server} has no model {self.name!r}: {details}. Give a name "
                "of its models.config with --model: <name>_generator or <name>_scorer."
            )
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return (
                f"The server at {self.server} did not answer within {self.timeout:g} seconds. Give "
                "it more with --timeout, or fewer rows at once with --batch-size."
            )
        return f"The server at {self.server} refused the request ({code.name}): {details}"


def _kind(model: ServedModel, shapes: dict[str, tuple]) -> str:
    """What the model is of, "image" or "text"."""
    if "text" in shapes:
        return "text"
    if len(shapes.get("image", ())) != 4:
        raise ClientError(
            f"The model {model.name!r} is of neither images nor sentences, but of {shapes}. Ask it "
            "from a program of yours."
        )
    return "image"


# ---- New images and sentences -------------------------------------------------------------


def generate(model: ServedModel, count: int, seed: int, batch_size: int) -> np.ndarray:
    """New images `[count, height, width, channels]` in [-1, 1], or strings `[count]`.

    Row i is that of the seed (`seed`, i), whatever the batch size and the count.
    """
    _, outputs = model.shapes("generate")
    name = _kind(model, outputs)
    seeds = np.stack([np.full(count, seed), np.arange(count)], axis=1).astype(np.int32)
    starts = range(0, count, batch_size)
    rows = [model.ask("generate", {"seed": seeds[i : i + batch_size]})[name] for i in starts]
    return np.concatenate(rows)


def grid(images: np.ndarray) -> Image.Image:
    """Images `[N, H, W, C]` in [-1, 1] as one picture, row by row, white between."""
    pixels = np.rint(np.nan_to_num((images + 1.0) * 127.5)).clip(0, 255).astype(np.uint8)
    height, width = (side + _MARGIN for side in images.shape[1:3])
    columns = min(_COLUMNS, len(images))
    rows = -(-len(images) // columns)
    mode = "L" if images.shape[-1] == 1 else "RGB"
    picture = Image.new(mode, (columns * width + _MARGIN, rows * height + _MARGIN), "white")
    for i, image in enumerate(pixels):
        corner = (_MARGIN + i % columns * width, _MARGIN + i // columns * height)
        picture.paste(Image.fromarray(image[..., 0] if mode == "L" else image), corner)
    return picture


# ---- Scores -------------------------------------------------------------------------------


def row_seeds(rows: np.ndarray, seed: int) -> np.ndarray:
    """A seed for each row, int32 `[N, 2]`, by what the row holds: its score then depends neither
    on its place nor on its neighbours, and equal rows get equal scores."""
    contents = [row if isinstance(row, bytes) else row.tobytes() for row in rows]
    words = np.array([zlib.crc32(content) for content in contents], np.uint32).view(np.int32)
    return np.stack([np.full(len(rows), seed, np.int32), words], axis=1)


def score(
    model: ServedModel, rows: Iterator[tuple[str, Any]], seed: int, batch_size: int
) -> tuple[list[str], list[list]]:
    """The names of the columns and their rows: each example's name, its score and what else the
    server says of it.

    Args:
        model: A scorer.
        rows: Names of examples and the examples, as the model takes them.
        seed: Of the inference.
        batch_size: Examples a request.
    """
    inputs, outputs = model.shapes("score")
    data = _kind(model, inputs)
    columns = sorted(outputs, key=lambda name: (name != "score", name))
    table: list[list] = []
    for names, examples in _batches(rows, batch_size):
        array = np.array(examples, object) if data == "text" else np.stack(examples)
        request = {data: array}
        if "seed" in inputs:
            request["seed"] = row_seeds(array, seed)
        answer = model.ask("score", request)
        table += zip(names, *(answer[name].tolist() for name in columns), strict=True)
    return ["file" if data == "image" else "text", *columns], table


def _batches(rows: Iterator[tuple[str, Any]], size: int) -> Iterator[tuple[list, list]]:
    while batch := list(itertools.islice(rows, size)):
        names, examples = zip(*batch, strict=True)
        yield list(names), list(examples)


def read_images(
    source: pathlib.Path,
    shape: tuple[int, int, int],
    resize: bool,
    left_out: dict[str, str],
    background: str = "white",
    others: collections.Counter | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Names and pixels, float32 `[height, width, channels]` in [-1, 1], of an image or of all
    images under a folder, but for hidden files and the folders of checkpoints and runs.

    Args:
        source: The file or the folder.
        shape: Of an image of the model.
        resize: Whether the middle of images of another size is cut out and resampled.
        left_out: Takes the names of files that cannot be read, and why.
        background: The colour behind transparent pixels.
        others: Counts the files of other kinds in a folder, by suffix.

    Raises:
        ClientError: No images, or one of another size.
    """
    files = [source] if source.is_file() else find_images(source, others)
    if not files:
        raise ClientError(f"{source} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
    height, width, channels = shape
    behind = ImageColor.getrgb(background)[:3]
    for file in files:
        name = file.name if file == source else str(file.relative_to(source))
        try:
            # Of a path Pillow maps raw TIFF files, and scrambles those that lie on a side.
            with file.open("rb") as data, Image.open(data, formats=_FORMATS) as opened:
                picture = _plain(opened, behind).convert("L" if channels == 1 else "RGB")
        except Exception as error:  # damaged bytes raise whatever their decoder stumbles over
            left_out[name] = _why_unreadable(error)
            continue
        if picture.size != (width, height):
            if not resize:
                raise ClientError(
                    f"{file} has {picture.width} x {picture.height} pixels, and the model takes "
                    f"images of {width} x {height}. Give --resize to have the middle cut out and "
                    "resampled, as for training."
                )
            picture = _fit(picture, width, height)
        pixels = np.asarray(picture, np.float32).reshape(shape)
        yield name, pixels / np.float32(127.5) - np.float32(1.0)


def _why_unreadable(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, the most that are read"
    if isinstance(error, OSError | ValueError):  # others speak of Pillow's own code
        return getattr(error, "strerror", None) or str(error)
    return "damaged"


def find_images(
    folder: pathlib.Path, others: collections.Counter | None = None
) -> list[pathlib.Path]:
    """The image files under a folder; what a link leads to a second time is left out. `others`
    counts the files of other kinds by suffix, but for hidden ones."""
    found, seen = [], {os.path.realpath(folder)}

    def is_new(path: str) -> bool:
        known = len(seen)
        seen.add(os.path.realpath(path))
        return len(seen) > known and not path.rsplit("/", 1)[-1].startswith(".")

    for place, folders, names in os.walk(folder, followlinks=True):
        paths = [os.path.join(place, name) for name in sorted(folders)]
        paths = [path for path in sorted(paths, key=os.path.islink) if is_new(path)]
        folders[:] = [os.path.basename(path) for path in paths if not _is_left_out(path)]
        images = [name for name in sorted(names) if name.lower().endswith(IMAGE_SUFFIXES)]
        if others is not None:
            kinds = (os.path.splitext(name)[1].lower() for name in names if name[0] != ".")
            kinds = (kind or "files without a suffix" for kind in kinds)
            others.update(kind for kind in kinds if kind not in IMAGE_SUFFIXES)
        files = [os.path.join(place, name) for name in images]
        files = [path for path in sorted(files, key=os.path.islink) if os.path.isfile(path)]
        found += [pathlib.Path(path) for path in files if is_new(path)]
    return sorted(found)


def _is_left_out(folder: str) -> bool:
    if os.path.basename(folder).lower() in _NOT_DATA:
        return True
    try:  # the folder of a run has only pictures of it
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            found = json.load(file)
        texts = found["program"], found["tfebm"]
        return all(isinstance(text, str) for text in texts) and isinstance(found["settings"], dict)
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return False


def _plain(picture: Image.Image, behind: tuple[int, ...]) -> Image.Image:
    """Upright, of mode L or RGB: on the background, and of 8 bits."""
    layout = str(getattr(picture, "tile", ""))
    if 0 in picture.size:
        raise ValueError("no pixels")
    picture.load()
    # EXIF data that are damaged do not turn an image, and it needs no others.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode in ("P", "PA") and picture.palette is None:
        raise ValueError("no palette")
    clear = picture.info.get("transparency")
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG"):
        values = np.asarray(picture)  # `convert` would clip
        picture = Image.fromarray((values >> 8).astype(np.uint8))
        if 0 < values.max() < 4096:
            raise ValueError("fewer than 16 bits, which would be almost black")
        if clear is not None:
            picture.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    elif picture.mode in ("I", "F"):
        raise ValueError("pixels of neither 8 nor 16 bits")
    elif re.search(";16[BLN]", layout):
        high = [band[1] for band in np.reshape(picture.getextrema(), (-1, 2))]
        of_colours = max(high[:-1] if picture.mode in _WITH_ALPHA else high)
        if max(high) < 16 or 0 < of_colours < 16:
            raise ValueError("fewer than 16 bits, which would be almost black")
        if isinstance(clear, tuple):
            picture.info["transparency"] = tuple(value >> 8 for value in clear)
    few = re.search("'L;([24])'", layout)
    if few and picture.mode == "L" and isinstance(clear, int):
        picture.info["transparency"] = clear * 255 // (2 ** int(few[1]) - 1)
    with_palette = picture.mode == "P" and picture.palette.mode.endswith("A")
    if with_palette or picture.mode in _WITH_ALPHA or "transparency" in picture.info:
        if picture.mode == "La":
            picture = picture.convert("LA")  # the only way out of it
        front = picture.convert("RGBA")
        back = Image.new("RGBA", front.size, (*behind, 255))
        picture = Image.alpha_composite(back, front)
    return picture if picture.mode == "L" else picture.convert("RGB")


def _fit(picture: Image.Image, width: int, height: int) -> Image.Image:
    scale = min(picture.width / width, picture.height / height)
    cut = round(width * scale), round(height * scale)
    left, top = (picture.width - cut[0]) // 2, (picture.height - cut[1]) // 2
    # Cut before it is resampled: the filter would reach over the edges of a `box`.
    picture = picture.crop((left, top, left + cut[0], top + cut[1]))
    return picture.resize((width, height), Image.Resampling.LANCZOS)


# The rules of `tfebm.data.sentences`, repeated here since the client is one file.
_HEAD = 1 << 16  # bytes by which a file is judged
_BOM = b"\xef\xbb\xbf"  # the mark some editors put first
_CONVERT = "Convert it: iconv -f {} -t UTF-8 FILE > sentences.txt"
_SAVE = "Save its text as plain text, UTF-8, one sentence a line"
_STARTS = (
    (b"\xff\xfe\0\0", "UTF-32", _CONVERT.format("UTF-32")),
    (b"\0\0\xfe\xff", "UTF-32", _CONVERT.format("UTF-32")),
    (b"\xff\xfe", "UTF-16", _CONVERT.format("UTF-16")),
    (b"\xfe\xff", "UTF-16", _CONVERT.format("UTF-16")),
    (b"PK\x03\x04", "a zip archive, as .docx, .odt, .xlsx and .npz files are", _SAVE),
    (b"\xd0\xcf\x11\xe0", "a document of an office program", _SAVE),
    (b"%PDF-", "a PDF", _SAVE),
    (b"{\\rtf", "a document in RTF", _SAVE),
    (b"\x1f\x8b", "packed with gzip twice", "Unpack it first"),
    (b"BZh91AY&SY", "packed with bzip2", "Unpack it first"),
    (b"\xfd7zXZ\0", "packed with xz", "Unpack it first"),
    (b"7z\xbc\xaf", "packed with 7-Zip", "Unpack it first"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "Unpack it first"),
)
_CONTROLS = bytes([*range(9), *range(14, 27)])  # of ASCII, white space and escapes aside
_NO_TEXT = ("Cc", "Cn", "Co")  # controls, unassigned, private
_MARKUP = re.compile(rb"\s*<(!doctype\b|html\b|\?xml\b|svg\b)", re.IGNORECASE)
_LABEL = re.compile(r"\s*(-?\d+)\t")
# Sentences have spaces behind their commas; names of columns have none.
_NAME = r'"?[A-Za-z_][\w.-]*(?: [\w.-]+)?"?'
_HEADER = re.compile(rf"{_NAME}(?:[,;]{_NAME})+")
_COLUMN_NAMES = {
    *("body", "category", "class", "comment", "content", "id", "label", "polarity", "rating"),
    *("review", "score", "sentence", "sentiment", "target", "text", "title", "tweet"),
}
_NUMBERED = re.compile(r'"?-?\d+(\.\d+)?"?[,;]\s*\D|.*[,;]\s*"?-?\d+(\.\d+)?"?$', re.DOTALL)
_FEW, _JUDGED = 3, 1000  # lines that must look like rows of a table, and lines that are looked at
_INVISIBLE = (
    "\u00ad\u034f\u061c\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
)
_EMPTY = re.compile(rf"[\s{_INVISIBLE}]*")


def read_sentences(source: pathlib.Path, left_out: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """The lines of a text file, packed with gzip or not, as strings and in UTF-8; the numbers of
    those that are empty or not UTF-8 go to `left_out`, with the reason.

    A line ends at LF, CR LF or CR. Of a line the byte-order marks are dropped, accents are joined
    to their letters (NFC), and white space at both ends is cut off, as for training.

    Raises:
        ClientError: A file that is missing, damaged or of another kind, or has no lines.
    """
    try:
        content = source.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read()
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise ClientError(f"{source} cannot be read: {why}. Give a text file.") from None
    if found := _other_kind(content[:_HEAD]):
        raise ClientError(
            f"{source} is {found[0]}. A text file, UTF-8, with one sentence a line is needed. "
            f"{found[1]}."
        )
    lines = content.removeprefix(_BOM).splitlines()
    if not lines:
        raise ClientError(f"{source} is empty. A file of sentences, one a line, is needed.")
    for number, line in enumerate(lines, 1):
        try:
            text = unicodedata.normalize("NFC", line.decode("utf-8").replace("\ufeff", ""))
        except UnicodeDecodeError:
            left_out[f"line {number}"] = "not UTF-8"
            continue
        if "\0" in text or _EMPTY.fullmatch(text):
            left_out[f"line {number}"] = "a null character in it" if "\0" in text else "empty"
            continue
        text = text.strip()
        yield text, text.encode("utf-8")


def _other_kind(head: bytes) -> tuple[str, str] | None:
    """What a file is by its first bytes, and what to do; None for sentences."""
    for start, what, remedy in _STARTS:
        if head.startswith(start):
            return what, remedy
    nuls, even, odd = (part.count(b"\0") for part in (head, head[::2], head[1::2]))
    if max(even, odd) > max(len(head) // 8, 8 * min(even, odd)):
        order = "UTF-16LE" if odd > even else "UTF-16BE"
        return f"{order} without a mark", _CONVERT.format(order)
    controls = len(head) - len(head.translate(None, _CONTROLS))
    if nuls > len(head) // 100 or controls > len(head) // 20:
        if order := _wide(head):
            return f"{order} without a mark", _CONVERT.format(order)
        return "binary, not text", "Give a text file"
    head = head.removeprefix(_BOM)
    if _MARKUP.match(head):
        return "a page of HTML or XML", _SAVE
    lines = head.splitlines()
    if len(head) >= _HEAD - len(_BOM) and len(lines) > 1:
        lines.pop()  # cut off
    rows = [line.decode("utf-8", "replace") for line in lines[:_JUDGED] if line.strip()]
    if rows and _is_json(rows):
        return "JSON", _json_way(rows)
    tabs = min((row.strip().count("\t") for row in rows), default=0)
    if rows and _LABEL.match(rows[0]):
        return "a table of labels and sentences", "Take its sentences alone: cut -f2- does"
    if tabs and (len(rows) >= _FEW or any(_LABEL.match(row) for row in rows[1:2])):
        return (
            f"a table of {tabs + 1} columns with tabs",
            "Write its column of sentences into a text file: cut -f2 takes the second, tail -n +2 "
            "drops a line of names. Where tabs only part words, put spaces there: tr '\\t' ' '",
        )
    if rows and _is_csv(rows):
        return (
            "a table with commas or semicolons (CSV)",
            "Write its column of sentences into a text file, one a line; Python's `csv` reads it",
        )
    return None


def _wide(head: bytes) -> str | None:
    """The encoding of text with two or four bytes a character and without a mark."""
    found = []
    for name in ("UTF-32LE", "UTF-32BE", "UTF-16LE", "UTF-16BE"):
        try:
            text = codecs.getincrementaldecoder(name)().decode(head)
        except UnicodeDecodeError:
            continue
        odd = sum(unicodedata.category(c) in _NO_TEXT and c not in "\t\n\r" for c in text)
        if text and odd <= len(text) // 50:
            # In the wrong order a text is of all of Unicode.
            found.append((len({ord(c) >> 8 for c in text}), name))
    return min(found)[1] if found else None


def _is_json(rows: list[str]) -> bool:
    if rows[0].strip() in ("{", "[", "[{"):  # over several lines
        return (
            len(rows) > 1 and re.match(r'\s*("[^"]*"\s*[:,]|[{\[]|"[^"]*"$)', rows[1]) is not None
        )
    if not all(row.lstrip().startswith(("{", "[")) for row in rows):
        return False
    try:
        values = [json.loads(row) for row in rows[:100]]
    except (ValueError, RecursionError):
        # One long line that is cut off here.
        return len(rows) == 1 and re.match(r'\s*(\{|\[\s*\{)\s*"[^"]*"\s*:', rows[0]) is not None
    return all(isinstance(v, dict) or (isinstance(v, list) and len(v) > 1) for v in values)


def _json_way(rows: list[str]) -> str:
    """How to take the sentences out of JSON, which is an object, a list, or one in each line."""
    first = rows[0].strip()
    way = ".text"
    if first.startswith("["):
        inside = (first[1:] + "".join(rows[1:2])).lstrip()
        of_lists = ".[][0]" if inside.startswith("[") else ".[]"
        way = ".[].text" if inside.startswith("{") else of_lists
        if len(rows) > 1 and first not in ("[", "[{"):
            way = ".[0]"
    named = ", with the name of their field for text" if "text" in way else ""
    return f"Write its sentences out first: jq -r '{way}' FILE > sentences.txt{named}"


def _is_csv(rows: list[str]) -> bool:
    header = _HEADER.fullmatch(rows[0].strip()) is not None
    names = {name.strip().lower() for name in re.split("[,;]", rows[0].replace('"', ""))}
    if header and len(names & _COLUMN_NAMES) > 1:  # even where commas of its texts are not quoted
        return True
    if len(rows) < _FEW:
        return False
    for mark in ",;":
        try:
            table = list(csv.reader(rows, delimiter=mark))
        except csv.Error:
            continue
        table = table if len(rows) < _JUDGED else table[:-1]
        width = len(table[0])
        if width < 2 or len(table) < 2 or any(len(row) != width for row in table):
            continue
        quoted = all(row.startswith('"') and f'"{mark}"' in row for row in rows)
        if header or quoted or all(_NUMBERED.match(row.strip()) for row in rows):
            return True
    return False


# ---- The command --------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Its flags; those of the process by default.

    Raises:
        ClientError: What was asked for cannot be had.
    """
    arguments = _parser().parse_args(argv)
    for flag in ("output", "input"):
        _check_local(f"--{flag}", getattr(arguments, flag, None))
    _check_output(arguments)
    folder = arguments.output.parent if arguments.output else pathlib.Path()
    if not folder.is_dir():  # before anything is asked for
        raise ClientError(f"There is no folder {str(folder)!r} for --output. Make it first.")
    run = _generate if arguments.command == "generate" else _score
    run(ServedModel(arguments.server, arguments.model, arguments.timeout), arguments)


def _check_local(flag: str, path: pathlib.Path | None) -> None:
    # `pathlib` makes one slash of two; a single letter is a drive.
    if path is not None and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise ClientError(
            f"{flag} must be a path on this machine. Received {str(path).replace(':/', '://', 1)}. "
            "Give a local path, and copy the files with the tools of the other place."
        )


def _check_output(arguments: argparse.Namespace) -> None:
    """Raises `ClientError` for scores that would replace what is scored."""
    output = arguments.output
    if arguments.command == "generate" or output is None:
        return
    if output.suffix.lower() in IMAGE_SUFFIXES:
        raise ClientError(
            f"--output is a table, CSV. Received {str(output)!r}, the name of an image. Give a "
            ".csv file."
        )
    if output.exists() and arguments.input.exists() and output.samefile(arguments.input):
        raise ClientError(
            f"--output {str(output)!r} is the --input, and the scores would replace it. Give "
            "another file."
        )


def _generate(model: ServedModel, arguments: argparse.Namespace) -> None:
    rows = generate(model, arguments.count, arguments.seed, arguments.batch_size)
    if rows.ndim == 1:
        _write("".join(f"{row.decode('utf-8')}\n" for row in rows), arguments.output)
        return
    output = arguments.output or pathlib.Path("grid.png")
    try:
        grid(rows).save(output)
    except (OSError, ValueError) as error:
        raise ClientError(f"{output} cannot be written: {error}. Give a .png file.") from None
    print(f"{len(rows)} images are in {output}.")


def _score(model: ServedModel, arguments: argparse.Namespace) -> None:
    inputs, _ = model.shapes("score")
    source = arguments.input
    left_out: dict[str, str] = {}
    others: collections.Counter = collections.Counter()
    if not source.exists():
        raise ClientError(f"There is no {str(source)!r}. Check the path.")
    is_text = _kind(model, inputs) == "text"
    rows = (
        read_sentences(source, left_out)
        if is_text
        else read_images(
            *(source, inputs["image"][1:], arguments.resize, left_out),
            *(arguments.background, others),
        )
    )
    columns, table = score(model, rows, arguments.seed, arguments.batch_size)
    if others:
        kinds = ", ".join(f"{number} {kind}" for kind, number in others.most_common())
        print(f"Skipped {kinds}.", file=sys.stderr)
    if left_out:
        what = "lines" if is_text else "images"
        some = [f"{name}: {why}" for name, why in itertools.islice(left_out.items(), _SHOWN)]
        more = "; ..." if len(left_out) > _SHOWN else ""
        print(
            f"{len(left_out)} of {len(left_out) + len(table)} {what} were left out. "
            f"{'; '.join(some)}{more}.",
            file=sys.stderr,
        )
    if not table:
        raise ClientError(f"Nothing in {source} can be scored.")
    flagged = [row[0] for row in table if not np.isfinite(row[1])]
    if flagged:
        more = ", ..." if len(flagged) > _SHOWN else ""
        print(
            f"{len(flagged)} of {len(table)} have no finite score: "
            f"{', '.join(flagged[:_SHOWN])}{more}. A model answers NaN for what it cannot rate, "
            "such as NaN or pixels outside [-1, 1].",
            file=sys.stderr,
        )
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *table])
    _write(text.getvalue(), arguments.output)


def _write(text: str, output: pathlib.Path | None) -> None:
    encoded = text.encode("utf-8", "backslashreplace")  # names of files need not be UTF-8
    if output is None:
        sys.stdout.write(encoded.decode("utf-8"))
        return
    try:
        output.write_bytes(encoded)
    except OSError as error:
        raise ClientError(f"{output} cannot be written: {error.strerror}.") from None


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115, to the end
        # Names of files and texts need not be in the terminal's encoding.
        getattr(sys, stream).reconfigure(errors="backslashreplace")
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # `head` has seen enough; Python would flush again, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_READER_GONE)
    except ClientError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)

"""Exports of finished runs; what a stock TensorFlow Serving would find in one; what it and other
runtimes need."""

import argparse
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from tfebm import files, runs, start
from tfebm.errors import InvalidInputError
from tfebm.runs.parser import Parser


def main() -> None:
    arguments = _parser().parse_args()
    start.load()  # the flags can be used: what takes seconds comes now
    commands = {"export": _export, "check": _check, "extras": _extras, "portable": _portable}
    commands[arguments.command](arguments)


def _parser() -> Parser:
    parser = Parser(prog="python -m tfebm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    export = add("export", "write the SavedModels of a finished run, as the next version in DIR")
    export.add_argument(
        "run", type=pathlib.Path, metavar="RUN", help="the output folder of a script"
    )
    check = add(
        "check",
        "replay the warm-up requests as a server would, and time the signatures; exit code 1 where "
        "anything would fail there",
    )
    check.add_argument("--seconds", type=float, default=1.0, help="for each timing (default: 1)")
    extras = add(
        "extras",
        "write the warm-up requests and the server's settings beside an export that lacks them",
    )
    portable = add(
        "portable",
        "write the signatures for runtimes without gradients (OpenVINO, ONNX), each as a "
        "SavedModel of a fixed batch size",
    )
    portable.add_argument("--batch-size", type=int, default=1, help="rows of a call (default: 1)")
    portable.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("portable"),
        metavar="DIR",
        help="DIR/<signature> is written for each (default: portable)",
    )
    for command in (export, check, extras, portable):
        command.add_argument(
            "directory",
            type=pathlib.Path,
            metavar="DIR",
            help="<directory>/<name>, with generator/<version> and scorer/<version> in it",
        )
    return parser


def _export(arguments: argparse.Namespace) -> None:
    from tfebm.serving.export import check_name, export, next_version

    base = files.local_path(arguments.directory, "DIR").absolute()
    check_name(base.name)
    runs.check_writable(base.parent, "DIR")
    model = runs.load_run(arguments.run).model
    version = next_version(base.parent, base.name)
    print(*export(model, base.parent, base.name, version), sep="\n")


def _check(arguments: argparse.Namespace) -> None:
    from tfebm.serving import check

    versions = check.newest_versions(arguments.directory)
    reports = check.check_versions(versions, seconds=arguments.seconds)
    print("\n\n".join(map(check.describe, reports)))
    if any(report.problems for report in reports):
        sys.exit(1)


def _extras(arguments: argparse.Namespace) -> None:
    from tfebm.serving import extras
    from tfebm.serving.export import check_name

    base, found = arguments.directory, _signatures(arguments.directory)
    if list(found) == [base]:
        raise InvalidInputError(
            f"{base} is the folder of a version. Give <directory>/<name>, with "
            "generator/<version> and scorer/<version> in it."
        )
    check_name(base.absolute().name)
    for path in found:
        if not (path / extras.METADATA).is_file():
            name = extras.server_name(base.absolute().name, path.parent.name)
            try:
                extras.write_version_extras(path, name, {})
            except ValueError as error:
                raise InvalidInputError(
                    f"No warm-up request can be written for {path}: {error}. Remove that signature."
                ) from None
    extras.write_configs(base)


def _portable(arguments: argparse.Namespace) -> None:
    from tfebm.serving import extras
    from tfebm.serving.portable import make_portable

    for path, names in _signatures(arguments.directory).items():
        for name in sorted(names):
            if name != extras.DEFAULT_SIGNATURE and not name.endswith(extras.XLA):
                print(make_portable(path, name, arguments.output, arguments.batch_size))


def _signatures(directory: pathlib.Path) -> dict[pathlib.Path, Mapping[str, Any]]:
    """Signatures by name, of the newest versions."""
    from tfebm.serving import check, extras

    found: dict[pathlib.Path, Mapping[str, Any]] = {}
    for path in check.newest_versions(directory):
        try:
            found[path] = extras.read_signatures(path)
        except (OSError, ValueError) as error:
            raise InvalidInputError(
                f"{path} cannot be read as a SavedModel: {error}. Export it again."
            ) from None
    return found


if __name__ == "__main__":
    runs.run_command(main, again="start again")

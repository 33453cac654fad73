"""Exports of finished runs; what a stock TensorFlow Serving would find in one; what it and other
runtimes need."""

import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from tfebm import files, runs, start
from tfebm.errors import InvalidInputError
from tfebm.runs.settings import Parser


def main() -> None:
    parser = Parser(prog="python -m tfebm.serving", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    helps = {
        "export": "write the SavedModels of a finished run, as the next version in DIR",
        "check": "replay the warm-up requests as a server would, and time the signatures; exit "
        "code 1 where anything would fail there",
        "extras": "write the warm-up requests and the server's settings beside an export that "
        "lacks them",
        "portable": "write the signatures for runtimes without gradients (OpenVINO, ONNX), each as "
        "a SavedModel of a fixed batch size",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text, description=text)
        if name == "export":
            command.add_argument(
                "run", type=pathlib.Path, metavar="RUN", help="the output folder of a script"
            )
        command.add_argument(
            "directory",
            type=pathlib.Path,
            metavar="DIR",
            help="<directory>/<name>, with generator/<version> and scorer/<version> in it",
        )
        if name == "check":
            command.add_argument(
                "--seconds", type=float, default=1.0, help="for each timing (default: 1)"
            )
        if name == "portable":
            command.add_argument(
                "--batch-size", type=int, default=1, help="rows of a call (default: 1)"
            )
            command.add_argument(
                "--output",
                type=pathlib.Path,
                default=pathlib.Path("portable"),
                metavar="DIR",
                help="DIR/<signature> is written for each (default: portable)",
            )
    arguments = parser.parse_args()
    start.load()  # the flags can be used: what takes seconds comes now
    from tfebm.serving import check, extras
    from tfebm.serving.export import check_name, export, next_version
    from tfebm.serving.portable import make_portable

    if arguments.command == "export":
        base = files.local_path(arguments.directory, "DIR").absolute()
        check_name(base.name)
        runs.check_writable(base.parent, "DIR")
        model = runs.load_run(arguments.run).model
        version = next_version(base.parent, base.name)
        print(*export(model, base.parent, base.name, version), sep="\n")
        return
    versions = check.newest_versions(arguments.directory)
    if arguments.command != "check":  # which reports what it cannot read
        found = {path: _read_signatures(path) for path in versions}
    if arguments.command == "extras":
        base = arguments.directory
        if versions == [base]:
            raise InvalidInputError(
                f"{base} is the folder of a version. Give <directory>/<name>, with "
                "generator/<version> and scorer/<version> in it."
            )
        check_name(base.absolute().name)
        for path in found:
            if not (path / extras.METADATA).is_file():
                name = extras.server_name(base.absolute().name, path.parent.name)
                _write_extras(path, name)
        extras.write_configs(base)
        return
    if arguments.command == "portable":
        for path, names in found.items():
            for name in sorted(names):
                if name != extras.DEFAULT_SIGNATURE and not name.endswith(extras.XLA):
                    print(make_portable(path, name, arguments.output, arguments.batch_size))
        return
    reports = [check.check_version(path, seconds=arguments.seconds) for path in versions]
    print("\n\n".join(map(check.describe, reports)))
    if any(report.problems for report in reports):
        sys.exit(1)


def _write_extras(path: pathlib.Path, name: str) -> None:
    from tfebm.serving import extras

    try:
        extras.write_version_extras(path, name, {})
    except ValueError as error:
        raise InvalidInputError(
            f"No warm-up request can be written for {path}: {error}. Remove that signature."
        ) from None


def _read_signatures(path: pathlib.Path) -> Mapping[str, Any]:
    from tfebm.serving import extras

    try:
        return extras.read_signatures(path)
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"{path} cannot be read as a SavedModel: {error}. Export it again."
        ) from None


if __name__ == "__main__":
    runs.run_command(main, again="start again")

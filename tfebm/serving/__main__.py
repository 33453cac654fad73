"""`python -m tfebm.serving check DIR`: what a stock TensorFlow Serving would find in an export."""

import os

# TensorFlow's notes on its build are no news here; its errors are.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import argparse
import pathlib
import sys

from tfebm import runs
from tfebm.serving import check, extras


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tfebm.serving", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    helps = {
        "check": "replay the warm-up requests as a server would, and time the signatures; exit "
        "code 1 where anything would fail there",
        "extras": "write the warm-up requests and the server's settings beside an export that "
        "lacks them",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text, description=text)
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
    arguments = parser.parse_args()
    versions = check.newest_versions(arguments.directory)
    if arguments.command == "extras":
        base = arguments.directory
        for path in versions:
            if not (path / extras.METADATA).is_file():
                name = extras.server_name(base.absolute().name, path.parent.name)
                extras.write_version_extras(path, name, {})
        extras.write_configs(base)
        return
    reports = [check.check_version(path, seconds=arguments.seconds) for path in versions]
    print("\n\n".join(map(check.describe, reports)))
    if any(report.problems for report in reports):
        sys.exit(1)


if __name__ == "__main__":
    runs.run_command(main)

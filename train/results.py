"""Makes figures of docs/results again, one named row at a time.

  python train/results.py                            the rows, each with its command
  python train/results.py flow_ebm_eight_gaussians   runs it, and writes its record
  python train/results.py 'anomaly_*' --resume       all of a kind, going on with what has begun
  python train/results.py --page                     fills the page with what the records hold

Data that do not come with the installation lie in the folder that the environment variable
TFEBM_DATA names. Runs are in runs/results, records and the page in docs/results.
"""

__reads_flags_first__ = True  # and needs no TensorFlow itself

import fnmatch
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys
from typing import Any

from experiments import results_page
from experiments.results_rows import FOLDER, rows

from tfebm import runs
from tfebm.errors import InvalidInputError
from tfebm.runs.parser import Parser

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
RUNS = ROOT / "runs" / "results"


def check(name: str, command: str) -> None:
    """Raises `InvalidInputError` where the data of a row are not there."""
    wanted = re.findall(rf"[$]{FOLDER}/([^ ]+)", command)
    folder = os.environ.get(FOLDER)
    missing = [file for file in wanted if not folder or not pathlib.Path(folder, file).exists()]
    if missing:
        raise InvalidInputError(
            f"{name} needs data that do not come with the installation: {' and '.join(missing)}. "
            f"Set {FOLDER} to the folder that holds them. Received {folder or 'none'}."
        )


def make(name: str, command: str, resume: bool) -> None:
    """Runs a row's command, and writes its record."""
    folder, record = RUNS / name, RESULTS / f"{name}.json"
    data = os.environ.get(FOLDER) and os.path.abspath(os.environ[FOLDER])
    arguments = [word.replace(f"${FOLDER}", data or "") for word in shlex.split(command)]
    resumed = resume and folder.exists()
    is_benchmark = arguments[0] == "-m"
    if is_benchmark:
        if folder.exists() and not resume:  # a benchmark takes finished runs as they are
            raise InvalidInputError(
                f"The folder {folder} holds an earlier {name}, which a new one would take for its "
                "own. Remove it, or give --resume to go on with it."
            )
        arguments += ["--json", str(folder / "record.json"), "--output", str(folder)]
        folder.mkdir(parents=True, exist_ok=True)
    else:
        begun = ["--overwrite"] if folder.exists() else []
        arguments += ["--output", str(folder), *(["--resume-or-begin"] if resume else begun)]
    print(f"{name}: python {command}", flush=True)
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False)
    if done.returncode:
        code = 128 - done.returncode if done.returncode < 0 else done.returncode
        print(f"{name} ended with exit code {code}; there is no new record.", file=sys.stderr)
        raise SystemExit(code)
    found = {"command": f"python {command}", "machine": machine()}
    if resumed and not is_benchmark:
        found["resumed"] = True  # its seconds are those of the last part
    main_file = folder / ("record.json" if is_benchmark else "metrics.json")
    found |= json.loads(main_file.read_text("utf-8"))
    diagnostics = folder / "diagnostics.json"
    if diagnostics.exists():
        found["diagnostics"] = json.loads(diagnostics.read_text("utf-8"))
    found = _without_folder(found, data) if data else found
    record.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def _without_folder(found: Any, folder: str) -> Any:
    """A record in which paths of this machine begin with the variable that names them."""
    if isinstance(found, dict):
        return {key: _without_folder(value, folder) for key, value in found.items()}
    if isinstance(found, list):
        return [_without_folder(value, folder) for value in found]
    if isinstance(found, str) and found.startswith(f"{folder}/"):
        return f"${FOLDER}{found[len(folder) :]}"
    return found


def machine() -> dict[str, Any]:
    """The processor, the cores and the versions that a row is made with."""
    model = platform.processor() or platform.machine()
    facts = pathlib.Path("/proc/cpuinfo")
    if facts.exists():
        found = re.search(r"^model name\s*: (.+)$", facts.read_text(), re.MULTILINE)
        model = found[1].strip() if found else model
    versions = {name: importlib.metadata.version(name) for name in ("tfebm", "tensorflow")}
    return {"processor": model, "cores": os.cpu_count(), "python": platform.python_version()} | (
        versions
    )


def page() -> str:
    """The template with the records' figures in it."""
    template = (RESULTS / "template.txt").read_text("utf-8")
    records = {path.stem: json.loads(path.read_text("utf-8")) for path in RESULTS.glob("*.json")}
    return results_page.fill(template, records)


def write_page() -> None:
    """Writes docs/results/README.md."""
    (RESULTS / "README.md").write_text(page(), "utf-8")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="ROW", help="a name, or a pattern of names")
    parser.add_argument("--resume", action="store_true", help="go on with runs that have begun")
    parser.add_argument("--page", action="store_true", help="write the page anew")
    options = parser.parse_args(argv)
    table = rows()
    chosen: list[str] = []
    for pattern in options.names:
        found = fnmatch.filter(table, pattern)
        if not found:
            parser.error(f"There is no row {pattern}. The rows are {', '.join(table)}.")
        chosen += [name for name in found if name not in chosen]
    for name in chosen:  # before the first of them, which may take an hour
        check(name, table[name])
    if not chosen and not options.page:
        print("\n".join(f"{name}\n    python {command}" for name, command in table.items()))
        return
    try:
        for name in chosen:
            make(name, table[name], options.resume)
    finally:  # a row that fails does not keep the records before it from the page
        write_page()


if __name__ == "__main__":
    runs.run_command(main, again="start again with --resume", insist=False)

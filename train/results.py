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
import statistics
import subprocess
import sys
from typing import Any

from tfebm import runs
from tfebm.errors import InvalidInputError
from tfebm.runs.settings import Parser

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
RUNS = ROOT / "runs" / "results"
FOLDER = "TFEBM_DATA"


def rows() -> dict[str, str]:
    """Names to commands, without "python" and the folders."""
    table = {
        "latent_ebm_mnist5k": "train/latent_ebm.py",
        "flow_ebm_eight_gaussians": "train/flow_ebm.py",
        "flow_ebm_twenty_five_gaussians": "train/flow_ebm.py --dataset twenty_five_gaussians "
        "--transitions 2 --epochs 20",
        "flow_ebm_eight_gaussians_realnvp_2": "train/flow_ebm.py --flow realnvp --couplings 2 "
        "--transitions 2 --epochs 20",
        "flow_ebm_twenty_five_gaussians_realnvp_2": "train/flow_ebm.py --dataset "
        "twenty_five_gaussians --flow realnvp --couplings 2 --transitions 2 --epochs 20",
        "flow_ebm_mnist5k": "train/flow_ebm.py --dataset mnist5k",
        "short_run_mnist5k": "-m benchmarks compare_inference",
        "anomaly_mnist5k_9": "train/anomaly.py --held-out 9",
    }
    for seed in range(3):
        table[f"short_run_criteria_{seed}"] = (
            f"-m benchmarks compare_inference --seeds 1 --first-seed {seed} --validation 500 "
            "--posterior-steps 10 --tune-every 2 --variants short_run ksd kl fixed"
        )
    shared = "--epochs 2 --halve-at 1,1.5,1.8 --tune-every 1 --kl-warmup 0.4 --variants"
    for name, size in {"mnist": 100, "cifar10_subset": 50}.items():
        for layers, variants in {
            "one_layer": "latent_ebm single_layer single_layer_vae",
            "three_layers": "short_run vae ladder_vae",
        }.items():
            for seed in range(3):
                table[f"side_by_side_{name}_{layers}_{seed}"] = (
                    f"-m benchmarks compare_inference --seeds 1 --first-seed {seed} "
                    f"--dataset ${FOLDER}/{name}.npz --batch-size {size} {shared} {variants}"
                )
    decays = "--learning-rate-decay 0.75 --energy-learning-rate-decay 0.75"
    for digit, seed in ((1, 0), (4, 0), (5, 0), (7, 0), (9, 0), (9, 1), (9, 2)):
        table[f"anomaly_mnist_{digit}_{seed}"] = (
            f"train/anomaly.py --held-out {digit} --dataset ${FOLDER}/mnist.npz --batch-size 100 "
            f"--epochs 12 {decays} --seed {seed}"
        )
    table["anomaly_mnist_9_four_chains"] = f"{table['anomaly_mnist_9_0']} --score-chains 4"
    for model, epochs in {
        "short_run": "--epochs 12",
        "vae": "--epochs 12",
        "latent_ebm_layers": "--epochs 6 --score-epochs 3",
    }.items():
        table[f"anomaly_mnist_9_{model}"] = (
            f"train/anomaly.py --held-out 9 --model {model} --dataset ${FOLDER}/mnist.npz "
            f"--batch-size 100 {epochs} {decays}"
        )
    for name, flags in {
        "lm": "--model lm --evidence-examples 500",
        "vae": "--model vae --evidence-examples 500",
        "short_run": "--model short_run --evidence-examples 500",
        "latent_ebm": "--model latent_ebm --evidence-examples 500",
        "latent_ebm_no_l2": "--model latent_ebm --energy-l2 0",
    }.items():
        table[f"text_grammar_{name}"] = f"train/text.py {flags}"
    shared = f"train/text.py --preset ptb --dataset ${FOLDER}/ptb --learning-rate 2e-3 "
    shared += "--noise-warmup-epochs 1 --evidence-examples 200 --evidence-chains 2"
    for name, flags in {
        "lm": "--model lm --steps 5290",
        "vae": "--model vae --kl-warmup 1 --steps 3100",
        "vae_free_bits": "--model vae --free-bits 0.25 --steps 3100",
        "short_run": "--noise-scale 0.1 --posterior-steps 6 --steps 1500",
        "latent_ebm": "--model latent_ebm --noise-scale 0 --posterior-steps 6 --steps 1320",
    }.items():
        table[f"text_ptb_{name}"] = f"{shared} {flags}"
    shared = f"train/text.py --preset yelp --dataset ${FOLDER}/yelp "
    shared += f"--unlabelled ${FOLDER}/yelp/extra.txt.gz --vocabulary ${FOLDER}/yelp/vocab.txt.gz "
    shared += "--hidden-size 256 --batch-size 64 --prior-warmup 0 --learning-rate 2e-3 "
    shared += "--evidence-examples 0 --au-examples 200"
    short_run = "--posterior-steps 6 --step-sizes paper --noise-scale 0.1 --noise-warmup-epochs 0"
    some, whole = "--task-examples 1000 --chains 10", "--task-examples 0 --chains 20"
    for name, flags in {
        "short_run": f"{short_run} --steps 1000 --task classify {some}",
        "vae": f"--model vae --steps 3100 --task classify {some}",
        "clusters_short_run": f"{short_run} --steps 1000 --task cluster {some}",
        "clusters_vae": f"--model vae --steps 3100 --task cluster {whole}",
    }.items():
        table[f"text_yelp_{name}"] = f"{shared} {flags}"
    return table


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
    """What a row was made on."""
    model = platform.processor() or platform.machine()
    facts = pathlib.Path("/proc/cpuinfo")
    if facts.exists():
        found = re.search(r"^model name\s*: (.+)$", facts.read_text(), re.MULTILINE)
        model = found[1].strip() if found else model
    versions = {name: importlib.metadata.version(name) for name in ("tfebm", "tensorflow")}
    return {"processor": model, "cores": os.cpu_count(), "python": platform.python_version()} | (
        versions
    )


def write_page() -> None:
    """docs/results/README.md: the template with the records' figures in it."""
    (RESULTS / "README.md").write_text(page(), "utf-8")


def page() -> str:
    """The template's text, its figures filled in.

    A figure is {{RECORDS :: PATH :: FORMAT}}. RECORDS are files' names or patterns of them, with
    commas between; "A - B" are the differences of two. PATH leads into each: keys, [0] for an item
    of a list, [] for all of them, [key=value] for those with a value. FORMAT is Python's, behind
    "mean", "spread" (mean and standard deviation), "error" (mean and its standard error), "sum" or
    "largest" where there are several values.
    """
    template = (RESULTS / "template.txt").read_text("utf-8")
    records = {path.stem: json.loads(path.read_text("utf-8")) for path in RESULTS.glob("*.json")}
    return re.sub(r"\{\{(.+?)\}\}", lambda found: figure(found[1], records), template)


def figure(reference: str, records: dict[str, Any]) -> str:
    """What stands for `RECORDS :: PATH :: FORMAT` on the page.

    Raises:
        InvalidInputError: Nothing is there, or several values where one is asked for.
    """
    asked = reference.strip()
    try:
        names, path, form = (part.strip() for part in reference.split("::"))
        values, *others = (_of_records(records, name, path) for name in names.split(" - "))
        for other in others:
            values = [one - another for one, another in zip(values, other, strict=True)]
        how, _, form = form.rpartition(" ")
        if how not in ("", "mean", "spread", "error", "sum", "largest"):
            raise ValueError(f"{how!r} is no way to sum up")
        if how in ("spread", "error"):
            width = statistics.stdev(values) / (1.0 if how == "spread" else len(values) ** 0.5)
            return f"{format(statistics.mean(values), form)} ± {format(width, form)}"
        if how in ("mean", "largest", "sum"):
            sums = {"mean": statistics.mean, "largest": max, "sum": sum}
            return format(sums[how](values), form)
        if len(set(map(str, values))) > 1:
            raise ValueError(f"there are {len(values)} values: say mean or spread")
        return format(values[0], form)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise InvalidInputError(
            f"The page asks for {asked!r}, which cannot be had: {error}. Mend docs/results/"
            "template.txt, or make the row again."
        ) from None


def _of_records(records: dict[str, Any], names: str, path: str) -> list[Any]:
    """The values at a path of records that are named, all of which must have some."""
    found = []
    for pattern in names.split(","):
        chosen = sorted(fnmatch.filter(records, pattern.strip()))
        if not chosen:
            raise ValueError(f"there is no record {pattern.strip()}")
        for name in chosen:
            values = _values(records[name], path)
            if not values:
                raise ValueError(f"the record {name} has no {path}")
            found += values
    return found


def _values(found: Any, path: str) -> list[Any]:
    values = [found]
    for part in path.split("/"):
        key, bracket, selection = part.rstrip("]").partition("[")
        values = [value[key] for value in values if value.get(key) is not None]
        if not bracket:
            continue
        if selection.isdigit():
            values = [value[int(selection)] for value in values]
            continue
        name, _, wanted = selection.partition("=")
        items = [item for value in values for item in value]
        values = [item for item in items if not name or str(item[name]) == wanted]
    return values


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

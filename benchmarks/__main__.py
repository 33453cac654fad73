"""Measures how fast things are, against peers or a limit in the same run.

python -m benchmarks                     all, each in a process of its own: tables and records
python -m benchmarks NAME ...            these
python -m benchmarks NAME --json FILE    one, with its own flags
python -m benchmarks NAME --help         what exactly it measures
"""

import argparse
import importlib
import pathlib
import subprocess
import sys

from benchmarks import figures

NAMES = {
    "prior_chain": "the chain of a dense energy: PyTorch, JAX, torchebm, TFP, Keras",
    "images": "the chain over images, and a whole step of learning: PyTorch",
    "layer_chain": "the chain over the latents of several layers: PyTorch",
    "text_chain": "the chain over sentences: PyTorch",
    "memory": "a chain over images as it gets longer: PyTorch",
    "training": "fit and a first step: the bare step",
    "scaling": "chains as they get longer, wider, larger: matrix products",
    "log_det": "the log-determinant of a short run: its Jacobian",
    "flow_chains": "HMC in the latent space of a flow: TFP",
    "langevin": "graph and XLA, float32 and bfloat16: matrix products",
    "serving": "exported scorers and generators: the same calls in Python",
}
ON_REQUEST = {
    "figures": "the pictures of records, drawn again",
    "step_size": "choosing step sizes: the training itself",
    "bounds": "bounds on log p(x) through chains: a VAE's, importance samples",
    "bulk": "bulk jobs, with the extra `beam`: the bare scorer",
    "time_to_quality": "trains, for a quarter of an hour: PyTorch, until a stated quality",
    "compare_inference": "trains, for hours: short runs, encoders, priors",
}
WITH_PEERS = ("prior_chain", "images", "layer_chain", "text_chain", "memory", "time_to_quality")


def main() -> None:
    """Runs one benchmark with its flags, or several with none."""
    names = {**NAMES, **ON_REQUEST}
    name, flags = sys.argv[1] if len(sys.argv) > 1 else "", sys.argv[2:]
    of_its_own = name in ("compare_inference", "figures") or any(
        flag.startswith("-") and flag.partition("=")[0] not in ("--output", "--peers")
        for flag in flags
    )
    if name in names and of_its_own and not set(flags) & set(names):
        sys.argv = [f"python -m benchmarks {name}", *sys.argv[2:]]
        try:
            benchmark = importlib.import_module(f"benchmarks.{name}")
        except ModuleNotFoundError as error:  # of an extra
            sys.exit(str(error))
        benchmark.main()
        return
    listed = "\n".join(f"  {name:<19}{what}" for name, what in names.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"{__doc__}\n{listed}\n\nThe last six run only where they are named.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="see above; all by default")
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=pathlib.Path,
        default=pathlib.Path("runs", "benchmarks"),
        help="folder for the records, NAME.json (%(default)s)",
    )
    parser.add_argument(
        "--peers",
        metavar="PATH",
        default=sys.executable,
        help="a Python that has the peers: PyTorch, JAX, torchebm (this one)",
    )
    options = parser.parse_args()
    if "figures" in options.names:
        parser.error("figures stands alone: what was measured is drawn at the end by itself")
    unknown = [name for name in options.names if name not in names]
    if unknown:
        parser.error(f"there is no {unknown[0]}; there are {', '.join(names)}")
    options.output.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in options.names or NAMES:
        print(f"\n== {name}: {names[name]}\n", flush=True)
        record = options.output / f"{name}.json"
        command = [sys.executable, "-m", "benchmarks", name, "--json", str(record)]
        if name in WITH_PEERS:
            command += ["--peers", options.peers]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    drawn = figures.draw(options.output, options.output)
    print(f"\nThe records are in {options.output}.", *(f"Drawn: {path}." for path in drawn))
    if failed:
        sys.exit(f"These did not end well: {', '.join(failed)}.")


if __name__ == "__main__":
    main()

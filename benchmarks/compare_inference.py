"""Short runs against encoders, and an energy prior against a Gaussian one, on the same generators.

  python -m benchmarks compare_inference --json record.json    in runs/compare_inference
  python -m benchmarks compare_inference --dataset images.npz --epochs 2 --output runs/other

Every run is `train/short_run.py` with the flags that the record repeats, over several seeds; runs
that are finished already are read, not repeated. The table has means and standard deviations over
the seeds: reconstruction error per pixel on [-1, 1] of the test images (with --validation N of
these), and Frechet and kernel distance of samples from the training set in features of a
classifier of that set. A second table has the reconstruction error of the trained short-run
models with other chains on the same images: twice the steps, and the fixed step size that the
script would take without tuning. The variants ksd, kl and fixed are short_run with step sizes that
another criterion chooses, or none; momentum is short_run whose chain has it, and learned_start
a latent_ebm over the same layers whose shorter chain has it too and begins at an encoder's draw.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
from typing import Any

import numpy as np

import tfebm
from tfebm.data import to_float
from tfebm.runs import ImageRunSettings, load_image_set

_TESTED = 1000  # images that other chains reconstruct, spread over the test set
DEFAULT_OUTPUT = pathlib.Path("runs", "compare_inference")
SCRIPT = pathlib.Path(__file__).parents[1] / "train" / "short_run.py"
# One layer of latents; the generator and the step size are those of train/latent_ebm.py.
_SINGLE = ["--layers", "1", "--generator", "deconv"]
_CHAIN = ["--step-size", "fixed", "--posterior-step-size", "0.1"]
# After a few runs on 500 held-out training digits. Steps of 0.06 from the encoder were about as
# good there, and are not stable for the untrained networks of every seed.
_MOMENTUM = ["--posterior-momentum", "0.5"]
_LEARNED_START = [
    *(*_MOMENTUM, "--prior-momentum", "0.5", "--encoder", "elbo"),
    *("--posterior-steps", "8", "--step-size", "fixed", "--posterior-step-size", "0.05"),
]
VARIANTS = {
    "short_run": [],
    "vae": ["--model", "vae"],
    "ladder_vae": ["--model", "ladder_vae"],
    "single_layer": [*_SINGLE, *_CHAIN],
    "single_layer_vae": [*_SINGLE, "--model", "vae"],
    "latent_ebm": [*_SINGLE, *_CHAIN, "--model", "latent_ebm"],
    "momentum": _MOMENTUM,
    "learned_start": [*_LEARNED_START, "--model", "latent_ebm"],
    "ksd": ["--criterion", "ksd"],
    "kl": ["--criterion", "kl"],
    "fixed": ["--step-size", "fixed"],
}


def train(variant: str, seed: int, shared: list[str], output: pathlib.Path) -> dict[str, Any]:
    """The figures of one run; it is made where it is not there."""
    folder = output / f"{variant}_{seed}"
    flags = [*VARIANTS[variant], *shared, "--seed", str(seed)]
    made_by = folder / "flags.json"
    if not _finished(folder):
        command = [sys.executable, str(SCRIPT), *flags, "--output", str(folder), "--overwrite"]
        subprocess.run(command, check=True)
        made_by.write_text(json.dumps(flags))
    elif not made_by.exists() or json.loads(made_by.read_text()) != flags:
        raise SystemExit(
            f"{folder} holds a run that is finished and was made with other flags than "
            f"{' '.join(flags)}. Give another --output, or delete it."
        )
    record = json.loads((folder / "metrics.json").read_text())
    final = record["final"]
    test = final["test"]
    if "frechet_distance" not in test:
        raise SystemExit(
            f"The data of {folder} have no labels of two classes, and the distances of samples are "
            "in features of a classifier of them. Give a --dataset that has."
        )
    shown = [pathlib.Path(flag).name if "/" in flag else flag for flag in flags]
    return {
        "variant": variant,
        "seed": seed,
        "command": " ".join(["python", "train/short_run.py", *shown]),
        "steps": final["steps"],
        "seconds": final["session_seconds"],
        "training_seconds": sum(epoch["seconds"] for epoch in record["epochs"]),
        "reconstruction_mse": test["reconstruction_mse"],
        "frechet_distance": test["frechet_distance"]["value"],
        "kernel_distance": test["kernel_distance"]["value"],
        "classifier_test_accuracy": test["frechet_distance"]["classifier_test_accuracy"],
        "elbo": test.get("elbo"),
        "step_sizes_in_use": (final.get("step_sizes") or {}).get("in_use"),
    }


def with_other_chains(folder: pathlib.Path) -> dict[str, float]:
    """Reconstruction error of a trained model on up to 1,000 of its test images, by chain."""
    run = tfebm.load_run(folder)
    model, fixed = run.model, run.settings["posterior_step_size"]
    source = {name: run.settings[name] for name in ("dataset", "image_size", "validation")}
    data = load_image_set(ImageRunSettings(**source))
    rows = np.linspace(0, len(data.x_test) - 1, min(_TESTED, len(data.x_test))).astype(int)
    x = to_float(data.x_test[rows]).numpy()
    tuned = model.posterior_step_size.numpy()
    steps = len(tuned)
    # The same schedules over twice the steps.
    places = np.linspace(0, steps - 1, 2 * steps)
    stretched = [np.exp(np.interp(places, np.arange(steps), column)) for column in np.log(tuned.T)]
    chains = {
        f"tuned, {steps} steps": tuned.tolist(),
        f"tuned, {2 * steps} steps": np.transpose(stretched).tolist(),
        f"fixed {fixed:g}, {steps} steps": [fixed] * steps,
        f"fixed {fixed:g}, {2 * steps} steps": [fixed] * (2 * steps),
    }
    errors = {}
    for name, step_size in chains.items():
        model.posterior_sampler = tfebm.ShortRunLangevin(len(step_size), step_size)
        errors[name] = float(np.mean((model.reconstruct(x) - x) ** 2))
    return errors


def _finished(folder: pathlib.Path) -> bool:
    try:
        return bool(json.loads((folder / "metrics.json").read_text())["final"])
    except (OSError, ValueError, KeyError):
        return False


def _spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else float("nan")


def parse(argv: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """The options, and the flags that all runs of the training script share."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # --seed is the script's
    )
    parser.add_argument("--output", type=pathlib.Path, default=DEFAULT_OUTPUT, metavar="DIR")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write a record")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=0, metavar="S", help="S to S + N - 1")
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=["short_run", "vae", "ladder_vae"]
    )
    parser.add_argument(
        "--dataset", default="mnist5k", metavar="NAME|PATH", help="images with labels"
    )
    options, shared = parser.parse_known_args(argv)  # the rest is for the training script
    if options.seeds < 1 or options.first_seed < 0:
        parser.error(
            "--seeds must be at least 1, and --first-seed at least 0. Received "
            f"{options.seeds} and {options.first_seed}."
        )
    if "--seed" in shared:
        parser.error("--seed is set for each run. Give --seeds, how many there are.")
    return options, ["--dataset", options.dataset, *shared]


def main() -> None:
    options, shared = parse()
    runs, chains = [], []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for variant in options.variants:
            runs.append(train(variant, seed, shared, options.output))
            print(runs[-1], flush=True)
        if "short_run" in options.variants:
            folder = options.output / f"short_run_{seed}"
            chains.append({"seed": seed, **with_other_chains(folder)})
        if options.json:
            record = {"runs": runs, "reconstruction_mse_by_chain": chains}
            options.json.write_text(json.dumps(record, indent=2) + "\n")
    columns = ("reconstruction error", "Frechet distance", "kernel distance")
    columns += ("seconds of training", "of the whole run")
    print(f"\n{'':<18}" + "".join(f"{column:>22}" for column in columns))
    for variant in options.variants:
        mine = [run for run in runs if run["variant"] == variant]
        cells = [
            f"{statistics.mean(values):.4f} +- {_spread(values):.4f}"
            for name in ("reconstruction_mse", "frechet_distance", "kernel_distance")
            for values in [[run[name] for run in mine]]
        ]
        for name in ("training_seconds", "seconds"):
            cells.append(f"{statistics.median(run[name] for run in mine):.0f}")
        print(f"{variant:<18}" + "".join(f"{cell:>22}" for cell in cells))
    for name in [name for name in (chains[0] if chains else {}) if name != "seed"]:
        values = [each[name] for each in chains]
        print(f"{name:<24}{statistics.mean(values):>14.4f} +- {_spread(values):.4f}")


if __name__ == "__main__":
    main()

"""Learns a multi-layer generator by short-run inference with tuned step sizes, or a baseline.

  python train/short_run.py                                    digits, in minutes
  python train/short_run.py --model ladder_vae --output runs/ladder
  python train/short_run.py --criterion kl --step-size gradient --schedule free
  python train/short_run.py --preset svhn                      the paper's settings

The models share the generator, the data, the epochs and the seeds: short_run and latent_ebm infer
latents by a chain, vae and ladder_vae by an encoder.

E. Nijkamp, B. Pang, T. Han, S.-C. Zhu, Y. N. Wu. Learning Multi-layer Latent Variable Model via
Variational Optimization of Short Run MCMC for Approximate Inference. ECCV 2020.
"""

from __future__ import annotations

__reads_flags_first__ = True  # tfebm imports TensorFlow when they are known to be usable

import dataclasses
import time
import warnings
from typing import TYPE_CHECKING, Any

import tfebm
from tfebm import runs
from tfebm.errors import InvalidInputError
from tfebm.runs import ImageRunSettings, flag

if TYPE_CHECKING:
    import keras

    from tfebm.data import ImageData
    from tfebm.runs import RunDirectory

NAME = "short_run"
MODELS = ("short_run", "vae", "ladder_vae", "latent_ebm")

CURVES = {
    "short_run": {
        "reconstruction (squared error per image)": ("generator_loss",),
        "reconstruction error per pixel": ("reconstruction_mse",),
        "displacement of the chain": ("displacement_posterior",),
        "step size": ("step_size_first", "step_size_last"),
    },
    "vae": {
        "reconstruction (squared error per image)": ("generator_loss",),
        "reconstruction error per pixel": ("reconstruction_mse",),
        "KL divergence from the prior, nats": ("kl",),
        "evidence lower bound, nats": ("elbo",),
    },
}
CURVES["ladder_vae"] = CURVES["vae"]
CURVES["latent_ebm"] = {**CURVES["short_run"], "energy": ("energy_posterior", "energy_prior")}
# On the screen; all metrics are in the logs.
_ERROR = {"reconstruction_mse": "error"}
_ENERGIES = {"energy_posterior": "energy", "energy_prior": "of samples"}
SHOWN = {
    "short_run": {**_ERROR, "displacement_posterior": "displacement"},
    "vae": {**_ERROR, "kl": "KL", "elbo": "ELBO"},
    "ladder_vae": {**_ERROR, "kl": "KL", "elbo": "ELBO"},
    "latent_ebm": {**_ERROR, **_ENERGIES},
}
# Of the pictures and records at the end: enough for a mean, few enough to be quick.
_LARGEST = 2**16  # number in a list
_EXAMPLES_AT_END, _EVIDENCE_EXAMPLES = 8, 32


@dataclasses.dataclass(frozen=True)
class Settings(ImageRunSettings):
    """The defaults are the preset `laptop`; math symbols are the paper's."""

    model: str = flag("short_run", "what is learned", choices=MODELS)
    epochs: int = flag(10, "passes over the data", least=1)
    batch_size: int = flag(50, "examples per step, over all replicas", least=1)
    latent_sizes: str = flag("8,8,16", "sizes of the layers' latents, the top first", metavar="N,N")
    layers: int | None = flag(
        None, "use so many of them, from the bottom (default: all)", type=int, least=1, most=64
    )
    generator: str = flag(
        "multilayer",
        "its layers; deconv, which has one size of latents, is that of train/latent_ebm.py",
        choices=("multilayer", "deconv"),
        before="multilayer",
    )
    width: int = flag(16, "channels of the generator's feature maps", least=1, most=2**14)
    upsamplings: int = flag(
        2, "doublings of the side behind the last layer of multilayer", least=1, most=10
    )
    sigma: float = flag(0.3, "standard deviation of p(x | z)", above=0.0)
    posterior_steps: int = flag(20, "K, steps of the chain", least=1, most=10**6, group="sampler")
    posterior_step_size: float = flag(
        0.05,
        "s of --step-size fixed; the noise has this standard deviation",
        above=0.0,
        group="sampler",
    )
    step_size: str = flag(
        "grid", "how s is chosen", choices=("fixed", "grid", "gradient"), group="sampler"
    )
    criterion: str = flag(
        "entropy",
        "divergence that the choice of s minimises",
        choices=("kl", "entropy", "ksd"),
        group="sampler",
    )
    schedule: str = flag(
        "constant",
        "family of step sizes that are tuned",
        choices=("constant", "geometric", "free"),
        group="sampler",
    )
    per_layer: bool = flag(False, "also tune a factor for each layer", group="sampler")
    tune_every: int = flag(
        3, "epochs from one choice to the next (0: at the start only)", least=0, group="sampler"
    )
    learning_rate: float = flag(
        1e-3, "of every network (Adam, beta_1 0.5)", above=0.0, group="learning"
    )
    halve_at: str = flag(
        "6,8,9",
        "epochs, or parts of one, after which the rates halve (0: never)",
        metavar="X,X",
        group="learning",
    )
    kl_warmup: float = flag(
        2.0, "epochs over which the VAEs' KL weight rises to 1", least=0.0, group="learning"
    )
    energy_width: int = flag(
        200, "units of latent_ebm's energy, two hidden layers", least=1, most=2**14
    )
    energy_learning_rate: float = flag(3e-4, "of latent_ebm's energy", above=0.0, group="learning")
    prior_steps: int = flag(
        40, "K_0, steps of latent_ebm's prior chain", least=0, most=10**6, group="sampler"
    )
    prior_step_size: float = flag(0.4, "s_0, likewise", least=0.0, group="sampler")
    output: str = flag(
        "runs/short_run", "folder for everything the run writes", metavar="DIR", operational=True
    )

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of the layers that are used, the top first."""
        sizes = _numbers("--latent-sizes", self.latent_sizes, int)
        if self.layers is not None and self.layers > len(sizes):
            raise InvalidInputError(
                f"--layers {self.layers} needs as many sizes. Received --latent-sizes "
                f"{self.latent_sizes}, which are {len(sizes)}."
            )
        return sizes[-self.layers :] if self.layers else sizes

    @property
    def halvings(self) -> tuple[float, ...]:
        """Epochs after which the learning rates halve, rising."""
        if self.halve_at == "0":
            return ()
        return tuple(sorted(_numbers("--halve-at", self.halve_at, float)))

    @property
    def has_chain(self) -> bool:
        """Whether latents are inferred by a chain."""
        return self.model in ("short_run", "latent_ebm")

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.sizes, self.halvings
        if self.schedule == "free" and self.step_size == "grid":
            raise InvalidInputError(
                "--schedule free has a step size for every step, too many for a grid. Received "
                "--step-size grid; give --step-size gradient, or --schedule geometric."
            )
        if self.generator == "deconv" and len(self.sizes) > 1:
            raise InvalidInputError(
                "--generator deconv has one layer of latents. Received the sizes "
                f"{','.join(map(str, self.sizes))}; give --layers 1 to use the last."
            )
        if self.generator == "deconv" and self.model == "ladder_vae":
            raise InvalidInputError(
                "--generator deconv has one layer of latents, and ladder_vae needs the layers of "
                "multilayer. Give another --model, or --generator multilayer."
            )


def _numbers(name: str, text: str, kind: type) -> tuple:
    try:
        numbers = tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError:
        numbers = ()
    if not numbers or any(not 0 < number <= _LARGEST for number in numbers):
        wanted = "whole numbers above 0" if kind is int else "numbers above 0, or 0 alone"
        wanted += f", at most {_LARGEST}"
        raise InvalidInputError(f"{name} must be {wanted}, with commas between. Received {text!r}.")
    return numbers


# The paper's and its released code's values; the code keeps s = 0.05 fixed.
_PAPER = {
    "epochs": 600,
    "batch_size": 100,
    "image_size": 32,
    "latent_sizes": "64,64,64,96,128",
    "width": 64,
    "upsamplings": 1,
    "sigma": 0.15,
    "posterior_steps": 25,
    "learning_rate": 8e-5,
    "halve_at": "50,100,300",
}
PRESETS = {
    "laptop": {},
    "svhn": {**_PAPER, "dataset": "svhn_cropped"},
    "celeba32": {**_PAPER, "dataset": "celeb_a"},
}


def make_generator(settings: Settings, image_shape: tuple) -> keras.Layer:
    """The generator of the settings."""
    if settings.generator == "deconv":
        return tfebm.DeconvGenerator(image_shape, settings.width, dtype=settings.dtype_policy)
    return tfebm.MultilayerGenerator(
        image_shape,
        settings.sizes,
        settings.width,
        upsamplings=settings.upsamplings,
        dtype=settings.dtype_policy,
    )


def check(settings: Settings) -> None:
    """Raises `InvalidInputError` for a size that no image could mend."""
    if settings.image_size:
        make_generator(settings, (settings.image_size, settings.image_size, 3))


def make_model(settings: Settings, image_shape: tuple, num_examples: int) -> keras.Model:
    """The compiled model of the settings."""
    shared = {"likelihood": tfebm.GaussianLikelihood(settings.sigma), "seed": settings.seed}
    sizes = settings.sizes
    if settings.generator == "deconv":
        sizes = shared["latent_size"] = sizes[0]
    generator = make_generator(settings, image_shape)
    per_epoch = tfebm.data.steps_per_epoch(num_examples, settings.batch_size)
    if not settings.has_chain:
        model = tfebm.VAE(
            generator,
            tfebm.ConvEncoder(
                image_shape, sizes, width=2 * settings.width, dtype=settings.dtype_policy
            ),
            inference="ladder" if settings.model == "ladder_vae" else "mean_field",
            kl_warmup_steps=round(settings.kl_warmup * per_epoch),
            **shared,
        )
        model.compile(*(_adam(settings.learning_rate, settings, per_epoch) for _ in range(2)))
        return model
    shared["posterior_sampler"] = tfebm.ShortRunLangevin(
        settings.posterior_steps, settings.posterior_step_size, jit_compile=settings.jit_compile
    )
    if settings.model == "short_run":
        model = tfebm.ShortRunModel(generator, **shared)
        model.compile(_adam(settings.learning_rate, settings, per_epoch))
        return model
    prior = tfebm.ShortRunLangevin(
        settings.prior_steps, settings.prior_step_size, jit_compile=settings.jit_compile
    )
    energy = tfebm.EnergyMLP((settings.energy_width,) * 2)
    model = tfebm.LatentEBM(generator, energy, prior_sampler=prior, **shared)
    rates = (settings.learning_rate, settings.energy_learning_rate)
    model.compile(*(_adam(rate, settings, per_epoch) for rate in rates))
    return model


def _adam(rate: float, settings: Settings, per_epoch: int) -> keras.optimizers.Optimizer:
    import keras

    if settings.halvings:
        # Keras counts steps from 0 and keeps a value up to its boundary, that step included.
        ends = [round(epoch * per_epoch) - 1 for epoch in settings.halvings]
        if ends[0] < 0:
            raise InvalidInputError(
                f"--halve-at {settings.halve_at} begins before the first step; an epoch has "
                f"{per_epoch}. Give a larger part of it, or a lower --learning-rate."
            )
        rates = [rate / 2**i for i in range(len(ends) + 1)]
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(ends, rates)
    return runs.training.adam(rate)


def make_tuner(settings: Settings, data: ImageData, run: RunDirectory) -> Any:
    """The callback that chooses the step sizes; for fixed ones it only looks, at the start."""
    fixed = settings.step_size == "fixed"
    tuner = tfebm.callbacks.StepSizeTuner(
        data.x_train,
        every=0 if fixed else settings.tune_every,
        apply=not fixed,
        criterion=settings.criterion,
        search="grid" if fixed else settings.step_size,
        family=settings.schedule if not fixed else "constant",
        per_part=settings.per_layer and not fixed,
        path=run.file("tuning.json"),
        seed=settings.seed,
    )
    if settings.resume:
        tuner.restore()
    return tuner


def look_at_step_sizes(
    model: keras.Model, tuner: Any, data: ImageData, settings: Settings, run: RunDirectory
) -> dict[str, Any] | None:
    """`steps.png`, and all three criteria side by side for the trained model."""
    examples = tuner.draw_examples(int(model.step.numpy()), _EXAMPLES_AT_END)
    table = model.posterior_step_size.numpy()
    try:
        found = tfebm.models.tune_step_size(
            *(model, examples, settings.seed),
            apply=False,
            criterion=settings.criterion,
            report="all",
            # Half octaves around what is in use, which is one of them; further down than up, to
            # where Q, whose bound ends first, has its minimum.
            around=table / 2,
            span=8.0,
            num_values=13,
            num_lanczos=4,
        )
    except InvalidInputError as error:
        warnings.warn(f"The trained model's step sizes have no figure. {error}", stacklevel=2)
        return None
    record = found.to_record()
    tfebm.plots.save_step_sizes(
        run.picture("steps"), record["candidates"], table, settings.criterion, tuner.records
    )
    return {"in_use": [float(row.mean()) for row in (table[0], table[-1])], "criteria": record}


def test_figures(model: keras.Model, data: ImageData, settings: Settings) -> dict[str, Any] | None:
    """Those of every model, distances of samples, and bounds on the evidence for chains."""
    figures = runs.images.test_figures(model, data, settings)
    if figures is None:
        return None
    figures |= runs.images.sample_distances(model, data, settings) or {}
    if settings.model == "short_run":
        x = tfebm.data.to_float(data.x_test[:_EVIDENCE_EXAMPLES]).numpy()
        figures["evidence"] = tfebm.models.evidence_bound(model, x, seed=settings.seed).summary()
    return figures


def summary(test: dict[str, Any] | None) -> str:
    """The test figures in a few lines for a person."""
    lines = [runs.images.reconstruction_sentence(test)]
    found = (test or {}).get("frechet_distance")
    if found:
        lines.append(
            f"Distances of {found['num_samples']} samples from the training set: Frechet "
            f"{found['value']:.2f}, kernel {test['kernel_distance']['value']:.3f}, in features of "
            "a classifier of this set."
        )
    bound = (test or {}).get("evidence")
    if bound and bound["elbo"] is None:
        lines.append(
            f"No bound on the evidence: for {bound['invalid_share']:.0%} of "
            f"{bound['num_examples']} images the chain is not a diffeomorphism."
        )
    elif bound:
        lines.append(
            f"Evidence lower bound through the chain: {bound['elbo']:.1f} nats on "
            f"{bound['num_examples']} images."
        )
    return "\n".join(lines)


def main() -> None:
    started = time.monotonic()
    session = runs.open_session(NAME, Settings, PRESETS, "laptop", __doc__, check=check)
    images, training = runs.images, runs.training
    _, settings, run, strategy, data, _ = session
    with strategy.scope():
        model = make_model(settings, data.image_shape, len(data.x_train))
    if settings.has_chain and settings.step_size == "fixed" and not settings.resume:
        x = tfebm.data.to_float(data.x_train[:8]).numpy()
        tfebm.models.check_stability(model, x, settings.seed)
    session.announce()

    looks = [tfebm.callbacks.SampleGrid(run.picture("samples"))]
    tuner = make_tuner(settings, data, run) if settings.has_chain else None
    more, shown = [tuner] if tuner else [], SHOWN[settings.model]
    log = training.train(model, data, settings, run, more, looks, shown=shown)
    model = session.alone(model)
    if tuner and settings.step_size != "fixed":
        tuner.set_model(model)
        tuner.tune(len(log.epochs))
    run.save_model(model)
    images.draw_images(model, data, run)
    images.draw_layers(model, data, run)
    tfebm.pictures.save_curves(run.picture("curves"), log.epochs, CURVES[settings.model])
    session.export(model)
    step_sizes = look_at_step_sizes(model, tuner, data, settings, run) if tuner else None
    test = test_figures(model, data, settings)
    final = training.finish(model, log, test, started, {"step_sizes": step_sizes})
    print(training.cost(final))
    print(summary(final["test"]))
    print(f"Everything is in {run.path}: look at samples.png and layers.png first.")
    session.close()


if __name__ == "__main__":
    runs.run_command(main)

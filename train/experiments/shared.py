"""Flags that several scripts have, models from flags, and the last words of a run.

`__reads_flags_first__` holds here too: TensorFlow is imported when a function needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import tfebm
from tfebm import runs
from tfebm.errors import InvalidInputError
from tfebm.runs import flag

if TYPE_CHECKING:
    import keras

    from tfebm.runs import Session

# ---- Flags, by what they mean -------------------------------------------------------------


def epochs(default: int, text: str = "passes over the data", **options: Any) -> Any:
    """Of training, or of a stage of it."""
    return flag(default, text, least=1, **options)


def batch_size(default: int, of: str = "examples") -> Any:
    """The global batch."""
    return flag(default, f"{of} per step, over all replicas", least=1)


def latent_size(default: int, text: str = "d, size of z") -> Any:
    """Of one layer of latents."""
    return flag(default, text, least=1, most=2**16)


def width(default: int, text: str) -> Any:
    """Units or channels of a network."""
    return flag(default, text, least=1, most=2**14)


def sigma() -> Any:
    """Of a Gaussian likelihood."""
    return flag(0.3, "standard deviation of p(x | z)", above=0.0)


def chain_steps(default: int, text: str, least: int = 1) -> Any:
    """Steps of a chain."""
    return flag(default, text, least=least, most=10**6, group="sampler")


def step_size(default: float, text: str) -> Any:
    """Of a chain."""
    return flag(default, text, least=0.0, group="sampler")


def momentum(text: str, default: float = 0.0) -> Any:
    """Of a chain."""
    return flag(default, text, least=0.0, most=0.99, group="sampler")


def encoder(default: str = "none", more: str = "") -> Any:
    """Whether the posterior chain has one."""
    return flag(
        default,
        "what the posterior chain starts from: the prior (none), or an encoder that learns as a "
        f"VAE's (elbo) or from the ends of the chains (chain){more}",
        choices=("none", "elbo", "chain"),
        group="sampler",
    )


def learning_rate(default: float, text: str) -> Any:
    """Of an optimizer."""
    return flag(default, text, above=0.0, group="learning")


def decay(default: float, text: str) -> Any:
    """A factor per epoch on a learning rate."""
    return flag(default, text, above=0.0, most=1.0, group="learning")


def weight(default: float, text: str) -> Any:
    """Of a term of the loss, or the epochs over which it rises."""
    return flag(default, text, least=0.0, group="learning")


def output(name: str) -> Any:
    """The folder of a run, by the name of its script."""
    text = "folder for everything the run writes"
    return flag(f"runs/{name}", text, metavar="DIR", operational=True)


# ---- Models from flags --------------------------------------------------------------------


def chain(settings: Any, name: str) -> tfebm.ShortRunLangevin:
    """The chain of the flags `--<name>-steps`, `--<name>-step-size` and `--<name>-momentum`."""
    names = ("steps", "step_size", "momentum")
    steps, size, momentum = (getattr(settings, f"{name}_{each}") for each in names)
    options = {"momentum": momentum, "jit_compile": settings.jit_compile}
    return tfebm.ShortRunLangevin(steps, size, **options)


def check_start(settings: Any, has_chain: bool) -> None:
    """Raises `InvalidInputError` for a start of a chain that a model does not have."""
    if settings.encoder != "none" and not has_chain:
        raise InvalidInputError(
            f"--encoder {settings.encoder} is where a posterior chain starts, and --model "
            f"{settings.model} has none. Leave it out, or give --model short_run or latent_ebm."
        )


def curves(settings: Any, panels: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Panels of `curves.png`, and one for the encoder of a chain's start."""
    if settings.encoder == "none":
        return dict(panels)
    return {**panels, "KL of the chain's start from the prior, nats": ("kl",)}


def image_encoder(settings: Any, image_shape: tuple, sizes: int | tuple) -> keras.Layer:
    """The encoder of images: of a VAE, or half as wide of a chain's start, which the chain goes on
    from."""
    width = settings.width if settings.encoder != "none" else 2 * settings.width
    return tfebm.ConvEncoder(image_shape, sizes, width=width, dtype=settings.dtype_policy)


def adam(
    rate: float | keras.optimizers.schedules.LearningRateSchedule,
) -> keras.optimizers.Optimizer:
    """Adam as the papers' code has it, with little momentum."""
    import keras

    return keras.optimizers.Adam(rate, beta_1=0.5)


def decaying_adam(rate: float, decay: float, per_epoch: int) -> keras.optimizers.Optimizer:
    """Adam with the rate `rate * decay ** epoch`, by the optimizer's own step."""
    import keras

    schedules = keras.optimizers.schedules
    return adam(schedules.ExponentialDecay(rate, per_epoch, decay, staircase=True))


def in_turn(
    values: list[float], ends: list[int]
) -> keras.optimizers.schedules.LearningRateSchedule:
    """The first value for `ends[0]` steps, the second up to step `ends[1]`, and so on."""
    import keras

    # Keras counts steps from 0 and keeps a value up to its boundary, that step included.
    return keras.optimizers.schedules.PiecewiseConstantDecay([end - 1 for end in ends], values)


def latent_model(
    kind: str,
    generator: keras.Layer,
    settings: Any,
    *,
    encoder: Callable[[], keras.Layer],
    optimizer: Callable[[], keras.optimizers.Optimizer],
    energy_optimizer: Callable[[], keras.optimizers.Optimizer] | None = None,
    **given: Any,
) -> keras.Model:
    """A compiled model with latents.

    Args:
        kind: "latent_ebm", "short_run", or "vae".
        generator: Of the model.
        settings: With the flags of the chains and of the energy.
        encoder: Makes one, where the settings ask for it.
        optimizer: Makes one, for the generator or for an encoder.
        energy_optimizer: Likewise, for the energy of a latent_ebm.
        **given: Arguments of the model. A posterior chain that is not given is that of the flags.
    """
    given["seed"] = settings.seed
    optimizers = {"optimizer": optimizer()}
    if kind == "vae" or settings.encoder != "none":
        given["encoder"] = encoder()
        optimizers["encoder_optimizer"] = optimizer()
    if kind == "vae":
        model = tfebm.VAE(generator, **given)
        model.compile(**optimizers)
        return model
    if "encoder" in given:
        given["encoder_objective"] = settings.encoder
    if "posterior_sampler" not in given:
        given["posterior_sampler"] = chain(settings, "posterior")
    if kind == "short_run":
        model = tfebm.ShortRunModel(generator, **given)
        model.compile(**optimizers)
        return model
    energy = tfebm.EnergyMLP((settings.energy_width,) * 2)
    model = tfebm.LatentEBM(generator, energy, prior_sampler=chain(settings, "prior"), **given)
    model.compile(energy_optimizer=energy_optimizer(), **optimizers)
    return model


def size_check(make_generator: Callable[[Any, tuple], Any]) -> Callable[[Any], None]:
    """A check of `--image-size` that needs no image: whether there is such a generator.

    It raises `InvalidInputError` for a size that no image could mend.
    """

    def check(settings: Any) -> None:
        if settings.image_size:
            make_generator(settings, (settings.image_size, settings.image_size, 3))

    return check


# ---- The end of a run ---------------------------------------------------------------------


def finish(
    model: keras.Model,
    log: tfebm.callbacks.RunLog,
    test: dict[str, Any] | None,
    started: float,
    say: Callable[[dict[str, Any] | None], str],
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes the final record, and says what the run took and what came out."""
    final = runs.training.finish(model, log, test, started, extra)
    print(runs.training.cost(final))
    print(say(final["test"]))
    return final


def leave(session: Session, first: str) -> None:
    """Says where everything is and what to look at first, and lets the other workers go."""
    print(f"Everything is in {session.run.path}: look at {first} first.")
    session.close()

"""Learns sentences by short-run inference, with or without an energy-based prior, or a baseline.

  python train/text.py                                         a small grammar, in minutes
  python train/text.py --model vae --output runs/text_vae
  python train/text.py --preset ptb --dataset FOLDER           the paper's settings
  python train/text.py --resume --task interpolate             more of a finished run

The models share the decoder, the data, the epochs and the seeds: short_run and latent_ebm infer
latents by a chain, vae by an encoder, and lm is the decoder without latents.

B. Pang, E. Nijkamp, T. Han, Y. N. Wu. Generative Text Modeling through Short Run Inference. EACL
2021. B. Pang et al. Learning Latent Space Energy-Based Prior Model. NeurIPS 2020.
"""

from __future__ import annotations

__reads_flags_first__ = True  # tfebm imports TensorFlow when they are known to be usable

import dataclasses
import math
import pathlib
import time
from typing import TYPE_CHECKING, Any

import tfebm
from tfebm import runs
from tfebm.errors import InvalidInputError
from tfebm.runs import TextRunSettings, flag

if TYPE_CHECKING:
    import keras

    from tfebm.data import TextData

NAME = "text"
MODELS = ("short_run", "latent_ebm", "vae", "lm")
DECODINGS = ("greedy", "sampled", "beam")
# On the screen; all metrics are in the logs.
_NATS = {"generator_loss": "nats"}
SHOWN = {
    "short_run": {**_NATS, "displacement_posterior": "displacement"},
    "latent_ebm": {**_NATS, "energy_posterior": "energy", "energy_prior": "of samples"},
    "vae": {**_NATS, "kl": "KL", "elbo": "ELBO"},
    "lm": _NATS,
}


@dataclasses.dataclass(frozen=True)
class Settings(TextRunSettings):
    """The defaults are the preset `laptop`; math symbols are the papers'."""

    GROUP = "model"  # of the flags

    model: str = flag("short_run", "what is learned", choices=MODELS)
    epochs: int = flag(5, "passes over the data", least=1)
    batch_size: int = flag(32, "sentences per step, over all replicas", least=1)
    latent_size: int = flag(16, "d, size of z", least=1, most=2**16)
    embedding_size: int = flag(64, "of a word", least=1, most=2**14)
    hidden_size: int = flag(128, "units of the LSTM", least=1, most=2**14)
    dropout: float = flag(
        0.3, "share of embeddings and LSTM outputs, in learning", least=0.0, group="learning"
    )
    posterior_steps: int = flag(
        20, "K, steps of the posterior chain", least=1, most=10**6, group="sampler"
    )
    step_sizes: str | None = flag(
        None,
        "of its steps: paper (0.8 falling to 0.05), or one number for all (default: paper, of "
        "latent_ebm 0.5)",
        type=str,
        metavar="paper|X",
        group="sampler",
    )
    noise_scale: float | None = flag(
        None,
        "T, noise of a step over its size (default: 0.2, of latent_ebm 0)",
        type=float,
        least=0.0,
        group="sampler",
    )
    noise_warmup_epochs: int = flag(
        2,
        "epochs with T at most 0.05, which then rises by as much an epoch (short_run)",
        least=0,
        group="sampler",
    )
    prior_warmup: float = flag(
        0.0,
        "epochs over which the prior's weight rises from 0.1 to 1 (short_run)",
        least=0.0,
        group="learning",
    )
    prior_steps: int = flag(
        40, "K_0, steps of latent_ebm's prior chain", least=0, most=10**6, group="sampler"
    )
    prior_step_size: float = flag(
        0.5, "s_0; the noise has this standard deviation", least=0.0, group="sampler"
    )
    energy_width: int = flag(
        200, "units of latent_ebm's energy, two hidden layers", least=1, most=2**14
    )
    energy_l2: float = flag(
        0.1,
        "weight of latent_ebm's squared energies in their loss (0: none)",
        least=0.0,
        before=0.0,
        group="learning",
    )
    kl_warmup: float = flag(
        0.0, "epochs over which the VAE's KL weight rises to 1", least=0.0, group="learning"
    )
    free_bits: float = flag(
        0.0, "nats of KL that each of the VAE's units has free", least=0.0, group="learning"
    )
    learning_rate: float = flag(2e-3, "of decoder and encoder (Adam)", above=0.0, group="learning")
    energy_learning_rate: float = flag(
        1e-4, "of the energy (AdamW, decay 1e-3)", above=0.0, group="learning"
    )
    clip_norm: float = flag(
        5.0, "largest norm of a gradient; 1 for the energy", above=0.0, group="learning"
    )
    decoding: str = flag(
        "greedy", "how the saved model writes; lm samples", choices=DECODINGS, group="task"
    )
    beam_width: int = flag(
        5, "sentences that --decoding beam keeps", least=1, most=1000, group="task"
    )
    output: str = flag(
        "runs/text", "folder for everything the run writes", metavar="DIR", operational=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dropout >= 1.0:
            raise InvalidInputError(f"--dropout must be less than 1. Received {self.dropout}.")
        _ = self.constant_step_size
        if self.model == "lm" and self.decoding == "beam":
            raise InvalidInputError(
                "--decoding beam writes the most probable sentence of a latent, and --model lm, "
                "which has none, would write one sentence always. Leave it out: its words are "
                "sampled."
            )
        if self.model == "lm" and self.task != "generate":
            raise InvalidInputError(
                f"--task {self.task} needs latents, which --model lm has none of. Give --model "
                "short_run, latent_ebm or vae, or --task generate."
            )

    @property
    def constant_step_size(self) -> float | None:
        """That of all steps; None for the text paper's, which fall."""
        asked = self.step_sizes or ("0.5" if self.model == "latent_ebm" else "paper")
        if asked == "paper":
            return None
        try:
            number = float(asked)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number > 0):
            raise InvalidInputError(
                f"--step-sizes must be paper or a positive number. Received {asked!r}."
            )
        return number

    @property
    def final_noise_scale(self) -> float:
        """T at the end of training and afterwards."""
        if self.noise_scale is not None:
            return self.noise_scale
        return 0.0 if self.model == "latent_ebm" else 0.2


# The papers' and their released code's values.
_PAPER = {
    "epochs": 60,
    "latent_size": 32,
    "embedding_size": 256,
    "hidden_size": 256,
    "dropout": 0.5,
    "noise_warmup_epochs": 15,
    "learning_rate": 1e-3,
}
_NOT_INCLUDED = {
    "ptb": "Penn Treebank",
    "yelp": "short Yelp sentences, with label<TAB>sentence lines",
}
PRESETS = {
    "laptop": {},
    "ptb": {**_PAPER, "dataset": "ptb"},
    "yelp": {
        **_PAPER,
        "dataset": "yelp",
        "labels": True,
        "epochs": 12,
        "embedding_size": 128,
        "hidden_size": 512,
        "posterior_steps": 40,
        "step_sizes": "0.4",
        "noise_scale": 0.0,
        "prior_warmup": 6.0,
    },
    "snli": {
        **_PAPER,
        "dataset": "snli",
        "split": "words",
        "max_vocabulary": 20_000,
        "model": "latent_ebm",
        "embedding_size": 512,
        "hidden_size": 512,
    },
}


def load(settings: Settings) -> TextData:
    """The sentences; says what a preset needs whose data do not come with the package."""
    corpus = _NOT_INCLUDED.get(settings.dataset)
    if corpus and not pathlib.Path(settings.dataset).exists():
        raise InvalidInputError(
            f"--preset {settings.dataset} needs --dataset: a folder with train.txt, valid.txt and "
            f"test.txt (.gz too) of the {corpus}, which cannot be downloaded from here."
        )
    return runs.text.load(settings)


def make_model(settings: Settings, data: TextData) -> keras.Model:
    """The compiled model of the settings."""
    import keras

    generators, schedule_steps = tfebm.generators, runs.text.schedule_steps
    decoding = {
        "greedy": generators.Greedy(),
        "sampled": generators.Sampled(),
        "beam": generators.BeamSearch(settings.beam_width),
    }[settings.decoding]
    generator = tfebm.AutoregressiveGenerator(
        data.tokenizer,
        settings.embedding_size,
        settings.hidden_size,
        settings.dropout,
        latent_to_cell=settings.model == "latent_ebm",
        max_length=settings.max_length,
        decoding=decoding,
        dtype=settings.dtype_policy,
    )
    rate = settings.learning_rate
    if settings.model == "lm":
        model = tfebm.LanguageModel(generator, seed=settings.seed)
        model.compile(_adam(rate, settings))
        return model
    shared = {"latent_size": settings.latent_size, "seed": settings.seed}
    if settings.model == "vae":
        model = tfebm.VAE(
            generator,
            kl_warmup_steps=schedule_steps(settings, data, settings.kl_warmup),
            free_bits=settings.free_bits,
            **shared,
        )
        model.compile(_adam(rate, settings), _adam(rate, settings))
        return model
    shared["posterior_sampler"] = _posterior_sampler(settings)
    if settings.model == "short_run":
        schedules = {
            "noise_schedule": _noise_schedule(settings, data),
            "prior_schedule": _prior_schedule(settings, data),
        }
        model = tfebm.ShortRunModel(generator, **schedules, **shared)
        model.compile(_adam(rate, settings))
        return model
    prior = tfebm.ShortRunLangevin(
        settings.prior_steps, settings.prior_step_size, jit_compile=settings.jit_compile
    )
    energy = tfebm.EnergyMLP((settings.energy_width,) * 2)
    shared |= {"prior_sampler": prior, "energy_l2": settings.energy_l2}
    model = tfebm.LatentEBM(generator, energy, **shared)
    of_energy = keras.optimizers.AdamW(
        settings.energy_learning_rate, weight_decay=1e-3, global_clipnorm=1.0
    )
    model.compile(_adam(rate, settings), of_energy)
    return model


def _adam(rate: float, settings: Settings) -> keras.optimizers.Optimizer:
    import keras

    return keras.optimizers.Adam(rate, global_clipnorm=settings.clip_norm)


def _posterior_sampler(settings: Settings) -> tfebm.ShortRunLangevin:
    options = {"noise_scale": settings.final_noise_scale, "jit_compile": settings.jit_compile}
    step_size = settings.constant_step_size
    if step_size is None:
        return tfebm.models.short_run.text_sampler(settings.posterior_steps, **options)
    return tfebm.ShortRunLangevin(settings.posterior_steps, step_size, **options)


def _noise_schedule(settings: Settings, data: TextData) -> Any:
    """T of 0.05 to the end of the warm-up, then 0.05 more every epoch up to the final one."""
    import keras

    final, step = settings.final_noise_scale, 0.05
    rises = math.ceil(final / step - 1e-6) - 1
    if not settings.noise_warmup_epochs or rises < 1:
        return None
    values = [step * (i + 1) for i in range(rises)] + [final]
    # Keras counts steps from 0 and keeps a value up to its boundary, that step included.
    ends = [settings.noise_warmup_epochs + i for i in range(rises)]
    ends = [runs.text.schedule_steps(settings, data, end) - 1 for end in ends]
    return keras.optimizers.schedules.PiecewiseConstantDecay(ends, values)


def _prior_schedule(settings: Settings, data: TextData) -> Any:
    import keras

    if not settings.prior_warmup:
        return None
    steps = runs.text.schedule_steps(settings, data, settings.prior_warmup)
    return keras.optimizers.schedules.PolynomialDecay(0.1, max(1, steps), 1.0)


def main() -> None:
    started = time.monotonic()
    session = runs.open_session(
        *(NAME, Settings, PRESETS, "laptop", __doc__, load),
        examples=lambda data: runs.text.training_set(data).x_train,
    )
    text, text_figures, training = runs.text, runs.text_figures, runs.training
    _, settings, run, strategy, data, asked = session
    before = text.finished(run, settings, data)
    trained = session.chief_says(before is not None)
    if before:
        model = text.saved_model(run, data)
    elif not trained:
        with strategy.scope():
            model = make_model(settings, data)
    session.announce(trained)
    text.begin(run, data)

    if trained:
        session.leave_to_chief()
        print(f"The run in {run.path} is finished, and its model is used as it is.", flush=True)
        log, final = text.saved_log(run, settings, before), before["final"]
    else:
        shown = SHOWN[settings.model]
        log = training.train(model, text.training_set(data), settings, run, shown=shown)
        model = session.alone(model)
        run.save_model(model)
        tfebm.pictures.save_curves(
            run.picture("curves"), log.epochs, text.CURVES_OF[settings.model]
        )
    session.export(model)
    if not before or settings.task == "generate":
        text.write_sentences(model, data, run, settings)
    if not before or text_figures.asked_for(asked):
        view = None
        if not before or "au_examples" in asked:
            view = text.look_at_latents(model, data, settings)
            text.draw_latents(view, data, run)
        former = final["test"] if before else None
        test = text_figures.measure(model, data, settings, view, former, asked)
        if before:
            final = {**final, "test": test}
            log.write(final)
        else:
            about = {"data": data.report, "tokenizer_digest": data.tokenizer.digest}
            final = training.finish(model, log, test, started, about)
            print(training.cost(final))
        print(text_figures.summary(test))
    if settings.task != "generate":
        log.write({**final, **runs.text_tasks.run_task(model, data, run, settings)})
    print(f"Everything is in {run.path}: look at samples.txt first.")
    session.close()


if __name__ == "__main__":
    runs.run_command(main)

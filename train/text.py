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

import time
from typing import TYPE_CHECKING, Any

from experiments import shared
from experiments import text_schedules as schedules
from experiments.text_data import load, training_set
from experiments.text_settings import NAME, PRESETS, Settings

import tfebm
from tfebm import runs

if TYPE_CHECKING:
    import keras

    from tfebm.data import TextData

_LOSS = {"-log p(x | z), nats per sentence": ("generator_loss",)}
_CHAIN_CURVES = {
    **_LOSS,
    "displacement of the chain": ("displacement_posterior",),
    "gradient norm of the likelihood at its end": ("likelihood_grad_norm",),
}
CURVES = {
    "short_run": _CHAIN_CURVES,
    "latent_ebm": {**_CHAIN_CURVES, "energy": ("energy_posterior", "energy_prior")},
    "vae": {
        **_LOSS,
        "KL divergence from the prior, nats": ("kl",),
        "evidence lower bound, nats": ("elbo",),
    },
    "lm": {"-log p(x), nats per sentence": ("generator_loss",)},
}
# On the screen; all metrics are in the logs.
_NATS = {"generator_loss": "nats"}
SHOWN = {
    "short_run": {**_NATS, "displacement_posterior": "displacement"},
    "latent_ebm": {**_NATS, "energy_posterior": "energy", "energy_prior": "of samples"},
    "vae": {**_NATS, "kl": "KL", "elbo": "ELBO"},
    "lm": _NATS,
}


def make_model(settings: Settings, data: TextData) -> keras.Model:
    """The compiled model of the settings."""
    import keras

    def adam() -> keras.optimizers.Optimizer:
        return keras.optimizers.Adam(settings.learning_rate, global_clipnorm=settings.clip_norm)

    def energy_adam() -> keras.optimizers.Optimizer:
        rate = settings.energy_learning_rate
        return keras.optimizers.AdamW(rate, weight_decay=1e-3, global_clipnorm=1.0)

    generators = tfebm.generators
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
    if settings.model == "lm":
        model = tfebm.LanguageModel(generator, seed=settings.seed)
        model.compile(adam())
        return model
    given: dict[str, Any] = {"latent_size": settings.latent_size}
    if settings.model == "vae":
        given["kl_warmup_steps"] = schedules.schedule_steps(settings, data, settings.kl_warmup)
        given["free_bits"] = settings.free_bits
    else:
        given["posterior_sampler"] = schedules.posterior_sampler(settings)
    if settings.model == "short_run":
        given["noise_schedule"] = schedules.noise_schedule(settings, data)
        given["prior_schedule"] = schedules.prior_schedule(settings, data)
    if settings.model == "latent_ebm":
        given["energy_l2"] = settings.energy_l2
    return shared.latent_model(
        *(settings.model, generator, settings),
        encoder=lambda: tfebm.SentenceEncoder(
            *(data.tokenizer.vocabulary_size, settings.latent_size),
            *(settings.embedding_size, settings.hidden_size),
        ),
        optimizer=adam,
        energy_optimizer=energy_adam,
        **given,
    )


def main() -> None:
    started = time.monotonic()
    session = runs.open_session(
        *(NAME, Settings, PRESETS, "laptop", __doc__, load),
        examples=lambda data: training_set(data).x_train,
    )
    from experiments import text_figures, text_files, text_latents, text_tasks

    _, settings, run, strategy, data, asked = session
    before = text_files.finished(run, settings, data)
    trained = session.chief_says(before is not None)
    if before:
        model = text_files.saved_model(run, data)
    elif not trained:
        with strategy.scope():
            model = make_model(settings, data)
    session.announce(trained)
    text_files.begin(run, data)

    if trained:
        session.leave_to_chief()
        print(f"The run in {run.path} is finished, and its model is used as it is.", flush=True)
        log, final = text_files.saved_log(run, settings, before), before["final"]
    else:
        how = {"shown": SHOWN[settings.model], "make_batches": tfebm.data.sentence_batches}
        log = runs.training.train(model, training_set(data), settings, run, **how)
        model = session.alone(model)
        run.save_model(model)
        panels = shared.curves(settings, CURVES[settings.model])
        tfebm.pictures.save_curves(run.picture("curves"), log.epochs, panels)
    session.export(model)
    if not before or settings.task == "generate":
        text_files.write_sentences(model, data, run, settings)
    if not before or text_figures.asked_for(asked):
        view = None
        if not before or "au_examples" in asked:
            view = text_latents.look_at_latents(model, data, settings)
            text_latents.draw_latents(view, data, run)
        former = final["test"] if before else None
        test = text_figures.measure(model, data, settings, view, former, asked)
        if before:
            final = {**final, "test": test}
            log.write(final)
            print(text_figures.summary(test))
        else:
            about = {"data": data.report, "tokenizer_digest": data.tokenizer.digest}
            final = shared.finish(model, log, test, started, text_figures.summary, about)
    if settings.task != "generate":
        log.write({**final, **text_tasks.run_task(model, data, run, settings)})
    shared.leave(session, "samples.txt")


if __name__ == "__main__":
    runs.run_command(main)

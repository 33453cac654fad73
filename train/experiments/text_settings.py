"""Flags of `text.py`: what it reads, what it learns, and what it does with a trained model."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

from experiments import shared
from tfebm.errors import InvalidInputError
from tfebm.runs import RunSettings, flag

NAME = "text"
MODELS = ("short_run", "latent_ebm", "vae", "lm")
DECODINGS = ("greedy", "sampled", "beam")
TASKS = ("generate", "classify", "cluster", "interpolate")
LABEL_COUNTS = (100, 500, 1000, 2000, 10_000)


def _task_flag(default: Any, text: str, choices: Any = None, **checks: Any) -> Any:
    """One that may differ on a resume: a finished run can be asked for more."""
    return flag(default, text, choices, operational=True, group="task", **checks)


@dataclasses.dataclass(frozen=True)
class _TextSource:
    # A base of its own: fields of the last base are the first flags.
    GROUP: ClassVar[str] = "data"

    dataset: str = flag(
        "grammar",
        "sentences: grammar, a text set of TensorFlow Datasets, a file with one a line, or a "
        "folder with train.txt, valid.txt, test.txt (packed with gzip or not)",
        metavar="NAME|PATH",
        path=True,
        names=("grammar",),
    )
    max_length: int = flag(64, "most words of a sentence, its end included", least=2, most=10**5)
    too_long: str = flag("cut", "what happens to longer ones", choices=("cut", "skip"))
    labels: bool = flag(
        False, "lines are label<TAB>sentence; labels are never trained on, only for --task"
    )
    vocabulary: str | None = flag(
        None,
        "file with a word a line (default: learned from the data)",
        type=str,
        metavar="FILE",
        path=True,
    )
    max_vocabulary: int | None = flag(
        None, "most ids of a learned one, 4 special ones included", type=int, least=5
    )
    min_count: int = flag(1, "words seen less often are unknown", least=1)
    split: str = flag(
        "whitespace",
        "how a line falls into words; words: lower-cased, punctuation apart",
        choices=("whitespace", "words"),
    )
    wordpieces: bool = flag(False, "pieces of words instead, with tensorflow-text")
    unlabelled: str | None = flag(
        None, "further files to train on", type=str, metavar="FILE,FILE", path="several"
    )
    text_feature: str | None = flag(
        None, "which text of a set that has several", type=str, metavar="NAME"
    )


@dataclasses.dataclass(frozen=True)
class Settings(RunSettings, _TextSource):
    """The defaults are the preset `laptop`; math symbols are the papers'."""

    GROUP: ClassVar[str] = "model"

    task: str = _task_flag("generate", "done with the trained model", choices=TASKS)
    chains: int = _task_flag(
        20, "chains whose mean is a feature, of tasks with labels", least=1, most=10**6
    )
    label_counts: str | None = _task_flag(
        None,
        "labels that classifiers see (default: "
        f"{','.join(map(str, LABEL_COUNTS))}, as far as there are so many)",
        type=str,
        metavar="N,N",
    )
    task_seeds: int = _task_flag(
        10, "repetitions of classify and cluster, for the spread", least=2, most=10**4
    )
    task_examples: int = _task_flag(
        0,
        "most validation and most test sentences of classify and cluster, and of cluster's "
        "training ones (0: all)",
        least=0,
    )
    interpolations: int = _task_flag(20, "pairs of sentences of --task interpolate", least=1)
    evidence: str = _task_flag(
        "laplace",
        "bound on the likelihood: by importance samples around the chains' ends (laplace), or "
        "through the short-run map and its determinant, of the model's own chain, of that with "
        "step sizes halved until nine of ten validation sentences have a bound (scaled), or of one "
        "tuned on those for the best bound",
        choices=("laplace", "own", "scaled", "tuned"),
    )
    evidence_examples: int = _task_flag(
        64,
        "test sentences of the bound, and of lm's likelihood to compare it with (0: none)",
        least=0,
    )
    evidence_chains: int = _task_flag(
        4, "chains of each of them; those of a map are its importance samples", least=1, most=10**6
    )
    evidence_samples: int = _task_flag(100, "importance samples of laplace", least=2, most=10**6)
    au_examples: int = _task_flag(
        500, "test sentences of latents.png and of the active units", least=2
    )
    quality: int = _task_flag(
        0, "sentences to generate for forward and reverse perplexity (0: none)", least=0
    )
    quality_epochs: int = _task_flag(10, "passes of the language models that judge them", least=1)
    model: str = flag("short_run", "what is learned", choices=MODELS, group="model")
    epochs: int = shared.epochs(5)
    batch_size: int = shared.batch_size(32, "sentences")
    latent_size: int = shared.latent_size(16)
    embedding_size: int = shared.width(64, "of a word")
    hidden_size: int = shared.width(128, "units of the LSTM")
    dropout: float = flag(
        0.3, "share of embeddings and LSTM outputs, in learning", least=0.0, group="learning"
    )
    posterior_steps: int = shared.chain_steps(20, "K, steps of the posterior chain")
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
    prior_warmup: float = shared.weight(
        0.0, "epochs over which the prior's weight rises from 0.1 to 1 (short_run)"
    )
    prior_steps: int = shared.chain_steps(40, "K_0, steps of latent_ebm's prior chain", least=0)
    prior_step_size: float = shared.step_size(0.5, "s_0; the noise has this standard deviation")
    prior_momentum: float = shared.momentum("c_0, velocity that a step keeps, below 1")
    posterior_momentum: float = shared.momentum("c, likewise")
    encoder: str = shared.encoder()
    energy_width: int = shared.width(200, "units of latent_ebm's energy, two hidden layers")
    energy_l2: float = shared.weight(
        0.1, "weight of latent_ebm's squared energies in their loss (0: none)"
    )
    kl_warmup: float = shared.weight(0.0, "epochs over which the VAE's KL weight rises to 1")
    free_bits: float = shared.weight(0.0, "nats of KL that each of the VAE's units has free")
    learning_rate: float = shared.learning_rate(2e-3, "of decoder and encoder (Adam)")
    energy_learning_rate: float = shared.learning_rate(1e-4, "of the energy (AdamW, decay 1e-3)")
    clip_norm: float = shared.learning_rate(5.0, "largest norm of a gradient; 1 for the energy")
    decoding: str = flag(
        "greedy", "how the saved model writes; lm samples", choices=DECODINGS, group="task"
    )
    beam_width: int = flag(
        5, "sentences that --decoding beam keeps", least=1, most=1000, group="task"
    )
    output: str = shared.output(NAME)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.xla:
            raise InvalidInputError("--xla cannot compile strings. Leave it out.")
        _ = self.counts
        if self.dropout >= 1.0:
            raise InvalidInputError(f"--dropout must be less than 1. Received {self.dropout}.")
        _ = self.constant_step_size
        shared.check_start(self, self.model in ("short_run", "latent_ebm"))
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
    def has_latents(self) -> bool:
        """Whether the model does."""
        return self.model != "lm"

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

    @property
    def needs_labels(self) -> bool:
        """Whether the task does."""
        return self.task in ("classify", "cluster")

    @property
    def counts(self) -> tuple[int, ...] | None:
        """`--label-counts` as numbers; None where it was not given."""
        if self.label_counts is None:
            return None
        parts = [part.strip() for part in self.label_counts.split(",")]
        if not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise InvalidInputError(
                "--label-counts must be whole numbers of at least 1, with commas between. Received "
                f"{self.label_counts!r}."
            )
        return tuple(sorted({int(part) for part in parts}))


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

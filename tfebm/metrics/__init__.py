"""Measures of chains, samples, scores and latents; they know no model.

While a model learns, `tfebm.callbacks` has them as callbacks: `SampleQuality`, `AnomalyCurves`,
`ActiveUnits`, `ChainDiagnostics`. The reconstruction error is a Keras metric of the models
themselves, `reconstruction_mse` of `fit` and `evaluate`: the mean square per value on the scale of
the data; of images in [-1, 1] a quarter of it is that on [0, 1]. `keras.metrics.MeanSquaredError`
is the same for reconstructions of any other model.
"""

from tfebm.metrics import chains
from tfebm.metrics.chains import (
    ChainReport,
    autocorrelation,
    autocorrelation_time,
    effective_sample_size,
    mode_switches,
    report,
    split_r_hat,
    total_variation,
)
from tfebm.metrics.classification import (
    SemiSupervised,
    bag_of_words_accuracy,
    semi_supervised_accuracy,
    spread,
)
from tfebm.metrics.clustering import Clustering, clustering_accuracy
from tfebm.metrics.detection import AnomalyDetection, anomaly_detection, rank_lost_scores
from tfebm.metrics.features import ClassifierFeatures, classifier_features, inception_features
from tfebm.metrics.frechet import FeatureMoments, frechet_distance
from tfebm.metrics.kernel import KernelDistance, kernel_distance
from tfebm.metrics.latent import ActiveUnits, active_units
from tfebm.metrics.perplexity import (
    GenerationPerplexity,
    distinct_ngrams,
    generation_perplexity,
    perplexity,
)

__all__ = [
    "ActiveUnits",
    "AnomalyDetection",
    "ChainReport",
    "ClassifierFeatures",
    "Clustering",
    "FeatureMoments",
    "GenerationPerplexity",
    "KernelDistance",
    "SemiSupervised",
    "active_units",
    "anomaly_detection",
    "autocorrelation",
    "autocorrelation_time",
    "bag_of_words_accuracy",
    "chains",
    "classifier_features",
    "clustering_accuracy",
    "distinct_ngrams",
    "effective_sample_size",
    "frechet_distance",
    "generation_perplexity",
    "inception_features",
    "kernel_distance",
    "mode_switches",
    "perplexity",
    "rank_lost_scores",
    "report",
    "semi_supervised_accuracy",
    "split_r_hat",
    "spread",
    "total_variation",
]

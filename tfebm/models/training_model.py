"""A Keras model whose networks have an optimizer each."""

import contextlib
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfebm.errors import InvalidInputError, received
from tfebm.models import batches, calls, compiling, gradients, replicas, workers
from tfebm.models.rows import check_eager
from tfebm.samplers import compilation
from tfebm.types import Tensor

_NOT_OURS = ("loss", "loss_weights", "metrics", "weighted_metrics")
# Keras' callbacks that look at `optimizer` alone.
_OF_ONE_OPTIMIZER = (
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ReduceLROnPlateau,
    keras.callbacks.SwapEMAWeights,
)


class TrainingModel(keras.Model):
    """Compiles, saves, restores and steps the optimizers of its networks.

    Subclasses set `optimized`, call `apply_gradients`, and return the defaults of
    `default_optimizers`.
    """

    optimized: Mapping[str, str]
    """Attribute of an optimizer to attribute of its network. `optimizer`, the name that Keras'
    learning-rate callbacks look for, comes first."""

    step: keras.Variable
    vocabulary_size: Any = None  # of a model of sentences
    _trackers: dict[str, keras.metrics.Mean]

    def add_trackers(self, *names: str) -> None:
        """Creates the means that `track` adds to, of these names and of `loss`."""
        # Not of Keras' default type: bfloat16 cannot count beyond 256.
        self._trackers = {
            name: keras.metrics.Mean(name=name, dtype="float32") for name in ("loss", *names)
        }

    def track(
        self, values: Mapping[str, Tensor], weights: Tensor, loss: Tensor
    ) -> dict[str, Tensor]:
        """Adds a batch to the model's own metrics, and returns them.

        Args:
            values: By name, `[B]` each.
            weights: `[B]`, 0 for rows that only fill up.
            loss: `[B]`.
        """
        logs = replicas.update(self._trackers, {"loss": loss, **values}, weights)
        return replicas.as_logs(logs)

    def _all_metrics(self) -> list[keras.metrics.Metric]:
        """`metrics`, and the model's own where a subclass' property leaves them out."""
        listed = list(self.metrics)
        return listed + _without(list(self._trackers.values()), listed)

    def reset_metrics(self) -> None:
        """Empties all metrics."""
        for metric in self._all_metrics():
            metric.reset_state()

    def get_metrics_result(self) -> dict[str, Any]:
        """Values of all metrics by name, those that a subclass added included."""
        found: dict[str, Any] = {}
        for metric in self._all_metrics():
            # Some of Keras' make their state at the first update, and have no result before.
            if getattr(metric, "_built", True):
                result = metric.result()
                found |= result if isinstance(result, dict) else {metric.name: result}
        return found

    def _get_metrics_result_or_logs(self, logs: Any) -> Any:
        # Keras would drop the metrics that a subclass updates and does not return. Of the model's
        # own an evaluation updates some.
        found = self.get_metrics_result() if isinstance(logs, dict) else {}
        added = {n: v for n, v in found.items() if n in logs or n not in self._trackers}
        return {**logs, **added} if added else logs

    # ---- Weights ----------------------------------------------------------------------

    @property
    def trainable_weights(self) -> list[keras.Variable]:
        """What is trained, without networks that stay fixed.

        The weights of `optimizer` come first: at the end of `fit` Keras hands it this list, to
        pair it with its moving averages one by one.
        """
        return self._trained(super().weights)

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """`trainable_weights`."""
        return self._trained(super().variables)

    @property
    def non_trainable_weights(self) -> list[keras.Variable]:
        """All other weights, those of fixed networks included."""
        return _without(super().weights, self.trainable_weights)

    @property
    def non_trainable_variables(self) -> list[keras.Variable]:
        """All other variables, those of fixed networks included."""
        return _without(super().variables, self.trainable_variables)

    def fixed_networks(self) -> list[keras.layers.Layer]:
        """Networks that no optimizer of this model trains, whatever else does."""
        return []

    def _trained(self, variables: list[keras.Variable]) -> list[keras.Variable]:
        if not self.trainable:
            return []
        first = [v for name in self.optimized.values() for v in self._weights_of(name)]
        first = list({id(v): v for v in first}.values())
        fixed = [v for network in self.fixed_networks() for v in network.variables]
        return first + [v for v in _without(variables, [*first, *fixed]) if v.trainable]

    def _weights_of(self, network: str) -> list[keras.Variable]:
        # Keras asks while a subclass still makes its networks.
        return getattr(self, network).trainable_variables if hasattr(self, network) else []

    def __setattr__(self, name: str, value: Any) -> None:
        before = self.__dict__.get(name, value)
        fixed = value is not before and isinstance(before, keras.layers.Layer | None)
        if fixed and self.built and name in (*self.optimized.values(), "backbone", "encoder"):
            raise InvalidInputError(
                f"`{name}` is fixed when a {type(self).__name__} is made: chains, optimizers and "
                f"shapes belong to it. Received {received(value)} in its place. Make a new model "
                "of the new network, or load weights into the old one."
            )
        super().__setattr__(name, value)

    def _lock_state(self) -> None:
        # The networks are built when `__init__` ends. As with Keras' own `Sequential` and
        # `Functional`, a subclass may add layers, metrics and weights to them.
        pass

    def default_optimizers(self) -> dict[str, keras.optimizers.Optimizer]:
        """One for each of `optimized`, where `compile` is not told."""
        raise NotImplementedError

    def compile(
        self, optimizer: str | keras.optimizers.Optimizer | None = None, **kwargs: Any
    ) -> None:
        """Configures training.

        Args:
            optimizer: Default: Adam with the rate that the class says.
            **kwargs: `jit_compile`, `run_eagerly`, `steps_per_execution` of `keras.Model`, and
                the optimizers of further networks.

        Warns where one of several optimizers is given and another is left to its default.
        `ReduceLROnPlateau`, `LearningRateScheduler` and `SwapEMAWeights` see `optimizer` alone; a
        `LearningRateSchedule` works in each. Warns of weights that no optimizer has, as those of a
        layer that a subclass adds.

        Raises:
            ValueError: A loss or metrics (the model has its own), one optimizer for two
                networks, mixed_float16, or under a strategy of several replicas
                `steps_per_execution > 1`, `jit_compile=True`, or an optimizer that accumulates
                gradients or overwrites weights with their averages.
        """
        given = [name for name in _NOT_OURS if kwargs.get(name) is not None]
        if given:
            raise InvalidInputError(
                f"{type(self).__name__} has its own losses and metrics. Received "
                f"{', '.join(f'`{name}`' for name in given)}. Leave them out, and follow other "
                "figures in a callback."
            )
        compiling.refuse_float16(self)
        compiling.refuse_under_strategy(self, kwargs)
        optimizers = self.default_optimizers()
        asked = {n: kwargs.pop(n, None) for n in self.optimized if n != "optimizer"}
        asked["optimizer"] = optimizer
        compiling.warn_of_defaults(self, asked, optimizers)
        for name in self.optimized:
            optimizers[name] = keras.optimizers.get(asked[name] or optimizers[name])
        if len({id(each) for each in optimizers.values()}) < len(optimizers):
            raise InvalidInputError(
                f"{' and '.join(f'`{name}`' for name in optimizers)} are one object. An optimizer "
                "keeps state for one set of weights: give each network its own."
            )
        compiling.refuse_merging(self, optimizers)
        super().compile(optimizer=optimizers["optimizer"], **kwargs)
        self._loss_tracker = None  # one of `_trackers` is `loss`
        self._compile_switches: dict[str, Any] = {
            name: kwargs[name]
            for name in ("jit_compile", "run_eagerly", "steps_per_execution")
            if name in kwargs
        }
        for name, network in self.optimized.items():
            if name != "optimizer":
                setattr(self, name, optimizers[name])
            # State must exist before weights are loaded into it; Keras loads an unbuilt optimizer
            # with no more than a warning.
            getattr(self, name).build(getattr(self, network).trainable_variables)
        self._warn_of_strays()

    def get_compile_config(self) -> dict[str, Any] | None:
        if not self.compiled:
            return None
        return {
            **{
                name: keras.saving.serialize_keras_object(getattr(self, name))
                for name in self.optimized
            },
            **self._compile_switches,
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self._strays = frozenset(map(id, self._untrained()))  # said when the model was made
        self.compile(**keras.saving.deserialize_keras_object(config))

    def fit(
        self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any
    ) -> keras.callbacks.History:
        """`keras.Model.fit`; labels are ignored, and every example counts the same.

        Under several workers every one of them gives the same `tf.data.Dataset` of global
        batches, and learns its part of each. Warns of callbacks that see one optimizer of several.

        Raises:
            ValueError: `sample_weight` or `class_weight`, or data that the networks cannot
                take, before any training starts; under several workers, data in any other form.
        """
        given = calls.by_name(keras.Model.fit, self, x, y, *args, **kwargs)
        batches.refuse_weights(given)
        reading = self._read(x, "fit")
        given["x"] = reading.source
        validation = calls.validation(given.get("validation_data"))
        held_out = reading if validation is None else self._read(validation, "validation_data")
        given["validation_data"] = None if validation is None else held_out.source
        given["callbacks"] = self._callbacks(given.get("callbacks"))
        self.prepare(x if reading.first is None else reading.first)
        if self._has_peers():
            given["x"], given["steps_per_epoch"] = self._shared(x, given.get("steps_per_epoch"))
            if validation is not None:
                steps = given.get("validation_steps")
                given["validation_data"], steps = self._shared(validation, steps)
                given["validation_steps"] = steps
        if not batches.is_array(reading.source):
            given["y"] = None
        with self._said(reading), self._said(held_out):
            history = super().fit(**given)
        for name, network in self.optimized.items():
            if name != "optimizer":  # for that one Keras does it (moving averages of weights)
                variables = getattr(self, network).trainable_variables
                getattr(self, name).finalize_variable_values(variables)
        self._warn_of_strays()  # layers that were built on the way
        return history

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.evaluate`; `x` must be what `fit` takes, and weights are refused as there.

        Raises:
            ValueError: As `fit`.
        """
        if "_use_cached_eval_dataset" in kwargs:  # `fit` calls, which has checked the data
            return super().evaluate(x, y, *args, **kwargs)
        given = calls.by_name(keras.Model.evaluate, self, x, y, *args, **kwargs)
        batches.refuse_weights(given)
        reading = self._read(x, "evaluate")
        given["x"] = reading.source
        if self._has_peers():
            given["x"], given["steps"] = self._shared(x, given.get("steps"))
        if not batches.is_array(reading.source):
            given["y"] = None
        with self._said(reading):
            return super().evaluate(**given)

    def predict(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.predict`, of one worker."""
        if self._has_peers():
            raise InvalidInputError(
                "`predict` answers one caller, and several workers would wait for each other in "
                "it. Save the model, and load it in a program without the strategy."
            )
        check_eager()
        reading = batches.Reading(batches.plain(x, "predict"), self.as_input, look=False)
        with self._said(reading):
            return super().predict(reading.source, *args, **kwargs)

    def train_on_batch(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.train_on_batch`; `x` must be what `fit` takes, one batch of it."""
        given, reading = self._read_batch(keras.Model.train_on_batch, x, *args, **kwargs)
        if not int(self.step.numpy()):
            self.prepare(x)
        with self._said(reading):
            return super().train_on_batch(**given)

    def test_on_batch(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.test_on_batch`; `x` must be what `fit` takes, one batch of it."""
        given, reading = self._read_batch(keras.Model.test_on_batch, x, *args, **kwargs)
        with self._said(reading):
            return super().test_on_batch(**given)

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        # Keras would add its own lines to what `call` has to say.
        if batches.is_array(x) and not isinstance(x, keras.KerasTensor):
            x = self.as_input(x)
        return super().__call__(x, *args, **kwargs)

    def predict_step(self, data: Any) -> Any:
        return self(self.as_input(batches.unpack(data)), training=False)

    def as_input(self, x: Any) -> Tensor:
        """`as_batch` of what `call` takes."""
        return self.as_batch(x)

    def as_batch(self, x: Any) -> Tensor:
        """A batch of examples, checked as far as its type says, in the model's own type."""
        raise NotImplementedError

    def _read(self, x: Any, method: str) -> batches.Reading:
        """What `method` takes, checked."""
        check_eager()
        x = batches.plain(x, method)
        self.check_data(x)
        return batches.Reading(x, self._check_batch)

    def _read_batch(
        self, method: Any, x: Any, *args: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], batches.Reading]:
        given = calls.by_name(method, self, x, *args, **kwargs)
        batches.refuse_weights(given)
        reading = self._read(x, method.__name__)
        if not batches.is_array(reading.source):
            raise InvalidInputError(
                f"`{method.__name__}` takes one batch, an array. Received {received(x)}. Give "
                "data sets and generators to `fit` or `evaluate`."
            )
        return {**given, "x": reading.source}, reading

    def _said(self, reading: batches.Reading) -> contextlib.AbstractContextManager[None]:
        return reading.said(self.vocabulary_size)

    def _check_batch(self, x: Any) -> Tensor:
        # The values of a data set show only when it is read: the first batch stands for all.
        batch = self.as_batch(x)
        self.check_data(batch.numpy())
        return batch

    def prepare(self, x: Any) -> None:
        """What must happen before learning from `x`, which `check_data` has passed."""

    def own_callbacks(self) -> list[keras.callbacks.Callback]:
        """What watches every `fit`."""
        return []

    def _callbacks(self, given: Any) -> Any:
        own = self.own_callbacks()
        if isinstance(given, keras.callbacks.CallbackList):
            for callback in own:
                given.append(callback)
            return given
        callbacks = [*tf.nest.flatten(given or []), *own]
        blind = [type(c).__name__ for c in callbacks if isinstance(c, _OF_ONE_OPTIMIZER)]
        if blind and len(self.optimized) > 1:
            first, *others = self.optimized
            warnings.warn(
                f"{' and '.join(blind)} sees `{first}` alone, that of the "
                f"{self.optimized[first]}; {' and '.join(f'`{name}`' for name in others)} goes on "
                "as before. To move the rates of both, give each a "
                "`keras.optimizers.schedules.LearningRateSchedule`.",
                stacklevel=3,
            )
        return callbacks

    _strays: frozenset[int] = frozenset()
    """Ids of weights that were warned of."""

    def _untrained(self) -> list[keras.Variable]:
        """Trainable weights that no optimizer has."""
        first = [v for name in self.optimized.values() for v in self._weights_of(name)]
        return _without(self.trainable_variables, first)

    def _warn_of_strays(self) -> None:
        strays = [v for v in self._untrained() if id(v) not in self._strays]
        if strays:
            self._strays |= frozenset(map(id, strays))
            compiling.warn_of_strays(self, strays)

    @property
    def call_spec(self) -> tf.TensorSpec:
        """What the model is called with."""
        raise NotImplementedError

    # Keras would trace the model a second time for an archive, sentences as floats.
    _default_save_signature = None

    def export(
        self,
        filepath: Any,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """`keras.Model.export`: one SavedModel, whose `serve(x)` answers what `model(x)` does.

        It loads without tfebm, and nothing in it must be compiled with XLA. For a server with all
        that the model can do see `tfebm.serving.export`.
        """
        if input_signature is None:
            input_signature = [self.call_spec]
        with compilation.without_xla():
            super().export(filepath, format, verbose, input_signature, **kwargs)

    def _has_peers(self) -> bool:
        return workers.count(self.distribute_strategy) > 1

    def _shared(self, data: Any, steps: int | None) -> tuple[Any, int]:
        return workers.share_batches(data, steps, self.distribute_strategy)

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        # Everything is built already. Keras would average the first batch over the replicas to
        # learn its shape, which fails when their parts differ in size.
        pass

    def check_data(self, x: Any) -> None:
        """Raises where `x` cannot be learned; subclasses say what they need."""

    def apply_gradients(self, grads: dict[str, list[Tensor]]) -> None:
        """Steps the optimizer of each network named in `grads`.

        Under a strategy Keras sums the gradients over the replicas.
        """
        for name, network in self.optimized.items():
            if grads.get(network):  # a frozen network has none
                optimizer = getattr(self, name)
                variables = getattr(self, network).trainable_variables
                optimizer.apply(gradients.prepared(optimizer, grads[network]), variables)

    def networks_by_name(self) -> dict[str, keras.layers.Layer]:
        """Every network that chains or losses run through."""
        made = [network for network in self.optimized.values() if hasattr(self, network)]
        return {network: getattr(self, network) for network in made}


def _without(variables: list[Any], others: list[Any]) -> list[Any]:
    """`variables` that are none of `others`."""
    known = {id(v) for v in others}
    return [v for v in variables if id(v) not in known]

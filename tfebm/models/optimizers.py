"""A Keras model whose networks have an optimizer each."""

from typing import Any

import keras
import tensorflow as tf

from tfebm.errors import InvalidInputError
from tfebm.models import workers
from tfebm.samplers import compilation
from tfebm.types import Tensor

_NOT_OURS = ("loss", "loss_weights", "metrics", "weighted_metrics")


class OptimizersModel(keras.Model):
    """Compiles, saves, restores and steps the optimizers of its networks.

    Subclasses set `optimized`, call `apply_gradients`, and return the defaults of
    `default_optimizers`.
    """

    optimized: dict[str, str]
    """Attribute of an optimizer to attribute of its network. `optimizer`, the name that Keras'
    learning-rate callbacks look for, comes first."""

    _trackers: dict[str, keras.metrics.Mean]

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return list(self._trackers.values())

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

        Raises:
            ValueError: A loss or metrics (the model has its own), one optimizer for two
                networks, mixed_float16, or under a strategy of several replicas
                `steps_per_execution > 1` or `jit_compile=True`.
        """
        given = [name for name in _NOT_OURS if kwargs.get(name) is not None]
        if given:
            raise InvalidInputError(
                f"{type(self).__name__} has its own losses and metrics. Received "
                f"{', '.join(f'`{name}`' for name in given)}. Leave them out, and follow other "
                "figures in a callback."
            )
        self._refuse_float16()
        self._refuse_under_strategy(kwargs)
        optimizers = self.default_optimizers()
        for name in self.optimized:
            asked = optimizer if name == "optimizer" else kwargs.pop(name, None)
            optimizers[name] = keras.optimizers.get(asked or optimizers[name])
        if len({id(each) for each in optimizers.values()}) < len(optimizers):
            raise InvalidInputError(
                f"{' and '.join(f'`{name}`' for name in optimizers)} are one object. An optimizer "
                "keeps state for one set of weights: give each network its own."
            )
        super().compile(optimizer=optimizers["optimizer"], **kwargs)
        self._compile_switches = {
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
        self.compile(**keras.saving.deserialize_keras_object(config))

    def fit(
        self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any
    ) -> keras.callbacks.History:
        """`keras.Model.fit`; labels are ignored, and every example counts the same.

        Under several workers every one of them gives the same `tf.data.Dataset` of global
        batches, and learns its part of each.

        Raises:
            ValueError: `sample_weight` or `class_weight`, or data that the networks cannot
                take, before any training starts; under several workers, data in any other form.
        """
        for name in ("sample_weight", "class_weight"):
            if kwargs.get(name) is not None:
                raise InvalidInputError(
                    f"`{name}` is not supported: the likelihood counts every example the same. "
                    f"Received `{name}`. To weigh examples, resample them in the data set."
                )
        if x is None:
            raise InvalidInputError("`fit` needs data: arrays or a `tf.data.Dataset` of batches.")
        self.check_data(x)
        validation = kwargs.get("validation_data")
        if isinstance(validation, tuple):
            if len(validation) == 3 and validation[2] is not None:
                raise InvalidInputError(
                    "`validation_data` holds sample weights, which are not supported: the "
                    "likelihood counts every example the same. Drop the third entry."
                )
            validation = validation[0]
        if validation is not None:
            self.check_data(validation)
        if self._has_peers():
            x, kwargs["steps_per_epoch"] = self._shared(x, kwargs.get("steps_per_epoch"))
            if validation is not None:
                steps = kwargs.get("validation_steps")
                kwargs["validation_data"], steps = self._shared(validation, steps)
                kwargs["validation_steps"] = steps
        history = super().fit(x, None if _is_array(x) else y, *args, **kwargs)
        for name, network in self.optimized.items():
            if name != "optimizer":  # for that one Keras does it (moving averages of weights)
                variables = getattr(self, network).trainable_variables
                getattr(self, name).finalize_variable_values(variables)
        return history

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.evaluate`; `x` must be what `fit` takes."""
        if "_use_cached_eval_dataset" not in kwargs:  # else `fit` calls, which has checked it
            self.check_data(x)
            if self._has_peers():
                x, kwargs["steps"] = self._shared(x, kwargs.get("steps"))
        return super().evaluate(x, *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.predict`, of one worker."""
        if self._has_peers():
            raise InvalidInputError(
                "`predict` answers one caller, and several workers would wait for each other in "
                "it. Save the model, and load it in a program without the strategy."
            )
        return super().predict(x, *args, **kwargs)

    @property
    def call_spec(self) -> tf.TensorSpec:
        """What the model is called with."""
        raise NotImplementedError

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

    def _shared(self, batches: Any, steps: int | None) -> tuple[Any, int]:
        return workers.share_batches(batches, steps, self.distribute_strategy)

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        # Everything is built already. Keras would average the first batch over the replicas to
        # learn its shape, which fails when their parts differ in size.
        pass

    def check_data(self, x: Any) -> None:
        """Raises where `x` cannot be learned; subclasses say what they need."""

    def apply_gradients(self, grads: dict[str, list]) -> None:
        """Steps the optimizer of each network named in `grads`.

        Under a strategy Keras sums the gradients over the replicas.
        """
        for name, network in self.optimized.items():
            if grads.get(network):  # a frozen network has none
                optimizer = getattr(self, name)
                variables = getattr(self, network).trainable_variables
                optimizer.apply(_clipped(optimizer, grads[network]), variables)

    def networks_by_name(self) -> dict[str, keras.layers.Layer]:
        """Every network that chains or losses run through."""
        return {network: getattr(self, network) for network in self.optimized.values()}

    def _refuse_float16(self) -> None:
        for name, network in self.networks_by_name().items():
            for layer in network._flatten_layers():
                if layer.compute_dtype == "float16":
                    raise InvalidInputError(
                        f"The {name}'s layer '{layer.name}' computes in float16. Chains add "
                        "gradients far smaller and larger than float16 holds, and Keras' loss "
                        "scaling does not reach into them. Use 'mixed_bfloat16' or 'float32'."
                    )

    def _refuse_under_strategy(self, kwargs: dict[str, Any]) -> None:
        replicas = self.distribute_strategy.num_replicas_in_sync
        if replicas == 1:
            return
        if kwargs.get("steps_per_execution", 1) not in (1, None):
            raise InvalidInputError(
                "`steps_per_execution` above 1 does not work under a strategy of several "
                f"replicas (keras-team/keras issue 19246). Received "
                f"{kwargs['steps_per_execution']} with {replicas} replicas. Leave it at 1."
            )
        if kwargs.get("jit_compile") is True:
            raise InvalidInputError(
                "`jit_compile=True` compiles the whole step, which TensorFlow cannot do with "
                f"variables on several devices. Received it with {replicas} replicas. Leave it "
                "out: the chains are compiled all the same, by their samplers' `jit_compile`."
            )


def _clipped(optimizer: keras.optimizers.Optimizer, grads: list[Tensor]) -> list[Tensor]:
    """Gradients whose sum over the replicas is clipped as the optimizer asks.

    Keras clips each replica's own before it sums them, which is another gradient than that of one
    device. Shares of the clipped sum pass its clipping unchanged.
    """
    clips = any(
        getattr(optimizer, name, None) for name in ("clipnorm", "global_clipnorm", "clipvalue")
    )
    context = tf.distribute.get_replica_context()
    if not clips or context is None or context.num_replicas_in_sync == 1:
        return grads
    summed = optimizer._clip_gradients(context.all_reduce(tf.distribute.ReduceOp.SUM, grads))
    return [grad / context.num_replicas_in_sync for grad in summed]


def _is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype") and not isinstance(x, tf.data.Dataset)

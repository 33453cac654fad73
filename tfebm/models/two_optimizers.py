"""A Keras model whose generator and energy have an optimizer each."""

from typing import Any

import keras
import tensorflow as tf

from tfebm.errors import InvalidInputError

_NOT_OURS = ("loss", "loss_weights", "metrics", "weighted_metrics")


class TwoOptimizerModel(keras.Model):
    """Compiles, saves, restores and steps two optimizers.

    `optimizer` is the generator's, under the name that Keras' learning-rate callbacks look
    for; `energy_optimizer` is the energy's. Subclasses set `generator` and `energy`, call
    `apply_gradients`, and return the defaults of `default_optimizers`.
    """

    generator: keras.layers.Layer
    energy: keras.layers.Layer
    energy_optimizer: keras.optimizers.Optimizer

    def default_optimizers(self) -> tuple[keras.optimizers.Optimizer, keras.optimizers.Optimizer]:
        """The generator's and the energy's, where `compile` is not told."""
        raise NotImplementedError

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer | None = None,
        energy_optimizer: str | keras.optimizers.Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        """Configures training.

        Args:
            optimizer: The generator's. Default: the paper's.
            energy_optimizer: The energy's. Default: the paper's.
            **kwargs: `jit_compile`, `run_eagerly`, `steps_per_execution` of `keras.Model`.

        Raises:
            ValueError: A loss or metrics (the model has its own), one optimizer for both
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
        defaults = self.default_optimizers()
        optimizer = keras.optimizers.get(defaults[0] if optimizer is None else optimizer)
        energy_optimizer = keras.optimizers.get(
            defaults[1] if energy_optimizer is None else energy_optimizer
        )
        if optimizer is energy_optimizer:
            raise InvalidInputError(
                "`optimizer` and `energy_optimizer` are one object. An optimizer keeps state for "
                "one set of weights: give each network its own."
            )
        super().compile(optimizer=optimizer, **kwargs)
        self.energy_optimizer = energy_optimizer
        self._compile_switches = {
            name: kwargs[name]
            for name in ("jit_compile", "run_eagerly", "steps_per_execution")
            if name in kwargs
        }
        # State must exist before weights are loaded into it; Keras loads an unbuilt optimizer
        # with no more than a warning.
        self.optimizer.build(self.generator.trainable_variables)
        self.energy_optimizer.build(self.energy.trainable_variables)

    def get_compile_config(self) -> dict[str, Any] | None:
        if not self.compiled:
            return None
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "energy_optimizer": keras.saving.serialize_keras_object(self.energy_optimizer),
            **self._compile_switches,
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))

    def fit(
        self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any
    ) -> keras.callbacks.History:
        """`keras.Model.fit`; labels are ignored, and every example counts the same.

        Raises:
            ValueError: `sample_weight` or `class_weight`, or data that the networks cannot
                take, before any training starts.
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
        history = super().fit(x, None if _is_array(x) else y, *args, **kwargs)
        # Keras does this for the generator's optimizer alone (moving averages of weights).
        self.energy_optimizer.finalize_variable_values(self.energy.trainable_variables)
        return history

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.evaluate`; `x` must be what `fit` takes."""
        if "_use_cached_eval_dataset" not in kwargs:  # else `fit` calls, which has checked it
            self.check_data(x)
        return super().evaluate(x, *args, **kwargs)

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        # Everything is built already. Keras would average the first batch over the replicas to
        # learn its shape, which fails when their parts differ in size.
        pass

    def check_data(self, x: Any) -> None:
        """Raises where `x` cannot be learned; subclasses say what they need."""

    def apply_gradients(self, generator_grads: list, energy_grads: list) -> None:
        """Steps both optimizers; under a strategy Keras sums the gradients over replicas."""
        pairs = (
            (self.optimizer, generator_grads, self.generator),
            (self.energy_optimizer, energy_grads, self.energy),
        )
        for optimizer, grads, network in pairs:
            if grads:  # a frozen network has none
                optimizer.apply(grads, network.trainable_variables)

    def _refuse_float16(self) -> None:
        for name in ("generator", "energy"):
            for layer in getattr(self, name)._flatten_layers():
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


def _is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype") and not isinstance(x, tf.data.Dataset)

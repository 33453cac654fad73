"""The prior chain as one writes it in Keras and TFP: `... prior_chain_tf.py FOLDER THREADS`.

"Keras": a loop in a `tf.function`, with a tape and `tf.random.normal`. "TFP": `sample_chain` of
`UncalibratedLangevin`, whose step size is the square of ours.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import serve
import tensorflow as tf
import tensorflow_probability as tfp


def load(given: dict) -> dict[str, serve.Variant]:
    num_layers = sum(name.startswith("kernel_") for name in given)
    units = [given[f"bias_{i}"].size for i in range(num_layers)]
    layers = [keras.layers.Dense(n, "gelu") for n in units[:-1]] + [keras.layers.Dense(units[-1])]
    network = keras.Sequential(layers)
    network.build((None, given["z_0"].shape[1]))
    network.set_weights(
        [given[f"{part}_{i}"] for i in range(num_layers) for part in ("kernel", "bias")]
    )
    start, step_size = tf.constant(given["z_0"]), float(given["step_size"])

    def energy(z: tf.Tensor) -> tf.Tensor:
        return network(z)[:, 0] + 0.5 * tf.reduce_sum(z**2, axis=1)

    def keras_chain(
        jit_compile: bool, num_steps: int, noise: bool
    ) -> tf.types.experimental.Callable:
        @tf.function(jit_compile=jit_compile)
        def chain() -> tf.Tensor:
            z = start
            for _ in tf.range(num_steps):
                with tf.GradientTape() as tape:
                    tape.watch(z)
                    total = tf.reduce_sum(energy(z))
                z = z - 0.5 * step_size**2 * tape.gradient(total, z)
                if noise:
                    z = z + step_size * tf.random.normal(tf.shape(z))
            return z

        return chain

    def tfp_chain(jit_compile: bool, num_steps: int) -> tf.types.experimental.Callable:
        kernel = tfp.mcmc.UncalibratedLangevin(lambda z: -energy(z), step_size**2)

        @tf.function(jit_compile=jit_compile, autograph=False)
        def chain() -> tf.Tensor:
            return tfp.mcmc.sample_chain(
                1, start, kernel=kernel, num_burnin_steps=num_steps - 1, trace_fn=None, seed=[0, 0]
            )[-1]

        return chain

    def drift() -> dict:
        """By the drift of TFP's kernel; its noise cannot be switched off."""
        kernel = tfp.mcmc.UncalibratedLangevin(lambda z: -energy(z), step_size**2)
        (moved,) = kernel.bootstrap_results(start).diffusion_drift
        return {"z": (start + moved).numpy()}

    variants, num_steps = {}, int(given["num_steps"])
    for how, jit_compile in {"graph": False, "XLA": True}.items():
        one = keras_chain(jit_compile, 1, False)
        ours = keras_chain(jit_compile, num_steps, True)
        variants[f"Keras, {how}"] = serve.Variant(
            lambda one=one: {"z": one().numpy()}, lambda ours=ours: ours().numpy()
        )
        theirs = tfp_chain(jit_compile, num_steps)
        variants[f"TFP, {how}"] = serve.Variant(drift, lambda theirs=theirs: theirs().numpy())
    return variants


if __name__ == "__main__":
    tf.config.threading.set_intra_op_parallelism_threads(serve.threads())
    tf.config.set_visible_devices([], "GPU")
    serve.serve({"tensorflow": tf.__version__, "tensorflow_probability": tfp.__version__}, load)

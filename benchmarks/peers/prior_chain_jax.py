"""The prior chain in JAX: `python benchmarks/peers/prior_chain_jax.py FOLDER THREADS`.

One compiled loop; JAX takes as many threads as there are cores.
"""

import serve

try:
    import jax
except (ImportError, OSError) as error:
    serve.missing(error)

import functools

import jax.numpy as jnp
import numpy as np


def load(given: dict) -> dict[str, serve.Variant]:
    num_layers = sum(name.startswith("kernel_") for name in given)
    layers = [
        (jnp.asarray(given[f"kernel_{i}"]), jnp.asarray(given[f"bias_{i}"]))
        for i in range(num_layers)
    ]
    start, step_size = jnp.asarray(given["z_0"]), float(given["step_size"])

    def energy(z: jax.Array, layers: list) -> jax.Array:
        squares = 0.5 * jnp.sum(z**2)
        for kernel, bias in layers[:-1]:
            z = jax.nn.gelu(z @ kernel + bias, approximate=False)
        kernel, bias = layers[-1]
        return jnp.sum(z @ kernel + bias) + squares

    @functools.partial(jax.jit, static_argnames=("num_steps", "noise"))
    def chain(z: jax.Array, layers: list, key: jax.Array, num_steps: int, noise: bool) -> jax.Array:
        def step(k: jax.Array, z: jax.Array) -> jax.Array:
            z = z - 0.5 * step_size**2 * jax.grad(energy)(z, layers)
            if noise:
                z = z + step_size * jax.random.normal(jax.random.fold_in(key, k), z.shape)
            return z

        return jax.lax.fori_loop(0, num_steps, step, z)

    key, num_steps = jax.random.key(0), int(given["num_steps"])
    return {
        "jit": serve.Variant(
            lambda: {"z": np.asarray(chain(start, layers, key, 1, False))},
            lambda: chain(start, layers, key, num_steps, True).block_until_ready(),
        )
    }


if __name__ == "__main__":
    serve.serve({"jax": jax.__version__}, load)

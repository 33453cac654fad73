"""The chain of a generator with a latent at every layer in PyTorch.

  python benchmarks/peers/layers_torch.py FOLDER THREADS

Written as the paper's released code is: the parameters are frozen, and all latents take one
gradient. "eager" is that; the other variants are what PyTorch's users turn on.
"""

import serve

try:
    import torch
except (ImportError, OSError) as error:
    serve.missing(error)

import functools
from collections.abc import Callable

from torch.nn import functional


class Generator:
    """With tfebm's weights.

    Args:
        given: The problem.
        layout: Of kernels of convolutions and of the maps.
    """

    def __init__(self, given: dict, layout: torch.memory_format) -> None:
        self.layout, self.layers = layout, len(given["latent_sizes"])
        self.doublings = int(given["upsamplings"])
        self.range = given["log_variance_range"].tolist()
        self.weights = {}
        for name, value in given.items():
            weight = torch.from_numpy(value) if name.endswith(("_kernel", "_bias")) else None
            if weight is not None and weight.ndim == 4:  # transposed ones have (out, in) last
                weight = weight.permute(3, 2, 0, 1).contiguous(memory_format=layout)
            elif weight is not None and weight.ndim == 2:
                weight = weight.T.contiguous()
            if weight is not None:
                self.weights[name] = weight

    def layer(self, operation: Callable, name: str, x: torch.Tensor, **how: int) -> torch.Tensor:
        return operation(x, self.weights[f"{name}_kernel"], self.weights.get(f"{name}_bias"), **how)

    def project(self, i: int, z: torch.Tensor) -> torch.Tensor:
        h = functional.gelu(self.layer(functional.linear, f"project_dense_{i}", z))
        side = round((h.shape[1] // 4) ** 0.5)
        h = h.reshape(-1, 4, side, side).contiguous(memory_format=self.layout)
        h = self.layer(functional.conv_transpose2d, f"project_deconv_{i}", h, padding=2)
        return functional.gelu(h)

    def block(self, i: int, x: torch.Tensor) -> torch.Tensor:
        h = functional.gelu(self.layer(functional.conv2d, f"conv5_{i}", x, padding=2))
        return x + functional.gelu(self.layer(functional.conv2d, f"conv3_{i}", h, padding=1))

    def head(self, kind: str, i: int, x: torch.Tensor) -> torch.Tensor:
        h = functional.gelu(self.layer(functional.conv2d, f"{kind}_conv_{i}", x))
        return self.layer(functional.linear, f"{kind}_dense_{i}", h.flatten(1))

    def __call__(self, latents: list[torch.Tensor]) -> torch.Tensor:
        features = self.block(0, self.project(0, latents[0]))
        for i in range(1, self.layers):
            log_variance = self.head("log_variance", i - 1, features).clamp(*self.range)
            z = self.head("mean", i - 1, features) + torch.exp(0.5 * log_variance) * latents[i]
            features = self.block(i, self.project(i, z)) + features
        x = self.block(self.layers, features)
        for i in range(self.doublings):
            x = functional.gelu(x) if i > 0 else x
            x = self.layer(functional.conv_transpose2d, f"deconv_{i}", x, stride=2, padding=1)
        return torch.tanh(x)


class Chain:
    def __init__(self, given: dict, channels_last: bool = False, compiled: bool = False) -> None:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        generator = Generator(given, layout)
        self.generator = torch.compile(generator.__call__) if compiled else generator
        self.x = torch.from_numpy(given["x"]).permute(0, 3, 1, 2).contiguous(memory_format=layout)
        self.z_0 = [torch.from_numpy(given[f"z_{i}"]) for i in range(generator.layers)]
        self.step_size, self.sigma = float(given["step_size"]), float(given["sigma"])

    def run(self, num_steps: int, noise: bool = True) -> list[torch.Tensor]:
        latents = self.z_0
        for _ in range(num_steps):
            latents = [z.detach().requires_grad_(True) for z in latents]
            energy = ((self.generator(latents) - self.x) ** 2).sum() / (2 * self.sigma**2)
            energy = energy + 0.5 * sum((z**2).sum() for z in latents)
            grads = torch.autograd.grad(energy, latents)
            latents = [
                z.detach() - 0.5 * self.step_size**2 * grad
                for z, grad in zip(latents, grads, strict=True)
            ]
            if noise:
                latents = [z + self.step_size * torch.randn_like(z) for z in latents]
        return latents


VARIANTS = {
    "eager": {},
    "channels last": {"channels_last": True},
    "torch.compile": {"compiled": True},
}


def load(given: dict) -> dict[str, serve.Variant]:
    chain = functools.cache(lambda name: Chain(given, **VARIANTS[name]))
    num_steps = int(given["num_steps"])
    return {
        name: serve.Variant(
            lambda name=name: {"z": torch.cat(chain(name).run(1, noise=False), 1).numpy()},
            lambda name=name: chain(name).run(num_steps),
        )
        for name in VARIANTS
    }


if __name__ == "__main__":
    torch.set_num_threads(serve.threads())
    serve.serve({"torch": torch.__version__}, load)

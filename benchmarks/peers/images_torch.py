"""The posterior chain over images and a step of learning in PyTorch.

  python benchmarks/peers/images_torch.py FOLDER THREADS

Written as the paper's released code is: the parameters are frozen in the chains, each gradient is
asked for z alone, the likelihood's, the energy's and the Gaussian's are added by hand, and two
Adams learn. "eager" is that in float32; the other variants are what PyTorch's users turn on.
"""

import serve

try:
    import torch
except (ImportError, OSError) as error:
    serve.missing(error)

import contextlib
import functools

from torch import nn


def networks(given: dict) -> tuple[nn.Module, nn.Module]:
    """Generator and energy with tfebm's weights."""
    layers = []
    for i, (kernel, stride, pad) in enumerate(given["stages"].tolist()):
        weight = torch.from_numpy(given[f"generator_kernel_{i}"]).permute(3, 2, 0, 1)
        layer = nn.ConvTranspose2d(*weight.shape[:2], kernel, stride, pad)
        layer.weight.data = weight.clone(memory_format=torch.contiguous_format)
        layer.bias.data = torch.from_numpy(given[f"generator_bias_{i}"].copy())
        layers += [layer, nn.LeakyReLU(0.2)]
    generator = nn.Sequential(*layers[:-1], nn.Tanh())
    layers = []
    for i in range(sum(name.startswith("energy_kernel_") for name in given)):
        weight = torch.from_numpy(given[f"energy_kernel_{i}"].T.copy())
        layer = nn.Linear(*weight.shape[::-1])
        layer.weight.data = weight
        layer.bias.data = torch.from_numpy(given[f"energy_bias_{i}"].copy())
        layers += [layer, nn.GELU()]
    return generator, nn.Sequential(*layers[:-1])


class Learner:
    """The model, and how it is run.

    Args:
        given: The problem.
        channels_last: The layout of images.
        bfloat16: Autocast.
        compiled: By `torch.compile`.
    """

    def __init__(
        self,
        given: dict,
        channels_last: bool = False,
        bfloat16: bool = False,
        compiled: bool = False,
    ) -> None:
        self.generator, self.energy = networks(given)
        self.x = torch.from_numpy(given["x"]).permute(0, 3, 1, 2)
        self.x = self.x.contiguous()
        if channels_last:
            self.generator = self.generator.to(memory_format=torch.channels_last)
            self.x = self.x.to(memory_format=torch.channels_last)
        self.z_0 = torch.from_numpy(given["z_0"])
        self.bfloat16 = bfloat16
        self.step_sizes = given["step_sizes"].tolist()
        self.num_steps = given["num_steps"].tolist()
        self.sigma = float(given["sigma"])
        self.run_generator = torch.compile(self.generator) if compiled else self.generator
        self.run_energy = torch.compile(self.energy) if compiled else self.energy
        self.optimizers = [
            torch.optim.Adam(self.generator.parameters(), 1e-4, (0.5, 0.999)),
            torch.optim.Adam(self.energy.parameters(), 2e-5, (0.5, 0.999)),
        ]

    def images(self, z: torch.Tensor) -> torch.Tensor:
        context = (
            torch.autocast("cpu", torch.bfloat16) if self.bfloat16 else contextlib.nullcontext()
        )
        with context:
            images = self.run_generator(z[:, :, None, None])
        return images.float()

    def start(self) -> torch.Tensor:
        return self.z_0

    def posterior(self, num_steps: int, noise: bool = True) -> torch.Tensor:
        z, size = self.start(), self.step_sizes[1]
        for _ in range(num_steps):
            z = z.detach().requires_grad_(True)
            error = ((self.images(z) - self.x) ** 2).sum() / (2 * self.sigma**2)
            (of_likelihood,) = torch.autograd.grad(error, z)
            (of_energy,) = torch.autograd.grad(self.run_energy(z).sum(), z)
            z = z.detach() - 0.5 * size**2 * (of_likelihood + of_energy + z.detach())
            if noise:
                z = z + size * torch.randn_like(z)
        return z

    def prior(self, num_steps: int) -> torch.Tensor:
        z, size = self.start(), self.step_sizes[0]
        for _ in range(num_steps):
            z = z.detach().requires_grad_(True)
            (grad,) = torch.autograd.grad(self.run_energy(z).sum(), z)
            z = z.detach() - 0.5 * size**2 * (grad + z.detach())
            z = z + size * torch.randn_like(z)
        return z

    def chain(self, num_steps: int, noise: bool = True) -> torch.Tensor:
        self.freeze(True)
        return self.posterior(num_steps, noise)

    def learn(self) -> None:
        self.freeze(True)
        z_prior, z_posterior = self.prior(self.num_steps[0]), self.posterior(self.num_steps[1])
        self.freeze(False)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss = ((self.images(z_posterior) - self.x) ** 2).sum() / len(self.x)
        loss.backward()
        loss = self.run_energy(z_posterior).mean() - self.run_energy(z_prior).mean()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()

    def freeze(self, frozen: bool) -> None:
        for network in (self.generator, self.energy):
            network.requires_grad_(not frozen)


VARIANTS = {
    "eager": {},
    "channels last": {"channels_last": True},
    "bfloat16": {"bfloat16": True},
    "bfloat16, channels last": {"bfloat16": True, "channels_last": True},
    "torch.compile": {"compiled": True},
}


def load(given: dict) -> dict[str, serve.Variant]:
    # Made when they are first asked for, so that the memory of one is measured without the others.
    learner = functools.cache(lambda name: Learner(given, **VARIANTS[name]))
    variants = {}
    for name in VARIANTS:

        def step(name: str = name) -> dict:
            return {"z": learner(name).chain(1, noise=False).numpy()}

        def chain(name: str = name) -> None:
            learner(name).chain(learner(name).num_steps[1])

        def learn(name: str = name) -> None:
            learner(name).learn()

        variants[f"chain: {name}"] = serve.Variant(step, chain)
        variants[f"learn: {name}"] = serve.Variant(step, learn)
    return variants


if __name__ == "__main__":
    torch.set_num_threads(serve.threads())
    serve.serve({"torch": torch.__version__}, load)

"""The prior chain in PyTorch: `python benchmarks/peers/prior_chain_torch.py FOLDER THREADS`.

Written as the paper's released code is: the parameters are frozen, the gradient of the energy is
asked for z alone, the Gaussian's is added by hand.
"""

import serve

try:
    import torch
except (ImportError, OSError) as error:
    serve.missing(error)

import functools

from torch.nn import functional


def load(given: dict) -> dict[str, serve.Variant]:
    tensors = {name: torch.from_numpy(array) for name, array in given.items() if array.ndim}
    num_layers = sum(name.startswith("kernel_") for name in given)
    layers = [
        (tensors[f"kernel_{i}"].T.contiguous(), tensors[f"bias_{i}"]) for i in range(num_layers)
    ]
    step_size, num_steps = float(given["step_size"]), int(given["num_steps"])

    def energy(z: torch.Tensor) -> torch.Tensor:
        for kernel, bias in layers[:-1]:
            z = functional.gelu(functional.linear(z, kernel, bias))
        return functional.linear(z, *layers[-1]).sum()

    def chain(energy, num_steps: int, noise: bool = True) -> torch.Tensor:
        z = tensors["z_0"]
        for _ in range(num_steps):
            z = z.detach().requires_grad_(True)
            (grad,) = torch.autograd.grad(energy(z), z)
            z = z.detach() - 0.5 * step_size**2 * (grad + z.detach())
            if noise:
                z = z + step_size * torch.randn_like(z)
        return z

    def variant(energy) -> serve.Variant:
        return serve.Variant(
            lambda: {"z": chain(energy, 1, noise=False).numpy()},
            functools.partial(chain, energy, num_steps),
        )

    return {"eager": variant(energy), "torch.compile": variant(torch.compile(energy))}


if __name__ == "__main__":
    torch.set_num_threads(serve.threads())
    serve.serve({"torch": torch.__version__}, load)

"""The prior chain by torchebm's sampler: `... prior_chain_torchebm.py FOLDER THREADS`.

Its step size h is ours by `h = s**2 / 2`: `x' = x - h dE/dx + noise_scale sqrt(2 h) N(0, I)`.
"""

import serve

try:
    import torch
    import torchebm
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics
except (ImportError, OSError) as error:
    serve.missing(error)

from torch.nn import functional


class Energy(BaseModel):
    """E(z) + |z|**2 / 2."""

    def __init__(self, kernels: list[torch.Tensor], biases: list[torch.Tensor]) -> None:
        super().__init__()
        self.layers = list(zip(kernels, biases, strict=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x
        for kernel, bias in self.layers[:-1]:
            h = functional.gelu(functional.linear(h, kernel, bias))
        return functional.linear(h, *self.layers[-1])[:, 0] + 0.5 * (x**2).sum(dim=1)


def load(given: dict) -> dict[str, serve.Variant]:
    num_layers = sum(name.startswith("kernel_") for name in given)
    kernels = [torch.from_numpy(given[f"kernel_{i}"].T.copy()) for i in range(num_layers)]
    biases = [torch.from_numpy(given[f"bias_{i}"]) for i in range(num_layers)]
    energy, start = Energy(kernels, biases), torch.from_numpy(given["z_0"])
    step_size, num_steps = 0.5 * float(given["step_size"]) ** 2, int(given["num_steps"])
    chain = LangevinDynamics(energy, step_size)
    still = LangevinDynamics(energy, step_size, noise_scale=1e-30)  # 0 is refused
    return {
        "LangevinDynamics": serve.Variant(
            lambda: {"z": still.sample(start, n_steps=1).numpy()},
            lambda: chain.sample(start, n_steps=num_steps),
        )
    }


if __name__ == "__main__":
    torch.set_num_threads(serve.threads())
    serve.serve({"torchebm": torchebm.__version__, "torch": torch.__version__}, load)

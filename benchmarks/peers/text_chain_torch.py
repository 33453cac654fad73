"""The posterior chain of a sentence model in PyTorch: the peer of `benchmarks/text_chain.py`.

  python benchmarks/peers/text_chain_torch.py FOLDER THREADS

Its variants are rates of dropout. The loop is written as the paper's code would be, in eager
float32. The parameters are frozen while it runs and the gradient is asked for z alone.
"""

import serve

try:
    import torch
except (ImportError, OSError) as error:
    serve.missing(error)

import functools

import numpy as np
from torch import nn
from torch.nn import functional


class Decoder(nn.Module):
    """An LSTM that sees z beside every embedding, and at its start."""

    def __init__(self, vocabulary: int, embedding: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.start = nn.Linear(latent, hidden)
        self.lstm = nn.LSTM(embedding + latent, hidden, batch_first=True)
        self.output = nn.Linear(hidden, vocabulary)

    def forward(self, z: torch.Tensor, previous: torch.Tensor, dropout: float) -> torch.Tensor:
        """Logits `[B * T, V]`."""
        inputs = functional.dropout(self.embedding(previous), dropout)
        latent = z[:, None].expand(-1, previous.shape[1], -1)
        hidden = self.start(z)[None]
        states, _ = self.lstm(torch.cat([inputs, latent], -1), (hidden, torch.zeros_like(hidden)))
        states = functional.dropout(states, dropout)
        # Flat, since a product with `[B, T, H]` took 1.15 times as long.
        return self.output(states.reshape(-1, states.shape[-1]))


def load(given: dict[str, np.ndarray]) -> Decoder:
    """The decoder with tfebm's weights; both order the gates i, f, g, o."""
    (vocabulary, embedding), (latent, hidden) = (
        given[name].shape for name in ("embedding", "latent_kernel")
    )
    decoder = Decoder(vocabulary, embedding, hidden, latent)
    weights = {
        "embedding.weight": given["embedding"],
        "start.weight": given["latent_kernel"].T,
        "start.bias": given["latent_bias"],
        "lstm.weight_ih_l0": given["kernel"].T,
        "lstm.weight_hh_l0": given["recurrent_kernel"].T,
        "lstm.bias_ih_l0": given["bias"],
        "lstm.bias_hh_l0": np.zeros_like(given["bias"]),  # PyTorch has two
        "output.weight": given["output_kernel"].T,
        "output.bias": given["output_bias"],
    }
    decoder.load_state_dict(
        {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in weights.items()}
    )
    return decoder.requires_grad_(False)


class Chain:
    def __init__(self, given: dict[str, np.ndarray]) -> None:
        self.decoder = load(given)
        self.tokens = torch.from_numpy(given["tokens"].astype(np.int64))
        start = torch.full_like(self.tokens[:, :1], int(given["start_id"]))
        self.previous = torch.cat([start, self.tokens[:, :-1]], 1)
        self.z_0 = torch.from_numpy(given["z_0"])
        self.step_sizes = given["step_sizes"].tolist()
        self.noise_scale = float(given["noise_scale"])

    def step(self, z: torch.Tensor, size: float, noise_scale: float, dropout: float) -> tuple:
        """The energy of the batch at z, and z after a step."""
        z = z.detach().requires_grad_(True)
        logits = self.decoder(z, self.previous, dropout)
        nll = functional.cross_entropy(logits, self.tokens.reshape(-1), reduction="sum")
        energy = nll + 0.5 * (z**2).sum()
        (grad,) = torch.autograd.grad(energy, z)
        moved = z - 0.5 * size**2 * grad
        if noise_scale:
            moved = moved + noise_scale * size * torch.randn_like(z)
        return energy.detach(), moved.detach()

    def run(self, dropout: float) -> torch.Tensor:
        z = self.z_0
        for size in self.step_sizes:
            _, z = self.step(z, size, self.noise_scale, dropout)
        return z

    def first_step(self) -> dict:
        energy, moved = self.step(self.z_0, self.step_sizes[0], 0.0, 0.0)
        return {"energy": energy.numpy(), "z_1": moved.numpy()}


def load_variants(given: dict[str, np.ndarray]) -> dict[str, serve.Variant]:
    chain = Chain(given)
    return {
        str(dropout): serve.Variant(chain.first_step, functools.partial(chain.run, dropout))
        for dropout in (0.5, 0.0)
    }


if __name__ == "__main__":
    torch.set_num_threads(serve.threads())
    serve.serve({"torch": torch.__version__}, load_variants)

"""The paper's algorithm in PyTorch, trained on images.

  python benchmarks/peers/training_torch.py FOLDER THREADS

`images_torch.py` has the chains and the step of learning. "time VARIANT" learns for an epoch here.
"""

import functools

import images_torch
import serve
import torch


class Training(images_torch.Learner):
    """The model with data.

    Args:
        given: The problem, with `x_train` and `x_test`, uint8 `[N, H, W, C]`.
        channels_last: The layout of images.
    """

    def __init__(self, given: dict, channels_last: bool = False) -> None:
        super().__init__(given, channels_last)
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.batch_size = len(self.x)
        self.x_train, self.x_test = (self.to_images(given[name]) for name in ("x_train", "x_test"))
        *rates, decay = given["rates"].tolist()
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate
        self.schedules = [
            torch.optim.lr_scheduler.ExponentialLR(each, decay) for each in self.optimizers
        ]
        torch.manual_seed(0)

    def to_images(self, x: object) -> torch.Tensor:
        return (torch.from_numpy(x).float() / 127.5 - 1.0).permute(0, 3, 1, 2)

    def begin(self, x: torch.Tensor) -> None:
        """The batch that is next."""
        self.x = x.contiguous(memory_format=self.layout)

    def start(self) -> torch.Tensor:
        return torch.randn(len(self.x), self.z_0.shape[1])

    def epoch(self) -> None:
        size = self.batch_size
        order = torch.randperm(len(self.x_train))
        for i in range(0, len(order) - size + 1, size):
            self.begin(self.x_train[order[i : i + size]])
            self.learn()
        for schedule in self.schedules:
            schedule.step()

    def look(self) -> dict:
        """Reconstructions of the test images, and as many samples as training images."""
        self.freeze(True)
        self.begin(self.x_test)
        with_chain = self.images(self.posterior(self.num_steps[1]))
        self.x = self.x_train  # as many
        found = {
            "reconstructions": with_chain,
            "samples": self.images(self.prior(self.num_steps[0])),
        }
        return {name: x.detach().permute(0, 2, 3, 1).numpy() for name, x in found.items()}


VARIANTS = {"eager": {}, "channels last": {"channels_last": True}}


def load(given: dict) -> dict[str, serve.Variant]:
    made = functools.cache(lambda name: Training(given, **VARIANTS[name]))

    def first_step(name: str) -> dict:
        learner = images_torch.Learner(given, **VARIANTS[name])
        return {"z": learner.chain(1, noise=False).numpy()}

    return {
        name: serve.Variant(
            lambda name=name: first_step(name),
            lambda name=name: made(name).epoch(),
            lambda name=name: made(name).look(),
        )
        for name in VARIANTS
    }


if __name__ == "__main__":
    torch.set_num_threads(serve.threads())
    serve.serve({"torch": torch.__version__}, load)

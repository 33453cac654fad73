"""How an energy that tilts a flow, or another generator, learns."""

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfebm import objectives, random
from tfebm.models import batches, networks, replicas
from tfebm.models.flow_model import dequantize, log_bin_width
from tfebm.models.latent_ebm import LatentEBM
from tfebm.models.optimizers import OptimizersModel
from tfebm.models.tilted import TiltedGenerator
from tfebm.types import Tensor

_ADAPTATION_RATE = 0.2  # of the log step size, per update and unit of acceptance


class Pass(NamedTuple):
    """What a learning pass finds."""

    grads: dict[str, list[Tensor]]
    """By network."""
    of_data: Tensor
    """E(x), `[B]`."""
    of_model: Tensor
    """This replica's share of the mean energy that E(x) is compared with."""
    compared: tuple[Tensor, Tensor]
    """E(x) and E of as many samples of the backbone, `[B]` each, by one kind of pass."""
    penalties: Tensor
    """Of the layers of what is trained."""


class TiltLearning(TiltedGenerator, OptimizersModel):
    """The training steps of `FlowEBM`, which says what its settings are."""

    num_chains: int
    contrastive_steps: int
    burn_in_steps: int
    persistent: bool
    restart_probability: float
    energy_penalty: float
    train_flow: bool
    chains: keras.Variable

    def train_step(self, data: Any) -> dict[str, Tensor]:
        x = self.as_batch(batches.unpack(data))
        step = self.step.value
        seeds = random.row_seeds(self.seed, step, tf.shape(x)[0])
        x, seeds, weights = replicas.fill_empty(x, seeds)
        x = dequantize(x, seeds, self.num_levels)
        count = replicas.global_sum(tf.reduce_sum(weights))
        z, acceptance = self._move_chains(step)
        noise = self._noise(seeds)
        if self.contrastive_steps:
            found = tf.cond(
                step < self.contrastive_steps,
                lambda: self._contrastive_pass(x, noise, weights, count),
                lambda: self._likelihood_pass(x, noise, z, weights, count),
            )
        else:
            found = self._likelihood_pass(x, noise, z, weights, count)
        loss = self._loss(x, *found.compared, weights, count) + found.penalties
        self.apply_gradients(found.grads)
        self.step.assign_add(1)
        seen = self._energies(found.of_data, replicas.global_sum(found.of_model))
        if self.adapts:
            each = tf.ones_like(weights)
            seen = {**seen, "acceptance": acceptance * each, "step_size": self.step_size * each}
        return self.track(seen, weights, loss)

    def test_step(self, data: Any) -> dict[str, Tensor]:
        """Energies of `data` and of the chains as they are; nothing moves."""
        x = self.as_batch(batches.unpack(data))
        x, seeds, weights = replicas.fill_empty(x, random.content_seeds(self.seed, x))
        x = dequantize(x, seeds, self.num_levels)
        count = replicas.global_sum(tf.reduce_sum(weights))
        of_model = tf.reduce_mean(self.tilt(self.decode(self.chains.value)))
        networks.forget_losses(self.energy, of=self)
        of_data, of_noise = self._split_tilt(x, self._noise(seeds))
        loss = self._loss(x, of_data, of_noise, weights, count)
        loss += networks.penalties(self.energy, of=self)
        seen = self._energies(of_data, of_model)
        if self.adapts:
            seen["step_size"] = self.step_size * tf.ones_like(weights)
        return self.track(seen, weights, loss)

    def _split_tilt(
        self, x: Tensor, others: Tensor, training: bool | None = None
    ) -> tuple[Tensor, Tensor]:
        """E of two batches in one pass: batch statistics of each by itself would hide their
        difference."""
        rows = tf.shape(x)[0]
        energies = self.tilt(tf.concat([x, others], axis=0), training)
        return energies[:rows], energies[rows:]

    def _noise(self, seeds: Tensor) -> Tensor:
        """A sample of the backbone for each stream."""
        streams = random.fold_in(seeds, random.CONTRAST)
        if isinstance(self.backbone, LatentEBM):
            z = self.backbone.sample_prior(streams)
        else:
            z = self._start(streams)
        return tf.stop_gradient(self.decode(z))

    def _loss(
        self, x: Tensor, of_data: Tensor, of_noise: Tensor, weights: Tensor, count: Tensor
    ) -> Tensor:
        """`[B]`: -log p(x), up to log q(x) of a fixed backbone.

        log Z = log E_q[exp(-E)] is estimated from the batch's samples of the backbone, which makes
        this independent of the constant that an energy is known up to.
        """
        shift = replicas.global_max(tf.reduce_max(-of_noise))
        mass = replicas.global_sum(tf.reduce_sum(weights * tf.exp(-of_noise - shift)))
        loss = of_data + shift + tf.math.log(mass / count)
        if not self.train_flow:
            return loss
        log_q = self.backbone.log_prob(x) + log_bin_width(self.num_levels, self.latent_size)
        return loss - log_q

    def _move_chains(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """This replica's chains after the sampler, and the acceptance over all replicas."""
        rows, streams = self._own_chains(step)
        own = tf.gather(self.chains.value, rows)

        def move() -> tuple[Tensor, Tensor]:
            z = self._restart(own, streams)
            streams_here = random.fold_in(streams, random.CHAIN)
            if not self.adapts:
                return self.sampler(self.latent_energy, z, seed=streams_here), tf.constant(1.0)
            size = self.step_size.value
            z, trace = self.sampler(
                self.latent_energy, z, seed=streams_here, step_size=size, trace=True
            )
            return z, tf.reduce_mean(trace.acceptance)

        start = self.contrastive_steps - self.burn_in_steps
        if start <= 0:
            moving = tf.constant(True)
            z, acceptance = move()
        else:
            moving = step >= start
            z, acceptance = tf.cond(
                moving,
                move,
                lambda: (
                    own,
                    tf.constant(self.sampler.target_acceptance if self.adapts else 1.0),
                ),
            )
        share = tf.cast(tf.shape(rows)[0], tf.float32) / self.num_chains
        acceptance = replicas.global_sum(acceptance * share)
        everywhere = tf.scatter_nd(rows[:, tf.newaxis], z, tf.shape(self.chains.value))
        self.chains.assign(replicas.global_sum(everywhere))
        if self.adapts:
            change = _ADAPTATION_RATE * (acceptance - self.sampler.target_acceptance)
            self.step_size.assign(self.step_size * tf.exp(tf.where(moving, change, 0.0)))
        return z, acceptance

    def _own_chains(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the chains this replica moves, and their streams."""
        context = tf.distribute.get_replica_context()
        replicas_in_sync = context.num_replicas_in_sync if context else 1
        number = self.num_chains // replicas_in_sync
        first = context.replica_id_in_sync_group * number if replicas_in_sync > 1 else 0
        rows = tf.cast(first, tf.int32) + tf.range(number)
        root = random.fold_in(random.root_seed(self.seed), step)
        return rows, random.fold_in(random.fold_in(root, -1 - random.CHAIN), rows)

    def _restart(self, z: Tensor, streams: Tensor) -> Tensor:
        """Offers each chain a fresh start from N(0, I), a Metropolis step of its own.

        With the flow's law as the proposal the ratio is that of `exp(-E)` alone. Chains that
        cannot cross between modes are carried over by it; without, the shares of the modes that
        they began with would pass for the model's, and the energy would run after them.
        """
        streams = random.fold_in(streams, random.RESTART)
        fresh = self._start(streams)
        if not self.persistent:
            return fresh
        if not self.restart_probability:
            return z
        log_ratio = self._tilt_of_start(z) - self._tilt_of_start(fresh)
        uniform = random.row_uniform(random.fold_in(streams, random.RESTART), 0, 2)
        taken = tf.math.log(uniform[:, 0]) < log_ratio
        taken &= uniform[:, 1] < self.restart_probability
        return tf.where(taken[:, tf.newaxis], fresh, z)

    def _tilt_of_start(self, z: Tensor) -> Tensor:
        """What tilts the chains' start N(0, start_scale**2 I) to the model: `[B]`."""
        start = 0.5 * tf.reduce_sum(tf.square(z / self.start_scale), axis=-1)
        return self.latent_energy(z) - start

    def _contrastive_pass(self, x: Tensor, noise: Tensor, weights: Tensor, count: Tensor) -> Pass:
        """Of the logistic loss of telling `x` from as many samples of the backbone."""
        networks.forget_losses(self.energy, of=self)
        with tf.GradientTape() as tape:
            of_data, of_noise = self._split_tilt(x, noise, True)
            loss = objectives.noise_contrast(of_data, of_noise, weights, count)
            loss += self._penalty(of_data, weights, count)
            loss += self._penalty(of_noise, weights, count)
            penalties = tf.convert_to_tensor(networks.penalties(self.energy, of=self), tf.float32)
            loss += penalties * (tf.reduce_sum(weights) / count)
        grads = {"energy": self._energy_gradients(tape, loss)}
        if self.train_flow:
            grads["backbone"] = [tf.zeros_like(v.value) for v in self.backbone.trainable_variables]
        of_model = objectives.mean_over_global_batch(of_noise, weights, count)
        return Pass(grads, of_data, of_model, (of_data, of_noise), penalties)

    def _likelihood_pass(
        self, x: Tensor, noise: Tensor, z: Tensor, weights: Tensor, count: Tensor
    ) -> Pass:
        """Of `-log p(x)`, with the chains' `z` for the model's expectation."""
        negatives = tf.stop_gradient(self.decode(z))
        of_chain = tf.ones([tf.shape(z)[0]])
        chains = tf.cast(self.num_chains, tf.float32)
        mean = objectives.mean_over_global_batch
        compared = self._split_tilt(x, noise)
        # A row that only fills up must not count in batch statistics.
        real = tf.cast(tf.reduce_sum(weights), tf.int32)
        networks.forget_losses(self.energy, of=self)
        with tf.GradientTape() as tape:
            of_data, of_model = self._split_tilt(x[:real], negatives, True)
            of_data = tf.pad(of_data, [[0, tf.shape(x)[0] - real]])
            loss = mean(of_data, weights, count) - mean(of_model, of_chain, chains)
            loss += self._penalty(of_data, weights, count)
            loss += self._penalty(of_model, of_chain, chains)
            penalties = tf.convert_to_tensor(networks.penalties(self.energy, of=self), tf.float32)
            loss += penalties * (tf.reduce_sum(weights) / count)
        grads = {"energy": self._energy_gradients(tape, loss)}
        if self.train_flow:
            variables = [v.value for v in self.backbone.trainable_variables]
            networks.forget_losses(self.backbone, of=self)
            with tf.GradientTape() as tape:
                # d log Z / d weights = E_p[d log q(x) / d weights]
                log_q = self.backbone.log_prob(tf.concat([x, negatives], axis=0))
                rows = tf.shape(x)[0]
                gain = mean(log_q[:rows], weights, count) - mean(log_q[rows:], of_chain, chains)
                of_flow = networks.penalties(self.backbone, of=self)
                loss = of_flow * (tf.reduce_sum(weights) / count) - gain
            penalties += of_flow
            grads["backbone"] = tape.gradient(
                loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
        return Pass(grads, of_data, mean(of_model, of_chain, chains), compared, penalties)

    def _energy_gradients(self, tape: tf.GradientTape, loss: Tensor) -> list[Tensor]:
        variables = [v.value for v in self.energy.trainable_variables]
        return tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def _penalty(self, energy: Tensor, weights: Tensor, count: Tensor) -> Tensor:
        mean = objectives.mean_over_global_batch(tf.square(energy), weights, count)
        return self.energy_penalty * mean

    @staticmethod
    def _energies(of_data: Tensor, of_model: Tensor) -> dict[str, Tensor]:
        of_model += tf.zeros_like(of_data)
        return {
            "energy_data": of_data,
            "energy_model": of_model,
            "energy_gap": of_data - of_model,
        }

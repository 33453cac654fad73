"""How an energy that tilts a flow, or another generator, learns."""

from typing import Any, NamedTuple

import tensorflow as tf

from tfebm import objectives, random
from tfebm.models import gradients, networks, replicas
from tfebm.models.parts import Batch, Lesson
from tfebm.models.tilted_prior import TiltedPrior
from tfebm.types import Latents, Tensor

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


class LearnedTilt(TiltedPrior):
    """A tilted prior that learns, in two phases; see `FlowEBM`."""

    @property
    def metric_names(self) -> tuple[str, ...]:
        names = ("energy_data", "energy_model", "energy_gap")
        return (*names, "acceptance", "step_size") if self.sampler.adapts else names

    def learn(self, batch: Batch, z: Latents) -> Lesson:
        batch = batch._replace(x=self.examples.dequantize(batch.x, batch.seeds))
        return self._train(batch) if batch.training else self._look(batch)

    def _train(self, batch: Batch) -> Lesson:
        settings = self.settings
        z, acceptance = self._move_chains(batch.step)
        noise = self._noise(batch.seeds)
        if settings.contrastive_steps:
            found = tf.cond(
                batch.step < settings.contrastive_steps,
                lambda: self._contrastive_pass(batch, noise),
                lambda: self._likelihood_pass(batch, noise, z),
            )
        else:
            found = self._likelihood_pass(batch, noise, z)
        loss = self._loss(batch, *found.compared) + found.penalties
        seen = _energies(found.of_data, replicas.global_sum(found.of_model))
        if self.sampler.adapts:
            each = tf.ones_like(batch.weights)
            seen |= {"acceptance": acceptance * each, "step_size": self.step_size * each}
        return Lesson(found.grads, seen, loss)

    def _look(self, batch: Batch) -> Lesson:
        """Energies of the batch and of the chains as they are; nothing moves."""
        of_model = tf.reduce_mean(self._pulled_back(self.chains.value))
        networks.forget_losses(self._network_of_energy, of=batch.owner)
        of_data, of_noise = self._split_tilt(batch.x, self._noise(batch.seeds))
        loss = self._loss(batch, of_data, of_noise)
        loss += networks.penalties(self._network_of_energy, of=batch.owner)
        seen = _energies(of_data, of_model)
        if self.sampler.adapts:
            seen["step_size"] = self.step_size * tf.ones_like(batch.weights)
        return Lesson({}, seen, loss)

    def _split_tilt(
        self, x: Tensor, others: Tensor, training: bool | None = None
    ) -> tuple[Tensor, Tensor]:
        """E of two batches in one pass: batch statistics of each by itself would hide their
        difference."""
        rows = tf.shape(x)[0]
        energies = self._tilt(tf.concat([x, others], axis=0), training)
        return energies[:rows], energies[rows:]

    def _noise(self, seeds: Tensor) -> Tensor:
        """A sample of the backbone for each stream."""
        z = self.backbone.sample(random.fold_in(seeds, random.CONTRAST))
        return tf.stop_gradient(self.backbone.decode(z))

    def _loss(self, batch: Batch, of_data: Tensor, of_noise: Tensor) -> Tensor:
        """`[B]`: -log p(x), up to log q(x) of a fixed backbone.

        log Z = log E_q[exp(-E)] is estimated from the batch's samples of the backbone, which makes
        this independent of the constant that an energy is known up to.
        """
        shift = replicas.global_max(tf.reduce_max(-of_noise))
        shares = batch.weights * tf.exp(-of_noise - shift)
        mass = replicas.global_sum(tf.reduce_sum(shares))
        loss = of_data + shift + tf.math.log(mass / batch.count)
        if not self.settings.train_flow:
            return loss
        return loss - self.network.log_prob(batch.x) - self.examples.log_bin_width

    def _move_chains(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """This replica's chains after the sampler, and the acceptance over all replicas."""
        settings, sampler = self.settings, self.sampler
        rows, streams = self._own_chains(step)
        own = tf.gather(self.chains.value, rows)
        target = sampler.target_acceptance if sampler.adapts else 1.0

        def move() -> tuple[Tensor, Tensor]:
            z = self._restart(own, streams)
            of_chain = random.fold_in(streams, random.CHAIN)
            if not sampler.adapts:
                return sampler(self.energy, z, seed=of_chain), tf.constant(1.0)
            z, trace = sampler(self.energy, z, seed=of_chain, trace=True, **self.adapted())
            return z, tf.reduce_mean(trace.acceptance)

        start = settings.contrastive_steps - settings.burn_in_steps
        if start <= 0:
            moving = tf.constant(True)
            z, acceptance = move()
        else:
            moving = step >= start
            z, acceptance = tf.cond(moving, move, lambda: (own, tf.constant(target)))
        share = tf.cast(tf.shape(rows)[0], tf.float32) / settings.num_chains
        acceptance = replicas.global_sum(acceptance * share)
        everywhere = tf.scatter_nd(rows[:, tf.newaxis], z, tf.shape(self.chains.value))
        self.chains.assign(replicas.global_sum(everywhere))
        if sampler.adapts:
            change = _ADAPTATION_RATE * (acceptance - target)
            self.step_size.assign(self.step_size * tf.exp(tf.where(moving, change, 0.0)))
        return z, acceptance

    def _own_chains(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the chains this replica moves, and their streams."""
        context = tf.distribute.get_replica_context()
        replicas_in_sync = context.num_replicas_in_sync if context else 1
        number = self.settings.num_chains // replicas_in_sync
        first = context.replica_id_in_sync_group * number if replicas_in_sync > 1 else 0
        rows = tf.cast(first, tf.int32) + tf.range(number)
        root = random.fold_in(random.root_seed(self.settings.seed), step)
        return rows, random.fold_in(random.fold_in(root, -1 - random.CHAIN), rows)

    def _restart(self, z: Tensor, streams: Tensor) -> Tensor:
        """Offers each chain a fresh start from N(0, I), a Metropolis step of its own.

        With the flow's law as the proposal the ratio is that of `exp(-E)` alone. Chains that
        cannot cross between modes are carried over by it; without, the shares of the modes that
        they began with would pass for the model's, and the energy would run after them.
        """
        streams = random.fold_in(streams, random.RESTART)
        fresh = self.fresh(streams)
        if not self.settings.persistent:
            return fresh
        if not self.settings.restart_probability:
            return z
        log_ratio = self._tilt_of_start(z) - self._tilt_of_start(fresh)
        uniform = random.row_uniform(random.fold_in(streams, random.RESTART), 0, 2)
        taken = tf.math.log(uniform[:, 0]) < log_ratio
        taken &= uniform[:, 1] < self.settings.restart_probability
        return tf.where(taken[:, tf.newaxis], fresh, z)

    def _tilt_of_start(self, z: Tensor) -> Tensor:
        """What tilts the chains' start N(0, scale**2 I) to the model: `[B]`."""
        start = 0.5 * tf.reduce_sum(tf.square(z / self.scale), axis=-1)
        return self.energy(z) - start

    def _contrastive_pass(self, batch: Batch, noise: Tensor) -> Pass:
        """Of the logistic loss of telling the batch from as many samples of the backbone."""
        weights, count = batch.weights, batch.count

        def contrast() -> tuple[Tensor, tuple[Tensor, Tensor]]:
            of_data, of_noise = self._split_tilt(batch.x, noise, True)
            loss = objectives.noise_contrast(of_data, of_noise, weights, count)
            loss += self._penalty(of_data, weights, count)
            loss += self._penalty(of_noise, weights, count)
            return loss, (of_data, of_noise)

        descent = gradients.descend(batch, {"energy": self._network_of_energy}, contrast)
        of_data, of_noise = descent.found
        grads = descent.grads
        if self.settings.train_flow:
            grads["backbone"] = [tf.zeros_like(v.value) for v in self.network.trainable_variables]
        of_model = objectives.mean_over_global_batch(of_noise, weights, count)
        return Pass(grads, of_data, of_model, (of_data, of_noise), descent.penalties)

    def _likelihood_pass(self, batch: Batch, noise: Tensor, z: Tensor) -> Pass:
        """Of `-log p(x)`, with the chains' `z` for the model's expectation."""
        x, weights, count = batch.x, batch.weights, batch.count
        negatives = tf.stop_gradient(self.backbone.decode(z))
        of_chain = tf.ones([tf.shape(z)[0]])
        chains = tf.cast(self.settings.num_chains, tf.float32)
        mean = objectives.mean_over_global_batch
        compared = self._split_tilt(x, noise)
        # A row that only fills up must not count in batch statistics.
        real = tf.cast(tf.reduce_sum(weights), tf.int32)

        def contrast() -> tuple[Tensor, tuple[Tensor, Tensor]]:
            of_data, of_model = self._split_tilt(x[:real], negatives, True)
            of_data = tf.pad(of_data, [[0, tf.shape(x)[0] - real]])
            loss = mean(of_data, weights, count) - mean(of_model, of_chain, chains)
            loss += self._penalty(of_data, weights, count)
            loss += self._penalty(of_model, of_chain, chains)
            return loss, (of_data, of_model)

        descent = gradients.descend(batch, {"energy": self._network_of_energy}, contrast)
        of_data, of_model = descent.found
        grads, penalties = descent.grads, descent.penalties
        if self.settings.train_flow:

            def likelihood() -> tuple[Tensor, Any]:
                # d log Z / d weights = E_p[d log q(x) / d weights]
                log_q = self.network.log_prob(tf.concat([x, negatives], axis=0))
                rows = tf.shape(x)[0]
                gain = mean(log_q[:rows], weights, count) - mean(log_q[rows:], of_chain, chains)
                return -gain, None

            of_flow = gradients.descend(batch, {"backbone": self.network}, likelihood)
            grads |= of_flow.grads
            penalties += of_flow.penalties
        return Pass(grads, of_data, mean(of_model, of_chain, chains), compared, penalties)

    def _penalty(self, energy: Tensor, weights: Tensor, count: Tensor) -> Tensor:
        mean = objectives.mean_over_global_batch(tf.square(energy), weights, count)
        return self.settings.energy_penalty * mean


def _energies(of_data: Tensor, of_model: Tensor) -> dict[str, Tensor]:
    of_model += tf.zeros_like(of_data)
    return {
        "energy_data": of_data,
        "energy_model": of_model,
        "energy_gap": of_data - of_model,
    }

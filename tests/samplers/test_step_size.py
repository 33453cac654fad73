"""The choice of step sizes, in the linear-Gaussian model whose divergences are known."""

import json

import numpy as np
import pytest
import tensorflow as tf

import tfebm
from tfebm.samplers import candidates, criteria, search
from tfebm.samplers.step_size import check_stability, step_table, tune


class LinearGaussian:
    """U(z) = -log p(x, z), all constants included, as a bound method over a tuple of parts."""

    def __init__(self, numbers):
        self.w, self.sigma = numbers["W"], float(numbers["sigma"])
        self.constant = 7 * np.log(2 * np.pi) + 10 * np.log(self.sigma)

    def energy(self, latents, x):
        z = tf.concat(latents, axis=1) if isinstance(latents, tuple) else latents
        residual = x - tf.matmul(z, tf.constant(self.w, z.dtype), transpose_b=True)
        squares = tf.reduce_sum(residual**2, -1) / (2 * self.sigma**2)
        return squares + 0.5 * tf.reduce_sum(z**2, -1) + self.constant


@pytest.fixture
def problem(golden):
    numbers = golden("linear_gaussian")

    def starts(examples, chains=1, split=False):
        z = np.random.default_rng(0).normal(size=(examples * chains, 4))
        return (z[:, :1], z[:, 1:]) if split else z

    def data(examples):
        return np.tile(numbers["x"], (examples, 1))

    return numbers, LinearGaussian(numbers).energy, starts, data


def test_all_criteria_against_the_closed_forms(problem):
    """KL + log Z within 5 standard errors at each of the eight step sizes."""
    numbers, energy, starts, data = problem
    sampler = tfebm.ShortRunLangevin(int(numbers["steps"]), 0.1)
    examples, chains = 200, 16
    found = tune(
        *(sampler, energy, starts(examples, chains), data(examples)),
        seed=0,
        num_chains=chains,
        report="all",
        values=numbers["step_sizes"],
        method="exact",
        max_rows=100_000,
    )
    evidence = float(numbers["log_evidence"])
    for i, candidate in enumerate(found.candidates):
        expected = numbers["kl_marginal"][i] - evidence
        assert abs(candidate.entropy - expected) < 5 * candidate.entropy_error
        if numbers["step_sizes"][i] < 0.162:
            assert candidate.valid_share == 1.0
            expected = numbers["kl_conditional"][i] - evidence
            assert abs(candidate.kl - expected) < 5 * candidate.kl_error
    last = found.candidates[-1]  # s**2 lmax > 2: a number, but no bound
    assert (last.kl, last.valid_share, last.usable) == (None, 0.0, False)
    assert found.table.shape == (20, 1)
    assert found.table[0, 0] == 0.09  # the neighbour of .0875
    record = json.loads(json.dumps(found.to_record(), allow_nan=False))
    assert record["step_size"] == 0.09
    assert record["candidates"][-1]["kl"] is None
    assert record["candidates"][-1]["invalid_share"] == 1.0
    # Both others see that noise mixes, and prefer the step size next to the marginal optimum.
    ksd = [candidate.ksd for candidate in found.candidates]
    assert np.argmin(ksd) == 7
    assert np.all(np.diff(ksd) < 0)
    assert sampler.num_traces == 1


@pytest.mark.parametrize(("criterion", "best"), [("kl", "conditional"), ("entropy", "marginal")])
def test_the_choice_is_the_known_minimiser(problem, criterion, best):
    numbers, energy, starts, data = problem
    best = float(numbers[f"best_{best}"])
    chains, rows = (1, 1000) if criterion == "kl" else (128, 10_000)
    sampler = tfebm.ShortRunLangevin(int(numbers["steps"]), 0.1)
    # Common noise tells neighbours apart though each is known to a few percent only.
    values = best * np.array([0.85, 0.92, 1.0, 1.08, 1.15])
    if criterion == "entropy":
        values = best * np.array([0.8, 0.9, 1.0, 1.1, 1.2])
    found = tune(
        *(sampler, energy, starts(rows // chains, chains), data(rows // chains)),
        seed=0,
        criterion=criterion,
        values=values,
        num_chains=chains,
        method="exact",
        max_rows=100_000,
    )
    assert found.table[0, 0] == best
    assert found.candidates[0].ksd is None


def test_the_default_grid_reaches_down_from_the_limit_of_stability(problem):
    numbers, energy, starts, data = problem
    sampler = tfebm.ShortRunLangevin(20, 9.0)  # whose own step size plays no part
    arguments = (sampler, energy, starts(16), data(16))
    found = tune(*arguments, seed=0)
    limit = 2 / np.sqrt(np.linalg.eigvalsh(numbers["posterior_precision"])[-1])
    tried = [candidate.table[0, 0] for candidate in found.candidates]
    np.testing.assert_allclose(tried, np.geomspace(limit / 100, limit, 10), rtol=1e-6)
    assert found.candidates[-1].kl is None
    traces = sampler.num_traces
    nearer = tune(*arguments, seed=1, around=found.table, span=1.5)
    assert sampler.num_traces == traces
    factors = [candidate.table[0, 0] / found.table[0, 0] for candidate in nearer.candidates]
    np.testing.assert_allclose(factors, np.geomspace(1 / 1.5, 1.5, 5))


def test_families_and_parts_on_a_grid(problem):
    _, energy, starts, data = problem
    sampler = tfebm.ShortRunLangevin(6, 0.1)
    found = tune(
        *(sampler, energy, starts(40, split=True), data(40)),
        seed=0,
        values=[0.08, 0.12],
        family="geometric",
        per_part=True,
    )
    assert len(found.candidates) == 2 * 4 + 2 * 4
    kl = [candidate.kl for candidate in found.candidates if candidate.usable]
    assert found.candidates[found.chosen].kl == min(kl)
    assert min(kl) < min(candidate.kl for candidate in found.candidates[:8] if candidate.usable)
    decays = [candidate.table[-1, 0] / candidate.table[0, 0] for candidate in found.candidates[:8]]
    np.testing.assert_allclose(decays, np.repeat([1, 0.5, 0.25, 0.125], 2))
    assert found.table.shape == (6, 2)
    # What the record holds is a setting of the sampler.
    setting = found.to_record()["step_size"]
    again = tfebm.ShortRunLangevin(6, setting).step_table(None, starts(1, split=True))
    np.testing.assert_allclose(again, found.table, rtol=1e-6)


@pytest.mark.parametrize(
    ("criterion", "method", "per_part"),
    [("kl", "exact", True), ("kl", "lanczos", False), ("entropy", "exact", True),
     ("ksd", "exact", True)],
)  # fmt: skip
def test_gradients_against_finite_differences(problem, criterion, method, per_part):
    """Along a random direction of all K * P entries, in float64.

    With probes the gradient is that of the estimate in expectation only; but where the Hessian
    is constant and the parts share their steps, A and dA commute and it is so for each probe.
    """

    def energy(latents, x):
        quartic = tf.reduce_sum(tf.concat(latents, axis=1) ** 4, axis=1)
        return problem[1](latents, x) + (0.5 * quartic if per_part else 0.0)

    _, _, starts, data = problem
    of_log_det = tfebm.samplers.log_det.Options(method, 2, 8, max_rows=50)
    start = starts(3, 6, split=True)
    batch = candidates.Problem(
        tfebm.ShortRunLangevin(3, 0.1),
        *(energy, start, (data(3),), 0, criteria.start_log_prob(start, 1.0)),
        candidates.Options((criterion,), 6, 1.0, of_log_det),
        max_invalid=1.0,
    )
    table = step_table([0.05, 0.04, 0.03], num_steps=3, factors=[1.0, 1.3 if per_part else 1.0])
    _, gradient = batch.evaluate_with_gradient(table)
    move = np.random.default_rng(1).normal(size=(3, 2 if per_part else 1)) * 1e-6
    there, back = (batch.evaluate_with_gradient(table + s * move)[0] for s in (1, -1))
    difference = (there.score(criterion) - back.score(criterion)) / 2
    assert np.sum(gradient * move) == pytest.approx(difference, rel=1e-5)
    assert np.all(gradient != 0)


def test_the_gradient_search_finds_the_minimum_and_stays_where_it_is_valid(problem):
    numbers, energy, starts, data = problem
    sampler = tfebm.ShortRunLangevin(20, 0.1)
    arguments = (sampler, energy, starts(100), data(100))
    options = {"seed": 0, "method": "exact", "search": "gradient", "learning_rate": 0.2}
    found = tune(*arguments, **options, around=1.0, num_iterations=25)  # far past the limit
    assert [c.usable for c in found.candidates[:4]] == [False, False, False, True]
    assert found.table[0, 0] == pytest.approx(float(numbers["best_conditional"]), rel=0.06)
    decaying = tune(
        *arguments, **options, family="geometric", around=found.table, num_iterations=15
    )
    assert decaying.candidates[0].kl == pytest.approx(found.candidates[found.chosen].kl)
    assert decaying.candidates[decaying.chosen].kl < found.candidates[found.chosen].kl
    assert sampler.num_traces == 1
    ratios = decaying.table[1:] / decaying.table[:-1]
    np.testing.assert_allclose(ratios, np.full((19, 1), ratios[0, 0]))


def test_tables_of_the_families():
    np.testing.assert_allclose(
        step_table(0.4, num_steps=3, ratio=0.5, factors=[1, 2]),
        [[0.4, 0.8], [0.2, 0.4], [0.1, 0.2]],
    )
    np.testing.assert_allclose(step_table([0.3, 0.1], num_steps=2), [[0.3], [0.1]])
    assert search.directions("constant", False, 4, 2).shape == (1, 4, 2)
    assert search.directions("geometric", True, 4, 2).shape == (4, 4, 2)
    assert search.directions("free", True, 4, 2).shape == (6, 4, 2)
    assert search.directions("geometric", True, 1, 1).shape == (1, 1, 1)


def test_stability(problem):
    numbers, energy, starts, data = problem
    sampler = tfebm.ShortRunLangevin(20, 0.22)
    arguments = (sampler, energy, starts(20), data(20))
    largest = np.linalg.eigvalsh(numbers["posterior_precision"])[-1]
    assert check_stability(*arguments, seed=0) == pytest.approx(largest)
    sentence = r"`step_size` {} is not stable.* = 0\.23, .* 75\.85.*tune"
    for step in ("0.23", "0.5"):
        with pytest.raises(ValueError, match=sentence.format(step)):
            check_stability(*arguments, seed=0, step_size=float(step))
    with pytest.raises(ValueError, match=r"`step_size` 5 made .*finite numbers"):
        check_stability(
            sampler, lambda z, x: energy(z, x) + tf.reduce_sum(z**6, 1), *arguments[2:],
            seed=0, step_size=5.0,
        )  # fmt: skip
    assert sampler.num_traces <= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": []}, "list of positive step sizes"),
        ({"values": [-0.1]}, "list of positive step sizes"),
        ({"values": 0.1}, "list of positive step sizes"),
        ({"num_values": 0}, "num_values"),
        ({"span": 0.5}, "`span` must be a number above 1"),
        ({"search": "gradient", "num_iterations": 0}, "num_iterations"),
        ({"around": np.ones((3, 3))}, r"`around` must be.*Received shape \(3, 3\)"),
        ({"around": 0.0}, "`around` must be a positive"),
        ({"family": "free"}, "search='gradient'"),
        ({"family": "cosine"}, "`family` must be one of"),
        ({"criterion": "elbo"}, "`criterion` must be one of"),
        ({"search": "random"}, "`search` must be one of"),
        ({"num_chains": 5}, "5 chains of every example"),
        ({"num_chains": 2}, "one row per example, 2 for 4"),
        ({"criterion": "ksd", "values": [0.1]}, "at least 2"),
        ({"criterion": "entropy", "values": [0.1]}, "at least 5"),
        ({"values": [0.5, 1.0]}, "None of the 2 step sizes tried, from 0.5 to 1"),
    ],
)
def test_sentences(problem, arguments, message):
    _, energy, starts, data = problem
    sampler = tfebm.ShortRunLangevin(3, 0.1)
    with pytest.raises(ValueError, match=message):
        tune(sampler, energy, starts(4), data(4), **{"seed": 0, **arguments})


def test_what_cannot_be_tuned(problem):
    _, energy, starts, data = problem
    with pytest.raises(ValueError, match="ShortRunLangevin"):
        tune(tfebm.HMC(3), energy, starts(4), data(4), seed=0)
    with pytest.raises(ValueError, match="K = 0"):
        tune(tfebm.ShortRunLangevin(0, 0.1), energy, starts(4), data(4), seed=0)
    with pytest.raises(ValueError, match="no positive curvature"):
        tune(tfebm.ShortRunLangevin(3, 0.1), lambda z: 0.0 * z[:, 0], starts(4), seed=0)
    with pytest.raises(ValueError, match="dropout"):
        tune(
            tfebm.ShortRunLangevin(3, 0.1),
            lambda z: tf.reduce_sum(tf.nn.dropout(z, 0.5), 1),
            starts(4),
            seed=0,
            values=[0.1],
        )

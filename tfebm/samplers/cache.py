"""Compiled functions of energies, kept no longer than the energies themselves."""

import collections
import functools
import inspect
import weakref
from collections.abc import Callable, Hashable
from typing import Any, ClassVar, Self

import tensorflow as tf

from tfebm.samplers import calls, compilation
from tfebm.types import EnergyFn, Latents, Tensor

# Compiled chains kept per sampler; the least recently used one is dropped. A model needs one.
_CACHE_SIZE = 8


class SamplerSettings:
    """Settings as plain data, with the functions that were compiled for them beside.

    Every argument of a subclass' `__init__` is an attribute of the same name.
    """

    _names: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
        self._functions = FunctionCache(_CACHE_SIZE)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._names = tuple(inspect.signature(cls).parameters)

    def get_config(self) -> dict[str, Any]:
        """The settings, as JSON: every argument of `__init__` by its name."""
        return {name: getattr(self, name) for name in self._names}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)

    def __getstate__(self) -> dict[str, Any]:
        """The settings alone: what was compiled cannot be copied, and is compiled again."""
        return {k: v for k, v in self.__dict__.items() if k != "_functions"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._functions = FunctionCache(_CACHE_SIZE)

    @property
    def num_traces(self) -> int:
        """How often the cached functions were traced: at most once per kind of input."""
        return sum(f.experimental_get_tracing_count() for f in self._functions.values())

    def forget(self) -> None:
        """Drops what was compiled, for energies that have changed behind their function."""
        self._functions.clear()

    @tf.autograph.experimental.do_not_convert
    def compiled(
        self,
        loop: Callable[..., Any],
        energy_fn: EnergyFn,
        arguments: tuple[Any, ...],
        static: tuple[Any, ...],
        jit_compile: compilation.JitCompile,
    ) -> tf.types.experimental.PolymorphicFunction:
        """`loop(energy_fn, *static, ...)`, compiled for the kind of `arguments` of the energy."""
        key = (static, repr(self.get_config()), _kinds(arguments), compilation.situation())

        def make(energy_fn: EnergyFn) -> tf.types.experimental.PolymorphicFunction:
            def grads(position: Latents, *context: Tensor) -> tuple[Tensor, list[Tensor]]:
                return calls.energy_and_grads(energy_fn, position, context)

            jit = compilation.resolve_jit_compile(jit_compile, energy_fn, arguments, grads)
            return _graph_of(functools.partial(loop, energy_fn, *static), jit)

        return self._functions.get(energy_fn, key, make)

    @tf.autograph.experimental.do_not_convert
    def plain_graph(
        self,
        loop: Callable[..., Any],
        energy_fn: EnergyFn,
        arguments: tuple[Any, ...],
        static: tuple[Any, ...],
    ) -> tf.types.experimental.PolymorphicFunction:
        """`loop(self, energy_fn, *static, ...)` as a graph without XLA, cached with the chains.

        For computations about the chain that are handed their step sizes: changing those of
        the settings makes no new function.
        """
        settings = {k: v for k, v in self.get_config().items() if k != "step_size"}
        key = (loop, static, repr(settings), _kinds(arguments))

        def make(energy_fn: EnergyFn) -> tf.types.experimental.PolymorphicFunction:
            bound = functools.partial(loop, self, energy_fn, *static)
            return _graph_of(bound, jit_compile=False)

        return self._functions.get(energy_fn, key, make)


def _kinds(arguments: tuple[Any, ...]) -> str:
    """A key of the types and shapes that a function is traced for.

    The number of rows is not part of it, nor are the sizes of the context, such as the lengths of
    sentences: the function is traced for the first length, and once more for all others.
    """
    position, *context = arguments
    exact = [(x.dtype, tuple(x.shape[1:])) for x in tf.nest.flatten(position)]
    return repr((exact, [(x.dtype, x.shape.rank) for x in tf.nest.flatten(context)]))


def _graph_of(
    function: Callable[..., Any], jit_compile: bool
) -> tf.types.experimental.PolymorphicFunction:
    return tf.function(function, jit_compile=jit_compile, reduce_retracing=True, autograph=False)


class FunctionCache:
    """The functions used last, each by the energy that it runs on.

    An energy is most often a method of a model, and a sampler may be shared by several models or
    outlive them. The cache and its functions refer to an energy weakly, and drop what belongs to
    one that is gone.

    Args:
        size: How many functions are kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._functions: collections.OrderedDict[tuple[Any, ...], Any] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._functions)

    def get(self, energy_fn: EnergyFn, key: Hashable, make: Callable[[EnergyFn], Any]) -> Any:
        """The function of `energy_fn` and `key`.

        Args:
            energy_fn: The energy; the same object, or method of the same object, each time.
            key: What else the function depends on.
            make: Makes it from a stand-in for the energy, which does not keep it alive.
        """
        owner: Any = energy_fn
        part = None
        if inspect.ismethod(energy_fn):
            owner, part = energy_fn.__self__, energy_fn.__func__
        whole = (id(owner), part, key)
        if whole not in self._functions:
            self._functions[whole] = make(self._stand_in(energy_fn, owner))
            if len(self._functions) > self._size:
                self._functions.popitem(last=False)
        self._functions.move_to_end(whole)
        return self._functions[whole]

    def values(self) -> list[Any]:
        """All functions."""
        return list(self._functions.values())

    def clear(self) -> None:
        """Drops all functions."""
        self._functions.clear()

    def _stand_in(self, energy_fn: EnergyFn, owner: Any) -> EnergyFn:
        cache, number = weakref.ref(self), id(owner)

        def forget(_: Any) -> None:
            alive = cache()
            if alive is not None:
                alive._forget(number)

        try:
            if owner is energy_fn:
                reference = weakref.ref(energy_fn, forget)
            else:
                reference = weakref.WeakMethod(energy_fn, forget)
        except TypeError:  # what cannot be referred to weakly stays
            return energy_fn
        return _StandIn(reference)

    def _forget(self, number: int) -> None:
        for key in [key for key in self._functions if key[0] == number]:
            del self._functions[key]


class _StandIn:
    """An energy, by a weak reference."""

    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._reference()(*args, **kwargs)

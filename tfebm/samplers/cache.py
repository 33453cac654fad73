"""Compiled functions of energies, kept no longer than the energies themselves."""

import collections
import inspect
import weakref
from collections.abc import Callable, Hashable
from typing import Any

from tfebm.types import EnergyFn


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
        self._functions: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._functions)

    def get(self, energy_fn: EnergyFn, key: Hashable, make: Callable[[EnergyFn], Any]) -> Any:
        """The function of `energy_fn` and `key`.

        Args:
            energy_fn: The energy; the same object, or method of the same object, each time.
            key: What else the function depends on.
            make: Makes it from a stand-in for the energy, which does not keep it alive.
        """
        owner, part = energy_fn, None
        if inspect.ismethod(energy_fn):
            owner, part = energy_fn.__self__, energy_fn.__func__
        whole = (id(owner), part, key)
        if whole not in self._functions:
            self._functions[whole] = make(self._stand_in(energy_fn, owner))
            if len(self._functions) > self._size:
                self._functions.popitem(last=False)
        self._functions.move_to_end(whole)
        return self._functions[whole]

    def values(self) -> list:
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

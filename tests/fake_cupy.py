"""What the package asks of CuPy, done by NumPy on the emulated device's memory; and the streams it was asked on."""

from __future__ import annotations

import contextlib
import importlib.machinery
import sys
import types

import numpy as np

COMPLEX = {"float32": "complex64", "float64": "complex128"}
REAL = {wide: narrow for narrow, wide in COMPLEX.items()}


class Array(np.ndarray):
    """An array that says where it lies, as CuPy's do."""

    @property
    def __cuda_array_interface__(self):
        found = self.__array_interface__
        return {name: found[name] for name in ("shape", "typestr", "data", "strides")} | {"version": 3}


class FakeCupy(types.ModuleType):
    """``streams`` has the handle of the stream of every transform."""

    def __init__(self):
        super().__init__("cupy")
        self.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
        self.streams, self._current = [], []
        self.fft = types.SimpleNamespace(rfft2=self._rfft2, irfft2=self._irfft2)
        stream = types.SimpleNamespace(null=self._on(0))
        self.cuda = types.SimpleNamespace(
            Device=lambda number: contextlib.nullcontext(), ExternalStream=lambda handle, number: self._on(handle),
            Stream=stream,
        )  # fmt: skip

    def _on(self, handle):
        fake = self

        class Stream:
            def __enter__(self):
                fake._current.append(handle)

            def __exit__(self, *error):
                fake._current.pop()

        return Stream()

    @staticmethod
    def from_dlpack(array):
        return np.from_dlpack(array).view(Array)

    @staticmethod
    def ascontiguousarray(array):
        return np.ascontiguousarray(array).view(Array)

    def _rfft2(self, array, norm=None):
        self.streams.append(self._current[-1])
        return np.fft.rfft2(array, norm=norm).astype(COMPLEX[array.dtype.name]).view(Array)

    def _irfft2(self, array, s, norm=None):
        self.streams.append(self._current[-1])
        return np.fft.irfft2(array, s=s, axes=(-2, -1), norm=norm).astype(REAL[array.dtype.name]).view(Array)


def install(monkeypatch) -> FakeCupy:
    """Have the package find this as CuPy, and believe that it sees an emulated device's memory."""
    from numbaconv.lowerings import _cuda_fft

    fake = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(_cuda_fft, "reached", lambda device: True)
    return fake

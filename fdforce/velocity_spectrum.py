"""The vibrational power spectrum of a trajectory, from the velocities of its atoms.

The power spectrum of the velocities, weighted by the masses, is the Fourier transform of their
autocorrelation function (Wiener and Khinchin). For harmonic motion with equal energies it is the
density of the normal modes. It is averaged over windows of the trajectory (P. D. Welch, IEEE Trans.
Audio Electroacoust. 15, 70 (1967)), so memory does not grow with the length of a run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols

from fdforce.archive import write_bytes

LIGHT = 2.99792458e-5
"""Speed of light in cm/fs."""

WINDOW = 10000.0
"""fs. Sharp lines are 1.44 / (c WINDOW) = 4.8 cm^-1 wide; those of shorter runs are wider."""

SAMPLING = 2.0
"""fs between velocities, at most, where the time step allows: wavenumbers up to 8300 cm^-1."""

LEAST = 16
"""Velocities that make a spectrum."""

_COLUMNS = 192
"""Velocity components that are transformed at a time."""


@dataclass(frozen=True)
class PowerSpectrum:
    """Density of vibrational states.

    Attributes
    ----------
    wavenumber : ndarray, shape (n,), cm^-1
    density : dict of str to ndarray, shape (n,), cm
        ``total`` and that of each element; the integral of the total over wavenumbers is the number
        of degrees of freedom.
    resolution : float, cm^-1
        Full width at half maximum of a line that is sharp in itself.
    """

    wavenumber: np.ndarray
    density: dict[str, np.ndarray]
    resolution: float

    def write(self, path) -> None:
        """Write a table, a column for the wavenumber and one for each density."""
        lines = [",".join(["wavenumber", *self.density])]
        for row in zip(self.wavenumber, *self.density.values(), strict=True):
            lines.append(",".join(f"{value:.6g}" for value in row))
        write_bytes(path, ("\n".join(lines) + "\n").encode())


class VelocitySpectrum:
    """Collects velocities and averages their power spectrum over windows that overlap by half.

    Parameters
    ----------
    numbers : ndarray, shape (n_atoms,)
        Atomic numbers.
    masses : ndarray, shape (n_atoms,), amu
    timestep : float, fs
        Of the integrator.

    Attributes
    ----------
    stride : int
        Steps from one velocity to the next.
    """

    def __init__(self, numbers, masses, timestep: float):
        self.timestep = float(timestep)
        self.stride = max(int(SAMPLING / timestep), 1)
        length = max(int(WINDOW / (self.stride * timestep)), LEAST)
        self._numbers = np.asarray(numbers)
        self._weights = np.sqrt(masses)[:, None]
        self._window = np.empty((length, len(self._numbers), 3), dtype=np.float32)
        self._filled = 0
        self._power = 0.0
        self._n_windows = 0

    def add(self, velocities) -> None:
        """Take the velocities (n_atoms, 3), in any unit, `stride` steps after the last ones."""
        self._window[self._filled] = self._weights * velocities
        self._filled += 1
        length = len(self._window)
        if self._filled == length:
            self._power = self._power + self._power_of(self._window)
            self._n_windows += 1
            self._filled = length - length // 2
            self._window[: self._filled] = self._window[length // 2 :].copy()

    def _power_of(self, window):
        """Power of every atom, (n wavenumbers, n_atoms)."""
        n = len(window)
        columns = window.reshape(n, -1)
        shape = np.hanning(n + 1)[:n, None]
        power = np.empty((n // 2 + 1, columns.shape[1]))
        for begin in range(0, columns.shape[1], _COLUMNS):
            part = slice(begin, begin + _COLUMNS)
            power[:, part] = np.abs(np.fft.rfft(shape * columns[:, part], axis=0)) ** 2
        power[1 : (n + 1) // 2] *= 2  # of negative frequencies too
        return power.reshape(len(power), -1, 3).sum(axis=2)

    def result(self, degrees: int) -> PowerSpectrum | None:
        """The spectrum of all full windows, or of what there is of the first one.

        Parameters
        ----------
        degrees : int
            Degrees of freedom that move.

        Returns
        -------
        PowerSpectrum or None
            None where fewer than `LEAST` velocities were given, or nothing moved.

        Notes
        -----
        The Verlet integrator moves a mode of angular frequency w as if it were w', with
        ``w dt / 2 = sin(w' dt / 2)``: 3000 cm^-1 become 3010 with a step of 0.5 fs. Wavenumbers
        here are those of w, so that they are the normal modes of the potential.
        """
        length, power = len(self._window), self._power
        if not self._n_windows:
            length = self._filled
            if length < LEAST:
                return None
            power = self._power_of(self._window[:length])
        total = power.sum()
        if not total > 0:
            return None
        interval = self.stride * self.timestep
        apparent = np.fft.rfftfreq(length, interval)  # 1/fs
        half = np.pi * apparent * self.timestep
        wavenumber = np.sin(half) / (np.pi * self.timestep * LIGHT)
        width = np.cos(half) / (length * interval * LIGHT)
        power = power * (degrees / total / np.maximum(width, 1e-300))[:, None]
        keep = half < np.pi / 2 * (1 - 1e-9)  # where the width vanishes there are no modes
        density = {"total": power.sum(axis=1)[keep]}
        for number in np.unique(self._numbers):
            of_element = power[:, self._numbers == number].sum(axis=1)
            density[chemical_symbols[number]] = of_element[keep]
        resolution = 1.44 / (length * interval * LIGHT)
        return PowerSpectrum(wavenumber[keep], density, resolution)

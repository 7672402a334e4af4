"""The power spectrum of velocities: against its definition, and against normal modes."""

import numpy as np
import pytest

from fdforce.dynamics import run_dynamics
from fdforce.modes import find_modes
from fdforce.velocity_spectrum import LIGHT, WINDOW, VelocitySpectrum
from tests.springs import Morse
from tests.test_modes import relaxed_ethanol, turned, with_springs

NUMBERS, MASSES = np.array([8, 1, 1]), np.array([15.999, 1.008, 1.008])


def spectrum_of(velocities, timestep, degrees=9):
    """Of all steps of a trajectory (n, 3 atoms, 3)."""
    collected = VelocitySpectrum(NUMBERS, MASSES, timestep)
    for velocity in velocities[:: collected.stride]:
        collected.add(velocity)
    return collected.result(degrees)


def integral(spectrum, name="total", low=-np.inf, high=np.inf):
    inside = (spectrum.wavenumber >= low) & (spectrum.wavenumber <= high)
    return np.trapezoid(spectrum.density[name][inside], spectrum.wavenumber[inside])


def test_definition():
    """The Fourier transform of the mass-weighted autocorrelation of the windowed velocities."""
    rng = np.random.default_rng(0)
    n, timestep = 90, 3.0
    velocities = rng.normal(size=(n, 3, 3))
    found = spectrum_of(velocities, timestep)
    windowed = velocities * np.hanning(n + 1)[:n, None, None]
    lags = np.arange(-(n - 1), n)
    correlation = [
        np.sum(MASSES[:, None] * windowed[max(0, -k) : n - max(0, k)]
               * windowed[max(0, k) : n + min(0, k)])
        for k in lags
    ]  # fmt: skip
    apparent = np.arange(len(found.wavenumber)) / (n * timestep)
    power = [np.sum(correlation * np.cos(2 * np.pi * f * lags * timestep)) for f in apparent]
    expected = np.sin(np.pi * apparent * timestep) / (np.pi * timestep * LIGHT)
    assert found.wavenumber == pytest.approx(expected, rel=1e-12)
    # in equal bins of the apparent frequency; half as much at zero, which has no negative side
    shape = found.density["total"] * np.cos(np.pi * apparent * timestep)
    shape[0] *= 2
    # velocities are kept in float32: 90 * 6e-8
    assert shape / shape.sum() == pytest.approx(np.array(power) / np.sum(power), rel=2e-5)


def test_lines_have_their_place_and_share():
    timestep, steps = 0.5, 60_000
    time = np.arange(steps) * timestep
    velocities = np.zeros((steps, 3, 3))
    # (atom, wavenumber, amplitude); what moves is m v^2
    lines = [(0, 700.0, 1.0), (1, 1600.0, 3.0), (2, 3700.0, 2.0)]
    for atom, wavenumber, amplitude in lines:
        apparent = np.arcsin(np.pi * wavenumber * LIGHT * timestep) / (np.pi * timestep)
        velocities[:, atom, atom] = amplitude * np.cos(2 * np.pi * apparent * time + atom)
    found = spectrum_of(velocities, timestep)
    assert found.resolution == pytest.approx(1.44 / (WINDOW * LIGHT))
    shares = np.array([MASSES[atom] * amplitude**2 for atom, _, amplitude in lines])
    shares *= 9 / shares.sum()
    for (_, wavenumber, _), share in zip(lines, shares, strict=True):
        near = np.abs(found.wavenumber - wavenumber) < 30
        peak = found.wavenumber[near][found.density["total"][near].argmax()]
        assert peak == pytest.approx(wavenumber, abs=found.resolution / 2)
        # tails of the window beyond 9 bins: below 1e-5
        assert integral(found, low=wavenumber - 30, high=wavenumber + 30) == pytest.approx(
            share, rel=1e-3
        )
    assert integral(found, "O") == pytest.approx(shares[0], rel=1e-3)
    assert integral(found, "H") == pytest.approx(shares[1] + shares[2], rel=1e-3)
    assert integral(found) == pytest.approx(9, rel=1e-3)


def test_nothing_to_see():
    assert spectrum_of(np.ones((10, 3, 3)), 3.0) is None
    assert spectrum_of(np.zeros((100, 3, 3)), 3.0) is None


def test_table(tmp_path):
    rng = np.random.default_rng(1)
    found = spectrum_of(rng.normal(size=(50, 3, 3)), 2.0)
    found.write(tmp_path / "spectrum.csv")
    table = np.genfromtxt(tmp_path / "spectrum.csv", delimiter=",", names=True)
    assert table.dtype.names == ("wavenumber", "total", "H", "O")
    assert table["total"] == pytest.approx(found.density["total"], rel=1e-5)
    assert table["total"] == pytest.approx(table["H"] + table["O"], rel=1e-5)


@pytest.mark.parametrize("timestep", [0.5, 2.0])
def test_a_triangle_has_the_spectrum_of_its_modes(tmp_path, timestep):
    """At 1 K; a step of 2 fs moves 2000 cm^-1 by 50, which the spectrum undoes."""
    radius = 1.1
    atoms = turned(
        with_springs("H3", radius * np.array([[0, 0, 0], [1, 0, 0], [0.5, np.sqrt(0.75), 0]]))
    )
    atoms.set_masses([6.0] * 3)
    low, high = find_modes(atoms).vibrations[1:]
    run = run_dynamics(
        atoms, tmp_path / "run", steps=round(2000 / timestep), timestep=timestep, temperature=1.0,
        trajectory_interval=1000,
    )  # fmt: skip
    found = run.spectrum
    assert run.degrees == 3
    for frequency in (low, high):
        near = np.abs(found.wavenumber - frequency) < 100
        peak = found.wavenumber[near][found.density["total"][near].argmax()]
        assert peak == pytest.approx(frequency, abs=found.resolution / 2)
        assert found.density["total"][near].max() > 20 * np.median(found.density["total"])
    assert integral(found, low=low - 60, high=high + 60) == pytest.approx(3, rel=0.01)


def test_a_cold_molecule_has_the_spectrum_of_its_modes(tmp_path):
    atoms = relaxed_ethanol()
    modes = find_modes(atoms).vibrations
    assert modes[0] > 100
    # at 0.5 K this soft potential shows sums and differences of modes already
    run = run_dynamics(atoms, tmp_path / "run", steps=6000, timestep=1.0, temperature=0.02)
    found, density = run.spectrum, run.spectrum.density["total"]
    higher = (density[1:-1] > density[:-2]) & (density[1:-1] > density[2:])
    peaks = found.wavenumber[1:-1][higher & (density[1:-1] > 1e-2 * density.max())]
    distance = np.abs(peaks[:, None] - modes)
    assert distance.min(axis=1).max() < found.resolution / 2
    # random velocities leave some modes almost at rest, and some lines overlap
    assert len(np.unique(distance.argmin(axis=1))) >= 12
    outside = integral(found, high=modes[0] - 5 * found.resolution)
    assert outside + integral(found, low=modes[-1] + 5 * found.resolution) < 0.1
    assert run.degrees == 21


def test_a_hot_morse_bond_is_softer_than_its_mode(tmp_path):
    """The spectrum is that of the motion, not of the harmonic limit: w (1 - E / D)^(1/2)."""
    depth, a, radius = 4.0, 2.0, 1.1
    atoms = with_springs("H2", [[0, 0, 0], [0, 0, radius]])
    atoms.set_masses([6.0, 6.0])
    atoms.calc = Morse(depth, a, radius, 4.0)
    (harmonic,) = find_modes(atoms).vibrations
    energy = 0.4
    speed = np.sqrt(2 * energy / 12.0)  # of each atom, along the bond
    atoms.set_velocities([[0, 0, -speed], [0, 0, speed]])
    run = run_dynamics(atoms, tmp_path / "run", steps=4000, timestep=0.5, trajectory_interval=4000)
    found = run.spectrum
    peak = found.wavenumber[found.density["total"].argmax()]
    assert peak == pytest.approx(harmonic * np.sqrt(1 - energy / depth), abs=found.resolution / 2)
    assert abs(peak - harmonic) > 2 * found.resolution
    assert atoms.get_total_energy() == pytest.approx(energy - depth, abs=1e-3)

"""Constant-energy dynamics: are the forces the slopes of the energy all along a trajectory?

Velocity Verlet conserves the energy up to fluctuations in proportion to the square of the step,
with forces that are exact slopes. Anything wrong with them, or a jump of the energy where the
neighbour list changes, leaves a part that does not shrink with the step.
"""

import numpy as np
import pytest
from ase import units
from ase.md.verlet import VelocityVerlet

import fdforce
from tests.systems import SYSTEMS
from tests.test_calculator import model_for

DURATION = 120.0  # fs
#: Repeats of the cell, temperature (K) and longest step (fs) for each system.
RUNS = {
    "bulk": ((2, 2, 1), 600, 1.0),
    "molecule": ((1, 1, 1), 300, 0.5),
    "thin_triclinic": ((1, 1, 1), 300, 1.0),
    "slab": ((1, 1, 1), 600, 3.0),
}


def fluctuation(name, timestep, *, factor=1.0):
    """Largest deviation (eV) of the total energy from its start; builds of the list.

    With a factor the forces are multiplied by it: forces that are wrong.
    """
    repeats, temperature, _ = RUNS[name]
    atoms = SYSTEMS[name]()
    model = model_for(atoms, baseline=False)
    model.scale = 0.3
    atoms = atoms.repeat(repeats)
    atoms.calc = fdforce.Calculator(model, skin=0.2, threads=1)
    forces = model.forces
    model.forces = lambda state: [factor * result for result in forces(state)]
    scale = np.sqrt(atoms.get_masses() * units.kB * temperature)
    rng = np.random.default_rng(1)
    atoms.set_momenta(scale[:, None] * rng.normal(size=atoms.positions.shape))
    dynamics = VelocityVerlet(atoms, timestep * units.fs)
    energies = []
    dynamics.attach(lambda: energies.append(atoms.get_total_energy()))
    dynamics.run(round(DURATION / timestep))
    energies = np.array(energies)
    return np.abs(energies - energies[0]).max(), atoms.calc.n_builds


@pytest.mark.parametrize("name", RUNS)
def test_fluctuations_of_the_energy_go_with_the_square_of_the_step(name):
    step = RUNS[name][2]
    (coarse, builds), (middle, _), (fine, _) = (fluctuation(name, step / k) for k in (1, 2, 4))
    print(name, coarse, middle, fine, builds)
    # the energy did move, and lists were built again on the way
    assert fine > 1e-9
    assert builds > 1
    # 4 up to terms of the fourth order, (omega step)^2 of a few percent, and the rougher sampling
    # of the extreme by long steps
    assert coarse / middle == pytest.approx(4, rel=0.2)
    assert middle / fine == pytest.approx(4, rel=0.1)


def test_wrong_forces_would_be_noticed():
    """Forces that are too large by a thousandth leave fluctuations that stay."""
    middle, fine = (fluctuation("bulk", step, factor=1.001)[0] for step in (0.25, 0.125))
    assert middle / fine < 2

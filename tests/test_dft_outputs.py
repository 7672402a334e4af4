"""Outputs of VASP and Quantum ESPRESSO, read through ASE: which energy, and the signs of stress.

The texts are made here, in the layout of the programs, from two structures of copper and their
forces and stress by ASE's effective-medium potential: compressed and stretched, so that a sign or
the order of the stress would show. Both programs print what pushes outwards as positive.
"""

import functools

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from fdforce.conversion import convert
from fdforce.structure_files import read_file
from fdforce.structures import read_structures
from fdforce.units import BOHR, GPA, HARTREE

ENTROPY = 0.04  # eV, T S of smeared occupations: F = E(sigma->0) - TS/2


@functools.cache
def frames():
    """Two structures with energy (eV), forces (eV/Å) and stress (eV/Å^3)."""
    found = []
    for scale in (0.95, 1.04):
        atoms = bulk("Cu", cubic=True)
        strain = np.array([[0, 0.01, 0.02], [0, 0.01, 0.03], [0, 0, -0.01]])
        atoms.set_cell(scale * atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        atoms.rattle(0.05, seed=3)
        atoms.calc = EMT()
        labels = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)
        found.append((atoms, *labels))
    return found


def rows(*arrays, form="16.10f"):
    return "\n".join(
        " ".join(f"{x:{form}}" for x in row) for row in np.concatenate(arrays, axis=-1)
    )


def outcar():
    text = """ vasp.6.3.0
   POTCAR:    PAW_PBE Cu 22Jun2005
   POTCAR:    PAW_PBE Cu 22Jun2005
   ISPIN  =      1    spin polarized calculation?
   ions per type =               4
   k-points           NKPTS =      1   k-points in BZ  NKDIM = 1   number of bands NBANDS= 24
 k-points in reciprocal lattice and weights: Automatic mesh
   0.00000000  0.00000000  0.00000000       1.000
"""
    for number, (atoms, energy, forces, stress) in enumerate(frames(), start=1):
        kilobar = -10 * stress / GPA
        printed = [kilobar[k] for k in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (2, 0))]
        text += f"""--------------- Iteration {number:6d}(   1)  ---------------
  FORCE on cell =-STRESS in cart. coord.  units (eV):
  Direction    XX          YY          ZZ          XY          YZ          ZX
  in kB   {rows([printed], form="14.7f")}
  external pressure =     0.00 kB  Pullay stress =        0.00 kB
      direct lattice vectors                 reciprocal lattice vectors
{rows(atoms.cell.array, atoms.cell.reciprocal(), form="14.9f")}
 POSITION                                       TOTAL-FORCE (eV/Angst)
 -----------------------------------------------------------------------
{rows(atoms.positions, forces)}
 -----------------------------------------------------------------------
  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)
  ---------------------------------------------------
  free  energy   TOTEN  =  {energy - ENTROPY / 2:18.8f} eV

  energy  without entropy= {energy + ENTROPY / 2:18.8f}  energy(sigma->0) = {energy:18.8f}
"""
    return text


def vectors(name, array):
    lines = "\n".join(f"<v> {' '.join(f'{x:.12f}' for x in row)} </v>" for row in array)
    return f'<varray name="{name}" >\n{lines}\n</varray>\n'


def energies_xml(energy):
    free = energy - ENTROPY / 2
    return (
        f'<energy><i name="e_fr_energy"> {free:.8f} </i><i name="e_wo_entrp"> '
        f'{free + ENTROPY:.8f} </i><i name="e_0_energy"> {energy:.8f} </i></energy>\n'
    )


def vasprun():
    every = frames()
    atom = "<rc><c>Cu</c><c> 1</c></rc>"
    text = f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
<kpoints>
{vectors("kpointlist", [[0, 0, 0]])}{vectors("weights", [[1.0]])}</kpoints>
<parameters></parameters>
<atominfo><array name="atoms" ><set>{atom * 4}</set></array></atominfo>
<structure name="initialpos" >
<crystal>{vectors("basis", every[0][0].cell.array)}</crystal>
{vectors("positions", every[0][0].get_scaled_positions())}</structure>
"""
    for atoms, energy, forces, stress in every:
        text += f"""<calculation>
<scstep>{energies_xml(energy)}</scstep>
<structure><crystal>{vectors("basis", atoms.cell.array)}</crystal>
{vectors("positions", atoms.get_scaled_positions(wrap=False))}</structure>
{vectors("forces", forces)}{vectors("stress", -10 * stress / GPA)}{energies_xml(energy)}
</calculation>
"""
    return text + "</modeling>\n"


def pw_out():
    text = ""
    for atoms, energy, forces, stress in frames():
        alat = 6.8
        length = alat * BOHR
        rydberg = HARTREE / 2
        axes = "\n".join(
            f"               a({k}) = ( {rows([a / length], form='.12f')} )"
            for k, a in enumerate(atoms.cell.array, start=1)
        )
        places = "\n".join(
            f"         {k}           Cu  tau(   {k}) = ( {rows([p / length], form='.12f')} )"
            for k, p in enumerate(atoms.positions, start=1)
        )
        acting = "\n".join(
            f"     atom    {k} type  1   force = {rows([f / (rydberg / BOHR)], form='.10f')}"
            for k, f in enumerate(forces, start=1)
        )
        atomic = -stress / (rydberg / BOHR**3)
        text += f"""
     Program PWSCF v.7.0 starts on 21Nov2023 at  7: 2:10

     lattice parameter (alat)  =       {alat}  a.u.
     number of atoms/cell      =            4
     number of atomic types    =            1
     celldm(1)=   {alat:.6f}  celldm(2)=   0.000000  celldm(3)=   0.000000
     crystal axes: (cart. coord. in units of alat)
{axes}

     site n.     atom                  positions (alat units)
{places}

     number of k points=     1  gaussian smearing, width (Ry)=  0.0200
                       cart. coord. in units 2pi/alat
        k(    1) = (   0.0000000   0.0000000   0.0000000), wk =   2.0000000

     End of self-consistent calculation

          k = 0.0000 0.0000 0.0000 (   169 PWs)   bands (ev):

    -5.1234   3.2345

     the Fermi energy is    11.5000 ev

!    total energy              =  {energy / rydberg:.10f} Ry

     Forces acting on atoms (cartesian axes, Ry/au):

{acting}

     Computing stress (Cartesian axis) and pressure
          total   stress  (Ry/bohr**3)                   (kbar)     P=       0.00
{rows(atomic, -10 * stress / GPA, form="16.10f")}
"""
    return text


FILES = {"OUTCAR": outcar, "vasprun.xml": vasprun, "pw.out": pw_out}


@pytest.fixture(params=FILES)
def output(request, tmp_path):
    path = tmp_path / request.param
    path.write_text(FILES[request.param]())
    return path


def test_energy_forces_and_stress(output):
    structures, _ = read_structures(output)
    assert len(structures) == 2
    for s, (atoms, energy, forces, stress) in enumerate(frames()):
        part = slice(4 * s, 4 * s + 4)
        # ASE converts with CODATA 2014, what pw.x prints with CODATA 2006: 1e-7 relative in the
        # rydberg; and the texts have 9 or 10 decimals
        near = {"rtol": 2e-7, "atol": 1e-8}
        np.testing.assert_allclose(structures.positions[part], atoms.positions, **near)
        np.testing.assert_allclose(structures.cells[s], atoms.cell.array, **near)
        np.testing.assert_allclose(structures.energies[s], energy, **near)
        np.testing.assert_allclose(structures.forces[part], forces, **near)
        np.testing.assert_allclose(structures.stresses[s], stress, **near)
        assert (np.trace(stress) < 0) == (s == 0)  # compressed: it pushes outwards


def test_the_energy_is_that_of_sigma_to_0_unless_the_free_one_is_asked_for(output):
    usual, _ = read_structures(output)
    free, _ = read_structures(output, energy_key="free_energy")
    smeared = ENTROPY / 2 if output.name != "pw.out" else 0.0  # pw.x prints one energy, F
    np.testing.assert_allclose(usual.energies - free.energies, smeared, atol=2e-8)


def test_conversion_keeps_both_energies(output, tmp_path):
    counts = convert([output], tmp_path / "all.extxyz")
    assert (counts.structures, counts.energy, counts.forces, counts.stress) == (2, 2, 2, 2)
    for key in ("energy", "free_energy"):
        before, _ = read_structures(output, energy_key=key)
        after, _ = read_structures(tmp_path / "all.extxyz", energy_key=key)
        np.testing.assert_allclose(after.energies, before.energies, rtol=1e-14)
        np.testing.assert_allclose(after.stresses, before.stresses, rtol=1e-14)
        np.testing.assert_allclose(after.forces, before.forces, atol=6e-9)  # eight decimals


@pytest.mark.parametrize("name", ["OUTCAR", "vasprun.xml"])
def test_unfinished_runs_give_their_finished_steps(tmp_path, name):
    text = FILES[name]()
    (tmp_path / name).write_text(text[: int(0.8 * len(text))])
    (atoms,) = read_file(tmp_path / name)
    expected, energy, *_ = frames()[0]
    np.testing.assert_allclose(atoms.positions, expected.positions, atol=1e-8)
    assert atoms.calc.results["energy"] == pytest.approx(energy, abs=2e-8)

"""Any model of fdforce in LAMMPS, through ``fix external`` of its Python module.

LAMMPS integrates, fdforce gives energy, forces and virial. The atoms are gathered on the first MPI
rank, which computes all of them, so that every number of ranks gives the same trajectory.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms

from fdforce.calculator import Calculator
from fdforce.errors import FdforceError

RUNNING = ("command", "commands_list", "commands_string", "file")
"""Methods of `lammps.lammps` within which a step may be made."""


def attach(lmp, model, fix_id: str = "fdforce", *, elements=None, skin=0.5, threads=0):
    """Have a model act on all atoms of a LAMMPS.

    Defines ``fix ID all external pf/callback 1 1`` whose energy and virial count in ``pe``,
    ``press`` and barostats. Call it after the box and the atom types are defined; LAMMPS also wants
    a pair style, such as ``pair_style zero 5.0``, whose forces are added.

    Parameters
    ----------
    lmp : lammps.lammps
        With units metal, three dimensions and atom IDs.
    model : EnergyModel or path
        A model, or its file ``model.npz``.
    fix_id : str
        ``lmp.command("unfix ID")`` detaches it.
    elements : sequence of str, optional
        Of the atom types 1, 2, …; those of the model, in its order, by default.
    skin, threads
        As for `fdforce.Calculator`.

    Returns
    -------
    External
        Keeps the calculator, as ``calculator``.

    Raises
    ------
    FdforceError
        Other units, or atom types without an element. Later, out of the LAMMPS command that runs:
        what the calculator refuses, such as positions that are not finite. The run then ends with
        the step that failed.
    """
    return External(lmp, Calculator(model, skin=skin, threads=threads), fix_id, elements)


class External:
    """What `attach` leaves behind; ``error`` is the message of a step that failed, or None."""

    def __init__(self, lmp, calculator, fix_id, elements):
        self.lmp, self.calculator, self.fix_id = lmp, calculator, fix_id
        self.elements = list(calculator.model.elements if elements is None else elements)
        self.error = None
        self._check(elements is None)
        self._comm = lmp.get_mpi_comm() if lmp.extract_setting("world_size") > 1 else None
        lmp.command(f"fix {fix_id} all external pf/callback 1 1")
        lmp.command(f"fix_modify {fix_id} energy yes virial yes")
        lmp.set_fix_external_callback(fix_id, self._step)
        for name in RUNNING:
            setattr(lmp, name, self._raising(getattr(lmp, name)))

    def _check(self, by_order):
        lmp, n_types = self.lmp, self.lmp.extract_setting("ntypes")
        units = lmp.extract_global("units")
        if units != "metal" or lmp.extract_setting("dimension") != 3:
            raise FdforceError(
                f"LAMMPS has units {units} in {lmp.extract_setting('dimension')} dimensions; "
                "fdforce needs units metal in 3"
            )
        unknown = set(self.elements) - set(self.calculator.model.elements)
        if unknown:
            raise FdforceError(
                f"{', '.join(sorted(unknown))}: the model knows only "
                f"{', '.join(self.calculator.model.elements)}"
            )
        if n_types > len(self.elements) or (by_order and n_types != len(self.elements)):
            raise FdforceError(
                f"LAMMPS has {n_types} atom type(s), the model the elements "
                f"{', '.join(self.elements)}; say which are which by elements=[...]"
            )

    def _raising(self, method):
        """A method that raises what the model raised while it ran."""

        def run(*arguments, **keywords):
            self.error = None
            try:
                return method(*arguments, **keywords)
            finally:  # before what LAMMPS says of the forces, which are then no numbers
                if self.error is not None:
                    raise FdforceError(self.error)

        return run

    def _step(self, caller, step, n_local, tags, positions, forces):
        """The callback: fills `forces`, (n_local, 3), and tells energy and virial."""
        kinds = self.lmp.numpy.extract_atom("type")[:n_local]
        mine = tags.copy().ravel(), kinds.copy().ravel(), self._unwrapped(positions, n_local)
        parts = [mine] if self._comm is None else self._comm.gather(mine)
        answers = None
        if parts is not None:  # the first rank
            error, energy, virial, shares = self._evaluate(parts)
            answers = [(error, energy, virial, share) for share in shares]
        answer = answers[0] if self._comm is None else self._comm.scatter(answers)
        self.error, energy, virial, forces[:n_local] = answer
        self.lmp.fix_external_set_energy_global(self.fix_id, energy)
        self.lmp.fix_external_set_virial_global(self.fix_id, virial)
        if self.error is not None:
            self.lmp.force_timeout()

    def _evaluate(self, parts):
        """Error, energy, virial (xx yy zz xy xz yz) and the forces of every part."""
        tags, kinds, positions = (np.concatenate(arrays) for arrays in zip(*parts))
        order = np.argsort(tags)
        bounds = np.cumsum([len(part[0]) for part in parts])[:-1]
        forces = np.full(positions.shape, np.nan)
        try:
            symbols = [self.elements[kind - 1] for kind in kinds[order]]
            cell, periodic = self._box()
            atoms = Atoms(symbols, positions=positions[order], cell=cell, pbc=periodic)
            self.calculator.calculate(atoms)
            results, virial = self.calculator.results, self.calculator.virial
        # at the border to C all would be printed and forgotten, Ctrl-C too, and the run would go on
        except BaseException as error:
            known = isinstance(error, FdforceError)
            reason = str(error) if known else f"{type(error).__name__}: {error}"
            return reason, np.nan, [np.nan] * 6, np.split(forces, bounds)
        forces[order] = results["forces"]
        six = virial[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]].tolist()
        return None, results["energy"], six, np.split(forces, bounds)

    def _box(self):
        low, high, xy, yz, xz, periodic, _ = self.lmp.extract_box()
        edges = np.subtract(high, low)
        cell = np.array([[edges[0], 0, 0], [xy, edges[1], 0], [xz, yz, edges[2]]])
        return cell, np.array(periodic, dtype=bool)

    def _unwrapped(self, positions, n_local):
        """Positions that do not jump when LAMMPS wraps them, so that neighbour lists last."""
        flags = self.lmp.numpy.extract_atom("image")[:n_local].ravel()
        mask, bits, twice, zero = (
            self.lmp.extract_setting(name) for name in ("IMGMASK", "IMGBITS", "IMG2BITS", "IMGMAX")
        )
        flags = np.stack([flags & mask, flags >> bits & mask, flags >> twice], axis=1)
        return positions + (flags - zero) @ self._box()[0]

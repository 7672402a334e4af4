"""Energies of other programs: PyTorch, LAMMPS, shared libraries in C or Fortran.

Each module turns its program into `fdforce.energy_code.EnergyCode` objects, one for each structure,
and imports that program only when it is used. Nothing else in fdforce imports an adapter.
"""

/* The three functions that a shared library offers to fdforce.adapters.native.

   Units are Angstrom, eV, eV/Angstrom and eV/Angstrom^3. Pointers are never NULL. What is const
   must not be written to. Every output holds NaN before the call, so assign to all of its elements
   and do not add to what is there. Return 0 for success; any other number ends up in the error
   message that the user sees.

   Fortran sees the arrays with their indices reversed: positions(3,n), cell(3,3) with the lattice
   vectors as columns, forces(3,n). */

#ifndef FDFORCE_NATIVE_H
#define FDFORCE_NATIVE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The number P of parameters and their initial values.
   n_parameters  in: room in theta; out: P
   theta         (P) initial values, to be written where there is room for all of them. The first
                 call says that there is room for 0 of them, the second gives room for P. */
int fdforce_parameters(int64_t *n_parameters, double *theta);

/* Energy, forces and, where the code has it, stress.
   n_atoms         number of atoms n
   atomic_numbers  (n)
   positions       (n,3) not wrapped into the cell
   cell            (3,3) lattice vectors in rows, zero where the structure has none
   periodic        (3) 1 where the structure is periodic along the lattice vector, 0 elsewhere
   n_parameters    P
   theta           (P) the parameters to be used in this call
   energy          (1) of the whole structure
   forces          (n,3)
   stress          (3,3) dE/dstrain / volume, positive under tension as in ASE. A code without
                 stress leaves it alone, and so does any code where there is no volume. */
int fdforce_energy_and_forces(int64_t n_atoms, const int64_t *atomic_numbers,
                              const double *positions, const double *cell,
                              const int64_t *periodic, int64_t n_parameters, const double *theta,
                              double *energy, double *forces, double *stress);

/* Energy and its derivatives with respect to the parameters.
   energy   (1) the same energy as above
   d_theta  (P) dE/dtheta */
int fdforce_energy_gradient(int64_t n_atoms, const int64_t *atomic_numbers,
                            const double *positions, const double *cell,
                            const int64_t *periodic, int64_t n_parameters, const double *theta,
                            double *energy, double *d_theta);

#ifdef __cplusplus
}
#endif
#endif

/* A Morse potential for O and Ti, as a shared library for fdforce.adapters.native.

       gcc -O2 -shared -fPIC morse.c -o libmorse.so -lm

       E = 1/2 sum_ij D [(1 - e)^2 - 1] s(r),   e = exp(-a (r - r0))

   over all ordered pairs and periodic images within the cutoff, with D (eV), a (1/Angstrom) and
   r0 (Angstrom) for each pair of elements. The switch s falls from 1 at SWITCH to 0 at CUTOFF and
   has three continuous derivatives. Forces need one; the finite difference, whose error is a third
   derivative of dE/dtheta, needs all three. morse.f90 holds the same formulas. */

#include <math.h>
#include <string.h>

#include "fdforce_native.h"

#define P 9
#define SWITCH 4.0
#define CUTOFF 5.0

/* D, a, r0 of O-O, O-Ti and Ti-Ti: round numbers, fitted to nothing. */
static const double initial[P] = {0.3, 1.2, 3.0, 1.0, 1.6, 2.0, 0.5, 1.1, 3.2};

static double dot(const double *u, const double *v)
{
    return u[0] * v[0] + u[1] * v[1] + u[2] * v[2];
}

/* Take from v its part along p, which may be zero. */
static void remove_along(double *v, const double *p)
{
    double factor = dot(v, p) / fmax(dot(p, p), 1e-300);
    for (int k = 0; k < 3; k++) v[k] -= factor * p[k];
}

/* Vectors b with b_k.a_l = 1 where k = l, else 0, over the periodic lattice vectors a. The planes
   of images along a_k are 1/|b_k| apart. Returns 0, or 2 for lattice vectors that are dependent. */
static int reciprocal(const double *cell, const int64_t *periodic, double b[3][3])
{
    memset(b, 0, 9 * sizeof(double));
    for (int k = 0; k < 3; k++) {
        double p[3] = {0, 0, 0}, q[3] = {0, 0, 0};
        int next = (k + 1) % 3, last = (k + 2) % 3;
        if (!periodic[k]) continue;
        if (periodic[next]) memcpy(p, cell + 3 * next, sizeof p);
        if (periodic[last]) memcpy(q, cell + 3 * last, sizeof q);
        remove_along(q, p);
        memcpy(b[k], cell + 3 * k, sizeof p);
        remove_along(b[k], p);
        remove_along(b[k], q);
        double square = dot(b[k], b[k]);
        if (square < 1e-12) return 2;
        for (int l = 0; l < 3; l++) b[k][l] /= square;
    }
    return 0;
}

/* Energy, and what else is not NULL: forces (n,3), strain derivative (3,3), dE/dtheta (P).
   Returns 0, or 1 for an element that is not O or Ti, or 2 from reciprocal. */
static int morse(int64_t n, const int64_t *numbers, const double *positions, const double *cell,
                 const int64_t *periodic, const double *theta, double *energy, double *forces,
                 double *strain, double *d_theta)
{
    double b[3][3];
    int code = reciprocal(cell, periodic, b);
    if (code) return code;
    for (int64_t i = 0; i < n; i++)
        if (numbers[i] != 8 && numbers[i] != 22) return 1;

    *energy = 0;
    if (forces) memset(forces, 0, 3 * n * sizeof(double));
    if (strain) memset(strain, 0, 9 * sizeof(double));
    if (d_theta) memset(d_theta, 0, P * sizeof(double));

    for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < n; j++) {
        int pair = (numbers[i] == 22) + (numbers[j] == 22);
        double depth = theta[3 * pair], a = theta[3 * pair + 1], r0 = theta[3 * pair + 2];
        double d[3], lo[3], hi[3];
        for (int k = 0; k < 3; k++) d[k] = positions[3 * j + k] - positions[3 * i + k];
        for (int k = 0; k < 3; k++) {   /* images whose plane is within the cutoff */
            double reach = CUTOFF * sqrt(dot(b[k], b[k]));
            lo[k] = ceil(-dot(d, b[k]) - reach);
            hi[k] = floor(-dot(d, b[k]) + reach);
        }
        for (double x = lo[0]; x <= hi[0]; x++)
        for (double y = lo[1]; y <= hi[1]; y++)
        for (double z = lo[2]; z <= hi[2]; z++) {
            if (i == j && x == 0 && y == 0 && z == 0) continue;
            double v[3];
            for (int k = 0; k < 3; k++)
                v[k] = d[k] + x * cell[k] + y * cell[3 + k] + z * cell[6 + k];
            double r = sqrt(dot(v, v));
            if (r >= CUTOFF) continue;

            double t = fmax(0, (r - SWITCH) / (CUTOFF - SWITCH)), u = 1 - t;
            double s = 1 - t * t * t * t * (35 - 84 * t + 70 * t * t - 20 * t * t * t);
            double ds = -140 * t * t * t * u * u * u / (CUTOFF - SWITCH);
            double e = exp(-a * (r - r0)), well = (1 - e) * (1 - e) - 1, dwell = 2 * (1 - e) * e;
            double slope = depth * (dwell * a * s + well * ds);   /* of the pair energy along r */

            *energy += 0.5 * depth * well * s;
            for (int k = 0; k < 3; k++) {
                if (forces) forces[3 * i + k] += slope * v[k] / r;   /* half of it, from ij and ji */
                if (strain)
                    for (int l = 0; l < 3; l++) strain[3 * k + l] += 0.5 * slope * v[k] * v[l] / r;
            }
            if (d_theta) {
                d_theta[3 * pair] += 0.5 * well * s;
                d_theta[3 * pair + 1] += 0.5 * depth * dwell * (r - r0) * s;
                d_theta[3 * pair + 2] -= 0.5 * depth * dwell * a * s;
            }
        }
    }
    return 0;
}

int fdforce_parameters(int64_t *n_parameters, double *theta)
{
    if (*n_parameters >= P) memcpy(theta, initial, sizeof initial);
    *n_parameters = P;
    return 0;
}

int fdforce_energy_and_forces(int64_t n_atoms, const int64_t *atomic_numbers,
                              const double *positions, const double *cell,
                              const int64_t *periodic, int64_t n_parameters, const double *theta,
                              double *energy, double *forces, double *stress)
{
    double strain[9], cross[3];
    int code = morse(n_atoms, atomic_numbers, positions, cell, periodic, theta, energy, forces,
                     strain, NULL);
    for (int k = 0; k < 3; k++)
        cross[k] = cell[3 + (k + 1) % 3] * cell[6 + (k + 2) % 3]
                 - cell[3 + (k + 2) % 3] * cell[6 + (k + 1) % 3];
    double volume = fabs(dot(cell, cross));
    if (code == 0 && volume > 0)
        for (int k = 0; k < 9; k++) stress[k] = strain[k] / volume;
    return code;
}

int fdforce_energy_gradient(int64_t n_atoms, const int64_t *atomic_numbers,
                            const double *positions, const double *cell,
                            const int64_t *periodic, int64_t n_parameters, const double *theta,
                            double *energy, double *d_theta)
{
    return morse(n_atoms, atomic_numbers, positions, cell, periodic, theta, energy, NULL, NULL,
                 d_theta);
}

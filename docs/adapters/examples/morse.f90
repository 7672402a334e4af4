! A Morse potential for O and Ti, as a shared library for fdforce.adapters.native.
!
!     gfortran -O2 -shared -fPIC morse.f90 -o libmorse_f.so
!
!     E = 1/2 sum_ij D [(1 - e)^2 - 1] s(r),   e = exp(-a (r - r0))
!
! over all ordered pairs and periodic images within the cutoff, with D (eV), a (1/Angstrom) and
! r0 (Angstrom) for each pair of elements. The switch s falls from 1 at switch to 0 at cutoff and
! has three continuous derivatives. Forces need one; the finite difference, whose error is a third
! derivative of dE/dtheta, needs all three. morse.c holds the same formulas.

module morse_library
  use, intrinsic :: iso_c_binding, only: c_double, c_int, c_int64_t
  implicit none
  private

  integer, parameter :: dp = c_double, p = 9
  real(dp), parameter :: switch = 4, cutoff = 5
  ! D, a, r0 of O-O, O-Ti and Ti-Ti: round numbers, fitted to nothing.
  real(dp), parameter :: initial(p) = [0.3_dp, 1.2_dp, 3.0_dp, 1.0_dp, 1.6_dp, 2.0_dp, &
                                       0.5_dp, 1.1_dp, 3.2_dp]

contains

  integer(c_int) function fdforce_parameters(n_parameters, theta) bind(c)
    integer(c_int64_t), intent(inout) :: n_parameters
    real(c_double), intent(inout) :: theta(*)
    if (n_parameters >= p) theta(1:p) = initial
    n_parameters = p
    fdforce_parameters = 0
  end function

  integer(c_int) function fdforce_energy_and_forces(n_atoms, atomic_numbers, positions, cell, &
      periodic, n_parameters, theta, energy, forces, stress) bind(c) result(code)
    integer(c_int64_t), value :: n_atoms, n_parameters
    integer(c_int64_t), intent(in) :: atomic_numbers(n_atoms), periodic(3)
    real(c_double), intent(in) :: positions(3, n_atoms), cell(3, 3), theta(n_parameters)
    real(c_double), intent(inout) :: energy, forces(3, n_atoms), stress(3, 3)
    real(dp) :: strain(3, 3), volume
    code = morse(atomic_numbers, positions, cell, periodic, theta, energy, forces, strain)
    volume = abs(dot_product(cell(:, 1), cross(cell(:, 2), cell(:, 3))))
    if (code == 0 .and. volume > 0) stress = strain / volume
  end function

  integer(c_int) function fdforce_energy_gradient(n_atoms, atomic_numbers, positions, cell, &
      periodic, n_parameters, theta, energy, d_theta) bind(c) result(code)
    integer(c_int64_t), value :: n_atoms, n_parameters
    integer(c_int64_t), intent(in) :: atomic_numbers(n_atoms), periodic(3)
    real(c_double), intent(in) :: positions(3, n_atoms), cell(3, 3), theta(n_parameters)
    real(c_double), intent(inout) :: energy, d_theta(n_parameters)
    code = morse(atomic_numbers, positions, cell, periodic, theta, energy, d_theta=d_theta)
  end function

  ! Energy, and what else is asked for. Returns 0, or 1 for an element that is not O or Ti, or 2
  ! for lattice vectors that are dependent.
  integer(c_int) function morse(numbers, positions, cell, periodic, theta, energy, forces, &
      strain, d_theta) result(code)
    integer(c_int64_t), intent(in) :: numbers(:), periodic(3)
    real(dp), intent(in) :: positions(:, :), cell(3, 3), theta(:)
    real(dp), intent(inout) :: energy
    real(dp), intent(inout), optional :: forces(:, :), strain(3, 3), d_theta(:)
    real(dp) :: a, b(3, 3), d(3), depth, ds, dwell, e, r, r0, reach(3), s, slope, t, v(3), well
    integer :: first(3), i, j, k, l, last(3), pair, x, y, z

    call reciprocal(cell, periodic, b, code)
    if (code /= 0) return
    code = 1
    if (any(numbers /= 8 .and. numbers /= 22)) return
    code = 0

    energy = 0
    if (present(forces)) forces = 0
    if (present(strain)) strain = 0
    if (present(d_theta)) d_theta = 0
    reach = cutoff * norm2(b, dim=1)

    do i = 1, size(numbers)
      do j = 1, size(numbers)
        pair = count(numbers([i, j]) == 22)
        depth = theta(3*pair + 1)
        a = theta(3*pair + 2)
        r0 = theta(3*pair + 3)
        d = positions(:, j) - positions(:, i)
        first = ceiling(-matmul(d, b) - reach)   ! images whose plane is within the cutoff
        last = floor(-matmul(d, b) + reach)
        do x = first(1), last(1)
          do y = first(2), last(2)
            do z = first(3), last(3)
              if (i == j .and. all([x, y, z] == 0)) cycle
              v = d + matmul(cell, real([x, y, z], dp))
              r = norm2(v)
              if (r >= cutoff) cycle

              t = max(0.0_dp, (r - switch) / (cutoff - switch))
              s = 1 - t**4 * (35 - 84*t + 70*t**2 - 20*t**3)
              ds = -140 * t**3 * (1 - t)**3 / (cutoff - switch)
              e = exp(-a * (r - r0))
              well = (1 - e)**2 - 1
              dwell = 2 * (1 - e) * e
              slope = depth * (dwell * a * s + well * ds)   ! of the pair energy along r

              energy = energy + depth * well * s / 2
              if (present(forces)) forces(:, i) = forces(:, i) + slope * v / r  ! half, ij and ji
              if (present(strain)) then
                do concurrent (k = 1:3, l = 1:3)
                  strain(k, l) = strain(k, l) + slope * v(k) * v(l) / r / 2
                end do
              end if
              if (present(d_theta)) then
                d_theta(3*pair + 1:3*pair + 3) = d_theta(3*pair + 1:3*pair + 3) &
                  + [well, depth * dwell * (r - r0), -depth * dwell * a] * s / 2
              end if
            end do
          end do
        end do
      end do
    end do
  end function

  ! Vectors b with b_k.a_l = 1 where k = l, else 0, over the periodic lattice vectors a. The planes
  ! of images along a_k are 1/|b_k| apart.
  subroutine reciprocal(cell, periodic, b, code)
    real(dp), intent(in) :: cell(3, 3)
    integer(c_int64_t), intent(in) :: periodic(3)
    real(dp), intent(out) :: b(3, 3)
    integer(c_int), intent(out) :: code
    real(dp) :: a(3, 3), others(3, 2)
    integer :: k
    code = 2
    a = cell * spread(periodic, dim=1, ncopies=3)
    b = 0
    do k = 1, 3
      if (periodic(k) == 0) cycle
      others = a(:, [modulo(k, 3) + 1, modulo(k + 1, 3) + 1])
      b(:, k) = without(without(a(:, k), others(:, 1)), without(others(:, 2), others(:, 1)))
      if (dot_product(b(:, k), b(:, k)) < 1e-12_dp) return
      b(:, k) = b(:, k) / dot_product(b(:, k), b(:, k))
    end do
    code = 0
  end subroutine

  pure function without(v, along) result(rest)   ! v less its part along a vector, zero or not
    real(dp), intent(in) :: v(3), along(3)
    real(dp) :: rest(3)
    rest = v - along * dot_product(v, along) / max(dot_product(along, along), 1e-300_dp)
  end function

  pure function cross(u, v) result(w)
    real(dp), intent(in) :: u(3), v(3)
    real(dp) :: w(3)
    w = [u(2)*v(3) - u(3)*v(2), u(3)*v(1) - u(1)*v(3), u(1)*v(2) - u(2)*v(1)]
  end function

end module

"""What `fdforce benchmark` times on a device."""

from __future__ import annotations

from fdforce.cuda.computation import DeviceComputation
from fdforce.cuda.data import DeviceData
from fdforce.cuda.gradient import DeviceGradient


def work_on_device(model, data, loss, *, epsilon: float, stencil: str) -> dict:
    """Functions of the numbers of a batch's structures; each ends with a copy to the host.

    Parameters
    ----------
    model : ElementalNetworks
        Without baseline.
    data : DataSet
    loss : WeightedLoss
    epsilon : float
    stencil : str

    Returns
    -------
    dict of str to callable
        "energy", "forces" and "gradient".
    """
    computation = DeviceComputation(model)
    networks, on_device = computation.networks, DeviceData(computation.device, data)
    gradient = DeviceGradient(networks, on_device)

    def forward(indices):
        batch = on_device.batch(indices, networks.n_parameters)
        networks.upload(model.theta)
        on_device.fill(batch)
        return networks.forward(batch)

    def energy(indices):
        with computation.device.step():
            forward(indices).energy.copy_to_host()

    def forces(indices):
        with computation.device.step():
            state = forward(indices)
            for result in (state.energy, *networks.forces(state)):
                result.copy_to_host()

    return {
        "energy": energy,
        "forces": forces,
        "gradient": lambda indices: gradient(indices, loss, epsilon=epsilon, stencil=stencil),
    }

"""Training and prediction on an NVIDIA GPU.

What is here arranges launches; the arithmetic is in `fdforce.kernels.cuda`, imported when a device
is first asked for. `DeviceData` keeps structures, pairs and labels on the device, `DeviceBatch` is
a choice of its structures, `DeviceNetworks` the model, and `DeviceGradient` the training step: the
method of `fdforce.gradient` with one copy back to the host.
"""

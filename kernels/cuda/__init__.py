"""Kernels for NVIDIA GPUs: the files and functions of `fdforce.kernels.cpu`, and what a step needs.

Public functions take device arrays, choose the shape of the launch and return nothing; the private
``_..._kernel`` next to each is what runs on the device. Launches are asynchronous and in order.
"""

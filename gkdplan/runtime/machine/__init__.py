"""What this machine has: devices, memory, kernels and packages."""

"""CUDA forms of sweeps: all scans of a plane in one launch."""

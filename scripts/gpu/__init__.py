"""The parts of scripts/gpu_check.py, one file each: `measure(check)` prints and keeps its rows."""

"""The command line: `accel`."""

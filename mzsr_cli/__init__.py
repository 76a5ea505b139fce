"""mzsr: zero-shot super-resolution of channel data, slice by slice."""

__version__ = "0.1.0"

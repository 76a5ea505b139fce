"""Cubes in files: MAT, HDF5, NPY, Zarr, TIFF and images, read and written slice by slice."""

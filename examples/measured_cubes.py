"""Makes cubes of measured data out of files that packages on PyPI carry, mostly for their tests.

python examples/measured_cubes.py FOLDER [--names a b ...] [--downloads FOLDER]

Writes one MATLAB v5 file NAME.mat a cube, with ``H`` (slices along the last axis): radar, sonar,
medical images, radio astronomy, seismograms, terrain and more. Samples stay as recorded (in single
precision where they are not doubles), cropped and never resampled; some sounds and seismograms
become short-time Fourier transforms (STFT), and gaps of weather radars take the nearest valid
sample. ``SOURCES`` says where each comes from; the licence there is the package's, and a file
inside may have terms of its own. The packages (about 200 MB) are downloaded as files, not
installed. What reads them must be installed:

pip install numpy scipy pillow arm-pyart astropy nibabel obspy pyuvdata
pip install pydicom pylibjpeg pylibjpeg-libjpeg
pip install setuptools wheel setuptools-scm flit-core cython

A cube needs but some of these; the last line is for pip, which looks into source packages.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any
from zipfile import ZipFile

import numpy as np
import scipy.io
import scipy.io.wavfile
import scipy.ndimage
import scipy.signal
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]

PING = 1400
"""Samples kept of a sonar's ping."""


@dataclass(frozen=True)
class Source:
    """Where a cube comes from: a pinned package, its licence, what the data are, the files or
    folders inside, and what makes the cube of their paths; ``sdist``: only sources hold them."""

    name: str
    package: str
    licence: str
    about: str
    files: tuple[str, ...]
    make: Callable[..., Array]
    sdist: bool = False


def reader(module: str, package: str) -> ModuleType:
    """A module of a package that need not be installed unless its cubes are wanted."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SystemExit(f"this cube needs {package}: pip install {package}") from error


def tiles(
    image: Array, shape: tuple[int, int], rows: Sequence[int], cols: Sequence[int] = (0,)
) -> Array:
    """Tiles of an image that begin at each of ``rows`` and ``cols``, along a third axis."""
    height, width = shape
    return np.stack([image[r : r + height, c : c + width] for r in rows for c in cols], axis=2)


def fits(path: Path) -> Array:
    """The first image of a FITS file."""
    return reader("astropy.io.fits", "astropy").getdata(path)


def dicom(path: Path) -> Array:
    """Stored values of a DICOM file."""
    return reader("pydicom", "pydicom").dcmread(path).pixel_array


def nifti(path: Path) -> Array:
    """Values of a NIfTI file."""
    return np.asarray(reader("nibabel", "nibabel").load(path).dataobj)


def radar(path: Path) -> Any:
    """A weather or cloud radar's file as Py-ART's ``Radar``."""
    os.environ.setdefault("PYART_QUIET", "1")
    return reader("pyart", "arm-pyart").io.read(path)


def moment(scan: Any, name: str) -> Array:
    """A field of a ``Radar`` (rays, gates), not a number where it is masked."""
    return np.ma.filled(scan.fields[name]["data"].astype(np.float32), np.nan)


def by_azimuth(path: Path) -> Array:
    """The first field of a radar's file, its rays in order of azimuth."""
    scan = radar(path)
    return moment(scan, next(iter(scan.fields)))[np.argsort(scan.azimuth["data"])]


def cloud_radar(path: Path, name: str) -> Array:
    """Every other sweep of a raster scan, as recorded under the mask too."""
    scan = radar(path)
    starts = scan.sweep_start_ray_index["data"][2:26:2]
    return tiles(np.asarray(scan.fields[name]["data"]), (194, 71), starts)


def nexrad_moments(path: Path) -> Array:
    """Four moments of one sweep, side by side along the third axis."""
    scan = radar(path)
    names = ("differential_reflectivity", "differential_phase", "reflectivity")
    moments = [moment(scan, name) for name in (*names, "cross_correlation_ratio")]
    return np.stack(moments, axis=2)[:, :64]


def visibilities(path: Path) -> Array:
    """Complex samples (time, frequency) of a MIRIAD folder's first ten pairs of antennas, then of
    two antennas with themselves."""
    data = reader("pyuvdata", "pyuvdata").UVData()
    data.read(str(path), run_check=False)
    pairs = data.get_antpairs()
    cross = [pair for pair in pairs if pair[0] != pair[1]][:10]
    own = [pair for pair in pairs if pair[0] == pair[1]][:2]
    return np.stack([data.get_data((*pair, "xx")) for pair in cross + own], axis=2)


def traces(path: Path) -> Array:
    """Seismograms (trace, time) of a file."""
    return np.stack([trace.data for trace in reader("obspy", "obspy").read(path)])


def shots(paths: Sequence[Path], starts: Sequence[int]) -> Array:
    """Windows in time of seismic shots, two shots of 24 geophones a slice."""
    pairs = zip(paths[::2], paths[1::2], strict=True)
    records = [np.concatenate([traces(first), traces(second)]) for first, second in pairs]
    return np.concatenate([tiles(r, (48, 256), (0,), starts) for r in records], axis=2)


def stft(signal: Array, length: int, hop: int) -> Array:
    """The complex STFT (frequency, time) of a real signal with Hann windows."""
    spectrum = scipy.signal.stft(signal, nperseg=length, noverlap=length - hop)[2]
    return spectrum[: length // 2]


def seismometers(*paths: Path) -> Array:
    """The STFT of each component's record, its mean removed."""
    records = [traces(path)[0].astype(np.float64) for path in paths]
    return np.stack([stft(r - r.mean(), 256, 128)[:, :256] for r in records], axis=2)


def room_response(path: Path) -> Array:
    """The STFT of an impulse response from just before its peak."""
    sound = scipy.io.wavfile.read(path)[1].astype(np.float64)
    peak = int(np.argmax(np.abs(sound)))
    spectrum = stft(sound[max(0, peak - 1024) :], 512, 128)
    return tiles(spectrum, (256, 128), (0,), range(0, 768, 128))


def pings(path: Path) -> Array:
    """Echoes (ping, sample) of a Humminbird SON file: records with a header of 67 bytes, which
    begins with a mark and ends with the count of samples and a byte."""
    data, mark = path.read_bytes(), b"\xc0\xde\xab\x21"
    found, at = [], data.find(mark)
    while at >= 0:
        first = at + 67
        end = first + int.from_bytes(data[at + 62 : at + 66], "big")
        echo = np.frombuffer(data[first:end], np.uint8)
        if len(echo) >= PING:
            found.append(echo[:PING])
        at = data.find(mark, end)
    return np.stack(found)


def sonar(paths: Iterable[Path], rows: Sequence[int], cols: Sequence[int]) -> Array:
    """Windows of the pings of several beams."""
    return np.concatenate([tiles(pings(p), (256, 256), rows, cols) for p in paths], axis=2)


def colour_ultrasound(path: Path) -> Array:
    """Two views of a scan that is stored with a palette."""
    data = reader("pydicom", "pydicom").dcmread(path)
    palette = reader("pydicom.pixels", "pydicom").apply_color_lut
    return tiles(palette(data.pixel_array, data)[..., 0] >> 8, (250, 240), (120,), (60, 350))


ARM, DCM = "arm-pyart==2.3.0", "pydicom-data==1.0.0"
SCAN, STORE = "pyart/testing/data/example_", "data_store/data/"
SUN, SHOTS = "sunpy/data/test/", "refrapy/data/field_example_"
SAMPLE, QUAKE = "matplotlib/mpl-data/sample_data/", "pyasdf/tests/data/small_sample_data_set/"

# A row of this table reads better than an argument a line.
# fmt: off
SOURCES: tuple[Source, ...] = (
    Source("callisto_solar_radio", "radiospectra==0.6.1", "BSD-2",
        "e-CALLISTO solar radio spectrometer: frequency x time (0.25 s) x 12 windows",
        ("radiospectra/tests/data/BIR_20110607_062400_10.fit",),
        lambda path: tiles(fits(path), (200, 256), (0,), range(0, 3600, 300))),
    Source("cloudradar_raster_refl", ARM, "BSD-3; ARM data free",
        "ARM cloud radar, reflectivity in dBZ: ray x range gate x sweep",
        (SCAN + "cfradial_cr_raster.nc",), lambda path: cloud_radar(path, "reflectivity")),
    Source("cloudradar_raster_vel", ARM, "BSD-3; ARM data free",
        "ARM cloud radar, mean Doppler velocity in m/s: ray x range gate x sweep",
        (SCAN + "cfradial_cr_raster.nc",), lambda path: cloud_radar(path, "mean_doppler_velocity")),
    Source("cr_xray_philips", DCM, "MIT", "computed radiography X-ray plate: row x col x 9 tiles",
        (STORE + "RG1_UNCR.dcm",),
        lambda path: tiles(dicom(path), (256, 256), (500, 800, 1100), (400, 700, 1000))),
    Source("csapr_ppi", ARM, "BSD-3; ARM data free",
        "C-band weather radar, level scan in dBZ: azimuth (1 deg) x range gate x 2 halves",
        (SCAN + "mdv_ppi.mdv",),
        lambda path: tiles(moment(radar(path), "reflectivity"), (180, 110), (0, 180))),
    Source("csapr_rhi", ARM, "BSD-3; ARM data free",
        "C-band weather radar, upright scan in dBZ: elevation x range gate",
        (SCAN + "mdv_rhi.mdv",), lambda path: moment(radar(path), "reflectivity")[10:266]),
    Source("ct_axial_693", DCM, "MIT", "X-ray tomography (CT): row x col x 4 tiles",
        (STORE + "693_UNCR.dcm",),
        lambda path: tiles(dicom(path), (220, 220), (36, 256), (36, 256))),
    Source("ct_ge_small", "pydicom==3.0.2", "MIT", "X-ray tomography (CT): row x col",
        ("pydicom/data/test_files/CT_small.dcm",), dicom),
    Source("dem_jacksboro_fault", "matplotlib==3.11.2", "PSF-like; data public domain",
        "USGS elevation model in metres: row x col x 4 tiles",
        (SAMPLE + "jacksboro_fault_dem.npz",),
        lambda path: tiles(np.load(path)["elevation"], (170, 200), (0, 172), (0, 200))),
    Source("echosounder_humminbird", "PyHum==1.4.6", "GPL-3",
        "down-looking echo sounder, 8 bits: ping x depth x (2 beams x 6 windows)",
        ("PyHum/B000.SON", "PyHum/B001.SON"),
        lambda *paths: sonar(paths, (0, 500, 1000), (50, 306)), sdist=True),
    Source("grasshopper_song_stft", "nitime==0.12.1", "BSD-3",
        "grasshopper's song at 20 kHz, complex STFT: frequency x time x 6 windows",
        ("nitime/data/grasshopper_stimulus1.txt",),
        lambda path: tiles(
            stft(np.loadtxt(path)[:, 1], 256, 128), (128, 240), (0,), range(0, 1440, 240))),
    Source("hera_vis_time_freq", "hera-pspec==0.5.0", "BSD-3",
        "HERA radio interferometer, complex: time (10.7 s) x frequency x 12 pairs of antennas",
        ("hera_pspec/data/zen.2458042.17772.xx.HH.uvXA",), visibilities),
    Source("lidar_dem_nd", "lidar==0.8.4", "MIT",
        "LiDAR elevation model (1 m) in metres: row x col x 4 tiles",
        ("lidar/data/dem.tif",),
        lambda path: tiles(np.asarray(Image.open(path)), (200, 200), (0, 200), (0, 200))),
    Source("mri_diffusion_s0", "dipy==1.12.1", "BSD-3", "diffusion MRI at b = 0: x x y x slice",
        ("dipy/data/files/S0_10slices.nii.gz",), lambda path: nifti(path)[..., 0]),
    Source("mri_enhanced_small", DCM, "MIT", "enhanced MRI (T1): row x col x frame",
        (STORE + "emri_small.dcm",), lambda path: np.moveaxis(dicom(path), 0, 2)),
    Source("mri_epi_dwi", "nibabel==5.4.2", "MIT; data PDDL",
        "echo-planar diffusion MRI: x x y x every other slice",
        ("nibabel/tests/data/example4d.nii.gz",), lambda path: nifti(path)[:, :, 2:24:2, 0]),
    Source("mri_philips_t5", DCM, "MIT", "spin-echo MRI: row x col x 6 tiles",
        (STORE + "MR2_UNCR.dcm",),
        lambda path: tiles(dicom(path), (256, 256), (128, 384, 640), (256, 512))),
    Source("mri_s1045", "matplotlib==3.11.2", "matplotlib's", "MRI of a head: row x col",
        (SAMPLE + "s1045.ima.gz",),
        lambda path: np.frombuffer(gzip.decompress(path.read_bytes()), "<u2").reshape(256, 256)),
    Source("mri_siemens_avanto", DCM, "MIT", "MRI, 1.5 T: row x col x 4 tiles",
        (STORE + "MR-SIEMENS-DICOM-WithOverlays.dcm",),
        lambda path: tiles(dicom(path), (220, 220), (20, 240), (20, 240))),
    Source("nexrad_l2_moments", ARM, "BSD-3; data public domain",
        "NEXRAD weather radar: azimuth (0.5 deg) x range (250 m) x 4 moments",
        (SCAN + "nexrad_archive_msg31_compressed.ar2v",), nexrad_moments),
    Source("nexrad_l3_kdp", ARM, "BSD-3; data public domain",
        "NEXRAD specific differential phase, deg/km: azimuth (1 deg) x range (250 m) x 4 windows",
        (SCAN + "nexrad_level3_msg163",),
        lambda path: tiles(by_azimuth(path), (180, 192), (0, 180), (96, 288))),
    Source("nexrad_l3_rainrate", ARM, "BSD-3; data public domain",
        "NEXRAD rain rate: azimuth (1 deg) x range (250 m) x 4 windows",
        (SCAN + "nexrad_level3_msg176",),
        lambda path: tiles(by_azimuth(path), (180, 192), (0, 180), (64, 256))),
    Source("nexrad_l3_reflectivity", ARM, "BSD-3; data public domain",
        "NEXRAD base reflectivity, 16 levels in dBZ: azimuth (1 deg) x range (1 km) x 2 halves",
        (SCAN + "nexrad_level3_msg19",),
        lambda path: tiles(by_azimuth(path), (180, 144), (0, 180))),
    Source("nm_bone_scan", DCM, "MIT", "gamma camera's bone scan, counts: row x col x 3 tiles",
        (STORE + "JPEG2000_UNC.dcm",), lambda path: tiles(dicom(path), (256, 256), (0, 256, 512))),
    Source("rhessi_xray_map", "sunpy==7.0.5", "BSD-2", "RHESSI's X-ray image of the sun: y x x",
        (SUN + "hsi_image_20101016_191218.fits",), fits),
    Source("rir_sports_stft", "acoustics==0.2.6", "BSD-3",
        "impulse response of a sports centre, complex STFT: frequency x time x 6 windows",
        ("tests/data/ir_sportscentre_omni.wav",), room_response, sdist=True),
    Source("seismic_refraction_01", "refrapy==0.2.4.1", "MIT",
        "seismic shots at 8 kHz: trace (2 shots x 24) x time x (2 pairs of shots x 3 windows)",
        tuple(f"{SHOTS}01/data/{n}.dat" for n in (2001, 2002, 2003, 2004)),
        lambda *paths: shots(paths, (256, 512, 768))),
    Source("seismic_refraction_02", "refrapy==0.2.4.1", "MIT",
        "seismic shots at 4 kHz: trace (2 shots x 24) x time x (4 pairs of shots x 2 windows)",
        tuple(f"{SHOTS}02/data/{n}.dat" for n in (1, 3, 5, 6, 8, 9, 9, 10)),
        lambda *paths: shots(paths, (128, 384))),
    Source("seismometer_stft", "pyasdf==0.8.2", "BSD-3; data open",
        "earthquake, complex STFT: frequency x time x (2 stations x Z, N, E)",
        tuple(f"{QUAKE}{s}..BH{c}.mseed" for s in ("TA.POKR", "AE.113A") for c in "ZNE"),
        seismometers, sdist=True),
    Source("sidescan_humminbird", "PyHum==1.4.6", "GPL-3",
        "side-scan sonar, 8 bits: ping x range x (port and starboard x 6 windows)",
        ("PyHum/B002.SON", "PyHum/B003.SON"),
        lambda *paths: sonar(paths, (0, 1000, 2200), (100, 500)), sdist=True),
    Source("snom_whitelight_map", "orange-spectroscopy==0.9.3", "GPL-3",
        "scanning near-field microscope, white light: y x x",
        ("orangecontrib/spectroscopy/datasets/whitelight.gsf",),
        lambda path: np.frombuffer(path.read_bytes()[-80000:], "<f4").reshape(100, 200)),
    Source("sun_aia_171", "sunpy==7.0.5", "BSD-2; data free", "SDO/AIA, 17.1 nm: row x col",
        (SUN + "aia_171_level1.fits",), fits),
    Source("sun_eit_euv", "sunpy==7.0.5", "BSD-2; data free",
        "SOHO/EIT, extreme ultraviolet: row x col x 2 frames",
        tuple(f"{SUN}EIT/efz20040301.{time}_s.fits" for time in ("010016", "000010")),
        lambda *paths: np.stack([fits(path) for path in paths], axis=2)),
    Source("us_aloka_pelvis", DCM, "MIT", "abdominal ultrasound, 8 bits: row x col x 2 views",
        (STORE + "gdcm-US-ALOKA-16_big.dcm",), colour_ultrasound),
    Source("us_philips_echo", DCM, "MIT", "ultrasound of a heart, 8 bits: row x col",
        (STORE + "JPGLosslessP14SV1_1s_1f_8b.dcm",), lambda path: dicom(path)[330:560, 270:500]),
    Source("us_sonosite_cardiac", DCM, "MIT",
        "ultrasound of a heart, 8 bits, once JPEG: row x col x every tenth frame",
        (STORE + "color3d_jpeg_baseline.dcm",),
        lambda path: np.moveaxis(dicom(path)[:120:10, 120:376, 192:448, 1], 0, 2)),
)
# fmt: on


def plain(name: str) -> str:
    """A package's or file's name and version in one spelling."""
    return re.sub(r"[-_.=]+", "-", name).lower()


def downloaded(source: Source, folder: Path) -> Path:
    """The wheel or source package of a ``source`` in a folder, downloaded if it is not there."""
    suffix = ".tar.gz" if source.sdist else ".whl"
    for path in folder.glob("*" + suffix):
        if plain(path.name).startswith(plain(source.package) + "-"):
            return path
    kind = ["--no-binary", ":all:", "--no-build-isolation"]
    if not source.sdist:
        kind = ["--only-binary", ":all:"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *kind]
    with TemporaryDirectory(dir=folder) as partial:
        subprocess.run([*pip, "--dest", partial, source.package], check=True)
        path = next(Path(partial).glob("*" + suffix))
        return path.replace(folder / path.name)


def unpacked(archive: Path, names: Sequence[str], folder: Path) -> list[Path]:
    """Paths of the files or folders ``names`` of a wheel or source package, now in ``folder``."""

    def wanted(member: str) -> bool:
        return any(member == name or member.startswith(name + "/") for name in names)

    if archive.suffix == ".whl":
        with ZipFile(archive) as wheel:
            wheel.extractall(folder, [name for name in wheel.namelist() if wanted(name)])
        return [folder / name for name in names]
    with tarfile.open(archive) as sdist:
        top = sdist.getnames()[0].split("/")[0]
        members = [member for member in sdist if wanted(member.name.removeprefix(top + "/"))]
        sdist.extractall(folder, members, filter="data")
    return [folder / top / name for name in names]


def filled(image: Array) -> Array:
    """An image with its nearest finite sample wherever one is not finite."""
    gaps = ~np.isfinite(image)
    _, nearest = scipy.ndimage.distance_transform_edt(gaps, return_indices=True)
    return image[tuple(nearest)]


def as_cube(data: Array) -> Array:
    """A cube (rows, cols, slices) without gaps, of float32, float64 or complex64."""
    cube = np.atleast_3d(data)
    if np.iscomplexobj(cube):
        cube = cube.astype(np.complex64)
    elif cube.dtype != np.float64:
        cube = cube.astype(np.float32)
    if np.isfinite(cube).all():
        return cube
    return np.stack([filled(cube[:, :, k]) for k in range(cube.shape[2])], axis=2)


def write(path: Path, cube: Array) -> None:
    """Write a MATLAB file that bears its name only when it is whole."""
    part = path.with_suffix(".part")
    with part.open("wb") as stream:
        scipy.io.savemat(stream, {"H": cube}, do_compression=True)
    part.replace(path)


def main() -> None:
    """Write the cubes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [source.name for source in SOURCES]
    parser.add_argument("folder", type=Path)
    parser.add_argument("--names", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--downloads", type=Path, help="default: FOLDER/downloads")
    options = parser.parse_args()
    downloads = options.downloads or options.folder / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    options.folder.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        if source.name not in options.names:
            continue
        archive = downloaded(source, downloads)
        with TemporaryDirectory() as place:
            cube = as_cube(source.make(*unpacked(archive, source.files, Path(place))))
        write(options.folder / f"{source.name}.mat", cube)
        print(f"{source.name} {cube.shape}: {source.about} ({source.package}, {source.licence})")


if __name__ == "__main__":
    main()

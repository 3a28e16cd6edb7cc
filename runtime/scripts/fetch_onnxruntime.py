"""What the C++ runtime is built with, put into one directory: ONNX Runtime and nlohmann-json.

    python runtime/scripts/fetch_onnxruntime.py build/onnxruntime

The library is the one in the Python wheel that is installed. A wheel has no headers, so these come from
Debian's packages, as files of a mirror (the one that apt uses, or ``--mirror``) whose SHA-256 stands here;
nothing is installed. Headers of an older version go with a newer library: ONNX Runtime serves every interface
it ever had. Needs Python alone. Running it again fetches nothing that is there.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import io
import subprocess
import sys
import tarfile
import urllib.request
from pathlib import Path, PurePosixPath

PACKAGES = {  # the header that shows that it is there: file of the mirror, SHA-256
    "onnxruntime_cxx_api.h": (
        "pool/main/o/onnxruntime/libonnxruntime-dev_1.21.0+dfsg-1_amd64.deb",
        "14f7d959d5deacbcf1504830d4189f91fc67382b399ed9ae9d3aa9c4050ced08",
    ),
    "nlohmann/json.hpp": (
        "pool/main/n/nlohmann-json3/nlohmann-json3-dev_3.11.3-2.1_all.deb",
        "741a6a32f61a14eaf9560ba1814b27da8e78fa3b9bed9e8867ab46316ddf3793",
    ),
}
PREFIXES = ("usr/include/onnxruntime", "usr/include")  # what of a package's paths is left away
TIMEOUT_SECONDS = 60


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, help="gets include/ and lib/")
    parser.add_argument("--mirror", help="a Debian mirror, such as apt's (default: the one that apt uses)")
    arguments = parser.parse_args()
    try:
        for header, (file, sha256) in PACKAGES.items():
            if not (arguments.directory / "include" / header).is_file():
                mirror = arguments.mirror or apt_mirror()
                unpack(fetch(f"{mirror.rstrip('/')}/{file}", sha256), arguments.directory / "include")
        link_library(arguments.directory / "lib")
    except (OSError, ValueError) as error:
        print(f"fetch_onnxruntime: {error}", file=sys.stderr)
        return 1
    return 0


def apt_mirror() -> str:
    """The first Debian archive among apt's sources."""
    command = ("apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages")
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        listed = []
    for line in listed:
        origin, _, address = line.partition(" ")
        if origin == "Debian" and "security" not in address:
            return address
    raise ValueError("apt has no Debian mirror here: name one with --mirror, or install libonnxruntime-dev")


def fetch(address: str, sha256: str) -> bytes:
    with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as response:
        content: bytes = response.read()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(f"{address} was altered: expected SHA-256 {sha256}, found {found}")
    return content


def unpack(package: bytes, target: Path) -> None:
    """The headers of a Debian package, which is an ``ar`` archive with a ``tar`` archive in it."""
    with tarfile.open(fileobj=io.BytesIO(member(package, "data.tar"))) as archive:
        for entry in archive:
            path = PurePosixPath(entry.name.removeprefix("./"))
            prefix = next((prefix for prefix in PREFIXES if path.is_relative_to(prefix)), None)
            content = archive.extractfile(entry) if entry.isfile() else None
            if prefix is None or content is None or ".." in path.parts:
                continue
            header = target / path.relative_to(prefix)
            header.parent.mkdir(parents=True, exist_ok=True)
            header.write_bytes(content.read())


def member(archive: bytes, name: str) -> bytes:
    """The first file of an ``ar`` archive whose name begins so. In front of each stand 60 bytes: its name,
    and at the end its size.
    """
    at = len(b"!<arch>\n")
    while at < len(archive):
        size = int(archive[at + 48 : at + 58])
        if archive[at : at + 16].decode().startswith(name):
            return archive[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise ValueError(f"the package has no {name}")


def link_library(target: Path) -> None:
    """The wheel's library, under its own name and the two that linkers ask for."""
    wheel = importlib.util.find_spec("onnxruntime")
    if wheel is None or wheel.origin is None:
        raise ValueError('there is no onnxruntime in this Python: pip install "dipgo-compile[cpu]"')
    found = sorted(Path(wheel.origin).parent.glob("capi/libonnxruntime.so.*"))
    if not found:
        raise ValueError(f"the onnxruntime in {Path(wheel.origin).parent} has no libonnxruntime.so")
    target.mkdir(parents=True, exist_ok=True)
    for name in ("libonnxruntime.so.1", "libonnxruntime.so"):
        link = target / name
        if not link.exists() or not link.samefile(found[-1]):
            link.unlink(missing_ok=True)
            link.symlink_to(found[-1].resolve())


if __name__ == "__main__":
    sys.exit(main())

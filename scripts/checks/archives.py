"""Unpacking downloads that nobody vouches for: every name and size is judged before a byte is written.

An archive appears in the folder whole or not at all: it is unpacked beside its place, checked against its CRCs, and
moved. A killed run goes on with what it had unpacked.
"""

import os
import shutil
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vlm.errors import UserError
from vlm.files import sync
from vlm.run.progress import progress

MAX_RATIO = 200  # JSON of repeated keys packs about 20-fold; deflate's own limit, and a bomb's aim, is 1030
BLOCK = 1 << 20


@dataclass(frozen=True)
class Member:
    """A file in an archive; `path` is judged: relative, without `..`."""

    info: zipfile.ZipInfo
    path: Path


def unpack(archive: Path, folder: Path) -> int:
    """Unpack what `folder` does not hold yet; returns the number of files moved in, 0 if all were there.

    Raises: UserError if the archive is damaged or hostile, the disk is full, or a file is in the way. `folder` is then
    as it was.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = inspect(archive, file)
            waiting = [member for member in members if not _same(folder / member.path, member, archive)]
            if not waiting:
                return 0
            staging = _staging(archive, folder, members)
            _unpack(file, archive, waiting, staging)
        _place(staging, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise UserError(f"{archive} is damaged or cut short ({error}): fetch it again") from None
    except OSError as error:
        raise UserError(f"{archive} could not be unpacked in {folder}: {error.strerror or error}") from None
    return len(waiting)


def inspect(archive: Path, file: zipfile.ZipFile) -> list[Member]:
    """The archive's files.

    Raises: UserError if a name leads out of the folder, a file is a link, encrypted or a bomb, or there is none.
    """
    members: dict[Path, Member] = {}
    for info in file.infolist():
        name = info.filename
        kind = stat.S_IFMT(info.external_attr >> 16)
        if "\\" in name or ":" in name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UserError(f"{archive} is refused: its entry {name!r} leads out of the folder it is unpacked in")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(f"{archive} is refused: its entry {name!r} is a link or a device, not a file")
        if info.flag_bits & 1:
            raise UserError(f"{archive} is refused: its entry {name!r} is encrypted")
        if info.is_dir():
            continue
        if info.file_size > MAX_RATIO * max(info.compress_size, 1024):
            raise UserError(
                f"{archive} is refused: {name!r} would grow from {info.compress_size:,} to {info.file_size:,} bytes, "
                f"more than {MAX_RATIO}-fold"
            )
        path = Path(name)
        if path in members:
            raise UserError(f"{archive} is refused: it holds {name!r} twice")
        members[path] = Member(info, path)
    if not members:
        raise UserError(f"{archive} holds no files: fetch it again")
    return list(members.values())


def _same(path: Path, member: Member, archive: Path) -> bool:
    """Whether the file is in its place already; an error if something else is there."""
    if not path.exists():
        return False
    if not path.is_file() or path.stat().st_size != member.info.file_size:
        raise UserError(f"{path} is in the way: {archive} holds another file of that name; move one of them away")
    return True


def _staging(archive: Path, folder: Path, members: list[Member]) -> Path:
    """Where the archive is unpacked first: a name of its own content, so that two versions never mix."""
    content = [(member.info.filename, member.info.CRC, member.info.file_size) for member in members]
    staging = folder / f".{archive.name}.{zlib.crc32(repr(content).encode()):08x}.unpacking"
    for other in folder.glob(f".{archive.name}.*.unpacking"):
        if other != staging:
            shutil.rmtree(other)
    return staging


def _unpack(file: zipfile.ZipFile, archive: Path, members: list[Member], staging: Path) -> None:
    left = [member for member in members if not (staging / member.path).exists()]
    size = sum(member.info.file_size for member in left)
    free = shutil.disk_usage(staging.parent).free
    print(f"{archive}: {len(left):,} files to unpack, {size / 1e9:,.2f} GB; the disk has {free / 1e9:,.2f} GB free")
    if size > free:
        raise UserError(f"{archive} needs {size:,} bytes in {staging.parent} and {free:,} are free: make room")
    with progress(size, archive.name, "B") as bar:
        bar.unit_scale = True
        for member in left:
            path = staging / member.path
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(path.name + ".part")
            with file.open(member.info) as source, open(partial, "wb") as target:
                while block := source.read(BLOCK):  # the last read compares the CRC
                    target.write(block)
                    bar.update(len(block))
            os.replace(partial, path)


def _place(staging: Path, folder: Path) -> None:
    """Move everything from `staging`, which goes; a folder that is new is one rename."""
    for source in sorted(staging.iterdir()):
        target = folder / source.name
        if target.is_dir():
            _place(source, target)
        else:
            os.rename(source, target)
    staging.rmdir()
    sync(folder)

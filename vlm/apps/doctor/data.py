"""What kind of data is in a folder or file, how much, and can its images be read?"""

import os
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vlm.apps.doctor.decoding import decoded_finding
from vlm.apps.doctor.findings import Finding, Findings, attempt, judged
from vlm.apps.doctor.tables import table_findings
from vlm.errors import UserError
from vlm.files import read_json
from vlm.walking import walk

TRIED = 16  # images that are decoded, evenly over all
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
TABLES = (".parquet", ".arrow")
TEXTS = (".txt", ".caption")
KINDS = {
    "images": IMAGES, "texts": TEXTS, "tars": (".tar",), "tables": TABLES, "archives": (".zip", ".gz", ".tgz"),
    "lists": (".json", ".jsonl", ".csv", ".tsv"), "unfinished": (".part", ".incomplete", ".crdownload", ".aria2"),
}  # fmt: skip
# How the official files of a benchmark are called, and the flag that takes their folder.
OFFICIAL = {
    "--gqa": ("_questions.json", "_balanced_questions.json"),
    "--vqav2": ("v2_OpenEnded_", "v2_mscoco_"),
    "--pope": ("coco_pope_",),
}
LFS = b"version https://git-lfs"


def findings(path: Path) -> Findings:
    """All checks of a data folder, or of one file."""
    try:
        files = _files(path)
    except UserError as error:
        yield Finding("FAIL", "data", str(error))
        return
    if not files:
        yield Finding("FAIL", "data", f"{path} holds no files: give another folder, or download it again")
        return
    kinds = {kind: [file for file in files if file.suffix.lower() in endings] for kind, endings in KINDS.items()}
    counted = ", ".join(f"{len(of)} {kind}" for kind, of in kinds.items() if of)
    size = sum(file.stat().st_size for file in files) / 1e6
    yield Finding("OK", "files", f"{len(files)} ({size:,.1f} MB): {counted or 'none of a known kind'}")
    yield from _broken(files, kinds["unfinished"])
    official = _official(files)
    for flag, folder in official.items():
        yield Finding("OK", "kind", f"official {flag[2:].upper()} files: for {flag} {folder}")
    if kinds["tars"]:
        yield from attempt("shards", lambda: _shards(kinds["tars"]))
    if kinds["tables"]:
        yield from attempt("tables", lambda: table_findings(path, kinds["tables"], TRIED))
    if kinds["lists"] and not official:
        yield from attempt("list", lambda: _list(kinds["lists"][0]))
    if kinds["images"]:
        yield from attempt("images", lambda: _pictures(path, kinds["images"], kinds["texts"], bool(official)))
    elif kinds["archives"]:
        yield Finding("warn", "archives", f"{kinds['archives'][0]} is packed: unpack it, nothing reads it as it is")
    if not any(kinds[kind] for kind in ("tars", "tables", "lists", "images")):
        advice = "captions are tars, parquet, Arrow, or images with texts; see pretrain/README.md"
        yield Finding("FAIL", "kind", f"nothing here is of a kind that can be read: {advice}")


def _files(path: Path) -> list[Path]:
    """All files under a folder, but for hidden ones, through links."""
    if path.is_file():
        return [path]
    return sorted(file for name in walk(path) if (file := path / name).is_file())


def _broken(files: Sequence[Path], unfinished: Sequence[Path]) -> Findings:
    """Files that a download left: empty, unfinished, or Git LFS pointers in their place."""
    empty = [file for file in files if file.stat().st_size == 0]
    small = [file for file in files if 0 < file.stat().st_size < 1024 and file.suffix.lower() not in TEXTS]
    pointers = [file for file in small if file.read_bytes().startswith(LFS)]
    for found, what, advice in (
        (empty, "empty", "download it again"),
        (unfinished, "unfinished", "let the download end"),
        (pointers, "a pointer of Git LFS", "git lfs pull"),
    ):
        if found:
            yield Finding("FAIL", "files", f"{found[0]} is {what}, one of {len(found)}: {advice}")


def _official(files: Sequence[Path]) -> dict[str, Path]:
    """Flag -> folder of the benchmarks whose official files are here."""
    found: dict[str, Path] = {}
    for file in files:
        for flag, (beginning, *others) in OFFICIAL.items():
            names = (beginning, *others)
            like = file.name.endswith(names) if flag == "--gqa" else file.name.startswith(names)
            if like and file.suffix == ".json" and not (flag == "--gqa" and file.name.startswith("v2_")):
                found.setdefault(flag, file.parent)
    return found


def _shards(tars: Sequence[Path]) -> Findings:
    """The members of the first shard as samples, and its images; of the last, whether it can be read to its end."""
    with tarfile.open(tars[0]) as tar:
        members, problem = _members(tar)
        if problem:
            yield Finding("FAIL", "shards", f"{tars[0]} is damaged or cut off ({problem}): download it again")
            return
        # WebDataset: what is in front of the first dot of the name is the key, the rest the field.
        fields = Counter(member.name.rpartition("/")[2].partition(".")[2].lower() for member in members)
        said = ", ".join(f"{count} .{field}" for field, count in fields.most_common(5))
        images = [member for member in members if member.name.lower().endswith(IMAGES)]
        data = os.path.commonpath([tar.parent for tar in tars]) if len(tars) > 1 else tars[0]
        yield Finding("OK", "kind", f"WebDataset, {len(tars)} shards; {tars[0].name} holds {said}: for --data {data}")
        texts = [member for member in members if not member.name.lower().endswith(IMAGES)]
        if texts and (handle := tar.extractfile(texts[0])):
            text = " ".join(handle.read(2000).decode("utf-8", "replace").split())
            yield Finding("OK", "first sample", f"{texts[0].name}: {text[:120]}")
        if not images:
            yield Finding("FAIL", "images", f"{tars[0]} holds no images ({', '.join(IMAGES)}): give other shards")
            return
        some = _spread(images)
        contents = ((member.name, handle.read()) for member in some if (handle := tar.extractfile(member)))
        yield decoded_finding(f"of {tars[0].name}", contents)
    if not texts:
        yield Finding("warn", "captions", f"{tars[0].name} has images without texts: pretraining needs both")
    for tar in dict.fromkeys((tars[0], tars[-1])):
        if not tarfile.is_tarfile(tar) or not _complete(tar):
            yield Finding("warn", "shards", f"{tar} has no end mark, as if it were cut off: download it again")


def _members(tar: tarfile.TarFile) -> tuple[list[tarfile.TarInfo], str | None]:
    """The files in a tar, and why they could not be read to its end."""
    try:
        return [member for member in tar if member.isfile()], None
    except (tarfile.TarError, EOFError, OSError) as error:
        return [], str(error)


def _complete(file: Path) -> bool:
    """A tar ends with 1,024 zero bytes at least."""
    with open(file, "rb") as handle:
        handle.seek(max(0, file.stat().st_size - 1024))
        return not any(handle.read())


def _list(file: Path) -> Findings:
    """The first record of a JSON, JSON lines, csv or tsv file."""
    if file.suffix != ".json":
        with open(file, encoding="utf-8", errors="replace") as handle:
            yield Finding("OK", "first sample", f"{file.name}: {handle.readline(2000).strip()[:200]}")
        return
    records = read_json(file)
    if not isinstance(records, list | dict):
        raise UserError(f"{file} holds neither a list nor an object")
    first = records[0] if isinstance(records, list) and records else records
    keys = sorted(first)[:8] if isinstance(first, dict) else type(first).__name__
    use = f"LLaVA's: for --conversations {file}" if "conversations" in keys else f"with {keys}"
    yield Finding("OK", "kind", f"{file.name}: {len(records):,} records, {use}")


def _pictures(path: Path, images: Sequence[Path], texts: Sequence[Path], official: bool) -> Findings:
    """Images, with a text of the same name or in folders of classes."""
    stems = {file.with_suffix("") for file in texts}
    pairs = sum(file.with_suffix("") in stems for file in images)
    folders = {file.parent for file in images}
    if pairs:
        text = f"{pairs} of {len(images)} images have a text of the same name: for --data {path}"
        yield judged(pairs == len(images), "kind", text, "the others are left out")
    elif not official:
        yield Finding("OK", "kind", f"{len(images)} images without texts in {len(folders)} folders")
    first = next((file for file in texts if file.stat().st_size), None)
    if pairs and first:
        yield Finding("OK", "first sample", f"{first.name}: {first.read_text(errors='replace').strip()[:120]}")
    yield decoded_finding(f"under {path}", ((str(file), file.read_bytes()) for file in _spread(images)))


def _spread(items: Sequence) -> list:
    """`TRIED` of the items, evenly from the first to the last."""
    count = min(TRIED, len(items))
    return [items[number * (len(items) - 1) // max(1, count - 1)] for number in range(count)]

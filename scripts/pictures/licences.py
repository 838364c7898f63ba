"""README.md of the folder that is made: whose pictures are in it, and under which licences."""

from collections.abc import Iterable

from vlm.markdown import ruled

# Maker -> what its pictures are, and their licence.
LICENCES = {
    "twitter": ("Twitter's emoji (npm: emoji-datasource-twitter)", "CC-BY 4.0"),
    "google": ("Google's emoji (npm: emoji-datasource-google)", "Apache-2.0"),
    "fluent": ("Microsoft's emoji, Fluent 3D (npm: @lobehub/fluent-emoji-3d)", "MIT"),
    "openclipart": ("Open Clip Art (Debian: openclipart-png, openclipart-svg)", "public domain"),
    "tuxpaint": ("Tux Paint's stamps (Debian: tuxpaint-stamps-default)", "GPL-2"),
}
NAMES = ("the emoji's names (npm: emojibase-data)", "MIT")
ATTRIBUTION = (
    "CC-BY 4.0 asks whoever passes Twitter's emoji on to name Twitter, Inc and other contributors, the licence\n"
    "(<https://creativecommons.org/licenses/by/4.0/>) and what was changed."
)


def readme(makers: Iterable[str], size: int) -> str:
    """The file's text. makers: of the pictures that were used. size: pixels of their sides."""
    used = [maker for maker in LICENCES if maker in set(makers)]
    has_emoji = bool(set(used) - {"openclipart", "tuxpaint"})
    rows = [LICENCES[maker] for maker in used] + ([NAMES] if has_emoji else [])
    parts = [
        "# Pictures with captions and questions",
        f"Made by scripts/prepare_pictures.py of LeVLM. Each picture was scaled to fit {size} x {size} pixels.\n"
        "Captions, questions and answers were made of its name, its kind and its keywords.",
        "What they were made from keeps its licence:",
        "\n".join(ruled([["from", "licence"], *rows], words=2)),
    ]
    return "\n\n".join([*parts, ATTRIBUTION] if "twitter" in used else parts) + "\n"

"""Turn packages of pictures (emoji of three vendors, Open Clip Art, Tux Paint's stamps) into captions and questions.

Nothing is downloaded and nothing of the packages is kept here: get them with their package managers, and name the
folders that they were unpacked to. Any of the three may be left out.

  npm pack emojibase-data@17.0.0 emoji-datasource-twitter@16.0.0 emoji-datasource-google@16.0.0 \\
      @lobehub/fluent-emoji-3d@1.1.0
  for file in *.tgz; do mkdir -p emoji/$file && tar xzf $file -C emoji/$file; done
  apt-get download openclipart-png openclipart-svg tuxpaint-stamps-default
  for file in *.deb; do dpkg-deb -x $file debian; done

OUT/captions/  {train,val,names,vendor,both}-MAKER-*.tar
OUT/vqav2/     VQAv2's files: train2014; minival2014 for settings; val2014, the unseen vendor, for the report
OUT/vqav2_names/, vqav2_both/          val2014: names never seen in training; those of the unseen vendor
OUT/pope/, pope_val/, pope_names/, pope_both/    POPE's files on the same pictures: name, kind and group of each
OUT/README.md, refused.jsonl           licences of what was used; pictures that were left out, and why

Licences: Twitter's emoji CC-BY 4.0, Google's Apache-2.0, Fluent MIT, their names MIT; Open Clip Art public domain, what
is not so tagged is left out; Tux Paint's stamps GPL-2.
"""

from dataclasses import dataclass
from pathlib import Path

from vlm.errors import UserError, run_command
from vlm.run.settings import parse, setting

EXAMPLES = """examples:
  python scripts/prepare_pictures.py data/pictures --emoji emoji --openclipart debian --tuxpaint debian
  python scripts/prepare_pictures.py data/emoji --emoji emoji
  deepspeed pretrain/run.py --data 'data/emoji/captions/train-*.tar' --image-size 64 --patch-size 16 \\
      --augmentation crop-jitter --steps 5400 --out runs/emoji
  python scripts/study.py --captions 'data/emoji/captions/train-*.tar' --vqav2 data/emoji/vqav2 \\
      --pope data/emoji/pope --evaluate-flags "--vqav2-split val2014" \\
      --pretrain-flags "--image-size 64 --patch-size 16 --augmentation crop-jitter --steps 5400" \\
      --encoders levljepa clip random:levljepa blind --out runs/emoji-study
"""
VENDORS = ("twitter", "google", "fluent")


@dataclass(frozen=True)
class PicturesSettings:
    out: str = setting(help="folder to make; one that has files in it is refused", positional=True, metavar="OUT")
    emoji: str | None = setting(None, help="folder with the unpacked npm packages", metavar="DIR")
    openclipart: str | None = setting(None, help="folder with openclipart-png and -svg unpacked", metavar="DIR")
    tuxpaint: str | None = setting(None, help="folder with tuxpaint-stamps-default unpacked", metavar="DIR")
    unseen: str = setting("fluent", help="the vendor of emoji that training never sees", choices=VENDORS)
    size: int = setting(64, help="pixels of the pictures' sides", least=16, most=1024)


def main() -> None:
    settings = parse(PicturesSettings, prog="scripts/prepare_pictures.py", about=__doc__, examples=EXAMPLES)
    if not (settings.emoji or settings.openclipart or settings.tuxpaint):
        raise UserError("no pictures: give --emoji, --openclipart or --tuxpaint (see --help for where to get them)")
    from pictures.sources import clip_art, emoji, stamps  # after parsing: --help does not wait for it
    from pictures.splits import split
    from pictures.writing import write
    from world.making import vacant

    out = vacant(settings.out)
    found = []
    for read, folder in ((emoji, settings.emoji), (clip_art, settings.openclipart), (stamps, settings.tuxpaint)):
        found += read(Path(folder)) if folder else []
    if not found:
        raise UserError("the folders hold no picture with a name: see --help for where to get the packages")
    counts = write(out, split(found, settings.unseen), settings.size)
    for name, count in counts.items():
        numbers = f"{count['pictures']:,} pictures, {count['questions']:,} questions, {count['pope']:,} of POPE's"
        print(f"{name:<7} {numbers}" + (f"; {count['refused']} refused" if count["refused"] else ""))
    refused = any(count["refused"] for count in counts.values())
    print(f"written to {out}" + ("; what was refused is in refused.jsonl there" if refused else ""))


if __name__ == "__main__":
    run_command(main)

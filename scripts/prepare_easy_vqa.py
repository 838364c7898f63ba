"""Turn easy-VQA (PyPI package easy-vqa: one drawn shape an image, 64 x 64) into VQAv2's files and caption shards.

OUT/vqav2/     VQAv2's official questions, annotations and image names for three splits:
               train2014    easy-VQA's train split less the part below
               minival2014  a part of its train split, for choosing settings; like COCO's minival, images in val2014/
               val2014      its test split, for the numbers that are reported
OUT/captions/  {train,minival,val}-*.tar of key.png + key.txt, the images of these splits. easy-VQA has no captions:
               they say what an image's own questions tell about it, nothing else.
"""

from dataclasses import dataclass

from vlm.errors import run_command
from vlm.run.settings import parse, setting

EXAMPLES = """examples:
  python scripts/prepare_easy_vqa.py data/easy-vqa
  deepspeed pretrain/run.py --data data/easy-vqa/captions --image-size 64 --patch-size 16 --augmentation crop-jitter \\
      --steps 3000 --out runs/easy
  python bridge/train.py --llm smollm2 --encoder runs/easy/encoder --vqav2 data/easy-vqa/vqav2 --lora 8 \\
      --steps 300 --batch-questions 40 --lr 2e-3 --out runs/easy-bridge
  python bridge/evaluate.py runs/easy-bridge --vqav2 data/easy-vqa/vqav2 --vqav2-split minival2014
"""


@dataclass(frozen=True)
class EasyVQASettings:
    out: str = setting(help="folder to make; one that has files in it is refused", positional=True, metavar="OUT")
    val_fraction: float = setting(0.1, help="share of the train images for minival2014, below 1", above=0, most=1)


def main() -> None:
    settings = parse(EasyVQASettings, prog="scripts/prepare_easy_vqa.py", about=__doc__, examples=EXAMPLES)
    from world.easy_vqa import load, prepare  # after parsing: --help does not wait for it
    from world.making import vacant

    out = vacant(settings.out)
    counts = prepare(out, load("train"), load("test"), settings.val_fraction)
    for split, count in counts.items():
        print(f"{split}: {count['images']} images, {count['questions']} questions, {count['captions']} captions")
    print(f"written to {out}")


if __name__ == "__main__":
    run_command(main)

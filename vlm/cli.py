"""The `vlm` command."""

import argparse
import os

from vlm.errors import run_command


def _parser() -> argparse.ArgumentParser:
    raw = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = argparse.ArgumentParser(
        prog="vlm",
        description="Talk to a trained VLM, and check one.",
        epilog="examples:\n  vlm chat runs/bridge/vlm --image photo.jpg\n  vlm doctor runs/bridge/vlm\n"
        "more: vlm COMMAND --help",
        **raw,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    chat = commands.add_parser(
        "chat",
        help="ask questions about a picture",
        description="Ask questions about a picture: one with --question, else as many as you like.\n"
        "Questions may also come from a pipe, one a line.",
        epilog="examples:\n"
        '  vlm chat runs/bridge/vlm --image photo.jpg --question "What colour is the car?"\n'
        "  vlm chat runs/bridge/vlm --image photo.jpg\n"
        "  vlm chat runs/bridge/vlm --image photo.jpg < questions.txt",
        **raw,
    )
    chat.add_argument("folder", metavar="DIR", help="a VLM folder, such as RUN/vlm")
    chat.add_argument("--image", metavar="FILE", help="the picture: JPEG, PNG, WEBP or GIF")
    chat.add_argument("--question", metavar="TEXT", help="ask this, print the answer alone, and end")
    chat.add_argument("--max-new-tokens", metavar="N", type=int, default=128, help="longest answer (default 128)")

    doctor = commands.add_parser(
        "doctor",
        help="check a VLM folder; show what its training is given",
        description="`vlm doctor DIR` loads a VLM folder and checks that its vision tower still gives the encoder's\n"
        "features, that its chat template can be trained on, and that generation stops where a turn ends.\n"
        "`vlm doctor labels DIR` shows a conversation as training sees it, with the supervised tokens marked.",
        epilog="examples:\n"
        "  vlm doctor runs/bridge/vlm\n"
        '  vlm doctor labels runs/bridge/vlm --question "Is it red?" --answer no',
        **raw,
    )
    doctor.add_argument("what", metavar="[labels] DIR", nargs="+", help="a VLM folder, such as RUN/vlm")
    doctor.add_argument("--question", metavar="TEXT", default="What color is the car?", help="for labels")
    doctor.add_argument("--answer", metavar="TEXT", default="red", help="for labels")
    return parser


def main() -> None:
    """The console script `vlm`."""
    run_command(_run)


def _run() -> None:
    parser = _parser()
    args = parser.parse_args()
    if args.command == "doctor" and (len(args.what) > 2 or (len(args.what) == 2 and args.what[0] != "labels")):
        parser.error(f"doctor takes DIR or labels DIR, not {' '.join(args.what)}")
    # Everything is read from disk; and imports this slow come after the arguments are known to be right.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if args.command == "chat":
        from vlm.apps.chat import chat

        chat(args.folder, args.image, args.question, args.max_new_tokens)
    else:
        from vlm.apps.doctor import check, show_labels

        if len(args.what) == 1:
            check(args.what[0])
        else:
            show_labels(args.what[1], args.question, args.answer)


if __name__ == "__main__":
    main()

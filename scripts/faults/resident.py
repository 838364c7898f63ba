"""One of two ranks that train whatever they are given, line by line; see `faults.tiny.Resident`."""

import json
import os
import sys
import traceback

from faults.injected import arm
from pretrain.run import parse
from pretrain.train import train


def run(arguments: list[str], fault: str) -> str:
    """Train -> "" or the error."""
    disarm = arm(fault) if fault else lambda: None
    try:
        train(parse(arguments))
    except SystemExit as end:
        return f"exit {end.code}"
    except BaseException as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    finally:
        disarm()
    return ""


def main() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        print("RESULT " + json.dumps(run(job["arguments"], job["fault"])), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()

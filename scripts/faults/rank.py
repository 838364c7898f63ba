"""One of two ranks that stay, and train whatever they are given; see `faults.tiny.train`."""

import traceback

from faults.injected import arm
from faults.resident import serve
from pretrain.run import parse
from pretrain.train import train


def run(job: dict) -> str:
    """Train -> "" or the error."""
    disarm = arm(job["fault"]) if job["fault"] else lambda: None
    try:
        train(parse(job["arguments"]))
    except SystemExit as end:
        return f"exit {end.code}"
    except BaseException as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    finally:
        disarm()
    return ""


if __name__ == "__main__":
    serve(run)

"""Markdown tables as the benchmarks print them, a row as soon as it is known."""


def row(*cells) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def verdict(passed: bool) -> str:
    return "PASS" if passed else "FAIL"

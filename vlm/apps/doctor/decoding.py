"""Whether images can be read, by the decoder that training uses."""

from collections import Counter
from collections.abc import Iterable

from vlm.apps.doctor.findings import Finding, judged
from vlm.images import ImageError, decode


def decoded_finding(where: str, contents: Iterable[tuple[str, bytes]]) -> Finding:
    """Decode images, (name, bytes) each, and tell how many could not be."""
    sizes, problems = [], []
    for name, data in contents:
        try:
            sizes.append(decode(data).size)
        except ImageError as error:
            problems.append(f"{name} ({error})")
    count = len(sizes) + len(problems)
    if not sizes:
        first = problems[0] if problems else "none was found"
        return Finding("FAIL", "images", f"none of {count} tried {where} can be read: {first}")
    (width, height), most = Counter(sizes).most_common(1)[0]
    text = f"{len(sizes)} of {count} tried {where} decode, {most} of them {width} x {height}"
    advice = f"such as {problems[0]}; training passes over it" if problems else ""
    return judged(not problems, "images", text, advice)

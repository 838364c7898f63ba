"""Fields of records that others wrote: of the right kind, or one line that names the place."""

from typing import Any

from vlm.errors import UserError


def field(record: Any, name: str, kinds: tuple[type, ...], where: str) -> Any:
    """The field `name` of a JSON object, or a UserError. where: file and record, for the message."""
    if not isinstance(record, dict) or not isinstance(record.get(name), kinds):
        kind = " or ".join(kind.__name__ for kind in kinds)
        raise UserError(f"{where}: the field {name!r} ({kind}) is missing or of another kind")
    return record[name]


def text_field(record: Any, name: str, where: str) -> str:
    """As `field`, of text that is valid Unicode."""
    text = field(record, name, (str,), where)
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can spell half of a character, which no tokenizer takes
        raise UserError(f"{where}: the field {name!r} is not valid Unicode text ({text[:40]!a})") from None
    return text

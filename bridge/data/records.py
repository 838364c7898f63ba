"""Fields of records that others wrote: there and of the right kind, or one line that names the place."""

from collections.abc import Iterable
from typing import Any

from vlm.errors import UserError


def field(record: Any, name: str, kinds: Iterable[type], where: str) -> Any:
    """The field `name` of a JSON object.

    where: file and record, for the message.

    Raises:
        UserError: `record` is no object, or the field is missing or of none of the `kinds`.
    """
    if not isinstance(record, dict) or not isinstance(record.get(name), tuple(kinds)):
        kind = " or ".join(kind.__name__ for kind in kinds)
        raise UserError(f"{where}: the field {name!r} ({kind}) is missing or of another kind")
    return record[name]


def text_field(record: Any, name: str, where: str) -> str:
    """A field that holds text.

    Raises:
        UserError: as `field`; or the text is not valid Unicode.
    """
    text = field(record, name, (str,), where)
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can spell half of a character, which no tokenizer takes
        raise UserError(f"{where}: the field {name!r} is not valid Unicode text ({text[:40]!a})") from None
    return text

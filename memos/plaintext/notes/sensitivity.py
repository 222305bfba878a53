"""How careful one has to be with a text: normal, personal, secret."""

from __future__ import annotations

import re

NORMAL, PERSONAL, SECRET = "normal", "personal", "secret"

_SECRET = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|\b(?:password|passwd|passphrase|api[ _-]?key|secret key|access token|pin code)\b"
    r"(?: (?:of|for|to) (?:\w+ ){1,4})?\s*(?:is|was|=|:)\s*\S+"
    r"|\b(?:sk|pk|rk)[-_](?:live|test|proj|ant)?[-_]?[A-Za-z0-9]{16,}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{30,}\b|\bAKIA[0-9A-Z]{16}\b|\bxox[abprs]-[A-Za-z0-9-]{10,}"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{5,}",
    re.I,
)
_PERSONAL = re.compile(
    r"\b[\w.+-]+@[\w-]+\.[\w.]{2,}\b"  # an address for mail
    r"|(?<![\w.])\+\d[\d ()/-]{7,}\d\b|\b\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}\b"  # telephone numbers
    r"|\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}\b"  # IBAN
    r"|\b\d{3}-\d{2}-\d{4}\b"  # a social security number
    r"|\b(?:diagnosed with|my diagnosis|medication for|date of birth|passport number)\b"
)
_CARD = re.compile(r"\b(?:\d[ -]?){13,19}\b")


def sensitivity(text: str) -> str:
    """Return ``secret`` for credentials, ``personal`` for what identifies or exposes somebody, else ``normal``."""
    if _SECRET.search(text):
        return SECRET
    if _PERSONAL.search(text) or any(_is_card(match.group()) for match in _CARD.finditer(text)):
        return PERSONAL
    return NORMAL


def _is_card(text: str) -> bool:
    """Return whether digits pass the check of Luhn (ISO/IEC 7812-1), as payment cards do."""
    digits = [int(character) for character in text if character.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0

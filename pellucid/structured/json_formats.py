"""The values of `format` that are enforced, as expressions that every text they allow fits its specification.

Each is at most as wide as the specification named beside it. Leap seconds are left out (RFC 3339 allows them at some
dates only), domain names are ASCII.
"""

from __future__ import annotations

_DAY = "(0[1-9]|[12][0-9])"
_LEAP_YEAR = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_YEAR = "([1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_DATE = (
    f"({_YEAR}-((0[13578]|1[02])-({_DAY}|3[01])|(0[469]|11)-({_DAY}|30)|02-(0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+\-]([01][0-9]|2[0-3]):[0-5][0-9])"

_LABEL = "[A-Za-z0-9]([A-Za-z0-9]|-[A-Za-z0-9]){0,30}"
_HOSTNAME = rf"{_LABEL}(\.{_LABEL}){{0,3}}"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`\{|\}~\-]{1,20}"
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_BYTE}(\.{_BYTE}){{3}}"
_HEX = "[0-9A-Fa-f]{1,4}"
_IPV6 = "|".join(
    [f"({_HEX}:){{7}}{_HEX}", f"::({_HEX}(:{_HEX}){{0,6}})?", f"{_HEX}(:{_HEX}){{0,6}}::"]
    + [f"{_HEX}(:{_HEX}){{0,{before - 1}}}::{_HEX}(:{_HEX}){{0,{6 - before}}}" for before in range(1, 7)]
)
_PCHAR = r"([A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})"
_URI = (
    rf"[A-Za-z][A-Za-z0-9+.\-]*:(//(([A-Za-z0-9\-._~!$&'()*+,;=:]|%[0-9A-Fa-f]{{2}})+@)?{_HOSTNAME}(:[0-9]{{1,5}})?"
    rf"(/{_PCHAR}*)*|/({_PCHAR}+(/{_PCHAR}*)*)?|{_PCHAR}+(/{_PCHAR}*)*)(\?({_PCHAR}|[/?])*)?(#({_PCHAR}|[/?])*)?"
)
_DURATION_TIME = "T([0-9]+H([0-9]+M([0-9]+S)?)?|[0-9]+M([0-9]+S)?|[0-9]+S)"

FORMATS: dict[str, str] = {
    "date": _DATE,  # RFC 3339, 5.6 full-date
    "time": _TIME,  # RFC 3339, 5.6 full-time
    "date-time": f"{_DATE}T{_TIME}",  # RFC 3339, 5.6
    "duration": (  # RFC 3339, appendix A
        f"P(([0-9]+Y([0-9]+M([0-9]+D)?)?|[0-9]+M([0-9]+D)?|[0-9]+D)({_DURATION_TIME})?|{_DURATION_TIME}|[0-9]+W)"
    ),
    "email": rf"{_ATOM}(\.{_ATOM}){{0,2}}@{_HOSTNAME}",  # RFC 5321, 4.1.2, dot-string at a domain
    "hostname": _HOSTNAME,  # RFC 1123, 2.1
    "ipv4": _IPV4,  # RFC 2673, 3.2
    "ipv6": _IPV6,  # RFC 4291, 2.2, forms 1 and 2
    "uri": _URI,  # RFC 3986 with a host name as authority
    "uuid": "[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",  # RFC 4122
}
"""Name to an expression about the whole text."""

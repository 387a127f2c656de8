"""Characters that are safe to print, and characters that are not."""

HARMLESS = (
    "a\u00a0b\u202fc\u3000d"  # spaces that do not break
    "\u0646\u06cc\u200c\u200d\u00ad"  # joiners, and a soft hyphen
    "\ue000\ufeff\u200e\u200f"  # private use, and marks of direction
    "\U0001fae8\U0001f3f4\U000e0067\U000e007f"  # an emoji newer than Python's tables, and a flag's
    "\u0378\n\t"  # not assigned
)
HARMFUL = "\x00\x07\x08\x0b\r\x1b\x7f\x85\x9b\u2028\u2029\u202a\u202e\u2066\u2069\ud800"

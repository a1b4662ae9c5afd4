"""Changes of whole words, so that what is tried is mostly still YAML, JSON or CSV: odd values in the right places."""

from __future__ import annotations

import random
import re

WORD = re.compile(rb"[\w.+-]+|\W", re.DOTALL)
ODD = (
    b"-1 0 1 2 -0.0 0.5 1e-320 1e18 1e308 1e309 1e999 -1e999 NaN nan Infinity -inf .inf .nan 2147483648 "
    b"9223372036854775808 18446744073709551616 " + b"9" * 400 + b" null ~ true off [] {} [[]] [{}] '' \"\" x x:X ../x "
    b"/dev/zero 1/s 0/s 1e3ms -1s 1e30s &a *a !!python/name:os.system \xff \x00 \xe2\x80\xae \xed\xa0\x80 1,1 1\n1"
).split(b" ")
MOST_CHANGES = 3


def changed(data: bytes, most: int, seed: int) -> bytes:
    """Return *data* with one to three of its words replaced, doubled, left out or moved; at most *most* bytes."""
    luck, words = random.Random(seed), WORD.findall(data) or [b""]
    for _ in range(luck.randint(1, MOST_CHANGES)):
        place = luck.randrange(len(words))
        end = place + luck.choice((0, 1, 1, 1, luck.randint(1, 20)))
        other = luck.randrange(len(words))
        words[place:end] = luck.choice(([luck.choice(ODD)], [luck.choice(ODD)], words[other : other + end - place], []))
        words = words or [b""]
    return b"".join(words)[:most]

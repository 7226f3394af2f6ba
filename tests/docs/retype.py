"""`python tests/docs/retype.py PAGE...`: type each page's commands, and write what they print.

What a page shows already, lines left out or not, stays; read the difference before you keep it.
"""

import re
import sys
import tempfile
from pathlib import Path

from pages import FENCE, ROOT, Fence, read, typed
from terminal import FILES, enter, lay, terminal


def retype(page: str) -> str:
    with tempfile.TemporaryDirectory() as place, terminal(Path(place)):
        return FENCE.sub(_block, read(page))


def _block(match: re.Match[str]) -> str:
    fence = Fence(*match.groups(""))
    if fence.language in FILES:
        lay(fence)
    if fence.language != "console" or fence.title:
        return match[0]
    return "".join(["```console\n", *(_typed(*pair) for pair in typed(fence.text)), "```"])


def _typed(command: str, printed: str) -> str:
    done = enter(command)
    shown = printed if done.shows(printed) else done.result or done.both
    return f"$ {command}\n" + (f"{shown.strip()}\n" if shown.strip() else "")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        (ROOT / name).write_text(retype(name), encoding="utf-8")

"""Prints the copyright notices of the Rust standard library, which the compiler's documentation has as HTML, as text.
Texts that occur several times, and the Apache license, which other parts have too, are printed once or not at all."""

import html
import re
import sys
from pathlib import Path

page = Path(sys.argv[1]).read_text()
page = page[page.index('<h2 id="short-version">'):]
printed = set()


def text_of(pre):
    text = html.unescape(re.sub(r"<[^>]+>", "", pre)).strip("\n")
    words = " ".join(text.split())
    if words in printed or "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION" in words:
        return ""
    printed.add(words)
    return text


# Every second part is within <pre> … </pre>.
for number, part in enumerate(re.split(r"</?pre[^>]*>", page)):
    if number % 2:
        text = text_of(part)
    else:
        text = html.unescape(re.sub(r"<[^>]+>", "", part))
        lines = (" ".join(line.split()) for line in text.replace("📦 ", "").splitlines())
        text = "\n".join(line for line in lines if not line.startswith("URL:"))
        text = re.sub(r"\n{2,}", "\n", text).strip()
    if text:
        print(text + "\n")

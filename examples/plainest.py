"""The plainest documents of a collection: those with enough of their words among its commonest.

    python examples/plainest.py tales.jsonl.zst --least 0.86 >train.jsonl
    python examples/plainest.py held_out.jsonl.zst --words-of tales.jsonl.zst --least 0.84 >valid.jsonl

Small models learn more from plain text. With these settings the text that ships with diladiff was chosen from a larger
collection of fairy tales, whose books are listed in diladiff_cli/assets/text/BOOKS.tsv. The documents come as JSON
lines on stdout, in random order, the same at every run; on stderr stands how many.
"""

import argparse
import json
import random
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator

from diladiff_cli.data.text import iter_pieces
from diladiff_cli.errors import UserError


def documents(sources: list[str]) -> Iterator[str]:
    """The documents of all sources, whole."""
    parts = list[str]()
    for piece in iter_pieces(sources):
        parts.append(piece.text)
        if piece.last:
            yield "".join(parts)
            parts = []


def words(text: str) -> list[str]:
    """Its words in lower case: runs of the letters a to z and apostrophes."""
    return re.findall(r"[a-z']+", text.lower())


def commonest(texts: list[str], count: int) -> frozenset[str]:
    """The words that occur most in the texts together; of equally common ones those that come first."""
    counts = Counter[str]()
    for text in texts:
        counts.update(words(text))
    return frozenset(word for word, _ in counts.most_common(count))


def share(text: str, known: frozenset[str]) -> float:
    """The share of a text's words that are known; 0 for a text without words."""
    found = words(text)
    return sum(word in known for word in found) / len(found) if found else 0.0


def main(arguments: list[str] | None = None) -> int:
    """Write the plainest documents; the exit status."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("text", nargs="+", help="files or folders as of diladiff encode")
    parser.add_argument("--least", type=float, default=0.86, help="share of a document's words that must be common")
    parser.add_argument("--common", type=int, default=1500, help="how many words are common")
    parser.add_argument("--words-of", nargs="+", help="the collection whose words are counted, if it is another")
    options = parser.parse_args(arguments)
    if not 0 <= options.least <= 1 or options.common < 1:
        parser.error("--least must be a share from 0 to 1, and --common at least 1")
    try:
        texts = list(documents(options.text))
        known = commonest(list(documents(options.words_of)) if options.words_of else texts, options.common)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    plain = [text for text in texts if share(text, known) >= options.least]
    random.Random(0).shuffle(plain)
    for text in plain:
        print(json.dumps({"text": text}, ensure_ascii=False))
    print(f"{len(plain):,} of {len(texts):,} documents", file=sys.stderr)
    return 0


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a closed pipe ends it quietly
    sys.exit(main())

"""Reads clients' files with other parsers, and compares the files that the proxy edited with the original ones.

Standard input has a line of JSON for each file: its format, the path of the entry in it, its text `before`, `after` the
entry was written, and `without` it again (removed without a backup). Prints one line for each error.
"""

import json
import sys

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib


class Members(list):
    """An object: its members in order, including repeated ones."""


def without_comments(text):
    """JSON that every parser accepts: comments are replaced by a space, and trailing commas are removed."""
    tokens, at = [], 0
    while at < len(text):
        if text[at] == '"':
            end = at + 1
            while end < len(text) and text[end] != '"':
                end += 2 if text[end] == "\\" else 1
            tokens.append(text[at : end + 1])
            at = end + 1
        elif text.startswith("//", at):
            ends = [place for place in (text.find("\n", at), text.find("\r", at)) if place >= 0]
            at = min(ends, default=len(text))
            tokens.append(" ")
        elif text.startswith("/*", at):
            at = text.index("*/", at + 2) + 2
            tokens.append(" ")
        else:
            tokens.append(text[at])
            at += 1
    kept = []
    for token in tokens:
        if token in "]}":
            place = next((place for place in range(len(kept) - 1, -1, -1) if kept[place].strip(" \t\r\n")), None)
            if place is not None and kept[place] == ",":
                before = next((kept[it] for it in range(place - 1, -1, -1) if kept[it].strip(" \t\r\n")), "[")
                if before not in "[{,":
                    kept[place] = " "
        kept.append(token)
    return "".join(kept)


def refuse(constant):
    raise ValueError(constant)


def read_json(text):
    text = without_comments(text.removeprefix("\ufeff"))
    if not text.strip(" \t\r\n"):
        return Members()
    numbers = {"parse_int": lambda it: ("number", it), "parse_float": lambda it: ("number", it)}
    return json.loads(text, object_pairs_hook=Members, parse_constant=refuse, **numbers)


def read_toml(text):
    def members(value):
        if isinstance(value, dict):
            return Members(sorted((name, members(it)) for name, it in value.items()))
        if isinstance(value, list):
            return [members(it) for it in value]
        return repr(value)

    return members(tomllib.loads(text.removeprefix("\ufeff")))


def entry(root, path):
    """The member at a path."""
    for name in path:
        found = [value for known, value in root if known == name] if isinstance(root, Members) else []
        if len(found) != 1:
            return None
        root = found[0]
    return root


def others(root, path):
    """All except for the member at a path, and for its containers if they hold nothing else."""
    if not path or not isinstance(root, Members):
        return root
    kept = Members()
    for name, value in root:
        if name == path[0]:
            value = others(value, path[1:]) if len(path) > 1 else Members()
            if value == Members():
                continue
        kept.append((name, value))
    return kept


def main():
    for line in sys.stdin:
        case = json.loads(line)
        read = read_json if case["format"] == "json" else read_toml
        path = case["path"]
        texts = [case[name] for name in ("before", "after", "without")]
        try:
            before, after, without = map(read, texts)
        except (ValueError, RecursionError) as error:
            print(f"unreadable ({error}): {texts}")
            continue
        if others(before, path) != others(after, path):
            print(f"another entry has changed: {texts}")
        if others(before, path) != others(without, path) or entry(without, path) is not None:
            print(f"the removal changed something else: {texts}")
        written = entry(after, path)
        words = {"https://h/mcp", "dev"} if case["format"] == "json" else {"'https://h/mcp'", "'dev'"}
        if not isinstance(written, Members) or not words <= set(dict(written)["args"]):
            print(f"there is no entry: {texts}")


main()

"""What msgspec says of a value that does not fit, in words of JSON instead of Python's."""

import re

# Names of types in msgspec's messages.
_WORDS = {
    "array": "an array",
    "bool": "true or false",
    "datetime": "a time",
    "decimal": "a decimal number",
    "float": "a number",
    "int": "a whole number",
    "null": "null",
    "object": "an object",
    "str": "a string",
}

_MISMATCH = re.compile(r"Expected `([^`]+)`(?: [^,`]*)?, got `([^`]+)`")
_INVALID = re.compile(r"Invalid (\w+) string")
_MISSING = re.compile(r"Object missing required field `([^`]+)`")
_PLACE = re.compile(r"(.*) - at `\$?\.?([^`]*)`", re.DOTALL)


def describe_mismatch(message: str) -> str:
    """Translate a message of msgspec.ValidationError: "balance must be a number or null, not an array."."""
    place = "the value"
    if found := _PLACE.fullmatch(message):
        message, place = found[1], found[2] or place
    if found := _MISMATCH.search(message):
        return f"{place} must be {_either(found[1])}, not {_word(found[2])}."
    if found := _INVALID.search(message):
        return f"{place} is not {_word(found[1])}."
    if found := _MISSING.search(message):
        inside = "" if place == "the value" else f" in {place}"
        return f"{found[1]} is missing{inside}."
    # Such as "Invalid enum value 'x'": the value may be a secret.
    return f"{place} is none of the values that it may have."


def _either(types: str) -> str:
    *most, last = dict.fromkeys(map(_word, types.split(" | ")))
    return f"{', '.join(most)} or {last}" if most else last


def _word(type_: str) -> str:
    return _WORDS.get(type_, type_)

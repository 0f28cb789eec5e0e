"""The settings of a data set as a command line has them: KEY=VALUE."""

import ast


def setting(text: str) -> tuple[str, object]:
    """'key=value' -> the two; a value that is no Python literal is a text."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is no setting; write KEY=VALUE, such as split=arm")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value

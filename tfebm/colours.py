"""Colours by name, for flags and for data: apart from both, since flags are read before them."""

from tfebm.errors import InvalidInputError


def parse_colour(text: str, what: str = "A background") -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a name such as "white" or of "#rrggbb".

    Args:
        text: Whatever Pillow knows as a colour, but for transparent ones.
        what: The flag or the argument that it was given as.

    Raises:
        InvalidInputError: Not a colour, one beyond 0 to 255, or a transparent one.
    """
    from PIL import ImageColor

    try:
        colour = ImageColor.getrgb(text)
    except (ValueError, AttributeError, TypeError):
        raise InvalidInputError(
            f"{what} must be a colour. Received {text!r}. Give a name such as white, or red, green "
            "and blue as #rrggbb."
        ) from None
    red, green, blue, alpha = (*colour, 255)[:4]
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise InvalidInputError(
            f"{what} must be a colour with red, green and blue from 0 to 255. Received {text!r}, "
            f"which is {red}, {green}, {blue}. Give it as #rrggbb."
        )
    if alpha != 255:
        raise InvalidInputError(
            f"{what} must be a colour that covers. Received {text!r}, which is transparent. Give "
            f"it without alpha, as #{red:02x}{green:02x}{blue:02x}."
        )
    return red, green, blue

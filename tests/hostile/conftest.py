"""The room of the hostile cases, made once for all files here."""

from hostile.room import room, template

__all__ = ["room", "template"]

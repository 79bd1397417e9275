"""The clock of the helper side, which has no event loop to ask."""

from time import monotonic  # noqa: TID251 - helpers are processes of their own, without trio

__all__ = ["monotonic"]

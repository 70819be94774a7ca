"""The commands that ask a running server: one file each, and what they share."""

from web.client.rejections import vouch

__all__ = ["vouch"]

"""An app for the browser: prune a model with a few pictures, and see what that does. Needs the extra `[app]`."""

from .page import build_page
from .work import Outcome, prune_and_compare


__all__ = ["Outcome", "build_page", "prune_and_compare"]

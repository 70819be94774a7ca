"""`python -m web.openapi` prints docs/api.md; `--json` the document itself."""

import sys

import msgspec

from eventstore.limits import Limits
from projections import load_projections
from web.app import make_routes
from web.openapi.document import make_document
from web.openapi.markdown import page_of


def main() -> None:
    """Write what is asked for."""
    document = make_document(make_routes(load_projections().values()), Limits())
    as_json = msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"
    sys.stdout.write(as_json if "--json" in sys.argv[1:] else page_of(document))


if __name__ == "__main__":
    main()

"""`flagstone persons import` and `flagstone groups import`: from a file of one JSON object a line into the store.

How a file is sent is in uploads.py. Invariant: repeating an import is safe: what is given is put over what is stored.
"""

from argparse import Namespace

from config.sources import Loaded
from gateway.commands.managing import open_management
from gateway.commands.uploads import Upload, upload

LINES_OF_JSON = "application/x-ndjson"


def import_persons(loaded: Loaded, args: Namespace) -> int:
    with open_management(loaded, args) as api:
        return upload(api, args, Upload("POST", f"{api.project}/persons", LINES_OF_JSON))


def import_groups(loaded: Loaded, args: Namespace) -> int:
    with open_management(loaded, args) as api:
        return upload(api, args, Upload("POST", f"{api.project}/groups", LINES_OF_JSON))

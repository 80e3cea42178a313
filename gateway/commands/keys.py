"""`flagstone keys`: make, list and revoke the personal keys that open the management API.

Straight on the store nobody asks for a key, which is how the first one comes about. Invariant: when a key is made,
stdout gets the key and nothing else, so that it can go into a file unseen.
"""

from argparse import Namespace
from typing import Any

from config.sources import Loaded
from gateway.commands.managing import moment, note, open_management, page, segment, tell

KEYS = "/api/personal_api_keys"


def create(loaded: Loaded, args: Namespace) -> int:
    fields = {"label": args.name, "scopes": args.scope, "scoped_teams": args.of_project or None}
    with open_management(loaded, args) as api:
        answer = api.call("POST", KEYS, fields)
        value = answer.value()
        tell(args, answer, [value["value"]])
    note(f"Key {value['id']} is shown this once. Revoke it with `flagstone keys revoke {value['id']}`.")
    return 0


def show_list(loaded: Loaded, args: Namespace) -> int:
    with open_management(loaded, args) as api:
        answer = api.get(KEYS)
        headings = ("ID", "NAME", "ENDS IN", "SCOPES", "PROJECTS", "MADE AT (UTC)", "BY")
        tell(args, answer, page(headings, answer, _row, "keys"))
    return 0


def revoke(loaded: Loaded, args: Namespace) -> int:
    with open_management(loaded, args) as api:
        answer = api.call("DELETE", f"{KEYS}/{segment(args.id)}")
        tell(args, answer, [f"Revoked key {args.id}; it is worthless from now on"])
    return 0


def _row(key: dict[str, Any]) -> tuple[object, ...]:
    projects = key.get("scoped_teams")
    return (
        key["id"],
        key["label"],
        key.get("hint"),
        ",".join(key["scopes"]),
        "all" if projects is None else ",".join(map(str, projects)),
        moment(key["created_at"]),
        key["created_by"],
    )

"""Personal API keys: made, listed and revoked.

Invariant: a key stands in one answer, that to its making.
"""

import msgspec

from gateway.api.calls import NOTHING, Answer, Call, answer
from gateway.wire.management import KeyFields, Paged, key_answer


async def find(call: Call) -> Answer:
    """List the keys that are not revoked, as far as they can do no more than the one that asks."""
    keys = await call.keys.list_keys(call.key)
    return answer(Paged(len(keys), None, None, [msgspec.Raw(msgspec.json.encode(key_answer(key))) for key in keys]))


async def create(call: Call) -> Answer:
    """Make a key that can do no more than the one it is made with. Only this answer has it."""
    asked = call.read(KeyFields)
    text, key = await call.keys.create(asked.label, asked.scopes, asked.scoped_teams, call.by.name, call.key)
    return answer(key_answer(key, text), 201)


async def revoke(call: Call) -> Answer:
    """Make a key worthless from now on."""
    await call.keys.revoke(int(call.ref), call.key)
    return NOTHING

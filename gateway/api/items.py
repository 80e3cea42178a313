"""Flags and cohorts: listed, made, changed, deleted, restored, rolled back; and a whole file of them applied.

One set of endpoints for both kinds, which the route table tells apart. Invariant: nothing is decided here.
"""

from gateway.api.calls import NOTHING, Answer, Call, answer, answer_item
from gateway.editing_ports import ItemQuery
from gateway.edits import Desired
from gateway.wire.management import RollBackRequest, history_answer, page_answer


async def find(call: Call) -> Answer:
    """List them."""
    asked = call.query
    page = await call.editing.list_items(
        call.project_id,
        ItemQuery(
            kind=call.kind,
            search=asked.search,
            is_active=asked.active,
            is_deleted=asked.deleted,
            limit=asked.limit,
            offset=asked.offset,
            is_newest_first=asked.order == "-id",
        ),
    )
    return Answer(page_answer(page, call.path, call.asked_for("limit", "offset"), asked.limit, asked.offset))


async def create(call: Call) -> Answer:
    """Make one. With an Idempotency-Key, the same call again answers what came of the first."""
    fields, request_key = call.fields(), call.request_key()
    if call.is_trial:
        return answer(await call.editing.flips(call.project_id, None, fields))
    saved = await call.editing.create(call.project_id, call.kind, fields, call.by, request_key)
    return answer_item(saved.item, 201 if saved.is_new else 200)


async def show(call: Call) -> Answer:
    """One of them, also when it is deleted and asked for by its id."""
    return answer_item(await call.editing.get(call.project_id, call.kind, call.ref))


async def change(call: Call) -> Answer:
    """Change the members given."""
    return await _changed(call, call.fields())


async def delete(call: Call) -> Answer:
    """Delete it, so that it can be restored."""
    answered = await _changed(call, {**call.fields(), "deleted": True})
    return answered if call.is_trial else NOTHING


async def restore(call: Call) -> Answer:
    """Bring it back, by its id."""
    return await _changed(call, {**call.fields(), "deleted": False})


async def history(call: Call) -> Answer:
    """What happened to it, newest first."""
    limit = call.query.limit
    records = await call.editing.history(call.project_id, call.kind, call.ref, limit, call.query.before)
    return Answer(history_answer(records, call.path, limit))


async def roll_back(call: Call) -> Answer:
    """Put the content of an earlier version in force, as a new version."""
    asked = call.read(RollBackRequest)
    version = asked.version if isinstance(asked.version, int) else call.seen_version()
    saved = await call.editing.roll_back(
        call.project_id, call.kind, call.ref, asked.to_version, call.by, if_version=version
    )
    return answer_item(saved.item)


async def plan(call: Call) -> Answer:
    """What it would take to bring flags and cohorts to what the body says."""
    made = await call.editing.plan(call.project_id, call.read(Desired), may_delete=call.query.delete)
    return answer(made)


async def apply(call: Call) -> Answer:
    """Bring flags and cohorts to what the body says, all at once or not at all."""
    asked = call.query
    made = await call.editing.apply(
        call.project_id, call.read(Desired), may_delete=asked.delete, if_version=asked.if_version, by=call.by
    )
    return answer(made)


async def _changed(call: Call, fields: dict[str, object]) -> Answer:
    if call.is_trial:
        return answer(await call.editing.flips(call.project_id, call.ref, fields))
    saved = await call.editing.change(call.project_id, call.kind, call.ref, fields, call.by)
    return answer_item(saved.item)

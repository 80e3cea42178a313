"""Projects: listed, made, changed and deleted; their group types, and how far each has got towards gateways.

Which projects a key may touch was found out before. Invariant: a key for some projects is told of no other.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from gateway.api.calls import NOTHING, Answer, Call, answer, answer_item
from gateway.editing_ports import Item, Page, PersonalKey
from gateway.errors import Conflict, NotFound, PermissionDenied
from gateway.services.editing import EditingService
from gateway.services.keys import has_scope
from gateway.wire.management import GroupType, history_answer, page_answer, publication_answer

TRIES: Final = 3
"""Of adding a group type while somebody else edits the project."""


class _Shell(msgspec.Struct):
    name: str = ""
    group_types: list[str] = []


async def find(call: Call) -> Answer:
    """List the projects that the key is for."""
    asked = call.query
    if call.key is None or call.key.projects is None:
        page = await call.editing.list_projects(asked.search, asked.limit, asked.offset)
        page = Page([_shown(call, item) for item in page.items], page.total)
    else:
        read = call.store.read_items
        items = [item for id_ in sorted(call.key.projects) for item in await read(id_, "project", [id_])]
        found = [item for item in items if asked.search.lower() in _shell(item).name.lower()]
        part = found[asked.offset : asked.offset + asked.limit]
        page = Page([_shown(call, item) for item in part], len(found))
    return Answer(page_answer(page, call.path, call.asked_for("limit", "offset"), asked.limit, asked.offset))


async def create(call: Call) -> Answer:
    """Make a project, which takes a key for all of them."""
    if call.key is not None and call.key.projects is not None:
        raise PermissionDenied("This needs a key for all projects.")
    return answer_item((await call.editing.create_project(call.fields(), call.by)).item, 201)


async def show(call: Call) -> Answer:
    """A project, without its flags and cohorts."""
    return answer_item(_shown(call, await call.editing.get_project(call.project_id)))


async def change(call: Call) -> Answer:
    """Change the members given."""
    saved = await call.editing.change(call.project_id, "project", call.project_id, call.fields(), call.by)
    return answer_item(saved.item)


async def delete(call: Call) -> Answer:
    """Delete a project with everything in it, for good."""
    await call.editing.delete_project(call.project_id, call.by)
    return NOTHING


async def history(call: Call) -> Answer:
    """What happened to the project itself, newest first."""
    limit = call.query.limit
    records = await call.editing.history(call.project_id, "project", call.project_id, limit, call.query.before)
    if not _may_see_secrets(call):
        records = [replace(it, before=_without_secrets(it.before), after=_without_secrets(it.after)) for it in records]
    return Answer(history_answer(records, call.path, limit))


async def publication(call: Call) -> Answer:
    """How far the project has got towards those who evaluate, and what is in the way."""
    found = await call.store.publication(call.project_id)
    if found is None:
        raise NotFound
    return Answer(publication_answer(found))


async def find_group_types(call: Call) -> Answer:
    """The group types of the project, in the order of their indexes."""
    names = _shell(await call.editing.get_project(call.project_id)).group_types
    return answer([GroupType(group_type=name, group_type_index=index) for index, name in enumerate(names)])


async def add_group_type(call: Call) -> Answer:
    """Add a group type; one that is there stays as it is."""
    name = call.read(GroupType).group_type
    for tries_left in reversed(range(TRIES)):
        project = await call.editing.get_project(call.project_id)
        names = _shell(project).group_types
        if name in names:
            return answer(GroupType(group_type=name, group_type_index=names.index(name)))
        fields = {"group_types": [*names, name], "version": project.version}
        try:
            await call.editing.change(call.project_id, "project", call.project_id, fields, call.by)
        except Conflict:
            if not tries_left:
                raise
        else:
            break
    return answer(GroupType(group_type=name, group_type_index=len(names)), 201)


async def current(key: PersonalKey | None, editing: EditingService) -> int:
    """The id of the only project that the key is for. Raises NotFound when it is not the only one."""
    if key is not None and key.projects is not None:
        ids: Sequence[int] = key.projects
    else:
        ids = [item.id for item in (await editing.list_projects("", 2, 0)).items]
    if len(ids) != 1:
        raise NotFound
    return ids[0]


def _may_see_secrets(call: Call) -> bool:
    """Secret tokens open a project's definitions: who may only read the project is not shown them."""
    return call.key is None or has_scope(call.key, "project:write")


def _shown(call: Call, project: Item) -> Item:
    return project if _may_see_secrets(call) else replace(project, document=_without_secrets(project.document))


def _without_secrets(document: bytes | None) -> bytes | None:
    if document is None:
        return None
    members = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
    members.pop("secret_tokens", None)
    return msgspec.json.encode(members)


def _shell(project: Item) -> _Shell:
    return msgspec.json.decode(project.document, type=_Shell)

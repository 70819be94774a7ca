"""Rules that hold the SQL to what runs on one Postgres and on a Citus cluster alike.

A distributed table here is `events` and whatever a placeholder names: the states, the timeline, the postings, and their
views. A rule gives back what breaks it, in words.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import sqlglot
from sqlglot import exp

from eventstore.postgres.queries import load_queries
from eventstore.postgres.schema import SCHEMA
from tests.support import ROOT

# Trees of what is executed at once: a statement, or the statements of a function.
Trees: TypeAlias = Sequence[exp.Expr]
Rule: TypeAlias = Callable[[Trees], Iterator[str]]

# What the placeholders of statements stand for; any other stands for its own name.
PLACEHOLDERS = {
    "table": "distributed_states",
    "old": "distributed_states",
    "new": "distributed_new_states",
    "view": "distributed_states",
    "names": '"code", "balance"',
    "values": "(new ->> 0)::text, (new ->> 1)::bigint",
    "changes": '"code", "balance"',
    "excluded": 'excluded."code", excluded."balance"',
    "columns": "stream text",
    "differs": "(o.balance IS DISTINCT FROM n.balance)",
    "counts": "count(*)",
    "filters": "",
    "where": "",
    "topics": "'provider topic'",
    "after": "0",
    "until": "10",
    "low": "0",
    "high": "10",
    "limit": "10",
    "item": "stream",
    "conditions": "true",
    "order": "stream",
    "at_most": "LIMIT 10",
    "source": "distributed_states",
    "states": "SELECT * FROM distributed_states",
    "by": '"currency"',
    "default": "NULL",
    "default_beside": "NULL",
    "parameter": "11",
    "sql_type": "text",
}

# Functions that give the same for the same: all that may be called where a row conflicts.
IMMUTABLE = {"COALESCE", "GREATEST", "LEAST", "WIDTH_BUCKET", "ROW", "CAST", "CASE", "AND", "OR"}

_FUNCTION = re.compile(
    r"CREATE FUNCTION (\w+)\(.*?\).*?LANGUAGE (\w+).*?AS \$\$(.*?)\$\$", re.DOTALL
)
_DML = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "PERFORM")


def named_statements() -> dict[str, str]:
    """Every named statement of the engine with its placeholders filled in, as "folder/name"."""
    found: dict[str, str] = {}
    for file in sorted((ROOT / "eventstore").rglob("*.sql")):
        queries = load_queries(file)
        # A part of another statement.
        new_rows = _fill(queries.pop("write_new_rows", ""), {})
        for name, statement in queries.items():
            found[f"{file.stem}/{name}"] = _fill(statement, {"write_new_rows": new_rows})
    return found


def _fill(statement: str, more: Mapping[str, str]) -> str:
    return re.sub(
        r"\{(\w+)\}", lambda found: {**PLACEHOLDERS, **more}.get(found[1], found[1]), statement
    )


def functions(schema: Path = SCHEMA) -> dict[str, tuple[str, str]]:
    """The functions of the schema: language and body, by name."""
    return {
        name: (language, body) for name, language, body in _FUNCTION.findall(schema.read_text())
    }


def schema_statements(schema: Path = SCHEMA) -> list[str]:
    """What the schema executes apart from its functions, triggers and privileges."""
    text = re.sub(r"--[^\n]*", "", _FUNCTION.sub("", schema.read_text()))
    statements = (each.strip() for each in text.split(";"))
    return [each for each in statements if each.startswith(("CREATE TABLE", "CREATE UNIQUE"))]


def parse(sql: str) -> list[exp.Expr]:
    """Parse statements. Raises where the parser does not understand one that reads or writes."""
    if block := re.search(r"^DO \$\$(.*)\$\$", sql, re.DOTALL | re.MULTILINE):
        return parse_body(block[1])
    trees = [tree for tree in sqlglot.parse(sql, dialect="postgres") if tree is not None]
    for tree in trees:
        assert not isinstance(tree, exp.Command) or tree.name.upper() not in _DML, sql
    return trees


def parse_body(body: str) -> list[exp.Expr]:
    """Parse what a plpgsql function reads and writes; control and DDL are left out."""
    text = re.sub(r"--[^\n]*", "", body)
    parts = re.split(r";|\bTHEN\b|\bELSE\b|\bLOOP\b|\bBEGIN\b", text)
    statements = (each.strip() for each in parts)
    return [
        tree
        for each in statements
        if each.startswith(_DML)
        for tree in parse(re.sub(r"^PERFORM\b", "SELECT", each).replace("INTO STRICT", "INTO"))
    ]


def is_distributed(table: exp.Table) -> bool:
    """Say whether a table is one of those that are distributed."""
    return table.name == "events" or table.name.startswith("distributed_")


def distributed_in(tree: exp.Expr | None) -> list[exp.Table]:
    """The distributed tables that are named anywhere in a tree."""
    return [] if tree is None else [one for one in tree.find_all(exp.Table) if is_distributed(one)]


def no_subquery_in_a_select_list(trees: Trees) -> Iterator[str]:
    """A subquery in a select list names no distributed table."""
    for select in _all(trees, exp.Select):
        for item in select.expressions:
            for subquery in item.find_all(exp.Select):
                if distributed_in(subquery):
                    yield f"a subquery in a select list: {subquery.sql()}"


def unique_keys_contain_stream(trees: Trees) -> Iterator[str]:
    """What is unique in a distributed table, and where a row of it conflicts, contains the stream."""
    for insert in _all(trees, exp.Insert):
        conflict = insert.args.get("conflict")
        if conflict is not None and distributed_in(insert.this):
            keys = {key.name for key in conflict.args.get("conflict_keys") or []}
            if "stream" not in keys:
                yield f"ON CONFLICT ({', '.join(sorted(keys))})"
    for create in _all(trees, exp.Create):
        if create.args.get("kind") == "INDEX":
            index = create.this
            names = {column.name for column in index.args["params"].find_all(exp.Column)}
            if create.args.get("unique") and distributed_in(index) and "stream" not in names:
                yield f"unique index on {', '.join(sorted(names))}"
        elif isinstance(create, exp.Create) and distributed_in(create.this):
            yield from _keys_without_stream(create)


def _keys_without_stream(create: exp.Create) -> Iterator[str]:
    for column in create.find_all(exp.ColumnDef):
        kinds = (exp.PrimaryKeyColumnConstraint, exp.UniqueColumnConstraint)
        if column.name != "stream" and column.find(*kinds):
            yield f"unique column {column.name}"
    for key in create.find_all(exp.PrimaryKey, exp.UniqueColumnConstraint):
        names = {each.name for each in key.find_all(exp.Identifier)}
        if names and "stream" not in names:
            yield f"unique key on {', '.join(sorted(names))}"


def writes_beside_a_local_one_insert_what_they_select(trees: Trees) -> Iterator[str]:
    """What writes a distributed table together with a local one is INSERT ... SELECT."""
    writes = list(_all(trees, exp.Insert, exp.Update, exp.Delete))
    if all(distributed_in(_target(write)) for write in writes):
        return
    for write in writes:
        if distributed_in(_target(write)) and not (
            isinstance(write, exp.Insert) and isinstance(write.expression, exp.Select)
        ):
            yield f"beside a write of a local table: {write.sql()}"


def no_returning_of_distributed_writes(trees: Trees) -> Iterator[str]:
    """What was written to a distributed table is not asked for."""
    for write in _all(trees, exp.Insert, exp.Update, exp.Delete):
        if distributed_in(_target(write)) and write.args.get("returning"):
            yield f"RETURNING: {write.sql()}"


def joins_equate_stream(trees: Trees) -> Iterator[str]:
    """Two distributed tables are joined by their streams, or both fix it."""
    for select in _all(trees, exp.Select):
        sources = [source for source in _sources(select) if _reads_distributed(source)]
        if len(sources) < 2:
            continue
        equal = any(
            each.left.name == each.right.name == "stream"
            for each in _conditions(select)
            if isinstance(each, exp.EQ)
        )
        if not equal and not all(_fixes_stream(source) for source in sources):
            yield f"joined by other than stream: {select.sql()}"


def no_outer_join_of_a_local_table(trees: Trees) -> Iterator[str]:
    """No distributed table is the optional side of an outer join with a local one: all of it would be fetched."""
    for select in _all(trees, exp.Select):
        first = select.args.get("from_")
        if first is None or _reads_distributed(first.this):
            continue
        for join in select.args.get("joins") or []:
            if (
                join.args.get("side")
                and isinstance(join.this, exp.Table)
                and is_distributed(join.this)
            ):
                yield f"outer join of a local table: {select.sql()}"


def reads_of_events_are_bounded(trees: Trees) -> Iterator[str]:
    """A read of events bounds the position on both sides, or fixes the stream."""
    for select in _all(trees, exp.Select):
        for source in _sources(select):
            if isinstance(source, exp.Table) and source.name == "events":
                conditions = [each for outer in _enclosing(select) for each in _conditions(outer)]
                if not _is_bounded(conditions):
                    yield f"unbounded: {select.sql()}"


def nothing_volatile_where_a_row_conflicts(trees: Trees) -> Iterator[str]:
    """DO UPDATE calls immutable functions only, and has no subquery."""
    for conflict in _all(trees, exp.OnConflict):
        for function in conflict.find_all(exp.Func):
            name = (
                function.name.upper()
                if isinstance(function, exp.Anonymous)
                else function.sql_name()
            )
            if name not in IMMUTABLE:
                yield f"in DO UPDATE: {name}"
        for select in conflict.find_all(exp.Select):
            yield f"in DO UPDATE: {select.sql()}"


def one_object_a_drop(trees: Trees) -> Iterator[str]:
    """A DROP drops one object."""
    for drop in _all(trees, exp.Drop):
        if len(drop.args["tables"]) > 1:
            yield drop.sql()


RULES: tuple[Rule, ...] = (
    no_subquery_in_a_select_list,
    unique_keys_contain_stream,
    writes_beside_a_local_one_insert_what_they_select,
    no_returning_of_distributed_writes,
    joins_equate_stream,
    no_outer_join_of_a_local_table,
    reads_of_events_are_bounded,
    nothing_volatile_where_a_row_conflicts,
    one_object_a_drop,
)


def no_sql_function_over_distributed_tables(
    found: Mapping[str, tuple[str, str]],
) -> Iterator[str]:
    """No function in LANGUAGE sql names a distributed table: with parameters, Citus cannot plan it."""
    for name, (language, body) in found.items():
        if language == "sql" and re.search(r"\bevents\b", body):
            yield name


def _all(trees: Trees, *kinds: type[exp.Expr]) -> Iterator[exp.Expr]:
    for tree in trees:
        yield from tree.find_all(*kinds)


def _target(write: exp.Expr) -> exp.Expr | None:
    this = write.this
    return this if isinstance(this, exp.Expr) else None


def _sources(select: exp.Expr) -> list[exp.Expr]:
    """The items of FROM and JOIN."""
    first = select.args.get("from_")
    joins = select.args.get("joins") or []
    return [each.this for each in ([first] if first else []) + joins]


def _reads_distributed(source: exp.Expr) -> bool:
    """Say whether a source is a distributed table, or a subquery straight over one."""
    if isinstance(source, exp.Table):
        return is_distributed(source)
    inner = source.this if isinstance(source, exp.Subquery) else None
    return isinstance(inner, exp.Select) and any(map(_reads_distributed, _sources(inner)))


def _conditions(select: exp.Expr) -> list[exp.Expr]:
    """The conditions of WHERE and ON, each for itself."""
    where = select.args.get("where")
    joined = [join.args.get("on") for join in select.args.get("joins") or []]
    return [
        each
        for condition in [where.this if where else None, *joined]
        if condition is not None
        for each in (condition.flatten() if isinstance(condition, exp.And) else [condition])
    ]


def _enclosing(select: exp.Expr) -> Iterator[exp.Expr]:
    """A SELECT, and those that it is a source of: their conditions come down to it."""
    yield select
    outer = select.parent
    if isinstance(outer, exp.Subquery) and isinstance(outer.parent, exp.From | exp.Join):
        parent = outer.find_ancestor(exp.Select)
        if parent is not None:
            yield from _enclosing(parent)


def _fixes_stream(source: exp.Expr) -> bool:
    inner = source.this if isinstance(source, exp.Subquery) else None
    return inner is not None and any(
        isinstance(each, exp.EQ) and each.left.name == "stream" for each in _conditions(inner)
    )


def _is_bounded(conditions: Sequence[exp.Expr]) -> bool:
    below = above = False
    for each in conditions:
        if not isinstance(each, exp.EQ | exp.GT | exp.GTE | exp.LT | exp.LTE):
            continue
        left = each.left
        if not isinstance(left, exp.Column):
            continue
        if isinstance(each, exp.EQ) and left.name in {"position", "stream"}:
            return True
        if left.name == "position":
            below |= isinstance(each, exp.GT | exp.GTE)
            above |= isinstance(each, exp.LT | exp.LTE)
    return below and above

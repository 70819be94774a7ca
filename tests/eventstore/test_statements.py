"""Every statement holds to what runs on one Postgres and on a Citus cluster alike; each rule, broken, says so."""

import ast
from collections.abc import Iterator

import pytest

from tests.support import ROOT
from tests.support.statement_rules import (
    RULES,
    Rule,
    distributed_in,
    functions,
    joins_equate_stream,
    named_statements,
    no_outer_join_of_a_local_table,
    no_returning_of_distributed_writes,
    no_sql_function_over_distributed_tables,
    no_subquery_in_a_select_list,
    nothing_volatile_where_a_row_conflicts,
    one_object_a_drop,
    parse,
    parse_body,
    reads_of_events_are_bounded,
    schema_statements,
    unique_keys_contain_stream,
    writes_beside_a_local_one_insert_what_they_select,
)

STATEMENTS = named_statements()

# What may break a rule, and why.
EXCEPTIONS: dict[tuple[str, Rule], str] = {
    ("postgres/check_head", reads_of_events_are_bounded): "it looks for the last event, wherever",
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_named_statement_keeps_the_rule(rule: Rule) -> None:
    broken = {
        name: violations
        for name, statement in STATEMENTS.items()
        if (violations := list(rule(parse(statement)))) and (name, rule) not in EXCEPTIONS
    }
    assert broken == {}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_function_of_the_schema_keeps_the_rule(rule: Rule) -> None:
    broken = {
        name: violations
        for name, (_, body) in functions().items()
        if (violations := list(rule(parse_body(body))))
    }
    assert broken == {}


@pytest.mark.parametrize(("name", "rule"), EXCEPTIONS)
def test_every_exception_is_still_one(name: str, rule: Rule) -> None:
    assert list(rule(parse(STATEMENTS[name])))


def test_the_functions_that_write_the_log_are_looked_at() -> None:
    (append,) = (
        tree for tree in parse_body(functions()["append_events"][1]) if distributed_in(tree)
    )
    assert append.sql().startswith("INSERT INTO events")


def test_no_function_over_a_distributed_table_is_in_language_sql() -> None:
    assert list(no_sql_function_over_distributed_tables(functions())) == []
    bad = {"newest": ("sql", "SELECT max(position) FROM events WHERE stream = $1")}
    assert list(no_sql_function_over_distributed_tables(bad)) == ["newest"]


def test_of_the_schema_only_the_position_is_unique_without_the_stream() -> None:
    """On one Postgres that defends the log a second time; `loopledger distribute` puts another key in its place."""
    violations = [
        violation
        for statement in schema_statements()
        for violation in unique_keys_contain_stream(parse(statement))
    ]
    assert violations == ["unique column position"]


BROKEN: list[tuple[Rule, str]] = [
    (
        no_subquery_in_a_select_list,
        "SELECT (SELECT recorded_at FROM events WHERE position = p.checkpoint) FROM p",
    ),
    (
        no_subquery_in_a_select_list,
        "SELECT p.status = 'live' AND EXISTS (SELECT FROM events AS e WHERE e.position = p.checkpoint + 1) FROM p",
    ),
    (
        unique_keys_contain_stream,
        "INSERT INTO events (position) SELECT 1 ON CONFLICT (position) DO NOTHING",
    ),
    (unique_keys_contain_stream, "CREATE UNIQUE INDEX one ON distributed_states (position)"),
    (
        unique_keys_contain_stream,
        "CREATE TABLE events (stream text, position bigint, UNIQUE (position))",
    ),
    (
        writes_beside_a_local_one_insert_what_they_select,
        (
            "WITH moved AS (UPDATE log_head SET position = 2 RETURNING position)"
            " INSERT INTO events (position) VALUES (2)"
        ),
    ),
    (
        writes_beside_a_local_one_insert_what_they_select,
        (
            "WITH moved AS (UPDATE projections SET checkpoint = 2 RETURNING checkpoint)"
            " UPDATE distributed_states SET position = 2 WHERE stream = 's'"
        ),
    ),
    (
        no_returning_of_distributed_writes,
        "INSERT INTO events (position) SELECT 1 RETURNING position",
    ),
    (
        no_returning_of_distributed_writes,
        "DELETE FROM distributed_states WHERE stream = 's' RETURNING 1",
    ),
    (
        joins_equate_stream,
        "SELECT 1 FROM distributed_states AS s JOIN events AS e ON e.position = s.position",
    ),
    (
        no_outer_join_of_a_local_table,
        "SELECT p.name FROM projections AS p LEFT JOIN events AS e ON e.position = p.checkpoint + 1",
    ),
    (reads_of_events_are_bounded, "SELECT position FROM events WHERE position > $1 LIMIT 10"),
    (
        reads_of_events_are_bounded,
        "SELECT position FROM (SELECT * FROM events) AS e WHERE position <= 10",
    ),
    (
        nothing_volatile_where_a_row_conflicts,
        (
            "INSERT INTO distributed_states (stream) SELECT 's' ON CONFLICT (stream) DO UPDATE"
            " SET seen_at = clock_timestamp()"
        ),
    ),
    (
        nothing_volatile_where_a_row_conflicts,
        (
            "INSERT INTO distributed_states (stream) SELECT 's' ON CONFLICT (stream) DO UPDATE"
            " SET position = (SELECT 1)"
        ),
    ),
    (one_object_a_drop, "DROP TABLE IF EXISTS distributed_states, distributed_timeline"),
]


@pytest.mark.parametrize(
    ("rule", "statement"),
    BROKEN,
    ids=[f"{rule.__name__}-{n}" for n, (rule, _) in enumerate(BROKEN)],
)
def test_a_statement_that_breaks_a_rule_is_found_by_it(rule: Rule, statement: str) -> None:
    assert [each.__name__ for each in RULES if list(each(parse(statement)))] == [rule.__name__]


def test_every_rule_is_broken_on_purpose() -> None:
    assert {rule for rule, _ in BROKEN} == set(RULES)


def statuses_used(source: str) -> Iterator[str]:
    """Where code takes what `execute` of a connection gives back: how many rows it says it has written."""
    tree = ast.parse(source)
    dropped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Await)
            and id(node) not in dropped
            and isinstance(node.value, ast.Call)
            and isinstance(node.value.func, ast.Attribute)
            and node.value.func.attr in {"execute", "executemany", "copy_records_to_table"}
        ):
            yield ast.unparse(node)


def test_nothing_relies_on_how_many_rows_a_write_says_it_wrote() -> None:
    broken = {
        file.name: found
        for file in (ROOT / "eventstore").rglob("*.py")
        if (found := list(statuses_used(file.read_text("utf-8"))))
    }
    assert broken == {}
    assert not [name for name, (_, body) in functions().items() if "ROW_COUNT" in body]
    assert list(statuses_used("async def f(c):\n    n = await c.execute('DELETE')"))

//! What must come of each hostile module's attack: the one table that the test holds them to. What they try stands in
//! `tests/modules/hostile/examples`, under the same name.

use anyhow::{Result, ensure};
use tonic::{Code, Status};

/// What an attack may come to.
#[derive(Clone, Copy, Debug)]
pub enum Expected {
    /// A failure with this code, and these words in its message.
    Fails(Code, &'static str),
    /// A reply with these words in it.
    Replies(&'static str),
    /// A reply in lines, each of which begins with one of these.
    Lines(&'static [&'static str]),
}

/// One module. Any one of the outcomes will do, but it must be the same on every host.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// Its name.
    pub module: &'static str,
    /// What comes of the attack as a command.
    pub command: &'static [Expected],
    /// What comes of it as a query.
    pub query: &'static [Expected],
    /// Whether it takes so long that others must be seen to be served meanwhile.
    pub slow: bool,
}

impl Expected {
    fn is_met(&self, answer: &Result<Vec<u8>, Status>) -> bool {
        match (self, answer) {
            (Self::Fails(code, words), Err(status)) => status.code() == *code && status.message().contains(words),
            (Self::Replies(words), Ok(reply)) => String::from_utf8_lossy(reply).contains(words),
            (Self::Lines(beginnings), Ok(reply)) => {
                let reply = String::from_utf8_lossy(reply);
                let begins = |line: &str| beginnings.iter().any(|beginning| line.starts_with(beginning));
                !reply.is_empty() && reply.lines().all(begins)
            }
            _ => false,
        }
    }
}

/// Whether an answer is among those expected.
pub fn check(what: &str, expected: &[Expected], answer: &Result<Vec<u8>, Status>) -> Result<()> {
    if expected.iter().any(|expected| expected.is_met(answer)) {
        return Ok(());
    }
    let told = match answer {
        Ok(reply) => String::from_utf8_lossy(reply).chars().take(4_000).collect(),
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    };
    ensure!(false, "{what}: expected one of {expected:?}, and got\n{told}");
    Ok(())
}

use Code::{Aborted, AlreadyExists, FailedPrecondition, Internal, ResourceExhausted};
use Expected::{Fails, Lines, Replies};

const FUEL: Expected = Fails(Aborted, "ran out of fuel");
const STEPS: Expected = Fails(ResourceExhausted, "SQL budget");
const PANICS: Expected = Fails(Aborted, "unreachable code was reached");
const CANNOT_WRITE: Expected = Fails(Internal, "a query cannot write");
const TOO_LARGE: Expected = Lines(&["too large:"]);
const REFUSED: Expected = Lines(&["denied:", "invalid:"]);
const HOST_CALLS: &[Expected] = &[FUEL, STEPS, Fails(ResourceExhausted, "bytes")];

/// The same, whether as a command or as a query.
const fn both(module: &'static str, expected: &'static [Expected]) -> Attack {
    Attack { module, command: expected, query: expected, slow: false }
}

/// The same, and others must be seen to be served meanwhile.
const fn slow(module: &'static str, expected: &'static [Expected]) -> Attack {
    Attack { module, command: expected, query: expected, slow: true }
}

/// As a query it fails because a query cannot write.
const fn writes(module: &'static str, expected: &'static [Expected]) -> Attack {
    Attack { module, command: expected, query: &[CANNOT_WRITE], slow: false }
}

/// Every module but the one whose activation is refused ([`REFUSED_AT_ACTIVATION`]).
pub const ATTACKS: &[Attack] = &[
    // The processor, memory, and what is kept in it.
    slow("endless_loop", &[FUEL]),
    both("endless_recursion", &[Fails(Aborted, "call stack is exhausted")]),
    both("shadow_stack", &[Fails(Aborted, "memory out of bounds")]),
    both("memory_bomb", &[Fails(ResourceExhausted, "memory budget")]),
    both("memory_beyond_addresses", &[Replies("-1")]),
    both("memory_all_of_it", &[Replies("9216")]),
    both("static_counter", &[Replies("0")]),
    both("nan_bits", &[Replies("[7ff8000000000000] 7fc00000")]),
    // Writes that must not stay.
    writes("panic_after_writes", &[PANICS]),
    writes("failure_after_writes", &[Fails(AlreadyExists, "chosen by the module")]),
    writes("loop_after_writes", &[FUEL]),
    // Replies, failures and logs.
    both("huge_reply", &[Fails(ResourceExhausted, "reply of 1572864 bytes is over the budget of 1048576")]),
    both("garbage_reply", &[Replies("\0\n")]),
    both("huge_failure", &[Fails(AlreadyExists, "\u{e9}\u{e9}\u{e9}")]),
    both("failure_with_controls", &[Fails(AlreadyExists, "two\0three\u{1b}[2J\u{202e}four%41")]),
    both("log_flood", &[Replies("flooded"), FUEL]),
    both("log_huge_line", &[Replies("written"), FUEL]),
    both("log_forgery", &[Replies("written")]),
    // Work that is done in the host.
    slow("host_call_storm", HOST_CALLS),
    slow("denied_storm", HOST_CALLS),
    slow("host_call_bytes", HOST_CALLS),
    slow("log_bytes", HOST_CALLS),
    slow("parameter_bytes", HOST_CALLS),
    both("parameter_bomb", &[FUEL, STEPS, Fails(Aborted, "component model"), Fails(ResourceExhausted, "bytes")]),
    both("many_statements", HOST_CALLS),
    both("statement_bomb", &[STEPS, TOO_LARGE, FUEL]),
    // Budgets of SQL.
    both("sql_endless", &[STEPS]),
    writes("sql_endless_write", &[STEPS]),
    both("sql_cross_join", &[STEPS]),
    both("sql_sort_bomb", &[STEPS]),
    both("sql_temporary_files", &[STEPS]),
    both("sql_value_bomb", &[TOO_LARGE, STEPS]),
    both("sql_replace_bomb", &[TOO_LARGE, STEPS]),
    both("sql_group_bomb", &[TOO_LARGE, STEPS]),
    both("sql_quadratic", &[STEPS, Replies("done: 0")]),
    slow("sql_large_steps", &[STEPS]),
    slow("sql_json_paths", &[STEPS]),
    slow("sql_json_long", &[STEPS]),
    slow("sql_long_numbers", &[STEPS]),
    writes("sql_long_keys", &[Fails(Aborted, "a key has at most 8192")]),
    writes("sql_long_keys_computed", &[Fails(Aborted, "computed_by")]),
    writes("sql_key_search", &[STEPS]),
    both("sql_many_rows", &[Fails(ResourceExhausted, "more than 10000 rows")]),
    both("sql_many_bytes", &[Fails(ResourceExhausted, "bytes")]),
    writes("sql_wide_row", &[Fails(ResourceExhausted, "too large for the store"), STEPS]),
    writes("database_bomb", &[STEPS, Fails(ResourceExhausted, "bytes")]),
    writes("schema_bomb", &[STEPS, Fails(ResourceExhausted, "bytes")]),
    writes("view_bomb", &[STEPS, Fails(AlreadyExists, "invalid:")]),
    writes("statement_cache_bomb", &[STEPS, Fails(AlreadyExists, "invalid:")]),
    both("sql_depth", &[Lines(&["invalid:"])]),
    writes("trigger_bomb", &[STEPS, Fails(Internal, "too many levels of trigger recursion")]),
    writes("trigger_recursion", &[Lines(&["done: 2", "done: 1"])]),
    writes("cascade", &[STEPS, Fails(AlreadyExists, "triggers nested too deep")]),
    // Forbidden roads.
    both("host_tables", &[REFUSED]),
    both("host_tables_hidden", &[REFUSED]),
    both("names_by_parameter", &[REFUSED]),
    both("schema_tables", &[REFUSED]),
    both("transactions", &[REFUSED]),
    both("temporary", &[REFUSED]),
    both("attach_and_vacuum", &[REFUSED]),
    both("pragmas", &[REFUSED]),
    both("virtual_tables", &[REFUSED]),
    both("plans", &[REFUSED]),
    both("engine", &[REFUSED]),
    both("history", &[REFUSED]),
    writes("conflict_rollback", &[Fails(Aborted, "rolled the whole transaction back")]),
    writes("raise_rollback", &[Fails(Aborted, "rolled the whole transaction back")]),
    writes("deferred_keys", &[Fails(FailedPrecondition, "foreign key"), Fails(Aborted, "foreign key")]),
    writes("row_ids", &[Fails(Aborted, "9223372036854775807")]),
    writes("row_ids_by_update", &[Fails(Aborted, "9223372036854775807")]),
    writes("sequence", &[Fails(Aborted, "9223372036854775807")]),
    Attack {
        module: "write_in_query",
        command: &[Fails(AlreadyExists, "undone")],
        query: &[Lines(&["denied: a query cannot write", "invalid:"])],
        slow: false,
    },
    // What could differ between replicas.
    both("clock", &[Lines(&["refused", "entry's"])]),
    both("randomness", &[Lines(&["done:", "denied:"])]),
    Attack {
        module: "hidden_functions",
        command: &[Lines(&["done:", "denied:", "invalid:", "constraint:"])],
        query: &[Lines(&["denied: a query cannot write", "invalid:"])],
        slow: false,
    },
    both("broken_text", &[Lines(&["invalid:", "done:"])]),
    both("sql_floats", &[Lines(&["done:"])]),
    writes("unordered", &[Lines(&["done:"])]),
];

/// The module that fails in its own activation, and the words of the refusal.
pub const REFUSED_AT_ACTIVATION: (&str, Expected) = ("poisoned_init", PANICS);

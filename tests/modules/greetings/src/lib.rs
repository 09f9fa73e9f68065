//! The module that `guest/README.md` shows, word for word, and the one here with two versions of its tables and a way back.

#![deny(unsafe_code)]

#[cfg(test)]
mod tests;

mod proto {
    telegraft_guest::include_proto!("greetings.v1");
}

use proto::*;
use telegraft_guest::{Command, Failure, Migration, Query, params};

pub struct GreetingsModule;

impl Greetings for GreetingsModule {
    fn greet(cx: &Command<'_>, request: GreetRequest) -> Result<GreetReply, Failure> {
        if request.name.is_empty() {
            return Err(Failure::invalid_argument("whom?"));
        }
        let id = cx.new_id();
        cx.execute("INSERT INTO greetings VALUES (?1, ?2, ?3)", params![id, request.name, cx.now_us()])?;
        Ok(GreetReply { id: id.to_string() })
    }

    fn count(cx: &Query<'_>, request: CountRequest) -> Result<CountReply, Failure> {
        let (greetings,) = cx.query_one("SELECT count(*) FROM greetings WHERE name = ?1", params![request.name])?;
        Ok(CountReply { greetings })
    }
}

const MIGRATIONS: &[Migration] = &[
    Migration::new(&[
        "CREATE TABLE greetings (id BLOB PRIMARY KEY, name TEXT NOT NULL, time_us INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    ]),
    Migration::new(&["CREATE INDEX greetings_by_name ON greetings (name)"]).down(&["DROP INDEX greetings_by_name"]),
];

telegraft_guest::module!(GreetingsModule {
    name: "greetings",
    migrations: MIGRATIONS,
    services: [GreetingsService],
    downgrade: |command, to_schema| telegraft_guest::downgrade(command, to_schema, MIGRATIONS),
});

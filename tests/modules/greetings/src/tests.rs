//! The README's words, the way to a new version and back, and the harness's own promises.

use telegraft_guest::{Failure, FailureCode, Module, TestMachine};

use super::*;

/// The first version.
struct First;

telegraft_guest::module!(First { name: "greetings", migrations: &[MIGRATIONS[0]], services: [GreetingsService] });

impl Greetings for First {
    fn greet(cx: &Command<'_>, request: GreetRequest) -> Result<GreetReply, Failure> {
        GreetingsModule::greet(cx, request)
    }

    fn count(cx: &Query<'_>, request: CountRequest) -> Result<CountReply, Failure> {
        GreetingsModule::count(cx, request)
    }
}

fn greet<M: Module>(machine: &mut TestMachine<M>, name: &str) -> Result<String, Failure> {
    let reply: GreetReply = machine.apply("greetings.v1.Greetings/Greet", &GreetRequest { name: name.into() })?;
    Ok(reply.id)
}

fn count<M: Module>(machine: &TestMachine<M>, name: &str) -> u64 {
    let reply: CountReply = machine.query("greetings.v1.Greetings/Count", &CountRequest { name: name.into() }).unwrap();
    reply.greetings
}

fn plan<M: Module>(machine: &TestMachine<M>) -> String {
    machine.store().plan("SELECT count(*) FROM greetings WHERE name = ?1").unwrap().join("\n")
}

#[test]
fn it_works_as_the_readme_says() -> Result<(), Failure> {
    let mut machine = telegraft_guest::TestMachine::<GreetingsModule>::new();
    let greeted: GreetReply = machine.apply("greetings.v1.Greetings/Greet", &GreetRequest { name: "ada".into() })?;
    let counted = machine.read(|cx| GreetingsModule::count(cx, CountRequest { name: "ada".into() }))?;
    assert_eq!(counted.greetings, 1);
    assert_eq!(greeted.id.len(), 36);
    Ok(())
}

#[test]
fn the_readme_shows_what_is_compiled_here() {
    let readme = include_str!("../../../../guest/README.md");
    let sources = [
        include_str!("../proto/greetings.proto"),
        include_str!("../build.rs"),
        include_str!("lib.rs"),
        // A test's body is indented.
        &include_str!("tests.rs").replace("\n    ", "\n"),
    ];
    let blocks = readme.split("```").skip(1).step_by(2).filter_map(|block| {
        let (language, code) = block.split_once('\n')?;
        language.starts_with("rust").then_some(code).or((language == "proto").then_some(code))
    });
    let blocks: Vec<&str> = blocks.collect();
    assert_eq!(blocks.len(), 6);
    for block in blocks {
        assert!(sources.iter().any(|source| source.contains(block)), "only in guest/README.md:\n{block}");
    }
}

#[test]
fn a_new_version_is_put_in_place_and_taken_back() {
    assert_eq!((First::SCHEMA, GreetingsModule::SCHEMA), (1, 2));
    let mut first = TestMachine::<First>::new();
    greet(&mut first, "ada").unwrap();
    assert!(plan(&first).starts_with("SCAN"), "{}", plan(&first));

    let mut second = first.upgrade::<GreetingsModule>().unwrap();
    assert!(plan(&second).contains("greetings_by_name"), "{}", plan(&second));
    greet(&mut second, "ada").unwrap();
    assert_eq!(count(&second, "ada"), 2);

    let mut back = second.downgrade::<First>().unwrap();
    assert!(plan(&back).starts_with("SCAN"), "{}", plan(&back));
    greet(&mut back, "ada").unwrap();
    assert_eq!(count(&back, "ada"), 3);
}

#[test]
fn two_machines_that_are_asked_the_same_answer_the_same() {
    let (mut one, mut other) = (TestMachine::<GreetingsModule>::new(), TestMachine::<GreetingsModule>::new());
    for name in ["ada", "bob", "ada"] {
        assert_eq!(greet(&mut one, name).unwrap(), greet(&mut other, name).unwrap());
    }
    assert_ne!(greet(&mut one, "ada").unwrap(), greet(&mut one, "ada").unwrap());
}

#[test]
fn entries_follow_each_other_and_time_goes_by() {
    let mut machine = TestMachine::<GreetingsModule>::new();
    let (index, time_us) = (machine.context().index, machine.context().time_us);
    assert_eq!(index, 1);
    machine.advance(std::time::Duration::from_secs(5));
    greet(&mut machine, "ada").unwrap();
    assert_eq!(machine.context().index, 2);
    assert!(machine.context().time_us >= time_us + 5_000_000);
    let seen = machine
        .read(|cx| cx.query_one::<(u64, u64)>("SELECT unixepoch('now'), max(time_us) FROM greetings", params![]));
    assert_eq!(seen.unwrap(), (machine.context().time_us / 1_000_000, machine.context().time_us));
}

#[test]
fn what_a_refused_command_wrote_is_undone() {
    let mut machine = TestMachine::<GreetingsModule>::new();
    let outcome = machine.command(|cx| {
        GreetingsModule::greet(cx, GreetRequest { name: "ada".into() })?;
        assert_eq!(GreetingsModule::count(cx, CountRequest { name: "ada".into() })?.greetings, 1);
        GreetingsModule::greet(cx, GreetRequest::default())
    });
    assert_eq!(outcome.unwrap_err().code, FailureCode::InvalidArgument);
    assert_eq!(count(&machine, "ada"), 0);
}

#[test]
fn a_query_cannot_write_by_any_road() {
    let machine = TestMachine::<GreetingsModule>::new();
    for sql in ["DELETE FROM greetings", "INSERT INTO greetings VALUES (x'00', 'x', 1) RETURNING time_us"] {
        let failure = machine.read(|cx| cx.query_as::<(u64,)>(sql, params![])).unwrap_err();
        assert!(failure.message.contains("does not allow"), "{sql}: {failure:?}");
    }
    let rows = machine.read(|cx| cx.query_as::<(u64,)>("SELECT count(*) FROM greetings", params![])).unwrap();
    assert_eq!(rows, [(0,)]);
}

//! `machine`: a machine's budgets, shown and set through the log, and its past.

use std::{
    str::FromStr,
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use telegraft_proto::v1::{Budgets, GetHistory, GetLimits, HistoryEntry, MachineLimits, SetMachineLimits};

use super::{
    connect::Connection,
    failure::Failure,
    output::{Output, counted, grouped, number, short_digest},
};
use crate::settings::{format_size, parse_size};

/// `telegraft machine`
#[derive(Subcommand, Debug)]
pub enum MachineCommand {
    /// Show the budgets of calls, or set some, on every host at the same log index
    #[command(after_help = "\
Examples:
  telegraft machine limits
  telegraft machine limits --set fuel=500000000 --set value_bytes=2MiB

A call that runs out of a budget is undone, and its answer says of which. The settings machine.fuel and the like of the hosts are \
what a new machine begins with; later only this command changes them.")]
    Limits(LimitsArgs),
    /// What was done to the machine: activations, rollbacks, budgets, alarms; the newest first
    History(HistoryArgs),
}

/// `telegraft machine limits`
#[derive(Args, Debug)]
pub struct LimitsArgs {
    /// Set a budget: counts as 500000000, bytes also as 2MiB; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<Setting>,
}

/// `telegraft machine history`
#[derive(Args, Debug)]
pub struct HistoryArgs {
    /// At most so many, the newest [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
}

/// How a budget is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Count,
    Bytes,
}

/// One budget, as people see it.
#[derive(Debug)]
struct Budget {
    name: &'static str,
    unit: Unit,
    bounds: &'static str,
    of: fn(&Budgets) -> u64,
    set: fn(&mut Budgets, u64),
}

macro_rules! budgets {
    ($($field:ident, $unit:ident, $bounds:literal;)+) => {
        const BUDGETS: &[Budget] = &[$(Budget {
            name: stringify!($field),
            unit: Unit::$unit,
            bounds: $bounds,
            of: |budgets| budgets.$field,
            set: |budgets, value| budgets.$field = value,
        }),+];
    };
}

budgets! {
    fuel, Count, "Wasm fuel of one call, about one unit an instruction";
    memory_bytes, Bytes, "linear memory of one instance";
    sql_steps, Count, "steps of SQLite's virtual machine in one call";
    rows, Count, "rows of one query result";
    result_bytes, Bytes, "one query result";
    reply_bytes, Bytes, "one reply";
    value_bytes, Bytes, "one value in a statement, a parameter or a row";
    database_bytes, Bytes, "all rows of all the module's tables";
    module_bytes, Bytes, "one module";
}

impl Budget {
    fn text(&self, value: u64) -> String {
        match self.unit {
            Unit::Bytes if value >= 1 << 10 => format_size(value),
            _ => grouped(value),
        }
    }
}

/// A `NAME=VALUE`.
#[derive(Clone, Debug)]
struct Setting {
    budget: &'static Budget,
    value: u64,
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) =
            text.split_once('=').ok_or_else(|| "write NAME=VALUE, as fuel=500000000 or value_bytes=2MiB".to_owned())?;
        let (name, value) = (name.trim(), value.trim());
        let budget = BUDGETS.iter().find(|budget| budget.name == name).ok_or_else(|| {
            let names: Vec<&str> = BUDGETS.iter().map(|budget| budget.name).collect();
            format!("there is no budget {name:?}; there are {}", names.join(", "))
        })?;
        let value = match budget.unit {
            Unit::Bytes => parse_size(value)?,
            Unit::Count => {
                value.replace('_', "").parse().map_err(|_| format!("{value:?} is not a whole number greater than 0"))?
            }
        };
        if value == 0 {
            return Err(format!("{name} must be greater than 0"));
        }
        Ok(Self { budget, value })
    }
}

/// Runs a `machine` command.
pub async fn run(hosts: &[String], timeout: Duration, command: &MachineCommand, output: Output) -> Result<(), Failure> {
    match command {
        MachineCommand::Limits(args) => limits(hosts, timeout, args, output).await,
        MachineCommand::History(args) => {
            let connection = Connection::to_any(hosts, timeout).await?;
            let wish = GetHistory { machine: String::new(), limit: args.limit.unwrap_or(0) };
            let history = connection.machines().history(connection.request(wish)).await;
            let history = history.map_err(|status| Failure::of_status("asking for the machine's history", &status))?;
            print_history(&history.into_inner().entries, output)
        }
    }
}

async fn limits(hosts: &[String], timeout: Duration, args: &LimitsArgs, output: Output) -> Result<(), Failure> {
    let mut wanted = Budgets::default();
    for Setting { budget, value } in &args.set {
        if (budget.of)(&wanted) != 0 {
            return Err(Failure::usage(format!("{} is set twice", budget.name)));
        }
        (budget.set)(&mut wanted, *value);
    }
    let connection = Connection::to_any(hosts, timeout).await?;
    let wish = connection.request(GetLimits { machine: String::new() });
    let before = connection.machines().limits(wish).await;
    let before = before.map_err(|status| Failure::of_status("asking for the budgets", &status))?.into_inner();
    if args.set.is_empty() {
        return print_limits(&before, output);
    }
    check(&args.set, before.max.as_ref())?;
    let wish = connection.request(SetMachineLimits { machine: String::new(), budgets: Some(wanted) });
    let after = connection.machines().set_limits(wish).await;
    let after = after.map_err(|status| Failure::of_status("the budgets were not set", &status))?.into_inner();
    if output.json {
        return print_limits(&after, output);
    }
    let (was, is) = (before.budgets.unwrap_or_default(), after.budgets.unwrap_or_default());
    for Setting { budget, .. } in &args.set {
        let (was, is) = (budget.text((budget.of)(&was)), budget.text((budget.of)(&is)));
        output.line(&format!("{} is {is} on every host from log index {} on; it was {was}", budget.name, after.index));
    }
    Ok(())
}

/// Refuses what is above the maximum before it is sent, in the units that people write.
fn check(settings: &[Setting], max: Option<&Budgets>) -> Result<(), Failure> {
    let wrong: Vec<String> = settings
        .iter()
        .filter_map(|Setting { budget, value }| {
            let most = (budget.of)(max?);
            (*value > most).then(|| {
                format!("{} can be at most {}, and {} was given", budget.name, budget.text(most), budget.text(*value))
            })
        })
        .collect();
    if wrong.is_empty() { Ok(()) } else { Err(Failure::usage(wrong.join("; "))) }
}

fn print_limits(limits: &MachineLimits, output: Output) -> Result<(), Failure> {
    let now = limits.budgets.unwrap_or_default();
    let (default, max) = (limits.default.unwrap_or_default(), limits.max.unwrap_or_default());
    if output.json {
        let object = |budgets: &Budgets| -> Value {
            let pairs = BUDGETS.iter().map(|budget| (budget.name.to_owned(), json!((budget.of)(budgets))));
            Value::Object(pairs.collect::<Map<_, _>>())
        };
        return output.json(&json!({
            "index": limits.index, "limits": object(&now), "default": object(&default), "max": object(&max),
            "database_bytes_used": limits.database_bytes_used,
        }));
    }
    let mut table = output.table(&["limit", "value", "default", "maximum", "bounds"]);
    for budget in BUDGETS {
        let bounds = match budget.name {
            "database_bytes" => {
                format!("{}; {} used", budget.bounds, used(limits.database_bytes_used, now.database_bytes))
            }
            _ => budget.bounds.to_owned(),
        };
        let text = |budgets: &Budgets| number(budget.text((budget.of)(budgets)));
        table.add_row(vec![budget.name.into(), text(&now), text(&default), text(&max), bounds.into()]);
    }
    output.print_table(&table);
    Ok(())
}

/// Bytes, and what part of the whole they are.
fn used(bytes: u64, of: u64) -> String {
    let percent = u128::from(bytes) * 100 / u128::from(of.max(1));
    format!("{} bytes ({percent} %)", grouped(bytes))
}

fn print_history(entries: &[HistoryEntry], output: Output) -> Result<(), Failure> {
    if output.json {
        let entries: Vec<Value> = entries.iter().map(entry_json).collect();
        return output.json(&json!({ "entries": entries }));
    }
    if entries.is_empty() {
        output.line("nothing was done to this machine yet; begin with: telegraft module activate FILE");
        return Ok(());
    }
    let mut table = output.table(&["index", "time", "what", "module", "schema", "commands", "engine", "detail"]);
    for (place, entry) in entries.iter().enumerate() {
        let what = match entry.what.as_str() {
            "activation-refused" | "rollback-refused" | "reuse-ended" | "replicas-differ" => output.bad(&entry.what),
            _ => entry.what.as_str().into(),
        };
        let older = entries.get(place + 1..).unwrap_or_default();
        // A rollback that was refused leaves the module that it was to leave; the line itself names the other.
        let refused = entry.what == "rollback-refused";
        let concerned = if refused { active(older) } else { Some(entry).filter(|entry| !entry.digest.is_empty()) };
        let schema = concerned.map(|entry| entry.schema.to_string()).unwrap_or_default();
        let detail = if refused { refused_rollback(entry, concerned) } else { detail(entry) };
        table.add_row(vec![
            number(entry.index),
            time(entry.time_us).into(),
            what,
            concerned.map(module).unwrap_or_default().trim_start().into(),
            number(schema),
            number(grouped(entry.commands)),
            concerned.map_or("", |entry| &entry.engine).into(),
            detail.into(),
        ]);
    }
    output.print_table(&table);
    Ok(())
}

/// The module of a line.
fn module(entry: &HistoryEntry) -> String {
    format!("{} {} ({})", entry.name, entry.version, short_digest(&entry.digest))
}

/// The line by which the module came that was active after these, the newest first; none where they do not reach back so far.
fn active(lines: &[HistoryEntry]) -> Option<&HistoryEntry> {
    lines.iter().find(|entry| matches!(entry.what.as_str(), "activated" | "rolled-back"))
}

/// The detail of a rollback that was refused: what was not gone back to, and why.
fn refused_rollback(entry: &HistoryEntry, active: Option<&HistoryEntry>) -> String {
    let why = detail(entry);
    // Where the host that was asked had not yet applied what the rollback was about, it named the one that was active.
    let itself = active.is_some_and(|active| active.digest == entry.digest);
    if entry.digest.is_empty() || itself { why } else { format!("not taken back to {}: {why}", module(entry)) }
}

/// A line's detail as people read it: budgets in the units that they are written in, counts in groups, digests by their first
/// digits. What is of no known form stays as it is.
fn detail(entry: &HistoryEntry) -> String {
    let parts: Vec<String> =
        entry.detail.split(", ").map(|part| changed_budget(part).unwrap_or_else(|| lost(part))).collect();
    let whole = parts.join(", ");
    let words = whole.split(' ').map(|word| {
        let digits = word.trim_end_matches([':', ',', ';']);
        let is_digest = digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        if is_digest { word.replacen(digits, short_digest(digits), 1) } else { word.to_owned() }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// `value_bytes from 1048576 to 2097152`, if that is what this is.
fn changed_budget(text: &str) -> Option<String> {
    let (name, values) = text.split_once(" from ")?;
    let (was, is) = values.split_once(" to ")?;
    let budget = BUDGETS.iter().find(|budget| budget.name == name)?;
    Some(format!("{name} from {} to {}", budget.text(was.parse().ok()?), budget.text(is.parse().ok()?)))
}

/// `12345 commands discarded`, or whatever else it is.
fn lost(text: &str) -> String {
    let number = text.strip_suffix(" commands discarded").and_then(|number| number.parse().ok());
    number.map_or_else(|| text.to_owned(), |number| format!("{} discarded", counted(number, "command")))
}

fn entry_json(entry: &HistoryEntry) -> Value {
    json!({
        "index": entry.index, "time_us": entry.time_us, "time": time(entry.time_us), "what": entry.what,
        "digest": entry.digest, "name": entry.name, "version": entry.version, "schema": entry.schema,
        "engine": entry.engine, "detail": entry.detail, "commands": entry.commands,
    })
}

/// UTC, to the second; a time beyond the calendar as it is.
fn time(time_us: u64) -> String {
    /// 9999-12-31T23:59:59Z, the last that RFC 3339 can write.
    const LAST_SECOND: u64 = 253_402_300_799;
    if time_us / 1_000_000 > LAST_SECOND {
        return format!("{time_us} us");
    }
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_micros(time_us)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(text: &str) -> Result<Setting, String> {
        text.parse()
    }

    #[test]
    fn budgets_are_written_as_the_settings_are() {
        assert_eq!(setting("fuel=500_000_000").unwrap().value, 500_000_000);
        assert_eq!(setting("value_bytes = 2MiB").unwrap().value, 2 << 20);
        assert_eq!(setting("rows=7").unwrap().budget.name, "rows");
    }

    #[test]
    fn what_is_no_budget_is_refused_with_what_there_is() {
        assert!(setting("fule=1").unwrap_err().contains("there are fuel, memory_bytes"));
        assert!(setting("fuel").unwrap_err().contains("NAME=VALUE"));
        assert!(setting("fuel=2MiB").unwrap_err().contains("whole number"));
        assert!(setting("value_bytes=2MB").unwrap_err().contains("MiB"));
        assert!(setting("rows=0").unwrap_err().contains("greater than 0"));
    }

    #[test]
    fn above_the_maximum_both_figures_are_said() {
        let max = Budgets { value_bytes: 1 << 20, rows: 10, ..Budgets::default() };
        let asked = [setting("value_bytes=2MiB").unwrap(), setting("rows=10").unwrap()];
        let refused = check(&asked, Some(&max)).unwrap_err();
        assert_eq!(refused.message, "value_bytes can be at most 1MiB, and 2MiB was given");
        assert_eq!(refused.kind.exit_code(), 2);
        assert!(check(&asked[1..], Some(&max)).is_ok());
    }

    #[test]
    fn times_are_of_the_calendar_or_as_they_are() {
        assert_eq!(time(1_700_000_000_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(time(u64::MAX), "18446744073709551615 us");
    }

    #[test]
    fn a_line_of_the_history_has_the_units_that_people_write() {
        let shown = |text: &str| detail(&HistoryEntry { detail: text.to_owned(), ..HistoryEntry::default() });
        let budgets = "fuel from 1000000000 to 5, value_bytes from 1048576 to 2097152";
        assert_eq!(shown(budgets), "fuel from 1,000,000,000 to 5, value_bytes from 1MiB to 2MiB");
        let digest = "0123456789abcdef".repeat(4);
        assert_eq!(
            shown(&format!("from probe 2.0.0 {digest}: data kept-state, 1 commands discarded")),
            "from probe 2.0.0 0123456789ab: data kept-state, 1 command discarded"
        );
        assert_eq!(
            shown("from a b: data kept-state, 12345 commands discarded"),
            "from a b: data kept-state, 12,345 commands discarded"
        );
        for as_it_is in ["data layout risen from 1", "rows from few to many", "colour from 1 to 2", "", "a, b:  c"] {
            assert_eq!(shown(as_it_is), as_it_is);
        }
    }

    #[test]
    fn a_refused_rollback_is_the_story_of_the_module_that_goes_on() {
        let line = |what: &str, version: &str, detail: &str| HistoryEntry {
            what: what.into(),
            name: "probe".into(),
            version: version.into(),
            digest: version.repeat(20),
            detail: detail.into(),
            ..HistoryEntry::default()
        };
        // The newest first, as it is asked for: one to the module before, and one by a host that was behind.
        let lines = [
            line("rollback-refused", "2.0", "the active module is another"),
            line("rollback-refused", "1.0", "no downgrade"),
            line("activation-refused", "3.0", "init failed"),
            line("activated", "2.0", ""),
            line("activated", "1.0", ""),
        ];
        let goes_on = active(&lines[2..]);
        assert_eq!(goes_on.map(|entry| entry.version.as_str()), Some("2.0"));
        assert_eq!(refused_rollback(&lines[1], goes_on), "not taken back to probe 1.0 (1.01.01.01.0): no downgrade");
        assert_eq!(refused_rollback(&lines[0], goes_on), "the active module is another");
        assert_eq!(active(&lines[..3]), None);
    }

    #[test]
    fn a_use_is_a_part_of_the_whole() {
        assert_eq!(used(2_500, 10_000), "2,500 bytes (25 %)");
        assert_eq!(used(5, 0), "5 bytes (500 %)");
    }
}

//! `module activate --dry-run` and `module rehearse`: what another module would do, before it is switched on.

use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use comfy_table::Cell;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use telegraft_proto::v1::{
    DryRunReport, RehearsalCost, RehearsalDifference, RehearsalEvent, RehearsalProgress, RehearsalReport,
    RehearsedAnswer, RehearsedModule, TryModule, rehearsal_event::Event,
};
use tokio_stream::Stream;
use tonic::{Code, Streaming};

use super::{
    call::to_hex,
    connect::Connection,
    descriptors::{Method, Service},
    failure::{Failure, Kind, code_name},
    module::{UPLOAD_PART_BYTES, info_json},
    output::{Output, counted, grouped, number, short_digest},
};

/// A large module is compiled, and a large state is copied: both take minutes at worst.
const DRY_RUN_TIMEOUT_MIN: std::time::Duration = std::time::Duration::from_secs(600);
/// Differences that are shown to a person.
const DIFFERENCES_SHOWN_MAX: usize = 20;
/// Bytes that are shown of what is no message.
const BYTES_SHOWN_MAX: usize = 48;

/// `telegraft module rehearse`
#[derive(Args, Debug)]
pub struct RehearseArgs {
    /// The component
    pub file: PathBuf,
    /// How many of the newest commands, whichever modules were active; none from before the machine's first module
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    last: u64,
    /// As `activate --reuse`: keep one guest instance for many entries
    #[arg(long)]
    reuse: bool,
}

/// Shows what activating a component would do. A refusal is a failure.
///
/// # Errors
///
/// The cluster's refusal, also that of the activation that was tried.
pub async fn dry_run(connection: &Connection, bytes: Bytes, reuse: bool, output: Output) -> Result<(), Failure> {
    let parts = parts(bytes, TryModule { reuse, ..TryModule::default() });
    let request = connection.request_within(parts, connection.timeout.max(DRY_RUN_TIMEOUT_MIN));
    let report = connection.modules().dry_run(request).await;
    let report = report.map_err(|status| Failure::of_status("the dry run was refused", &status))?.into_inner();
    if output.json {
        output.json(&dry_run_json(&report))?;
    } else {
        print_dry_run(&report, output);
    }
    if report.refused.is_empty() { Ok(()) } else { Err(Failure::silent(Kind::Refused)) }
}

/// Shows what the newest commands would have come to. Any difference is a failure.
///
/// # Errors
///
/// The cluster's refusal, and differences.
pub async fn rehearse(
    connection: &Connection,
    bytes: Bytes,
    args: &RehearseArgs,
    output: Output,
) -> Result<(), Failure> {
    let head = TryModule { reuse: args.reuse, last: args.last, ..TryModule::default() };
    // No deadline: rebuilding the state takes as long as the log is. The host gives up when this process ends.
    let events = connection.modules().rehearse(tonic::Request::new(parts(bytes, head))).await;
    let events = events.map_err(|status| Failure::of_status("the rehearsal was refused", &status))?.into_inner();
    let bar = if output.json { ProgressBar::hidden() } else { progress() };
    let heard = listen(events, &bar).await;
    bar.finish_and_clear();
    let heard = heard?;
    let sides = Sides::of(&heard);
    if output.json {
        output.json(&rehearsal_json(&heard, &sides))?;
    } else {
        print_rehearsal(&heard, &sides, output);
    }
    if is_safe(&heard.report) { Ok(()) } else { Err(Failure::silent(Kind::Refused)) }
}

/// A module in messages of moderate size; `head` says all but its bytes.
fn parts(mut rest: Bytes, head: TryModule) -> impl Stream<Item = TryModule> + Send + 'static {
    let mut head = Some(head);
    tokio_stream::iter(std::iter::from_fn(move || {
        let data = rest.split_to(rest.len().min(UPLOAD_PART_BYTES));
        match head.take() {
            Some(head) => Some(TryModule { data, ..head }),
            None => (!data.is_empty()).then(|| TryModule { data, ..TryModule::default() }),
        }
    }))
}

/// What a host tells of a rehearsal.
struct Heard {
    report: RehearsalReport,
    /// The modules that were active, in their order.
    modules: Vec<RehearsedModule>,
    /// Each with the place among them of the one that was active.
    differences: Vec<(usize, RehearsalDifference)>,
}

async fn listen(mut events: Streaming<RehearsalEvent>, bar: &ProgressBar) -> Result<Heard, Failure> {
    let (mut modules, mut differences) = (Vec::new(), Vec::new());
    loop {
        let event = events.message().await.map_err(|status| Failure::of_status("the rehearsal failed", &status))?;
        match event {
            Some(RehearsalEvent { event: Some(Event::Progress(RehearsalProgress { stage, done, total })) }) => {
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(stage);
            }
            Some(RehearsalEvent { event: Some(Event::Module(module)) }) => modules.push(module),
            Some(RehearsalEvent { event: Some(Event::Difference(difference)) }) => {
                differences.push((modules.len().saturating_sub(1), difference));
            }
            Some(RehearsalEvent { event: Some(Event::Report(report)) }) => {
                return Ok(Heard { report, modules, differences });
            }
            // Of a later version.
            Some(RehearsalEvent { event: None }) => {}
            None => return Err(Failure::refused("the host ended the rehearsal without a report: is it stopping?")),
        }
    }
}

fn progress() -> ProgressBar {
    let bar = ProgressBar::new(1);
    if let Ok(style) = ProgressStyle::with_template("{msg:22} {wide_bar} {human_pos}/{human_len} {elapsed}") {
        bar.set_style(style);
    }
    bar
}

/// Whether the activation would be carried out, and every command answered as it was; and there was one.
fn is_safe(report: &RehearsalReport) -> bool {
    let alike = report.commands > 0 && report.differing == 0;
    alike && report.activation.as_ref().is_some_and(|activation| activation.refused.is_empty())
}

/// What is known of the modules of both sides.
struct Sides {
    /// Those that were active: name and version, and the descriptors where one declares a service.
    before: Vec<(String, Option<Service>)>,
    /// The candidate's descriptors.
    after: Option<Service>,
}

impl Sides {
    fn of(heard: &Heard) -> Self {
        let decode = |bytes: &[u8]| Service::decode(bytes).ok().filter(|_| !bytes.is_empty());
        let before = heard.modules.iter().map(|RehearsedModule { module, service }| {
            let label = module.as_ref().map(|m| format!("{} {}", m.name, m.version)).unwrap_or_default();
            (label, decode(service))
        });
        let after = heard.report.activation.as_ref().and_then(|activation| decode(&activation.service));
        Self { before: before.collect(), after }
    }

    /// The name of the one module that was active; none where there were several.
    fn only_one(&self) -> Option<&str> {
        match self.before.as_slice() {
            [(label, _)] => Some(label),
            _ => None,
        }
    }

    /// Who was active at a difference.
    fn label(&self, at: usize) -> &str {
        self.before.get(at).map_or("", |(label, _)| label)
    }

    fn methods(&self, (at, difference): &(usize, RehearsalDifference)) -> (Option<Method>, Option<Method>) {
        let before = self.before.get(*at).and_then(|(_, service)| service.as_ref());
        (method(before, &difference.method), method(self.after.as_ref(), &difference.method))
    }
}

fn method(service: Option<&Service>, name: &str) -> Option<Method> {
    service.and_then(|service| service.methods().find(|method| method.name == name))
}

/// An answer as JSON: the reply by the module's own descriptors, or in hexadecimal, or the rejection.
fn answer_json(answer: &RehearsedAnswer, method: Option<&Method>) -> Value {
    if answer.code != 0 {
        return json!({ "code": code_name(Code::from_i32(answer.code)), "message": answer.message });
    }
    let whole = answer.reply.len() as u64 == answer.reply_bytes;
    let decoded = method.filter(|_| whole).and_then(|method| method.decode(answer.reply.clone()).ok());
    match decoded {
        Some(reply) => json!({ "reply": reply }),
        None => json!({ "reply_hex": to_hex(&answer.reply), "reply_bytes": answer.reply_bytes }),
    }
}

fn answer_text(answer: &RehearsedAnswer, method: Option<&Method>) -> String {
    let value = answer_json(answer, method);
    match value.get("reply") {
        Some(reply) => reply.to_string(),
        None if answer.code != 0 => format!("{}: {}", code_name(Code::from_i32(answer.code)), answer.message),
        None => hex_text(&answer.reply, answer.reply_bytes),
    }
}

fn request_text(payload: &Bytes, method: Option<&Method>) -> String {
    let decoded = method.and_then(|method| method.decode_request(payload.clone()).ok());
    decoded.map_or_else(|| hex_text(payload, payload.len() as u64), |request| request.to_string())
}

/// The first bytes of what is no message.
fn hex_text(bytes: &[u8], all: u64) -> String {
    let shown = bytes.get(..bytes.len().min(BYTES_SHOWN_MAX)).unwrap_or_default();
    let more = if (shown.len() as u64) < all { "…" } else { "" };
    format!("{}{more} ({})", to_hex(shown), counted(all, "byte"))
}

fn dry_run_json(report: &DryRunReport) -> Value {
    let schema: Vec<Value> = report
        .schema_changes
        .iter()
        .map(|change| {
            json!({ "change": change.change, "kind": change.kind, "name": change.name, "before": change.before, "after": change.after })
        })
        .collect();
    let tables: Vec<Value> = report
        .table_changes
        .iter()
        .map(|table| {
            json!({ "table": table.table, "inserted": table.inserted, "updated": table.updated, "deleted": table.deleted })
        })
        .collect();
    let refused = (!report.refused.is_empty())
        .then(|| json!({ "code": code_name(Code::from_i32(report.refused_code)), "message": report.refused }));
    json!({
        "would_activate": report.refused.is_empty(), "refused": refused,
        "digest": report.digest, "name": report.name, "version": report.version,
        "schema": report.schema, "from_schema": report.from_schema, "init_runs": report.init_runs,
        "schema_changes": schema, "table_changes": tables,
        "fuel": report.fuel, "sql_steps": report.sql_steps,
        "init_us": report.init_us, "copy_us": report.copy_us, "compile_us": report.compile_us,
        "index": report.index, "database_bytes": report.database_bytes,
    })
}

fn print_dry_run(report: &DryRunReport, output: Output) {
    let verdict = if report.refused.is_empty() {
        output.verdict("would be activated", true)
    } else {
        let code = code_name(Code::from_i32(report.refused_code));
        output.verdict(&format!("would be refused: {code}: {}", report.refused), false)
    };
    output.line(&format!("{} {} ({}) {verdict}", report.name, report.version, short_digest(&report.digest)));
    output.line(&format!(
        "tried on a copy of the state at log index {} ({} bytes); nothing was changed",
        grouped(report.index),
        grouped(report.database_bytes)
    ));
    print_activation(report, output);
    output.line("");
    output.line(&format!(
        "fuel {}, SQL steps {}, init {}; copying the state {}, compiling {}",
        grouped(report.fuel),
        grouped(report.sql_steps),
        time(report.init_us.saturating_mul(1_000)),
        time(report.copy_us.saturating_mul(1_000)),
        time(report.compile_us.saturating_mul(1_000)),
    ));
}

/// What an activation does to the data.
fn print_activation(report: &DryRunReport, output: Output) {
    output.line(&match (report.init_runs, report.from_schema) {
        (true, None) => format!("init runs: {} is new here, its data layout is {}", report.name, report.schema),
        (true, Some(from)) => format!("init runs: the data layout goes from {from} to {}", report.schema),
        (false, _) => format!("init does not run: the data layout is {} already", report.schema),
    });
    if !report.refused.is_empty() {
        return;
    }
    if report.schema_changes.is_empty() {
        output.line("schema: no changes");
    } else {
        output.line("");
        let mut table = output.table(&["schema", "kind", "name", "SQL"]);
        for change in &report.schema_changes {
            let sql = match (change.before.as_str(), change.after.as_str()) {
                ("", after) => after.to_owned(),
                (before, "") => format!("before: {before}"),
                (before, after) => format!("before: {before}\nafter:  {after}"),
            };
            let row = [&change.change, &change.kind, &change.name, &sql];
            table.add_row(row.into_iter().map(Cell::new));
        }
        output.print_table(&table);
    }
    if report.table_changes.is_empty() {
        output.line("rows: no changes");
    } else {
        output.line("");
        let mut table = output.table(&["table", "inserted", "updated", "deleted"]);
        for rows in &report.table_changes {
            let counts = [rows.inserted, rows.updated, rows.deleted];
            let cells = counts.map(|count| number(grouped(count)));
            table.add_row(std::iter::once(Cell::new(&rows.table)).chain(cells));
        }
        output.print_table(&table);
    }
}

fn rehearsal_json(heard: &Heard, sides: &Sides) -> Value {
    let report = &heard.report;
    let cost = |cost: &Option<RehearsalCost>| {
        let c = cost.unwrap_or_default();
        json!({
            "replies": c.replies, "rejections": c.rejections, "traps": c.traps, "exhausted": c.exhausted,
            "fuel": c.fuel, "fuel_max": c.fuel_max, "sql_steps": c.sql_steps, "time_ns": c.time_ns, "time_ns_max": c.time_ns_max,
        })
    };
    let answers: Vec<Value> = heard
        .differences
        .iter()
        .map(|found| {
            let (old, new) = sides.methods(found);
            let (at, difference) = found;
            let request = old.as_ref().or(new.as_ref()).and_then(|m| m.decode_request(difference.payload.clone()).ok());
            let one = |answer: &Option<RehearsedAnswer>, method: Option<&Method>| {
                let answer = answer.clone().unwrap_or_default();
                let mut value = answer_json(&answer, method);
                if let Some(object) = value.as_object_mut() {
                    object.insert("fuel".to_owned(), answer.fuel.into());
                    object.insert("sql_steps".to_owned(), answer.sql_steps.into());
                    object.insert("time_ns".to_owned(), answer.time_ns.into());
                }
                value
            };
            json!({
                "index": difference.index, "method": difference.method, "request": request, "module_before": sides.label(*at),
                "before": one(&difference.before, old.as_ref()), "after": one(&difference.after, new.as_ref()),
            })
        })
        .collect();
    let modules: Vec<Value> = heard
        .modules
        .iter()
        .filter_map(|then| then.module.as_ref())
        .map(|m| json!({ "digest": m.digest, "name": m.name, "version": m.version, "schema": m.schema, "since": m.activated_index }))
        .collect();
    json!({
        "safe": is_safe(report), "commands": report.commands, "differing": report.differing,
        "first_index": report.first_index, "last_index": report.last_index, "notes": report.notes,
        "before": { "module": report.module_before.as_ref().map(info_json), "modules": modules, "cost": cost(&report.before) },
        "after": { "activation": report.activation.as_ref().map(dry_run_json), "cost": cost(&report.after) },
        "differences": answers,
    })
}

fn print_rehearsal(heard: &Heard, sides: &Sides, output: Output) {
    let Heard { report, differences, .. } = heard;
    let activation = report.activation.clone().unwrap_or_default();
    let old = sides.only_one().unwrap_or("the modules of then").to_owned();
    let mut new = format!("{} {}", activation.name, activation.version);
    if new == old {
        new = format!("{new} ({})", short_digest(&activation.digest));
    }
    if !activation.refused.is_empty() {
        print_dry_run(&activation, output);
        report.notes.iter().for_each(|note| output.line(&format!("note: {note}")));
        return;
    }
    let alike = report.differing == 0 && report.commands > 0;
    let verdict = match report.differing {
        _ if report.commands == 0 => "there was nothing to compare".to_owned(),
        0 => "every command is answered alike".to_owned(),
        1 => "1 command is answered differently".to_owned(),
        several => format!("{} are answered differently", counted(several, "command")),
    };
    output.line(&format!(
        "{}, from log index {} to {}, replayed by {old} and by {new}",
        counted(report.commands, "command"),
        grouped(report.first_index),
        grouped(report.last_index)
    ));
    output.line(&output.verdict(&verdict, alike));
    report.notes.iter().for_each(|note| output.line(&format!("note: {note}")));
    output.line("");

    let (before, after) = (report.before.unwrap_or_default(), report.after.unwrap_or_default());
    let mut table = output.table(&["", &old, &new]);
    // More of these is worse; of fuel and time a little more means nothing.
    let count = |name: &str, before: u64, after: u64, worse: bool| {
        let after = if worse && after > before { output.bad(grouped(after)) } else { Cell::new(grouped(after)) };
        vec![name.into(), number(grouped(before)), after.set_alignment(comfy_table::CellAlignment::Right)]
    };
    table.add_row(count("replies", before.replies, after.replies, false));
    table.add_row(count("rejections", before.rejections, after.rejections, true));
    table.add_row(count("  of them traps", before.traps, after.traps, true));
    table.add_row(count("  of them budgets that ran out", before.exhausted, after.exhausted, true));
    table.add_row(count("fuel, all", before.fuel, after.fuel, false));
    table.add_row(count("fuel, dearest", before.fuel_max, after.fuel_max, false));
    table.add_row(count("SQL steps, all", before.sql_steps, after.sql_steps, false));
    table.add_row(vec!["time, all".into(), number(time(before.time_ns)), number(time(after.time_ns))]);
    table.add_row(vec!["time, longest".into(), number(time(before.time_ns_max)), number(time(after.time_ns_max))]);
    output.print_table(&table);

    output.line("");
    output
        .line(&format!("the activation of {new} came first, on the state at log index {}:", grouped(activation.index)));
    print_activation(&activation, output);

    for found in differences.iter().take(DIFFERENCES_SHOWN_MAX) {
        let (old, new) = sides.methods(found);
        let (at, difference) = found;
        output.line("");
        let then = if sides.only_one().is_some() { String::new() } else { format!("  ({})", sides.label(*at)) };
        output.line(&format!("index {}  {}{then}", grouped(difference.index), difference.method));
        output.line(&format!("  asked   {}", request_text(&difference.payload, old.as_ref().or(new.as_ref()))));
        for (label, answer, method) in [("before", &difference.before, old), ("after ", &difference.after, new)] {
            let text = answer.as_ref().map(|answer| answer_text(answer, method.as_ref())).unwrap_or_default();
            output.line(&format!("  {label}  {text}"));
        }
    }
    let shown = differences.len().min(DIFFERENCES_SHOWN_MAX) as u64;
    if report.differing > shown {
        output.line("");
        output.line(&format!("and {} more (--json shows up to 1,000)", grouped(report.differing - shown)));
    }
}

/// Nanoseconds in the unit that suits them.
fn time(nanoseconds: u64) -> String {
    let value = nanoseconds as f64;
    match nanoseconds {
        0 => "0".to_owned(),
        1..1_000_000 => format!("{:.1} µs", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", value / 1e6),
        _ => format!("{:.2} s", value / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use telegraft_proto::chat::{FILE_DESCRIPTOR_SET, SendMessageReply};
    use tokio_stream::StreamExt;

    use super::*;

    fn send_message() -> Option<Method> {
        method(Service::decode(FILE_DESCRIPTOR_SET).ok().as_ref(), "chat.v1.Chat/SendMessage")
    }

    #[test]
    fn a_reply_is_shown_by_the_modules_descriptors_and_in_hexadecimal_without() {
        let reply = SendMessageReply { message_id: "m".into(), time_us: 5 }.encode_to_vec();
        let answer = RehearsedAnswer { reply_bytes: reply.len() as u64, reply: reply.into(), ..Default::default() };
        let shown = answer_text(&answer, send_message().as_ref());
        assert_eq!(shown, r#"{"messageId":"m","timeUs":"5"}"#);
        assert!(answer_text(&answer, None).ends_with("(5 bytes)"), "{}", answer_text(&answer, None));
        // One that was cut is no message any more.
        let cut = RehearsedAnswer { reply_bytes: 70_000, ..answer };
        assert!(answer_text(&cut, send_message().as_ref()).ends_with("… (70,000 bytes)"));
    }

    #[test]
    fn a_rejection_is_shown_with_its_code() {
        let answer = RehearsedAnswer { code: 10, message: "the module trapped".into(), ..Default::default() };
        assert_eq!(answer_text(&answer, send_message().as_ref()), "ABORTED: the module trapped");
    }

    #[test]
    fn only_equal_answers_after_a_good_activation_are_safe() {
        let good = RehearsalReport { activation: Some(DryRunReport::default()), commands: 1, ..Default::default() };
        assert!(is_safe(&good));
        assert!(!is_safe(&RehearsalReport { commands: 0, ..good.clone() }));
        assert!(!is_safe(&RehearsalReport { differing: 1, ..good.clone() }));
        let refused = DryRunReport { refused: "init failed".into(), ..Default::default() };
        assert!(!is_safe(&RehearsalReport { activation: Some(refused), ..good }));
        assert!(!is_safe(&RehearsalReport::default()));
    }

    #[tokio::test]
    async fn the_first_part_says_what_is_wanted_and_no_byte_is_lost() {
        let bytes = Bytes::from(vec![7; UPLOAD_PART_BYTES * 2 + 1]);
        let head = TryModule { last: 3, reuse: true, ..Default::default() };
        let sent: Vec<TryModule> = parts(bytes.clone(), head).collect().await;
        assert_eq!(
            sent.iter().map(|part| (part.last, part.reuse)).collect::<Vec<_>>(),
            [(3, true), (0, false), (0, false)]
        );
        assert_eq!(sent.iter().flat_map(|part| part.data.clone()).collect::<Vec<_>>(), bytes);
        // An empty file is sent too: the host says what is wrong with it.
        assert_eq!(parts(Bytes::new(), TryModule::default()).collect::<Vec<_>>().await.len(), 1);
    }

    #[test]
    fn times_have_the_unit_that_suits_them() {
        for (ns, text) in [(0, "0"), (1_500, "1.5 µs"), (2_500_000, "2.5 ms"), (61_000_000_000, "61.00 s")] {
            assert_eq!(time(ns), text);
        }
    }
}

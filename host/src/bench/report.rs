//! The figures of a run: one JSON object for machines, some lines for people.

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::{
    Gone,
    load::{Plan, Tally},
};
use crate::cli::grouped;

/// The percentiles that are told, with their names.
const PERCENTILES: [(&str, f64); 4] = [("p50_ms", 50.0), ("p90_ms", 90.0), ("p99_ms", 99.0), ("p99_9_ms", 99.9)];

/// Microseconds as milliseconds, to the microsecond.
pub fn milliseconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1_000.0
}

fn latencies(histogram: &Histogram<u64>) -> Map<String, Value> {
    let mut figures: Map<String, Value> = PERCENTILES
        .iter()
        .map(|(name, percentile)| ((*name).to_owned(), json!(milliseconds(histogram.value_at_percentile(*percentile)))))
        .collect();
    figures.insert("max_ms".to_owned(), json!(milliseconds(histogram.max())));
    figures
}

fn per_second(plan: &Plan, count: u64) -> f64 {
    let rate = count as f64 / plan.measured.as_secs_f64();
    (rate * 10.0).round() / 10.0
}

/// All operations together (with retries, an operation counts once, and each failed attempt is an error); where both kinds were asked for, each besides.
pub fn figures(plan: &Plan, tally: &Tally) -> Value {
    let mut all = tally.writes.clone();
    // Both resize themselves, so adding cannot fail.
    let _ = all.add(&tally.reads);
    let mut figures = json!({
        "operations_per_second": per_second(plan, all.len()),
        "operations": all.len(),
        "errors": tally.errors.values().sum::<u64>(),
        "errors_by_code": tally.errors,
        "clients": plan.clients,
        "connections": plan.connections_per_host() * plan.hosts.len(),
        "chats": plan.chats,
        "seconds": plan.measured.as_secs(),
        "warmup_seconds": plan.warmup.as_secs(),
        "payload_bytes": plan.payload_bytes,
        "reads_percent": plan.reads_percent,
        "sessions": plan.sessions,
        "retry": plan.retry,
        "hosts": plan.hosts,
    });
    if let Value::Object(object) = &mut figures {
        object.append(&mut latencies(&all));
        if plan.reads_percent > 0 {
            for (name, histogram) in [("writes", &tally.writes), ("reads", &tally.reads)] {
                let mut part = latencies(histogram);
                part.insert("operations_per_second".to_owned(), json!(per_second(plan, histogram.len())));
                object.insert(name.to_owned(), Value::Object(part));
            }
        }
    }
    figures
}

/// For people.
pub fn summary(plan: &Plan, tally: &Tally, gone: Option<&Gone>) -> String {
    let mut text = String::new();
    for (name, histogram) in [("writes", &tally.writes), ("reads", &tally.reads)] {
        if histogram.is_empty() {
            continue;
        }
        let rate = grouped(per_second(plan, histogram.len()).round() as u64);
        text.push_str(&format!("{name}: {rate} a second;"));
        for (label, (_, percentile)) in ["p50", "p90", "p99", "p99.9"].iter().zip(PERCENTILES) {
            text.push_str(&format!(" {label} {:.2} ms", milliseconds(histogram.value_at_percentile(percentile))));
        }
        text.push('\n');
    }
    if tally.writes.is_empty() && tally.reads.is_empty() {
        text.push_str("nothing was answered in the measured time\n");
    }
    for (code, count) in &tally.errors {
        text.push_str(&format!("failed with {code}: {}\n", grouped(*count)));
    }
    if let Some(Gone { id, how }) = gone {
        text.push_str(&format!(
            "host {id} led and was {how}; the longest time without a write was {:.0} ms\n",
            milliseconds(tally.gap_us)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{
        super::load::tests::{plan, tally},
        *,
    };

    #[test]
    fn figures_count_all_operations() {
        let mut tally = tally(&[1_000, 2_000, 3_000, 100_000]);
        tally.errors.insert("UNAVAILABLE", 3);
        let figures = figures(&plan(3, 64), &tally);
        assert_eq!(figures["operations_per_second"], 4.0);
        assert_eq!(figures["errors"], 3);
        assert_eq!(figures["errors_by_code"]["UNAVAILABLE"], 3);
        let p50 = figures["p50_ms"].as_f64().unwrap();
        assert!((1.99..2.01).contains(&p50), "{p50}");
        assert!(figures["p99_9_ms"].as_f64().unwrap() > 99.0);
        assert_eq!(figures.get("reads"), None);
    }

    #[test]
    fn a_mix_is_told_apart() {
        let mut plan = plan(1, 1);
        plan.reads_percent = 50;
        let mut tally = tally(&[1_000]);
        tally.reads.saturating_record(5_000);
        let figures = figures(&plan, &tally);
        assert_eq!(figures["operations_per_second"], 2.0);
        assert_eq!(figures["writes"]["operations_per_second"], 1.0);
        assert!(figures["reads"]["p50_ms"].as_f64().unwrap() > 4.9);
    }

    #[test]
    fn the_figures_are_one_line() {
        assert!(!figures(&plan(3, 64), &tally(&[])).to_string().contains('\n'));
    }

    #[test]
    fn nothing_answered_is_said() {
        assert!(summary(&plan(1, 1), &tally(&[]), None).contains("nothing was answered"));
        assert!(summary(&plan(1, 1), &tally(&[1_500]), None).contains("p50 1.50 ms"));
        let gone = Gone { id: 2, how: "stopped" };
        assert!(summary(&plan(1, 1), &tally(&[1_500]), Some(&gone)).contains("host 2 led and was stopped"));
    }
}

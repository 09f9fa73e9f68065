//! What is said of a history that is not linearizable: where it stops being so, and a timeline of the piece that matters.

use telegraft_sim::linearizability::kv::{self, Kv, KvOp, KvRet};
use telegraft_sim::linearizability::{History, Verdict, check_by_key_within};

#[test]
fn a_timeline_shows_what_fits_and_what_does_not() {
    let mut history = History::new();
    history.push(1, ("k", KvOp::put("a")), 100, Some((KvRet::Version(1), 110)));
    history.push(2, ("k", KvOp::put("b")), 120, Some((KvRet::Version(2), 140)));
    history.push(4, ("k", KvOp::put("lost")), 125, None);
    history.push(3, ("k", KvOp::Get), 150, Some((KvRet::value("a", 1), 165)));
    history.push(5, ("k", KvOp::Delete), 155, Some((KvRet::Existed(true), 190)));
    history.push(1, ("k", KvOp::Get), 200, Some((KvRet::Value(None), 210)));
    history.push(1, ("other", KvOp::Get), 105, Some((KvRet::Value(None), 205)));
    let expected = concat!(
        "key \"k\" is not linearizable: it stops being linearizable at time 165, ",
        "when client 3 sees: get -> \"a\" at version 1\n",
        "  the longest order found holds 2 operations and leaves \"b\" at version 2:\n",
        "    client 1    put \"a\" -> version 1     100..110          |---|\n",
        "    client 2    put \"b\" -> version 2     120..140                   |---------|\n",
        "  none of these fits next:\n",
        "    client 3    get -> \"a\" at version 1  150..165                                 |-------|\n",
        "  not needed or of no use, as their outcome was not known by then:\n",
        "    client 4    put \"lost\" -> ?          125..                        |------------------->\n",
        "    client 5    delete -> ?              155..                                       |---->\n",
    );
    assert_eq!(kv::check(&history).to_string(), expected);
}

#[test]
fn a_long_history_is_told_in_a_few_lines() {
    let mut history = History::new();
    for turn in 0..1_000_u64 {
        history.push(1, ("k", KvOp::put(turn.to_string())), 10 * turn, Some((KvRet::Version(turn + 1), 10 * turn + 5)));
        history.push(2, ("k", KvOp::put("no answer")), 10 * turn, None);
    }
    history.push(3, ("k", KvOp::Get), 5_002, Some((KvRet::value("400", 401), 5_004)));
    let Verdict::NotLinearizable { explanation, .. } = kv::check(&history) else {
        panic!("a read of an old value");
    };
    assert_eq!((explanation.at, explanation.is_first), (5_004, true), "{explanation}");
    let text = explanation.to_string();
    assert!(text.lines().count() < 30 && text.lines().all(|line| line.chars().count() < 140), "{text}");
    assert!(text.contains("get -> \"400\" at version 401"), "{text}");
}

#[test]
fn an_undecided_search_tells_how_far_it_came() {
    let mut history = History::new();
    for turn in 0..100_u64 {
        history.push(1, ("k", KvOp::put(turn.to_string())), 10 * turn, Some((KvRet::Version(turn + 1), 10 * turn + 5)));
    }
    let mut furthest = 0;
    for steps in 1..=100 {
        let verdict = check_by_key_within(&history, |(key, op)| (key, op), &Kv, steps);
        let explanation = match &verdict {
            Verdict::Undecided { key: "k", after, explanation } if *after == steps => explanation,
            Verdict::Linearizable if steps == 100 => break,
            _ => panic!("{steps} steps: {verdict}"),
        };
        // What is placed when the steps run out is one operation after the other, and then comes the next.
        assert!((furthest..=steps as usize).contains(&explanation.placed) && !explanation.is_first, "{verdict}");
        assert_eq!(explanation.at, 10 * explanation.placed as u64 + 5, "{verdict}");
        furthest = explanation.placed;
    }
    assert_eq!(furthest, 99);
}

#[test]
fn of_several_keys_the_least_wrong_one_is_named() {
    let mut history = History::new();
    for key in ["c", "b", "a"] {
        let ret = if key == "a" { KvRet::Version(1) } else { KvRet::Version(2) };
        history.push(1, (key, KvOp::put("x")), 0, Some((ret, 5)));
    }
    assert!(matches!(kv::check(&history), Verdict::NotLinearizable { key: "b", .. }));
}

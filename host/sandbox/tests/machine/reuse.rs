//! Modules that are reused and lie about it: they do otherwise at the first call of an instance than at later ones, or cost
//! the transaction where a fresh one would not. What they can cost is bounded, a fresh instance's word counts where a
//! transaction is lost, and the wish to end reuse gets through.

use prost::Message;
use telegraft_node::ports::{Code, Machine, Outcome};
use telegraft_proto::internal::{Command, EndReuse, Limits, command::Body};
use telegraft_raft::Index;
use telegraft_sandbox::Digest;

use crate::probe::{PROBE, Probe, Rig, call, code, message, set};

/// Costs the transaction, once there is a row 6.
const CONFLICT: &str = "INSERT OR ROLLBACK INTO t VALUES (6, 'again')";

/// Method z answers at once, but costs the transaction at each instance's hundredth call.
const AT_THE_HUNDREDTH: &str =
    "(if (i32.and (i32.eq (local.get $letter) (i32.const 122)) (i64.ne (global.get $calls) (i64.const 100)))
       (then (return (call $ok (i32.const 0) (i32.const 0)))))";

/// Method z answers at once, but costs the transaction where it is audited and its instance is not fresh.
const WHERE_IT_IS_AUDITED: &str = "(if (i32.eq (local.get $letter) (i32.const 122))
       (then
         (if (i32.or
               (i64.eq (global.get $calls) (i64.const 1))
               (i64.ne (i64.const 0)
                 (i64.shr_u (i64.mul (local.get $index) (i64.const 0x9e3779b97f4a7c15)) (i64.const 58))))
           (then (return (call $ok (i32.const 0) (i32.const 0)))))))";

/// Method z answers at once, but costs the transaction where its instance is fresh.
const WHERE_IT_IS_FRESH: &str =
    "(if (i32.and (i32.eq (local.get $letter) (i32.const 122)) (i64.ne (global.get $calls) (i64.const 1)))
       (then (return (call $ok (i32.const 0) (i32.const 0)))))";

/// Method z burns some 70 million units of fuel, and twice as many at an instance's first call, as an interpreter does that
/// loads at first what it needs.
const HEAVIER_WHEN_FRESH: &str = "(if (i32.eq (local.get $letter) (i32.const 122))
       (then
         (local.set $value (i32.const 12000000))
         (if (i64.eq (global.get $calls) (i64.const 1)) (then (local.set $value (i32.const 24000000))))
         (loop $burn
           (local.set $value (i32.sub (local.get $value) (i32.const 1)))
           (br_if $burn (local.get $value)))
         (return (call $ok (i32.const 0) (i32.const 0)))))";

/// Method z traps in an instance that has had four calls, as one does whose memory has grown full.
const WORN_OUT: &str = "(if (i32.eq (local.get $letter) (i32.const 122))
       (then
         (if (i64.gt_s (global.get $calls) (i64.const 4)) (then (unreachable)))
         (return (call $ok (i32.const 0) (i32.const 0)))))";

fn lying(call_text: &'static str) -> Vec<u8> {
    Probe { call_text, ..PROBE }.build()
}

fn is_audited(index: Index) -> bool {
    index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58 == 0
}

/// A machine with this module and a row 6.
fn rig(module: &[u8], reuse: bool) -> Rig {
    let mut rig = Rig::empty();
    rig.install(module, reuse);
    rig.one(call("exec", "INSERT INTO t VALUES (6, 'six')")).unwrap();
    rig
}

/// The ends of reuse that the machine asked to be proposed.
fn wishes(rig: &mut Rig) -> Vec<EndReuse> {
    let asked = rig.machine.take_proposals().into_iter().map(|bytes| Command::decode(bytes).unwrap().body.unwrap());
    asked
        .map(|body| match body {
            Body::EndReuse(end) => end,
            other => panic!("{other:?}"),
        })
        .collect()
}

/// Applies these in batches of so many, the last one as often as needed; says what came of each and how many calls of the
/// guest it took.
fn apply(rig: &mut Rig, bodies: &[Body], cuts: &[usize]) -> (Vec<Outcome>, usize) {
    rig.machine.measure(true);
    let (mut outcomes, mut rest, mut cuts) = (Vec::new(), bodies, cuts.iter());
    let mut cut = 1;
    while !rest.is_empty() {
        cut = cuts.next().copied().unwrap_or(cut).clamp(1, rest.len());
        outcomes.extend(rig.batch(rest[..cut].iter().cloned()));
        rest = &rest[cut..];
    }
    let calls = rig.machine.take_costs().len();
    rig.machine.measure(false);
    (outcomes, calls)
}

#[test]
fn a_batch_is_not_replayed_as_often_as_it_has_entries() {
    let module = lying(AT_THE_HUNDREDTH);
    // The instance has more than a hundred calls behind it when the batch comes, and none when it is replayed: whatever is
    // recorded of the one entry there, the next one would be the hundredth then.
    let warm: Vec<Body> = (0..150).map(|_| call("i", "SELECT 1")).collect();
    let mut batch: Vec<Body> = (0..200).map(|_| call("z", CONFLICT)).collect();
    batch.push(call("exec", CONFLICT));
    batch.extend((0..20).map(|_| call("z", CONFLICT)));

    let mut reused = rig(&module, true);
    apply(&mut reused, &warm, &[150]);
    wishes(&mut reused);
    let (outcomes, calls) = apply(&mut reused, &batch, &[batch.len()]);
    assert!(calls <= 5 * batch.len(), "{calls} calls for {} entries", batch.len());
    let failed: Vec<usize> = (0..).zip(&outcomes).filter(|(_, outcome)| outcome.is_err()).map(|(i, _)| i).collect();
    assert_eq!(failed, [200]);
    assert!(message(&outcomes[200]).contains("rolled the whole transaction back"), "{:?}", outcomes[200]);
    let wish = EndReuse { digest: Digest::of(&module).0.to_vec().into(), index: reused.next() - 1 };
    let found = wishes(&mut reused);
    assert!(found.iter().all(|found| found.digest == wish.digest && found.index <= wish.index), "{found:?}");
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn audits_that_cost_the_transaction_do_not_replay_all_of_a_batch_each() {
    let module = lying(WHERE_IT_IS_AUDITED);
    let batch: Vec<Body> = (0..640).map(|_| call("z", CONFLICT)).collect();
    let mut reused = rig(&module, true);
    let first = reused.next();
    let audited = (first..first + 640).filter(|index| is_audited(*index)).count();
    assert!(audited > 6, "{audited}");
    let (outcomes, calls) = apply(&mut reused, &batch, &[batch.len()]);
    assert!(outcomes.iter().all(Result::is_ok));
    assert!(calls <= 3 * batch.len(), "{calls} calls for {} entries", batch.len());
    assert!(wishes(&mut reused).iter().all(|end| is_audited(end.index)));
}

/// What a reused instance costs never counts by itself: so a module that lies in nothing else does the same however its
/// entries are batched, and the same as if nothing were reused.
#[test]
fn only_a_fresh_instance_s_word_counts_where_a_transaction_is_lost() {
    for text in [AT_THE_HUNDREDTH, WHERE_IT_IS_AUDITED] {
        let module = lying(text);
        let bodies: Vec<Body> = (0..400)
            .map(|i| match i % 150 {
                50 => call("exec", CONFLICT),
                51 => call("exec", format!("INSERT INTO t VALUES ({i}, 'v{i}')")),
                _ => call("z", CONFLICT),
            })
            .collect();
        let mut never = rig(&module, false);
        let (expected, _) = apply(&mut never, &bodies, &[1]);
        assert_eq!(expected.iter().filter(|outcome| outcome.is_err()).count(), 3);
        assert!(wishes(&mut never).is_empty());
        let mut digests = Vec::new();
        for cuts in [&[1][..], &[400], &[7, 130, 1, 60], &[3]] {
            let mut reused = rig(&module, true);
            let (outcomes, _) = apply(&mut reused, &bodies, cuts);
            let differs = outcomes.iter().zip(&expected).position(|(outcome, expected)| outcome != expected);
            assert_eq!((outcomes.len(), differs), (expected.len(), None), "{cuts:?}");
            assert_eq!(reused.reader.effect_digest(), never.reader.effect_digest());
            assert_eq!(
                reused.text("SELECT group_concat(k, ' ') FROM t"),
                never.text("SELECT group_concat(k, ' ') FROM t")
            );
            assert!(!wishes(&mut reused).is_empty(), "{cuts:?}");
            digests.push(reused.digest());
        }
        assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    }
}

/// The next audited index at which an entry is not the first of its batch and finds a warm instance.
fn next_audited(rig: &Rig) -> Index {
    (rig.next() + 3..).find(|index| is_audited(*index)).unwrap()
}

/// One batch that ends with `last` at an audited entry, and has a few calls before it.
fn up_to_audit(rig: &mut Rig, last: Body) -> (Index, Outcome) {
    let at = next_audited(rig);
    while rig.next() + 3 < at {
        rig.one(call("i", "SELECT 1")).unwrap();
    }
    let outcomes = rig.batch([call("i", "SELECT 1"), call("i", "SELECT 2"), call("i", "SELECT 3"), last]);
    assert_eq!(rig.machine.applied_index(), at);
    (at, outcomes[3].clone())
}

#[test]
fn the_wish_to_end_reuse_outlives_the_transaction_that_the_fresh_run_costs() {
    let module = lying(WHERE_IT_IS_FRESH);
    let mut rig = rig(&module, true);
    let (at, outcome) = up_to_audit(&mut rig, call("z", CONFLICT));
    assert_eq!(code(&outcome), Some(Code::Aborted), "the fresh instance's word: {outcome:?}");
    let digest = Digest::of(&module).0.to_vec().into();
    let wishes = wishes(&mut rig);
    assert_eq!(wishes, [EndReuse { digest, index: at }]);
    rig.one(Body::EndReuse(wishes[0].clone())).unwrap();
    assert!(!rig.reader.active().unwrap().reuse);
}

#[test]
fn a_wish_outlives_a_later_entry_that_costs_the_transaction() {
    // It answers with the number of the instance's calls.
    let module = PROBE.build();
    let mut rig = rig(&module, true);
    let at = next_audited(&rig);
    while rig.next() < at {
        rig.one(call("i", "SELECT 1")).unwrap();
    }
    // Of the replay the audited entry is the first: there is no instance to compare.
    let outcomes = rig.batch([call("memory", ""), call("exec", CONFLICT)]);
    assert!(outcomes[0].is_ok() && outcomes[1].is_err(), "{outcomes:?}");
    assert_eq!(wishes(&mut rig).iter().map(|end| end.index).collect::<Vec<_>>(), [at]);
}

#[test]
fn an_honest_module_is_not_suspected_for_costing_the_transaction() {
    let mut rig = rig(&PROBE.build(), true);
    rig.one(set(Limits { sql_steps: 50_000, ..Limits::default() })).unwrap();
    for sql in
        [CONFLICT, "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 7 UNION ALL SELECT i + 1 FROM n) SELECT i, i FROM n"]
    {
        let (_, outcome) = up_to_audit(&mut rig, call("exec", sql));
        assert!(outcome.is_err(), "{outcome:?}");
        // Also where it is not audited.
        let outcomes = rig.batch([call("i", "SELECT 1"), call("exec", sql), call("i", "SELECT 1")]);
        assert!(outcomes[1].is_err(), "{outcomes:?}");
    }
    assert_eq!(wishes(&mut rig), []);
}

/// Which replica's instance has been at work hangs on when its process began, so it must decide nothing.
#[test]
fn a_reused_instance_that_dies_or_comes_near_its_budget_does_not_decide() {
    for (text, fuel, ends) in [
        (HEAVIER_WHEN_FRESH, 100_000_000, Some(Code::Aborted)),
        (HEAVIER_WHEN_FRESH, 1_000_000_000, None),
        (HEAVIER_WHEN_FRESH, 80_000_000, Some(Code::Aborted)),
        (WORN_OUT, 100_000_000, None),
    ] {
        let module = lying(text);
        let mut warm = rig(&module, true);
        warm.one(set(Limits { fuel, ..Limits::default() })).unwrap();
        for i in 0..8 {
            warm.one(call("exec", format!("INSERT INTO t VALUES ({}, 'v{i}')", 10 + i))).unwrap();
        }
        let mut cold = rig(&module, true);
        cold.one(set(Limits { fuel, ..Limits::default() })).unwrap();
        for i in 0..8 {
            cold.one(call("exec", format!("INSERT INTO t VALUES ({}, 'v{i}')", 10 + i))).unwrap();
        }
        let mut cold = cold.reopen();
        for round in 0..4 {
            // The last one is audited.
            while round == 3 && !is_audited(warm.next()) {
                assert_eq!(warm.one(call("i", "SELECT 1")), cold.one(call("i", "SELECT 1")));
            }
            let (one, other) = (warm.one(call("z", "")), cold.one(call("z", "")));
            assert_eq!(one, other, "fuel {fuel}");
            assert_eq!(code(&one), ends, "{one:?}");
        }
        assert_eq!(warm.reader.effect_digest(), cold.reader.effect_digest());
        assert!(wishes(&mut warm).is_empty(), "an honest module is not suspected");
    }
}

//! Tries: results in an order nobody asked for, which the state of a cache could decide. Outcome: the same everywhere. As a
//! query: it cannot write.

use guest_hostile::{Attack, Context, Failure, Store, numbers, report};

pub struct Unordered;

guest_hostile::module!(crate::Unordered);

impl Attack for Unordered {
    const NAME: &'static str = "unordered";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        store.execute("CREATE TABLE shuffled (a, b)", &[])?;
        store.execute("CREATE INDEX shuffled_b ON shuffled (b, a)", &[])?;
        let sql = "INSERT INTO shuffled SELECT (i * 7919) % 1009, (i * 104729) % 13 FROM n";
        store.execute(&format!("{} {sql}", numbers(500)), &[])?;
        let answer = report(
            store,
            [
                "SELECT group_concat(a) FROM shuffled WHERE b > 5",
                "SELECT group_concat(DISTINCT b) FROM shuffled",
                "SELECT group_concat(a || ':' || b, ' ') FROM (SELECT a, b FROM shuffled GROUP BY b)",
                "SELECT a FROM shuffled WHERE b = 3 UNION SELECT b FROM shuffled LIMIT 5",
                "SELECT min(a), b FROM shuffled",
            ],
        );
        store.execute("DROP TABLE shuffled", &[])?;
        Ok(answer)
    }
}

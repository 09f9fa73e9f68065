//! Tries: to name the host's tables where its text is not looked through: in a parameter. Outcome: each is refused.

use guest_hostile::{Attack, Context, Failure, Param, Store, tell};

pub struct NamesByParameter;

guest_hostile::module!(crate::NamesByParameter);

const STATEMENTS: &[&str] = &[
    "SELECT * FROM pragma_table_info(?1)",
    "SELECT * FROM pragma_table_list(?1)",
    "SELECT * FROM pragma_index_list(?1)",
    "SELECT * FROM pragma_foreign_key_list(?1)",
    "SELECT * FROM ?1",
    "CREATE TABLE ?1 (x)",
    "ALTER TABLE kept RENAME TO ?1",
    "SELECT * FROM tables_used(?1)",
    "SELECT * FROM dbstat(?1)",
    "PRAGMA table_info(?1)",
    "CREATE VIEW mine AS SELECT * FROM ?1",
    "SELECT fts3_tokenizer(?1)",
];

impl Attack for NamesByParameter {
    const NAME: &'static str = "names_by_parameter";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut answer = String::new();
        for sql in STATEMENTS {
            answer += &format!("{} <= {sql}\n", tell(store, sql, &[Param::Text("_telegraft_meta")]));
        }
        Ok(answer.into())
    }
}

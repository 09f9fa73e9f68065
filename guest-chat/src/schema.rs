//! The tables, and the reasons for their keys. Ids are the 16 bytes of a UUID.
//!
//! No table has a rowid of its own, so each row is one entry of one B-tree, and no key is drawn by SQLite.

use telegraft_guest::Migration;

/// One element for each version of the layout.
pub const MIGRATIONS: &[Migration] = &[Migration::new(&[
    // Names are compared byte by byte.
    "CREATE TABLE users (id BLOB NOT NULL PRIMARY KEY, name TEXT NOT NULL UNIQUE) WITHOUT ROWID",
    "CREATE TABLE chats (id BLOB NOT NULL PRIMARY KEY, title TEXT NOT NULL) WITHOUT ROWID",
    // By user first: "is this user in this chat" and "which chats is this user in" are what every message and every poll
    // asks. The name never changes; its copy here lets the index below list a chat's members by name without a sort.
    "CREATE TABLE members (user BLOB NOT NULL, chat BLOB NOT NULL, name TEXT NOT NULL, PRIMARY KEY (user, chat)) \
     WITHOUT ROWID",
    "CREATE UNIQUE INDEX members_by_name ON members (chat, name)",
    // `entry` is the log index of the entry that wrote the message. Time never goes back from one entry to the next, so
    // (time_us, entry) is the order in which messages were written, also within one microsecond. An id would not do in its
    // place: within a microsecond ids are in random order, and a message written later could sort before a page already read.
    // Nothing looks a message up by its id, so the id has no index.
    "CREATE TABLE messages (chat BLOB NOT NULL, time_us INTEGER NOT NULL, entry INTEGER NOT NULL, id BLOB NOT NULL, \
     sender BLOB NOT NULL, content TEXT NOT NULL, PRIMARY KEY (chat, time_us, entry)) WITHOUT ROWID",
])];

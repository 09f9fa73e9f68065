//! Panics inside a world: caught, and their words kept for the report instead of printed.

use std::{
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, catch_unwind},
};

thread_local! {
    static IN_A_WORLD: Cell<bool> = const { Cell::new(false) };
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics of the worlds become violations; their texts are kept instead of printed.
pub fn keep_panics_quiet() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !IN_A_WORLD.get() {
            return usual(info);
        }
        let place = info.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
        let what = info.payload_as_str().unwrap_or("a panic without words").to_owned();
        LAST_PANIC.with(|last| *last.borrow_mut() = Some(format!("{what} ({place})")));
    }));
}

/// Runs something of a world. What it was at is not to be used again after a panic, except to look at.
///
/// # Errors
/// The words of a panic, and where it was; they are known only after [`keep_panics_quiet`].
pub fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    IN_A_WORLD.set(true);
    let ended = catch_unwind(AssertUnwindSafe(run));
    IN_A_WORLD.set(false);
    ended.map_err(|_| LAST_PANIC.with(|last| last.borrow_mut().take()).unwrap_or_default())
}

//! The feature `arena`: a module's memory as one region that is filled from the bottom and starts over once nothing in it
//! is alive, which is the case after every call of a module that keeps nothing in memory.
//!
//! Why: a fresh instance for every entry pays for each page it touches and each time its memory grows. The arena begins
//! right behind the module's data, in the page that is there anyway, where the standard allocator would ask for a new one
//! first. The price: memory freed in the middle of a call is used again only where it was the newest; a module that churns
//! through memory within one call is better off without this feature.
//!
//! Addresses and sizes are in bytes.

/// Bounds and fill of the region; pure arithmetic, so that it can be tested natively.
struct Arena {
    base: usize,
    /// First free address.
    next: usize,
    /// First address that is not in memory.
    end: usize,
    /// Allocations that are alive.
    live: usize,
}

impl Arena {
    #[cfg(not(test))]
    const fn new() -> Self {
        Self { base: 0, next: 0, end: 0, live: 0 }
    }

    /// Reserves `size` bytes at a multiple of `align` (a power of two). `grow` makes at least so many more bytes follow the
    /// end of memory, and says how many; `None` where there is no more.
    fn reserve(&mut self, size: usize, align: usize, grow: impl FnOnce(usize) -> Option<usize>) -> Option<usize> {
        let start = self.next.checked_add(align - 1)? & !(align - 1);
        self.fill_to(start.checked_add(size)?, grow)?;
        self.live += 1;
        Some(start)
    }

    /// Makes the allocation at `start` larger or smaller in place; `None` where it is not the newest, or there is no room.
    fn resize(
        &mut self,
        start: usize,
        old: usize,
        new: usize,
        grow: impl FnOnce(usize) -> Option<usize>,
    ) -> Option<()> {
        if start + old != self.next {
            return None;
        }
        self.fill_to(start.checked_add(new)?, grow)
    }

    fn release(&mut self, start: usize, size: usize) {
        self.live -= 1;
        if self.live == 0 {
            self.next = self.base;
        } else if start + size == self.next {
            self.next = start;
        }
    }

    fn fill_to(&mut self, next: usize, grow: impl FnOnce(usize) -> Option<usize>) -> Option<()> {
        if next > self.end {
            self.end = self.end.checked_add(grow(next - self.end)?)?;
        }
        self.next = next;
        Some(())
    }
}

/// The arena as the Wasm module's global allocator.
#[cfg(all(target_family = "wasm", feature = "arena"))]
#[allow(unsafe_code, reason = "an allocator hands out raw memory")]
mod global {
    use std::{
        alloc::{GlobalAlloc, Layout},
        arch::wasm32::{memory_grow, memory_size},
        cell::UnsafeCell,
        ptr,
    };

    use super::Arena;

    const PAGE_BYTES: usize = 65_536;
    /// Growing costs the same whatever the number of pages, so it is done for several at a time.
    const GROWTH_PAGES_MIN: usize = 4;

    #[global_allocator]
    static HEAP: Heap = Heap(UnsafeCell::new(Arena::new()));

    struct Heap(UnsafeCell<Arena>);

    #[cfg(target_feature = "atomics")]
    compile_error!("the arena is for modules with one thread");

    // SAFETY: a module has one thread (see above), so nothing is shared.
    unsafe impl Sync for Heap {}

    unsafe extern "C" {
        /// Set by the linker: where the module's stack and data end.
        static __heap_base: u8;
    }

    impl Heap {
        /// SAFETY: one thread, and no method of this module keeps the reference or calls another one while it holds it.
        #[allow(clippy::mut_from_ref)]
        unsafe fn arena(&self) -> &mut Arena {
            let arena = unsafe { &mut *self.0.get() };
            if arena.base == 0 {
                arena.base = (&raw const __heap_base).addr();
                arena.next = arena.base;
                arena.end = memory_size(0) * PAGE_BYTES;
            }
            arena
        }
    }

    fn grow(bytes: usize) -> Option<usize> {
        let pages = bytes.div_ceil(PAGE_BYTES).max(GROWTH_PAGES_MIN);
        // `memory.grow` answers with the old size, or with all ones where there is no more.
        (memory_grow(0, pages) != usize::MAX).then_some(pages * PAGE_BYTES)
    }

    // SAFETY: `Arena::reserve` gives each live allocation bytes of its own inside the memory, aligned as asked; memory
    // behind `__heap_base` is used by nothing else.
    unsafe impl GlobalAlloc for Heap {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            let start = unsafe { self.arena() }.reserve(layout.size(), layout.align(), grow);
            start.map_or(ptr::null_mut(), ptr::with_exposed_provenance_mut)
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            unsafe { self.arena() }.release(pointer.expose_provenance(), layout.size());
        }

        unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            if unsafe { self.arena() }.resize(pointer.expose_provenance(), layout.size(), size, grow).is_some() {
                return pointer;
            }
            // SAFETY: the caller vouches for `size` with this alignment.
            let moved = unsafe { self.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
            if !moved.is_null() {
                // SAFETY: both are live and do not overlap.
                unsafe {
                    ptr::copy_nonoverlapping(pointer, moved, size.min(layout.size()));
                    self.dealloc(pointer, layout);
                }
            }
            moved
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena() -> Arena {
        Arena { base: 100, next: 100, end: 200, live: 0 }
    }

    fn no_growth(_: usize) -> Option<usize> {
        None
    }

    #[test]
    fn allocations_are_aligned_and_do_not_overlap() {
        let mut arena = arena();
        assert_eq!(arena.reserve(3, 1, no_growth), Some(100));
        assert_eq!(arena.reserve(8, 8, no_growth), Some(104));
        assert_eq!(arena.reserve(1, 1, no_growth), Some(112));
        assert_eq!(arena.reserve(16, 16, no_growth), Some(128));
    }

    #[test]
    fn the_newest_goes_back_at_once_and_all_of_it_once_nothing_lives() {
        let mut arena = arena();
        let first = arena.reserve(10, 1, no_growth).unwrap();
        let second = arena.reserve(10, 1, no_growth).unwrap();
        let third = arena.reserve(10, 1, no_growth).unwrap();
        arena.release(third, 10);
        assert_eq!(arena.next, 120);
        arena.release(first, 10);
        assert_eq!(arena.next, 120, "something lives behind it");
        arena.release(second, 10);
        assert_eq!((arena.next, arena.live), (100, 0));
    }

    #[test]
    fn only_the_newest_is_resized_in_place() {
        let mut arena = arena();
        let first = arena.reserve(10, 1, no_growth).unwrap();
        let second = arena.reserve(10, 1, no_growth).unwrap();
        assert_eq!(arena.resize(first, 10, 20, no_growth), None);
        assert_eq!(arena.resize(second, 10, 90, no_growth), Some(()));
        assert_eq!(arena.next, 200);
        assert_eq!(arena.resize(second, 90, 91, no_growth), None);
        assert_eq!(arena.next, 200, "a refusal changes nothing");
        assert_eq!(arena.resize(second, 90, 5, no_growth), Some(()));
        assert_eq!(arena.next, 115);
    }

    #[test]
    fn memory_grows_by_what_is_missing_and_says_when_there_is_no_more() {
        let mut arena = arena();
        let start = arena.reserve(150, 1, |missing| {
            assert_eq!(missing, 50);
            Some(64)
        });
        assert_eq!((start, arena.end), (Some(100), 264));
        assert_eq!(arena.reserve(15, 1, no_growth), None);
        assert_eq!(arena.reserve(usize::MAX, 1, no_growth), None);
        assert_eq!((arena.next, arena.live), (250, 1));
        assert_eq!(arena.reserve(14, 1, no_growth), Some(250));
    }
}

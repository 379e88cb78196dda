//! The allocator of a component: lists of free blocks, one for each size.
//!
//! A handler allocates little and often, a hundred times for a request, and wasm has
//! one thread. libc's allocator looks for what fits best: that was two fifths of a
//! handler's instructions. Taking a block from its list and putting it back are a
//! dozen each. What is larger than [`LARGEST`] is libc's, and so is the memory that
//! blocks are cut from. A block stays one of its size.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;

#[cfg(target_arch = "wasm32")]
#[global_allocator]
static ALLOCATOR: Blocks = Blocks::new();

/// Sizes are multiples of this, and so are addresses.
const UNIT: usize = 16;
/// The largest block, in bytes.
const LARGEST: usize = 1024;
const SIZES: usize = LARGEST / UNIT + 1;
/// What is taken from libc to cut blocks from, in bytes.
const CHUNK: usize = 8 << 10;

struct Blocks(UnsafeCell<Lists>);

struct Lists {
    /// Free blocks, by their size in units. Each begins with the address of the next.
    free: [*mut u8; SIZES],
    /// What is not cut yet.
    uncut: *mut u8,
    left: usize,
}

// SAFETY: wasm without atomics has one thread.
#[cfg(all(target_arch = "wasm32", not(target_feature = "atomics")))]
unsafe impl Sync for Blocks {}

/// The size of a block for this, in units; none if it is for libc.
#[inline(always)]
fn units(layout: Layout) -> Option<usize> {
    let fits = layout.size() <= LARGEST && layout.align() <= UNIT;
    fits.then(|| layout.size().div_ceil(UNIT))
}

impl Blocks {
    const fn new() -> Blocks {
        Blocks(UnsafeCell::new(Lists {
            free: [ptr::null_mut(); SIZES],
            uncut: ptr::null_mut(),
            left: 0,
        }))
    }
}

impl Lists {
    /// Cuts a block from what is left of a chunk, or from another one.
    #[cold]
    #[inline(never)]
    fn cut(&mut self, units: usize) -> *mut u8 {
        let size = units * UNIT;
        if self.left < size {
            let Ok(layout) = Layout::from_size_align(CHUNK, UNIT) else {
                return ptr::null_mut();
            };
            // SAFETY: a chunk is not empty.
            let chunk = unsafe { System.alloc(layout) };
            if chunk.is_null() {
                return chunk;
            }
            (self.uncut, self.left) = (chunk, CHUNK);
        }
        let block = self.uncut;
        // SAFETY: that much is left.
        self.uncut = unsafe { block.add(size) };
        self.left -= size;
        block
    }
}

// SAFETY: a block is in a list or with who asked for it, never both. Its size and
// alignment are those of its list, which the same layout finds again.
unsafe impl GlobalAlloc for Blocks {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(units) = units(layout) else {
            // SAFETY: as the caller promises.
            return unsafe { System.alloc(layout) };
        };
        // SAFETY: there is one thread, and libc does not call this.
        let lists = unsafe { &mut *self.0.get() };
        let block = lists.free[units];
        if block.is_null() {
            return lists.cut(units);
        }
        // SAFETY: a free block begins with an address.
        lists.free[units] = unsafe { block.cast::<*mut u8>().read() };
        block
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(units) = units(layout) else {
            // SAFETY: libc has it by the same layout.
            return unsafe { System.dealloc(block, layout) };
        };
        // SAFETY: as in `alloc`.
        let lists = unsafe { &mut *self.0.get() };
        // SAFETY: nobody uses it any more, and an address fits into a unit.
        unsafe { block.cast::<*mut u8>().write(lists.free[units]) };
        lists.free[units] = block;
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises a size that is valid for this alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (units(layout), units(wanted)) {
            // SAFETY: libc has it, and keeps it.
            (None, None) => unsafe { System.realloc(block, layout, size) },
            (old, new) if old == new => block,
            // SAFETY: as the caller promises, and the new one is another block.
            _ => unsafe {
                let moved = self.alloc(wanted);
                if !moved.is_null() {
                    ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                    self.dealloc(block, layout);
                }
                moved
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    /// What somebody has, filled with a byte of its own.
    struct Held(*mut u8, Layout, u8);

    impl Held {
        fn fill(self) -> Held {
            unsafe { self.0.write_bytes(self.2, self.1.size()) };
            self
        }

        fn check(&self, size: usize) {
            let bytes = unsafe { std::slice::from_raw_parts(self.0, size) };
            assert!(bytes.iter().all(|byte| *byte == self.2));
            assert_eq!(self.0.addr() % self.1.align(), 0);
        }
    }

    #[test]
    fn nobody_gets_what_another_has() {
        let blocks = Blocks::new();
        let sizes = [1, 8, 16, 17, 500, 1008, 1009, 1024, 1025, 3000, 9000];
        let mut held: Vec<Held> = Vec::new();
        // A sequence that looks like none.
        let mut seed = 1_u64;
        let mut next = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        for turn in 0..50_000_usize {
            let size = sizes[next(sizes.len())];
            let align = [1, 8, 16, 64][next(4)];
            match next(3) {
                0 if !held.is_empty() => {
                    let one = held.swap_remove(next(held.len()));
                    one.check(one.1.size());
                    unsafe { blocks.dealloc(one.0, one.1) };
                }
                1 if !held.is_empty() => {
                    let Held(block, old, byte) = held.swap_remove(next(held.len()));
                    let moved = unsafe { blocks.realloc(block, old, size) };
                    let moved = Held(moved, layout(size, old.align()), byte);
                    moved.check(size.min(old.size()));
                    held.push(moved.fill());
                }
                _ => {
                    let layout = layout(size, align);
                    let block = unsafe { blocks.alloc(layout) };
                    held.push(Held(block, layout, turn as u8).fill());
                }
            }
        }
        for one in held {
            one.check(one.1.size());
            unsafe { blocks.dealloc(one.0, one.1) };
        }
    }

    #[test]
    fn a_block_that_is_free_is_used_again() {
        let blocks = Blocks::new();
        let (small, same) = (layout(100, 8), layout(112, 16));
        unsafe {
            let block = blocks.alloc(small);
            // It has room to grow in, too.
            assert_eq!(blocks.realloc(block, small, 112), block);
            blocks.dealloc(block, same);
            let other = blocks.alloc(layout(113, 8));
            assert_ne!(other, block);
            assert_eq!(blocks.alloc(small), block);
        }
    }
}

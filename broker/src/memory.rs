//! A global allocator that zeroes what is freed.
//!
//! Credentials are zeroed on drop, but the libraries around them leave copies: each signature a
//! formatted `AWS4` + secret, a profile file two, an answer of STS one. Against a reader of this
//! process's memory (a core dump, a swapped page, a heap overread) that is all the difference.
//!
//! Installed by `main.rs` alone, so that whoever links this crate as a library keeps their own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;

/// The system's allocator, with every block zeroed before it goes back. `realloc` is left to the
/// trait's own: a new block, a copy, and the old one freed here.
#[derive(Debug)]
pub struct ZeroOnFree;

#[allow(unsafe_code, reason = "an allocator can't be written without; this is the only exception")]
// SAFETY: every call is passed on to `System` with the layout it came with; `dealloc` writes only
// inside the block that it is given, which is valid for writes until `System` gets it back.
unsafe impl GlobalAlloc for ZeroOnFree {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the same as `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block is `layout.size()` bytes long and still ours. `black_box` keeps the
        // compiler from dropping the write as a store to memory that is about to be freed.
        unsafe {
            block.write_bytes(0, layout.size());
            System.dealloc(black_box(block), layout);
        }
    }
}

//! Memory that held keys is zeroed when it is given back: by a global allocator.
//!
//! Credentials are zeroed on drop, but the libraries around them leave copies: each signature a
//! formatted `AWS4` + secret, a profile file two, an answer of STS one. Against a reader of this
//! process's memory (a core dump, a swapped page, a heap overread) that is all the difference.
//!
//! The allocator is installed by `main.rs` alone, so that whoever links this crate as a library keeps
//! their own. It doesn't reach the stack, where a hash function keeps the last block of what it hashes,
//! in a frame that nobody uses any more. The signer leaves no key there (its tests look); where we hash
//! one ourselves, `wiped` does the same for the stack.

use std::alloc::{GlobalAlloc, Layout, System};

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
        // SAFETY: the block is `layout.size()` bytes long, initialised by the line before, and still
        // ours. The barrier keeps the compiler from dropping the write as a store to memory that is about
        // to be freed.
        unsafe {
            block.write_bytes(0, layout.size());
            zeroize::optimization_barrier(std::slice::from_raw_parts(block, layout.size()));
            System.dealloc(block, layout);
        }
    }
}

/// As deep as the hash of a text goes, with room to spare.
const DEPTH: usize = 16 * 1024;

/// Does work that may leave keys in its frames, and zeroes the stack that it used. What the work gives
/// back is the caller's to look after.
pub(crate) fn wiped<T>(work: impl FnOnce() -> T) -> T {
    /// Its frames begin where that of `wipe` does.
    #[inline(never)]
    fn apart<T>(work: impl FnOnce() -> T) -> T {
        work()
    }

    #[inline(never)]
    fn wipe() {
        // On the stack: a constant alone would be put elsewhere.
        let zeros = [0_u8; DEPTH];
        zeroize::optimization_barrier(&zeros);
    }

    let done = apart(work);
    wipe();
    done
}

#[cfg(test)]
#[cfg(target_os = "linux")]
pub(crate) mod residue;

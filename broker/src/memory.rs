//! Zeroes memory that contained keys when it is freed: with a global allocator.
//!
//! Credentials are zeroed on drop, but the libraries around them leave copies: each signature a
//! formatted `AWS4` + secret, a profile file two, an STS response one. This protects against anyone
//! who reads this process's memory (a core dump, a swapped page, a heap overread).
//!
//! Only `main.rs` installs the allocator, so that programs which link this crate as a library keep
//! their own. It doesn't cover the stack, where a hash function leaves the last block of its input
//! in a frame that is no longer used. The signer leaves no key there (its tests check that); where
//! this crate hashes a key itself, `wiped` does the same for the stack.

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, which zeroes every block before it is freed. `realloc` uses the trait's
/// default: a new block, a copy, and freeing the old one here.
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

/// More than the stack depth of hashing a text, in bytes.
const DEPTH: usize = 16 * 1024;

/// Runs work that may leave keys in its stack frames, and zeroes the stack that it used. The caller
/// is responsible for the result.
pub(crate) fn wiped<T>(work: impl FnOnce() -> T) -> T {
    /// Its frames begin where that of `wipe` does.
    #[inline(never)]
    fn apart<T>(work: impl FnOnce() -> T) -> T {
        work()
    }

    #[inline(never)]
    fn wipe() {
        // This must be on the stack: a constant alone would be placed elsewhere.
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

//! Memory is wiped when it is given back.
//!
//! Otherwise a password that a library (for AMQP, HTTP, TLS or the configuration file) has read,
//! sent and dropped would stay in the process's memory until that memory is used again.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;

/// Blocks up to this size, in bytes, are wiped. That covers the blocks of the libraries that send
/// and read secrets, except lapin's two buffers of 4 MiB, most of which is never touched; talking
/// to the broker is the last thing that `check` and `run_trainer` do, so their contents end with
/// the process. Other larger blocks are pictures and activations, and wiping those would cost time.
const LARGEST: usize = 1 << 20;

/// The system's allocator, which fills every block of up to 1 MiB with zeros before it is given
/// back.
#[derive(Debug)]
pub struct Wiping;

// SAFETY: every call goes to `System` with the layout that the caller gave, so its contract is kept
// as long as the caller keeps ours. We write only within a block that the caller owns and gives up
// with this very call.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise about `layout` is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if layout.size() <= LARGEST {
            // SAFETY: the block has this many bytes and belongs to the caller until it is given
            // back below. The compiler knows that nobody reads the block again; the barrier keeps
            // it from leaving the write out.
            unsafe {
                ptr::write_bytes(block, 0, layout.size());
                zeroize::optimization_barrier(&*block);
            }
        }
        // SAFETY: the block came from `System` with this layout.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.size() > LARGEST {
            // SAFETY: the block came from `System` with this layout; `size` is the caller's
            // promise.
            return unsafe { System.realloc(block, layout, size) };
        }
        // SAFETY: the caller promises that `size`, rounded up to the alignment, does not overflow
        // and is not zero; the alignment is that of a valid layout. Both blocks hold the bytes that
        // are copied, and they don't overlap. The old block is given back only if there is a new
        // one.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                ptr::copy_nonoverlapping(block, new, layout.size().min(size));
                self.dealloc(block, layout);
            }
            new
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_grows_and_shrinks_with_what_is_in_it() {
        let layout = Layout::from_size_align(48, 16).unwrap();
        // SAFETY: layouts and sizes are not zero, each block is read within its size and given back
        // once.
        unsafe {
            let block = Wiping.alloc_zeroed(layout);
            (0..48).for_each(|n| block.add(n).write(n as u8));
            let larger = Wiping.realloc(block, layout, 4000);
            assert!((0..48).all(|n| larger.add(n).read() == n as u8));
            let layout = Layout::from_size_align(4000, 16).unwrap();
            let smaller = Wiping.realloc(larger, layout, 7);
            assert!((0..7).all(|n| smaller.add(n).read() == n as u8));
            let layout = Layout::from_size_align(7, 16).unwrap();
            let huge = Wiping.realloc(smaller, layout, 3 << 20);
            let layout = Layout::from_size_align(3 << 20, 16).unwrap();
            let larger = Wiping.realloc(huge, layout, 4 << 20);
            assert!(
                (0..7).all(|n| larger.add(n).read() == n as u8)
                    && (larger as usize).is_multiple_of(16)
            );
            Wiping.dealloc(larger, Layout::from_size_align(4 << 20, 16).unwrap());
        }
    }
}

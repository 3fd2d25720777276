//! Memory is wiped when it is given back.
//!
//! Otherwise a password that a library (for AMQP, HTTP, TLS or the configuration file) has read,
//! sent and dropped would stay in the process's memory until that memory is used again.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;

/// Blocks up to this size, in bytes, are wiped. That covers the blocks of the libraries that send
/// and read secrets, except lapin's two buffers of 4 MiB, most of which is never touched: what was
/// sent to the broker, the login included, stays in them until that memory is used again. Other
/// larger blocks are pictures and activations, and wiping those would cost time.
const LARGEST: usize = 1 << 20;

/// Larger blocks begin at a multiple of this many bytes, a cache line. The C library begins them 16
/// bytes behind one, so that each wide load and store of an image would touch two lines.
const LINE: usize = 64;

/// Blocks of at least this many bytes begin at a multiple of [`HUGE`], and the system is asked for
/// huge pages for them: an image is then found with fewer faults and fewer entries of the
/// processor's table of pages. It is more than lapin's buffers have, which would take whole huge
/// pages for a few messages.
const LARGE: usize = 8 << 20;

/// The size of a huge page, in bytes.
const HUGE: usize = 2 << 20;

/// What the C library aligns every block to.
const ANY: usize = 2 * size_of::<usize>();

/// The system's allocator, which fills every block of up to 1 MiB with zeros before it is given
/// back, and begins larger ones at a cache line.
#[derive(Debug)]
pub struct Wiping;

/// A block of more than [`LARGEST`] bytes.
///
/// # Safety
/// As for [`GlobalAlloc::alloc`].
unsafe fn large(layout: Layout) -> *mut u8 {
    let mut block = ptr::null_mut();
    let is_huge = layout.size() >= LARGE;
    let align = layout.align().max(if is_huge { HUGE } else { LINE });
    // SAFETY: the alignment is a power of two and at least that of a pointer.
    if unsafe { libc::posix_memalign(&mut block, align, layout.size()) } != 0 {
        return ptr::null_mut();
    }
    if is_huge {
        // What is left of the last huge page is not asked for: it may be another block's. A system
        // without huge pages refuses, and nothing changes.
        let whole = layout.size() / HUGE * HUGE;
        // SAFETY: the bytes are those of the block, which begins at a page.
        unsafe { libc::madvise(block, whole, libc::MADV_HUGEPAGE) };
    }
    block.cast()
}

// SAFETY: blocks of up to `LARGEST` bytes come from `System` and go back to it, with the layout
// that the caller gave; larger ones come from the C library and go back to it, which needs no
// layout. So the contract is kept as long as the caller keeps ours. We write only within a block
// that the caller owns and gives up with this very call.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise about `layout` is the one that both ask for.
        unsafe { if layout.size() > LARGEST { large(layout) } else { System.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above. `calloc` aligns to `ANY`; what it takes anew from the system is not
        // filled with zeros, which would take memory for what nobody may ever write. A block of
        // `large` has the layout's size.
        unsafe {
            if layout.size() <= LARGEST {
                System.alloc_zeroed(layout)
            } else if layout.align() <= ANY {
                libc::calloc(1, layout.size()).cast()
            } else {
                let block = large(layout);
                if !block.is_null() {
                    ptr::write_bytes(block, 0, layout.size());
                }
                block
            }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if layout.size() > LARGEST {
            // SAFETY: the block came from the C library.
            return unsafe { libc::free(block.cast()) };
        }
        // SAFETY: the block has this many bytes and belongs to the caller until it is given back
        // below. The compiler knows that nobody reads the block again; the barrier keeps it from
        // leaving the write out. It came from `System` with this layout.
        unsafe {
            ptr::write_bytes(block, 0, layout.size());
            zeroize::optimization_barrier(&*block);
            System.dealloc(block, layout);
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.size() > LARGEST && size > LARGEST && layout.align() <= ANY {
            // SAFETY: the block came from the C library, and the new one will go back to it. (It
            // usually moves whole pages, so that the block still begins at a cache line.)
            return unsafe { libc::realloc(block.cast(), size).cast() };
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
            assert!((huge as usize).is_multiple_of(64));
            let layout = Layout::from_size_align(3 << 20, 16).unwrap();
            let larger = Wiping.realloc(huge, layout, 4 << 20);
            assert!(
                (0..7).all(|n| larger.add(n).read() == n as u8)
                    && (larger as usize).is_multiple_of(16)
            );
            let layout = Layout::from_size_align(4 << 20, 16).unwrap();
            let smaller = Wiping.realloc(larger, layout, 100);
            assert!((0..7).all(|n| smaller.add(n).read() == n as u8));
            Wiping.dealloc(smaller, Layout::from_size_align(100, 16).unwrap());
        }
    }

    #[test]
    fn large_blocks_begin_at_a_cache_line_and_are_zero_where_that_is_asked_for() {
        for (size, align) in [(LARGEST + 1, 4), (5 << 20, 16), (2 << 20, 64), (2 << 20, 4096)] {
            let layout = Layout::from_size_align(size, align).unwrap();
            // SAFETY: the layout is not empty, the blocks are used within their size and given back
            // once.
            unsafe {
                let block = Wiping.alloc(layout);
                assert!((block as usize).is_multiple_of(align.max(64)), "{size} {align}");
                block.write_bytes(7, size);
                Wiping.dealloc(block, layout);
                let block = Wiping.alloc_zeroed(layout);
                assert!((block as usize).is_multiple_of(align), "{size} {align}");
                assert!(std::slice::from_raw_parts(block, size).iter().all(|byte| *byte == 0));
                Wiping.dealloc(block, layout);
            }
        }
    }
}

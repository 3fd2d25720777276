//! What the fuzz programs share: libFuzzer's entry, and a look at the memory that a target holds.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

pub use libfuzzer_sys;

/// Bytes that are held, and the most that were since [`run`] began.
static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, which counts: memory that is asked for and never touched is not seen
/// from outside.
pub struct Counting;

fn taken(bytes: usize) {
    MOST.fetch_max(HELD.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

// SAFETY: every call is handed to the system's allocator as it is; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller's promise about `layout` is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: `pointer` came from the system's allocator with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        HELD.fetch_sub(layout.size(), Relaxed);
        taken(size);
        // SAFETY: `pointer` came from the system's allocator with this layout; `size` is the
        // caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// The target of this name.
pub fn find(name: &str) -> hpc_trainer::fuzzing::Target {
    // A panic that the product catches and makes an error of is no crash; libFuzzer's hook would
    // abort at once. One that leaves the target still aborts: libfuzzer-sys catches it and says so.
    static HOOK: LazyLock<()> =
        LazyLock::new(|| std::panic::set_hook(Box::new(|what| eprintln!("{what}"))));
    LazyLock::force(&HOOK);
    *hpc_trainer::fuzzing::TARGETS.iter().find(|target| target.name == name).expect(
        "a target of \
        this name",
    )
}

/// Runs a target on these bytes.
///
/// # Panics
/// When it panics, or holds more memory than it may.
pub fn run(target: &hpc_trainer::fuzzing::Target, data: &[u8]) {
    let before = HELD.load(Relaxed);
    MOST.store(before, Relaxed);
    (target.run)(data);
    let most = MOST.load(Relaxed).saturating_sub(before);
    let may = target.memory + target.per_byte * data.len();
    assert!(
        most <= may,
        "{} holds {most} bytes at a time for {}, more than \
        {may}",
        target.name,
        data.len()
    );
}

/// The program of one target.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        #[global_allocator]
        static ALLOCATOR: $crate::Counting = $crate::Counting;

        static TARGET: std::sync::LazyLock<hpc_trainer::fuzzing::Target> =
            std::sync::LazyLock::new(|| $crate::find($name));

        $crate::libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::run(&TARGET, data));
    };
}

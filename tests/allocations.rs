//! Once training runs steadily, a step takes hardly any memory from the system: the images, the
//! gradients and the transformed kernels of one step are used again in the next. Taking them anew
//! would cost a third of a step's time, but a timed test could not tell that from a busy machine,
//! so this test counts. It uses one thread and counts what that thread takes, so that the counts
//! are the same each time.
#![cfg(feature = "trainer")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use candle_core::{DType, Device, Tensor};
use page_layers::{KerasAdam, Network, initial_weights};

/// The system's allocator with two counters.
struct Counting;

thread_local! {
    // Of each thread, because other tests of this program run beside this one. Made without a block
    // of memory and without a destructor, so that the allocator may use them.
    static CALLS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<u64> = const { Cell::new(0) };
}

fn count(bytes: usize) {
    CALLS.set(CALLS.get() + 1);
    BYTES.set(BYTES.get() + bytes as u64);
}

// SAFETY: every call and its result are passed to and from `System` unchanged; the counters touch
// only their own memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls and bytes of this thread while `work` runs.
fn counted(mut work: impl FnMut()) -> (u64, u64) {
    let before = (CALLS.get(), BYTES.get());
    work();
    (CALLS.get() - before.0, BYTES.get() - before.1)
}

/// The calls and bytes of `work` once it was done a few times: they are the same each time.
fn steady(mut work: impl FnMut()) -> (u64, u64) {
    for _ in 0..5 {
        work();
    }
    let (first, second) = (counted(&mut work), counted(&mut work));
    // The queues of the thread pool may take a block now and then.
    assert!(
        first.0.abs_diff(second.0) < 20 && first.1.abs_diff(second.1) < 20_000,
        "{first:?}, then {second:?}"
    );
    second
}

/// The calls and bytes of a step (forward, backward, Adam), and of a prediction of one batch.
struct Taken {
    step: (u64, u64),
    /// A step whose gradients are dropped instead of given back.
    careless: (u64, u64),
    prediction: (u64, u64),
}

fn measure(batch: usize, side: usize) -> Taken {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| {
        let network = Network::new(&initial_weights(3).unwrap()).unwrap();
        let mut adam = KerasAdam::new(network.parameters(), 1e-4).unwrap();
        let x = Tensor::rand(0f32, 1., (batch, side, side, 3), &Device::Cpu).unwrap();
        let y = x.mean_keepdim(3).unwrap().gt(0.5).unwrap().to_dtype(DType::F32).unwrap();
        let mut step = |careful: bool| {
            let step = network.loss_and_gradients(&x, &y).unwrap();
            adam.apply(&step.gradients).unwrap();
            for gradient in step.gradients.into_iter().filter(|_| careful) {
                network.reclaim(gradient).unwrap();
            }
        };
        let taken = steady(|| step(true));
        let careless = steady(|| step(false));
        let prediction = steady(|| network.reclaim(network.forward_logits(&x).unwrap()).unwrap());
        Taken { step: taken, careless, prediction }
    })
}

#[test]
fn a_step_makes_no_memory_of_its_own() {
    // The most calls and bytes. When this was written, the small batch took 440 and 32 kB, 92 and 8
    // kB; the larger batch 465 and 50 kB, 105 and 18 kB. Most of it is candle's, for its tensors.
    // One call more per layer and step is too many.
    let small = ((1, 32), (450, 40_000), (100, 10_000));
    let large = ((2, 64), (475, 60_000), (114, 22_000));
    for ((batch, side), step, prediction) in [small, large] {
        let taken = measure(batch, side);
        for (name, (calls, bytes), most) in
            [("step", taken.step, step), ("prediction", taken.prediction, prediction)]
        {
            assert!(
                calls <= most.0 && bytes <= most.1,
                "a {name} of {batch} patches of {side}x{side} made {calls} allocations of {bytes} \
                 bytes, at most {most:?} \
                 are expected: give memory back to `Buffers`, or raise the bound and say why"
            );
        }
        // This shows that the limit is tight enough: gradients that are not given back cost one
        // allocation for most of the layers.
        let (calls, bytes) = taken.careless;
        assert!(bytes > step.1, "{calls} allocations of {bytes} bytes");
    }
}

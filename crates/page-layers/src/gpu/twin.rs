//! A machine without a GPU: the C++ compiler of this computer compiles the kernels of `kernels.cu`,
//! and they run on the CPU with the same arguments. Convolutions are written out (`host.cpp`). A
//! guard behind every piece of memory shows whether something was written beyond its end.
#![allow(
    clippy::expect_used,
    reason = "only tests have this machine; one that can't be built or is misused ends the test"
)]

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use libloading::Library;
use sha2::{Digest as _, Sha256};

use super::card::Card;
use super::machine::{
    ConvShape, Convolution, GpuError, Machine, Precision, SLOTS, Workspace, macros,
};

/// What a step must not ask for, because a GPU or the host may wait for it.
pub(super) const HOST: [&str; 4] = ["allocate", "free", "write", "read"];

/// The least number of guard bytes behind each piece of memory, and their value.
const GUARD: usize = 256;
const GUARDED: u8 = 0xa5;

type Launch = unsafe extern "C" fn(*const c_char, u32, *mut *mut c_void) -> c_int;
type Convolve = unsafe extern "C" fn(c_int, *const u32, u64, u64, u64);

/// The kernels for one kind of values.
struct Kernels {
    launch: Launch,
    convolve: Convolve,
    library: Library,
}

const FLAGS: [&str; 8] =
    ["-std=c++17", "-O3", "-ffp-contract=off", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"];

/// The library of the kernels for values of bfloat16 or f32. The first test builds it beside its
/// own program, under a name that stands for what it is built from; the others wait for it.
fn library(bf16: bool) -> PathBuf {
    let sources = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/gpu");
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let macros = macros(if bf16 { Precision::Bf16 } else { Precision::F32 });
    let mut hash = Sha256::new();
    for source in ["host.cpp", "kernels.cu"] {
        hash.update(
            fs::read(sources.join(source)).expect("the kernels' sources lie beside this file"),
        );
    }
    hash.update(format!("{compiler:?} {FLAGS:?} {macros:?}"));
    let name: String = hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let program = std::env::current_exe().expect("a running test has a file");
    let object = program.with_file_name(format!("kernels-{name}.so"));
    let building = File::create(object.with_extension("lock"))
        .expect("the folder that the tests were built in can be written to");
    building.lock().expect("files there can be locked");
    if object.exists() {
        return object;
    }
    let unfinished = object.with_extension("new");
    let output = Command::new(&compiler)
        .args(FLAGS)
        .args(macros)
        .arg("-o")
        .arg(&unfinished)
        .arg(sources.join("host.cpp"))
        .output()
        .unwrap_or_else(|e| {
            panic!(
                "{}: {e}; the tests of the GPU's kernels need a C++ compiler (Debian: g++)",
                compiler.display()
            )
        });
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&unfinished, &object).expect("the compiler has just written it there");
    object
}

/// Opens the kernels for values of bfloat16 or f32.
fn kernels(bf16: bool) -> &'static Kernels {
    static BUILT: [OnceLock<Kernels>; 2] = [OnceLock::new(), OnceLock::new()];
    BUILT[usize::from(bf16)].get_or_init(|| {
        let object = library(bf16);
        // SAFETY: the library was built from our own source and has no constructors; the
        // functions have these types there.
        unsafe {
            let library = Library::new(&object).expect("it was built for this computer");
            let launch = *library.get::<Launch>(b"launch").expect("host.cpp exports it");
            let convolve = *library.get::<Convolve>(b"convolve").expect("host.cpp exports it");
            Kernels { launch, convolve, library }
        }
    })
}

/// Sizes of the types that both sides declare.
pub(super) fn sizes() -> [u32; 3] {
    let library = &kernels(false).library;
    [&b"view_bytes"[..], b"cut_bytes", b"segment_bytes"].map(|name| {
        // SAFETY: the functions have this type in host.cpp.
        unsafe {
            (library.get::<unsafe extern "C" fn() -> u32>(name).expect("host.cpp exports it"))()
        }
    })
}

/// A piece of memory: its bytes, and the guard right behind the last of them.
struct Piece {
    words: Box<[u64]>,
    bytes: usize,
}

impl Piece {
    fn assert_guard(&self) {
        let all: &[u8] = bytemuck::cast_slice(&self.words);
        assert!(all[self.bytes..].iter().all(|b| *b == GUARDED), "written behind the end");
    }
}

/// The CPU in place of a GPU.
pub(crate) struct Twin {
    precision: Precision,
    /// Memory by its address.
    memory: Mutex<HashMap<u64, Piece>>,
    slots: Mutex<[Option<f32>; SLOTS]>,
    /// Kernels started so far, and in between what is named in [`HOST`].
    pub(super) started: Mutex<Vec<String>>,
    fused: bool,
}

impl std::fmt::Debug for Twin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Twin({})", self.precision.name())
    }
}

impl Twin {
    /// A machine that adds bias and ReLU within its convolutions, or does not.
    pub(crate) fn new(precision: Precision, fused: bool) -> Arc<Self> {
        kernels(precision == Precision::Bf16);
        Arc::new(Self {
            precision,
            memory: Mutex::default(),
            slots: Mutex::default(),
            started: Mutex::default(),
            fused,
        })
    }

    pub(crate) fn card(precision: Precision) -> Card {
        Card(Self::new(precision, false))
    }

    fn kernels(&self) -> &'static Kernels {
        kernels(self.precision == Precision::Bf16)
    }

    /// Number of pieces of memory in use; panics if something was written beyond the end of one.
    pub(super) fn check(&self) -> usize {
        let memory = self.memory.lock().expect("nothing panics while it holds this");
        memory.values().for_each(Piece::assert_guard);
        memory.len()
    }

    fn record(&self, name: impl Into<String>) {
        self.started.lock().expect("nothing panics while it holds this").push(name.into());
    }
}

impl Machine for Twin {
    fn precision(&self) -> Precision {
        self.precision
    }

    fn name(&self) -> String {
        "the CPU in place of a GPU".to_owned()
    }

    fn allocate(&self, bytes: usize) -> Result<u64, GpuError> {
        self.record("allocate");
        let mut words = vec![0u64; (bytes + GUARD).div_ceil(8)].into_boxed_slice();
        let all: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        all[bytes..].fill(GUARDED);
        let address = words.as_mut_ptr() as u64;
        self.memory
            .lock()
            .expect("nothing panics while it holds this")
            .insert(address, Piece { words, bytes });
        Ok(address)
    }

    unsafe fn free(&self, address: u64) {
        self.record("free");
        let piece = self
            .memory
            .lock()
            .expect("nothing panics while it holds this")
            .remove(&address)
            .expect("memory that was allocated");
        if !std::thread::panicking() {
            piece.assert_guard();
        }
    }

    unsafe fn write(&self, to: u64, bytes: &[u8]) -> Result<(), GpuError> {
        self.record("write");
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
        Ok(())
    }

    unsafe fn read(&self, from: u64, bytes: &mut [u8]) -> Result<(), GpuError> {
        self.record("read");
        // SAFETY: the caller's promise.
        unsafe {
            std::ptr::copy_nonoverlapping(from as *const u8, bytes.as_mut_ptr(), bytes.len())
        };
        Ok(())
    }

    unsafe fn fetch(&self, from: u64, slot: usize) -> Result<(), GpuError> {
        // SAFETY: the caller's promise.
        let value = unsafe { *(from as *const f32) };
        self.slots.lock().expect("nothing panics while it holds this")[slot] = Some(value);
        Ok(())
    }

    fn fetched(&self, slot: usize) -> Result<f32, GpuError> {
        Ok(self.slots.lock().expect("nothing panics while it holds this")[slot]
            .take()
            .expect("something was sent"))
    }

    unsafe fn launch(
        &self,
        kernel: &'static CStr,
        blocks: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<(), GpuError> {
        self.record(kernel.to_string_lossy());
        // SAFETY: the caller's promise.
        let unknown =
            unsafe { (self.kernels().launch)(kernel.as_ptr(), blocks, arguments.as_mut_ptr()) };
        assert_eq!(unknown, 0, "no kernel {kernel:?}");
        Ok(())
    }

    fn convolution(&self, shape: ConvShape) -> Result<Arc<dyn Convolution>, GpuError> {
        Ok(Arc::new(Written { shape, bf16: self.precision == Precision::Bf16, fused: self.fused }))
    }
}

/// A convolution that is written out.
struct Written {
    shape: ConvShape,
    bf16: bool,
    fused: bool,
}

impl Written {
    unsafe fn pass(&self, pass: c_int, x: u64, w: u64, y: u64) {
        let ConvShape { images, height, width, input, output, side, padding } = self.shape;
        let shape = [images, height, width, input, output, side, padding];
        // SAFETY: the caller's promise.
        unsafe { (kernels(self.bf16).convolve)(pass, shape.as_ptr(), x, w, y) }
    }
}

impl Convolution for Written {
    fn workspace(&self) -> usize {
        8
    }

    unsafe fn forward(
        &self,
        x: u64,
        w: u64,
        bias: Option<u64>,
        y: u64,
        _work: Workspace,
    ) -> Result<bool, GpuError> {
        if bias.is_some() && !self.fused {
            return Ok(false);
        }
        // SAFETY: the caller's promise.
        unsafe { self.pass(0, x, w, y) };
        let Some(bias) = bias else { return Ok(true) };
        let (values, channels) = (self.shape.lengths()[2], self.shape.output as usize);
        // SAFETY: the caller's promise.
        unsafe {
            if self.bf16 {
                let widen = |bits: u16| f32::from_bits(u32::from(bits) << 16);
                let (y, bias) = (y as *mut u16, bias as *const u16);
                for i in 0..values {
                    let sum = widen(*y.add(i)) + widen(*bias.add(i % channels));
                    // Truncated: near enough for a stand-in.
                    *y.add(i) = (sum.max(0.0).to_bits() >> 16) as u16;
                }
            } else {
                let (y, bias) = (y as *mut f32, bias as *const f32);
                for i in 0..values {
                    *y.add(i) = (*y.add(i) + *bias.add(i % channels)).max(0.0);
                }
            }
        }
        Ok(true)
    }

    unsafe fn backward_image(
        &self,
        w: u64,
        dy: u64,
        dx: u64,
        _work: Workspace,
    ) -> Result<(), GpuError> {
        // SAFETY: the caller's promise.
        unsafe { self.pass(1, dx, w, dy) };
        Ok(())
    }

    unsafe fn backward_kernel(
        &self,
        x: u64,
        dy: u64,
        dw: u64,
        _work: Workspace,
    ) -> Result<(), GpuError> {
        // SAFETY: the caller's promise.
        unsafe { self.pass(2, x, dw, dy) };
        Ok(())
    }
}

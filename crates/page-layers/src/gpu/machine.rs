//! What the network needs from a GPU: memory, the kernels of `kernels.cu`, convolutions. One
//! implementation uses CUDA and cuDNN (`cuda`); the other runs the same kernels on the CPU, for the
//! tests (`twin`).

pub use crate::net::error::GpuError;

use std::ffi::{CStr, c_void};
use std::fmt::Debug;
use std::sync::Arc;

#[cfg(any(feature = "cuda", test))]
use crate::hyperparameters::{BETA_1, BETA_2, EPSILON};

/// The numbers in which images are kept, and kernels during a step. Parameters, their moments and
/// all sums are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    /// f32 everywhere, no tensor cores: the CPU's numbers, except for the order of sums.
    F32,
    /// f32 in memory; the convolutions' factors are rounded to 10 bits (TensorFloat-32, compute
    /// capability 8.0).
    Tf32,
    /// bfloat16 (8 bits) in memory, f32 sums (compute capability 8.0).
    Bf16,
}

impl Precision {
    /// Bytes of one value of an image.
    pub(super) fn bytes(self) -> usize {
        if self == Self::Bf16 { 2 } else { 4 }
    }

    /// The next precision that is slower and closer to the CPU's.
    pub fn slower(self) -> Option<Self> {
        match self {
            Self::Bf16 => Some(Self::Tf32),
            Self::Tf32 => Some(Self::F32),
            Self::F32 => None,
        }
    }

    /// The name of it in `HPC_TRAINER_GPU_PRECISION`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }

    /// The precision of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::F32, Self::Tf32, Self::Bf16].into_iter().find(|p| p.name() == name)
    }
}

/// The macros that `kernels.cu` is compiled with: its numbers, and Adam's.
#[cfg(any(feature = "cuda", test))]
pub(super) fn macros(precision: Precision) -> [String; 4] {
    let adam = |name: &str, value: f64| format!("-D{name}={:e}f", value as f32);
    [
        format!("-DBF16={}", u8::from(precision == Precision::Bf16)),
        adam("ADAM_FIRST_RATE", 1.0 - BETA_1),
        adam("ADAM_SECOND_RATE", 1.0 - BETA_2),
        adam("ADAM_EPSILON", EPSILON),
    ]
}

/// One convolution: stride 1, square kernel, zero padding on all sides. Images NHWC, kernels
/// `[output][side][side][input]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ConvShape {
    pub(super) images: u32,
    pub(super) height: u32,
    pub(super) width: u32,
    pub(super) input: u32,
    pub(super) output: u32,
    pub(super) side: u32,
    pub(super) padding: u32,
}

impl ConvShape {
    /// Height and width of the result.
    pub(super) fn result(&self) -> (u32, u32) {
        let grown = 2 * self.padding + 1;
        (self.height + grown - self.side, self.width + grown - self.side)
    }

    /// Number of values of the image, of the kernel and of the result.
    pub(super) fn lengths(&self) -> [usize; 3] {
        let (height, width) = self.result();
        let product = |of: &[u32]| of.iter().map(|n| *n as usize).product();
        [
            product(&[self.images, self.height, self.width, self.input]),
            product(&[self.output, self.side, self.side, self.input]),
            product(&[self.images, height, width, self.output]),
        ]
    }
}

/// Work space of the convolutions: its address and its size in bytes.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "only cuDNN wants any"))]
pub(super) struct Workspace(pub(super) u64, pub(super) usize);

/// A convolution that the machine has prepared.
pub(super) trait Convolution: Send + Sync {
    /// Bytes of work space that each of its passes needs at most.
    fn workspace(&self) -> usize;

    /// `y = x * w`; with a bias, `y = ReLU(x * w + bias)` if the machine can do that in one
    /// operation. Returns false if it can't, and then nothing was done.
    ///
    /// # Safety
    ///
    /// The addresses belong to memory of this machine that holds at least [`ConvShape::lengths`]
    /// values (the bias: one for each output channel); the work space is as large as
    /// [`Self::workspace`] says.
    unsafe fn forward(
        &self,
        x: u64,
        w: u64,
        bias: Option<u64>,
        y: u64,
        work: Workspace,
    ) -> Result<bool, GpuError>;

    /// The image's gradient.
    ///
    /// # Safety
    /// As [`Self::forward`].
    unsafe fn backward_image(
        &self,
        w: u64,
        dy: u64,
        dx: u64,
        work: Workspace,
    ) -> Result<(), GpuError>;

    /// The kernel's gradient.
    ///
    /// # Safety
    /// As [`Self::forward`].
    unsafe fn backward_kernel(
        &self,
        x: u64,
        dy: u64,
        dw: u64,
        work: Workspace,
    ) -> Result<(), GpuError>;
}

/// How many numbers can be on their way to the host at the same time.
pub(super) const SLOTS: usize = 4;

/// A GPU. It carries out all orders one after another. [`Self::launch`], [`Self::fetch`] and the
/// passes of a [`Convolution`] only give orders. [`Self::read`], [`Self::write`] and [`Self::free`]
/// wait for all earlier orders, [`Self::fetched`] waits for its number; taking memory and preparing
/// a convolution may wait too.
pub(super) trait Machine: Send + Sync + Debug {
    /// The precision of images.
    fn precision(&self) -> Precision;

    /// Its name for people.
    fn name(&self) -> String;

    /// Memory filled with zeros, aligned to 256 bytes.
    fn allocate(&self, bytes: usize) -> Result<u64, GpuError>;

    /// Gives memory back once all earlier orders are carried out.
    ///
    /// # Safety
    ///
    /// `address` is from [`Self::allocate`] and is not used afterwards.
    unsafe fn free(&self, address: u64);

    /// Copies to the machine. The caller may change the bytes when it returns.
    ///
    /// # Safety
    ///
    /// There are `bytes.len()` bytes of the machine's memory from `to` on.
    unsafe fn write(&self, to: u64, bytes: &[u8]) -> Result<(), GpuError>;

    /// Copies from the machine, after all earlier orders.
    ///
    /// # Safety
    ///
    /// There are `bytes.len()` bytes of the machine's memory from `from` on.
    unsafe fn read(&self, from: u64, bytes: &mut [u8]) -> Result<(), GpuError>;

    /// Starts copying an f32 to the host, without waiting for it. What the slot held before is
    /// lost.
    ///
    /// # Safety
    ///
    /// There are 4 bytes of the machine's memory at `from`.
    unsafe fn fetch(&self, from: u64, slot: usize) -> Result<(), GpuError>;

    /// The number that [`Self::fetch`] has copied; waits for it.
    fn fetched(&self, slot: usize) -> Result<f32, GpuError>;

    /// Starts a kernel of `kernels.cu` on `blocks` blocks.
    ///
    /// # Safety
    ///
    /// `arguments` point to values of the types of the kernel's parameters. The addresses among
    /// them belong to memory of the machine that is as large as the kernel touches.
    unsafe fn launch(
        &self,
        kernel: &'static CStr,
        blocks: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<(), GpuError>;

    /// Prepares a convolution; the first one of a shape takes a while.
    fn convolution(&self, shape: ConvShape) -> Result<Arc<dyn Convolution>, GpuError>;

    /// Bytes of GPU memory in use, by any program; 0 where unknown.
    fn memory_used(&self) -> usize {
        0
    }
}

/// Memory of a machine, given back when dropped.
pub(super) struct Buffer {
    machine: Arc<dyn Machine>,
    address: u64,
    bytes: usize,
}

impl Buffer {
    /// `bytes` zeros.
    pub(super) fn zeros(machine: &Arc<dyn Machine>, bytes: usize) -> Result<Self, GpuError> {
        let address = machine.allocate(bytes)?;
        Ok(Self { machine: Arc::clone(machine), address, bytes })
    }

    /// Its address, if it has the `needed` bytes.
    ///
    /// # Errors
    ///
    /// When it is smaller; `what` names it.
    pub(super) fn holding(&self, what: &'static str, needed: usize) -> Result<u64, GpuError> {
        if needed > self.bytes {
            return Err(GpuError::Extent { what, needed, found: self.bytes });
        }
        Ok(self.address)
    }

    /// The address of value number `from` of `size` bytes, if `count` values from there on lie in
    /// it.
    ///
    /// # Errors
    ///
    /// When they don't.
    pub(super) fn part(
        &self,
        what: &'static str,
        from: usize,
        count: usize,
        size: usize,
    ) -> Result<u64, GpuError> {
        self.holding(what, (from + count) * size).map(|address| address + (from * size) as u64)
    }

    /// Copies values to its beginning.
    pub(super) fn write<T: bytemuck::NoUninit>(&self, values: &[T]) -> Result<(), GpuError> {
        let bytes = bytemuck::cast_slice(values);
        let to = self.holding("a copy to the GPU", bytes.len())?;
        // SAFETY: `holding` has checked the length, and the memory lives as long as `self`.
        unsafe { self.machine.write(to, bytes) }
    }

    /// Copies values from its beginning, after all earlier orders.
    pub(super) fn read<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
        &self,
        values: &mut [T],
    ) -> Result<(), GpuError> {
        let bytes = bytemuck::cast_slice_mut(values);
        let from = self.holding("a copy from the GPU", bytes.len())?;
        // SAFETY: `holding` has checked the length, and the memory lives as long as `self`.
        unsafe { self.machine.read(from, bytes) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the address is the one that `allocate` returned, and nobody else has it:
        // `holding` and `part` lend it for single calls, which have all been made before this one.
        unsafe { self.machine.free(self.address) }
    }
}

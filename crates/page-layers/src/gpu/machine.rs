//! What the network needs of a card: memory, the kernels of `kernels.cu`, convolutions. One implementation speaks to CUDA
//! and cuDNN (`cuda`), another runs the same kernels on the CPU, for the tests (`twin`).

use std::ffi::{CStr, c_void};
use std::fmt::Debug;
use std::sync::Arc;

use thiserror::Error;

use crate::hyperparameters::{BETA_1, BETA_2, EPSILON};

/// Numbers that images, and kernels during a step, are kept in. Parameters, their moments and all sums are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    /// f32 everywhere, no tensor cores: the CPU's numbers up to the order of sums.
    F32,
    /// f32 in memory; the convolutions' factors are rounded to 10 bits (TensorFloat-32, compute capability 8.0).
    Tf32,
    /// bfloat16 (8 bits) in memory, f32 sums (compute capability 8.0).
    Bf16,
}

impl Precision {
    /// Bytes of one value of an image.
    pub(super) fn bytes(self) -> usize {
        if self == Self::Bf16 { 2 } else { 4 }
    }

    /// The next one that is slower and nearer to the CPU's.
    pub fn slower(self) -> Option<Self> {
        match self {
            Self::Bf16 => Some(Self::Tf32),
            Self::Tf32 => Some(Self::F32),
            Self::F32 => None,
        }
    }

    /// As it is written in `HPC_TRAINER_GPU_PRECISION`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }

    /// The one of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::F32, Self::Tf32, Self::Bf16].into_iter().find(|p| p.name() == name)
    }
}

/// The macros that `kernels.cu` is compiled with: its numbers, and Adam's.
pub(super) fn macros(precision: Precision) -> [String; 4] {
    let adam = |name: &str, value: f64| format!("-D{name}={:e}f", value as f32);
    [
        format!("-DBF16={}", u8::from(precision == Precision::Bf16)),
        adam("ADAM_FIRST_RATE", 1.0 - BETA_1),
        adam("ADAM_SECOND_RATE", 1.0 - BETA_2),
        adam("ADAM_EPSILON", EPSILON),
    ]
}

/// Something that the card or its libraries can't do.
#[derive(Debug, Error)]
pub enum GpuError {
    /// A library of CUDA is not on this machine.
    #[error(
        "{0} is not found; load the site's modules for CUDA 12 or 13 and cuDNN 9, or set LD_LIBRARY_PATH"
    )]
    Library(&'static str),
    /// A library is too old.
    #[error("cuDNN {0} is too old, version 9 is needed")]
    Version(usize),
    /// The driver refused.
    #[error("CUDA, {call}: {text}")]
    Driver {
        /// What was asked of it.
        call: &'static str,
        /// Its answer.
        text: String,
    },
    /// The card has too little memory.
    #[error(
        "the card has no {megabytes} MB left; choose a smaller batch or patch, or a card with more memory"
    )]
    Memory {
        /// What was asked for.
        megabytes: usize,
    },
    /// cuDNN refused.
    #[error("cuDNN, {call}: {text}")]
    Cudnn {
        /// What was asked of it.
        call: &'static str,
        /// Its answer.
        text: String,
    },
    /// The kernels don't compile for this card.
    #[error("the kernels can't be compiled for {architecture}: {log}")]
    Compile {
        /// Such as `sm_90`.
        architecture: String,
        /// The compiler's words.
        log: String,
    },
    /// The card computes something else than the CPU.
    #[error("the card's results differ from the CPU's: {0}")]
    Differs(String),
    /// The program's fault: a buffer is smaller than what a kernel would touch.
    #[error("{what} needs {needed} bytes of memory and has {found}")]
    Extent {
        /// Which.
        what: &'static str,
        /// Bytes.
        needed: usize,
        /// Bytes.
        found: usize,
    },
    /// The program's fault: a network that was put on the card to predict is asked for training.
    #[error("the network was put on the card to predict only")]
    NotForTraining,
    /// The program's fault: a node of the network has no image of its own.
    #[error("{0} has no image of its own on the card")]
    NoImage(&'static str),
    /// The batch is too large for 32-bit numbers of pixels and values.
    #[error("{0} images of {1}x{2} are too many for one batch on the card; choose a smaller batch or patch")]
    Batch(usize, usize, usize),
}

/// One convolution: stride 1, square kernel, zero padding on all sides. Images NHWC, kernels `[output][side][side][input]`.
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

    /// Values of the image, of the kernel and of the result.
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

/// Work space of the convolutions: address and bytes.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "only cuDNN wants any"))]
pub(super) struct Workspace(pub(super) u64, pub(super) usize);

/// A convolution that the machine has prepared.
pub(super) trait Convolution: Send + Sync {
    /// Bytes of work space that each of its passes needs at most.
    fn workspace(&self) -> usize;

    /// `y = x * w`; with a bias, `y = ReLU(x * w + bias)` where the machine has that in one. False: it has not, and nothing
    /// was done.
    ///
    /// # Safety
    /// The addresses are of memory of this machine that holds at least [`ConvShape::lengths`] values (the bias: one for
    /// each output channel), the work space as said by [`Self::workspace`].
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
    unsafe fn backward_image(&self, w: u64, dy: u64, dx: u64, work: Workspace) -> Result<(), GpuError>;

    /// The kernel's gradient.
    ///
    /// # Safety
    /// As [`Self::forward`].
    unsafe fn backward_kernel(&self, x: u64, dy: u64, dw: u64, work: Workspace) -> Result<(), GpuError>;
}

/// Numbers on their way to the host at a time.
pub(super) const SLOTS: usize = 4;

/// A card. Everything that is asked of it happens in the order of asking; only [`Self::read`] and [`Self::fetched`] wait.
pub(super) trait Machine: Send + Sync + Debug {
    /// What images are kept in.
    fn precision(&self) -> Precision;

    /// What a person calls it.
    fn name(&self) -> String;

    /// Memory filled with zeros, aligned to 256 bytes.
    fn allocate(&self, bytes: usize) -> Result<u64, GpuError>;

    /// Gives memory back once all that was asked for so far is done.
    ///
    /// # Safety
    /// `address` is from [`Self::allocate`] and is not used afterwards.
    unsafe fn free(&self, address: u64);

    /// Copies to the machine. The bytes may be changed when it returns.
    ///
    /// # Safety
    /// There are `bytes.len()` bytes of the machine's memory from `to` on.
    unsafe fn write(&self, to: u64, bytes: &[u8]) -> Result<(), GpuError>;

    /// Copies from the machine, after all that was asked for.
    ///
    /// # Safety
    /// There are `bytes.len()` bytes of the machine's memory from `from` on.
    unsafe fn read(&self, from: u64, bytes: &mut [u8]) -> Result<(), GpuError>;

    /// Sends an f32 to the host without waiting for it. What the slot held before is lost.
    ///
    /// # Safety
    /// There are 4 bytes of the machine's memory at `from`.
    unsafe fn fetch(&self, from: u64, slot: usize) -> Result<(), GpuError>;

    /// What [`Self::fetch`] has sent; waits for it.
    fn fetched(&self, slot: usize) -> Result<f32, GpuError>;

    /// Starts a kernel of `kernels.cu` on `blocks` blocks.
    ///
    /// # Safety
    /// `arguments` point to values of the types of the kernel's parameters, and the addresses among them to memory of
    /// the machine as large as the kernel touches.
    unsafe fn launch(
        &self,
        kernel: &'static CStr,
        blocks: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<(), GpuError>;

    /// Prepares a convolution; the first of a shape takes a while.
    fn convolution(&self, shape: ConvShape) -> Result<Arc<dyn Convolution>, GpuError>;

    /// Bytes of memory in use on the card, by anyone; 0 where unknown.
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

    /// Where it is; `what` needs `needed` bytes there.
    ///
    /// # Errors
    /// When it is smaller.
    pub(super) fn holding(&self, what: &'static str, needed: usize) -> Result<u64, GpuError> {
        if needed > self.bytes {
            return Err(GpuError::Extent { what, needed, found: self.bytes });
        }
        Ok(self.address)
    }

    /// Where value number `from` of `size` bytes is, if `count` values from there on lie in it.
    ///
    /// # Errors
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
        let to = self.holding("a copy to the card", bytes.len())?;
        // SAFETY: `holding` has checked the length, and the memory lives as long as `self`.
        unsafe { self.machine.write(to, bytes) }
    }

    /// Copies values from its beginning, after all that was asked of the machine.
    pub(super) fn read<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
        &self,
        values: &mut [T],
    ) -> Result<(), GpuError> {
        let bytes = bytemuck::cast_slice_mut(values);
        let from = self.holding("a copy from the card", bytes.len())?;
        // SAFETY: `holding` has checked the length, and the memory lives as long as `self`.
        unsafe { self.machine.read(from, bytes) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the address is the one that `allocate` gave, and nobody else has it: `holding` and `part` hand it out
        // for single calls, which come before this one.
        unsafe { self.machine.free(self.address) }
    }
}

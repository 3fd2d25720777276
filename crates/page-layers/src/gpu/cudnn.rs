//! cuDNN's convolutions. Layout NHWC, kernels KRSC; the algorithms are chosen by cuDNN's own
//! timing.
//!
//! cuDNN 9 still has the functions of version 7 that are used here (`cudnn_cnn.h`). Its graph
//! interface could fuse more operations, but needs much more code.

use std::ffi::{CStr, c_int, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::cudnn::sys::{self, cudnnStatus_t};

use super::machine::{ConvShape, Convolution, GpuError, Precision, Workspace};

/// The largest work space that an algorithm may ask for, bytes.
const MOST_WORKSPACE: usize = 1 << 30;

/// The first version of cuDNN with the status codes of version 9, in the form of `cudnnGetVersion`.
const OLDEST: usize = 90_000;

/// Room for results of timing: cuDNN has at most 8 algorithms, each with two kinds of arithmetic.
const ALGORITHMS: usize = 16;

fn ok(call: &'static str, status: cudnnStatus_t) -> Result<(), GpuError> {
    if status == cudnnStatus_t::CUDNN_STATUS_SUCCESS {
        return Ok(());
    }
    // SAFETY: cuDNN returns a constant text for every status.
    let text = unsafe { CStr::from_ptr(sys::cudnnGetErrorString(status)) };
    Err(GpuError::Cudnn { call, text: text.to_string_lossy().into_owned() })
}

/// A handle of cuDNN; one thread at a time may use it.
pub(super) struct Cudnn(Mutex<sys::cudnnHandle_t>);

// SAFETY: the handle is used behind its lock only, by a thread that has entered the card's context.
unsafe impl Send for Cudnn {}
// SAFETY: as above.
unsafe impl Sync for Cudnn {}

impl Cudnn {
    /// A handle whose work goes into `stream`. The calling thread has entered the GPU's context.
    pub(super) fn open(stream: sys::cudaStream_t) -> Result<Self, GpuError> {
        // SAFETY: no argument.
        let version = unsafe { sys::cudnnGetVersion() };
        if version < OLDEST {
            return Err(GpuError::Version(version));
        }
        let mut handle = ptr::null_mut();
        // SAFETY: cuDNN writes the handle, and gets it back with the stream, which outlives it.
        unsafe {
            ok("cudnnCreate", sys::cudnnCreate(&raw mut handle))?;
            ok("cudnnSetStream", sys::cudnnSetStream(handle, stream))?;
        }
        Ok(Self(Mutex::new(handle)))
    }

    fn handle(&self) -> MutexGuard<'_, sys::cudnnHandle_t> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the handle back.
    ///
    /// # Safety
    ///
    /// The handle is not used afterwards, and the GPU has finished its work.
    pub(super) unsafe fn close(&self) {
        // SAFETY: the caller's promise.
        unsafe { sys::cudnnDestroy(*self.handle()) };
    }
}

/// Wraps a kind of descriptor; a descriptor is destroyed with its owner.
macro_rules! descriptor {
    ($name:ident, $raw:ty, $create:ident, $destroy:ident) => {
        struct $name($raw);

        impl $name {
            fn new() -> Result<Self, GpuError> {
                let mut raw = ptr::null_mut();
                // SAFETY: cuDNN writes the descriptor.
                ok(stringify!($create), unsafe { sys::$create(&raw mut raw) })?;
                Ok(Self(raw))
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: it is from the call above and has one owner.
                unsafe { sys::$destroy(self.0) };
            }
        }
    };
}

descriptor!(
    Tensor,
    sys::cudnnTensorDescriptor_t,
    cudnnCreateTensorDescriptor,
    cudnnDestroyTensorDescriptor
);
descriptor!(
    Filter,
    sys::cudnnFilterDescriptor_t,
    cudnnCreateFilterDescriptor,
    cudnnDestroyFilterDescriptor
);
descriptor!(
    Conv,
    sys::cudnnConvolutionDescriptor_t,
    cudnnCreateConvolutionDescriptor,
    cudnnDestroyConvolutionDescriptor
);
descriptor!(
    Relu,
    sys::cudnnActivationDescriptor_t,
    cudnnCreateActivationDescriptor,
    cudnnDestroyActivationDescriptor
);

const FORMAT: sys::cudnnTensorFormat_t = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;

/// cuDNN's name for the type of the values in memory.
fn data_type(precision: Precision) -> sys::cudnnDataType_t {
    match precision {
        Precision::F32 | Precision::Tf32 => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
        Precision::Bf16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
    }
}

/// cuDNN's name for the arithmetic. Sums are f32 in any case.
fn math(precision: Precision) -> sys::cudnnMathType_t {
    match precision {
        // The default would allow TensorFloat-32 where the GPU has it.
        Precision::F32 => sys::cudnnMathType_t::CUDNN_FMA_MATH,
        Precision::Tf32 => sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
        Precision::Bf16 => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
    }
}

impl Tensor {
    fn of(
        n: u32,
        height: u32,
        width: u32,
        channels: u32,
        precision: Precision,
    ) -> Result<Self, GpuError> {
        let new = Self::new()?;
        let [n, c, h, w] = [n, channels, height, width].map(|size| size as c_int);
        // SAFETY: the descriptor lives; cuDNN takes the sizes in the order n, c, h, w whatever the
        // format.
        ok("cudnnSetTensor4dDescriptor", unsafe {
            sys::cudnnSetTensor4dDescriptor(new.0, FORMAT, data_type(precision), n, c, h, w)
        })?;
        Ok(new)
    }
}

impl Filter {
    fn of(shape: &ConvShape, precision: Precision) -> Result<Self, GpuError> {
        let new = Self::new()?;
        let [k, c, side] = [shape.output, shape.input, shape.side].map(|size| size as c_int);
        // SAFETY: the descriptor lives; with NHWC the values lie as k, h, w, c.
        ok("cudnnSetFilter4dDescriptor", unsafe {
            sys::cudnnSetFilter4dDescriptor(new.0, data_type(precision), FORMAT, k, c, side, side)
        })?;
        Ok(new)
    }
}

impl Conv {
    fn of(shape: &ConvShape, math: sys::cudnnMathType_t) -> Result<Self, GpuError> {
        let new = Self::new()?;
        let padding = shape.padding as c_int;
        let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        let sums = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
        // SAFETY: the descriptor lives. Padding, stride 1, dilation 1.
        unsafe {
            ok(
                "cudnnSetConvolution2dDescriptor",
                sys::cudnnSetConvolution2dDescriptor(
                    new.0, padding, padding, 1, 1, 1, 1, mode, sums,
                ),
            )?;
            ok("cudnnSetConvolutionMathType", sys::cudnnSetConvolutionMathType(new.0, math))?;
        }
        Ok(new)
    }
}

/// All descriptors of a convolution. Making them needs no GPU.
struct Descriptors {
    image: Tensor,
    kernel: Filter,
    result: Tensor,
    bias: Tensor,
    relu: Relu,
}

impl Descriptors {
    fn new(shape: &ConvShape, precision: Precision) -> Result<Self, GpuError> {
        let ConvShape { images, height, width, input, output, .. } = *shape;
        let (result_height, result_width) = shape.result();
        let relu = Relu::new()?;
        let (mode, nan) = (
            sys::cudnnActivationMode_t::CUDNN_ACTIVATION_RELU,
            sys::cudnnNanPropagation_t::CUDNN_PROPAGATE_NAN,
        );
        // SAFETY: the descriptor lives. The last number matters only for other functions than ReLU.
        ok("cudnnSetActivationDescriptor", unsafe {
            sys::cudnnSetActivationDescriptor(relu.0, mode, nan, 0.0)
        })?;
        Ok(Self {
            image: Tensor::of(images, height, width, input, precision)?,
            kernel: Filter::of(shape, precision)?,
            result: Tensor::of(images, result_height, result_width, output, precision)?,
            bias: Tensor::of(1, 1, 1, output, precision)?,
            relu,
        })
    }
}

/// How one pass of a convolution is computed.
struct Pass<A> {
    conv: Conv,
    algorithm: A,
    workspace: usize,
}

/// From cuDNN's timings (fastest first): the fastest algorithm that gives the same result each
/// time; if there is none, the fastest. With it, the arithmetic that it was timed in. f32 stays
/// f32: cuDNN may also time the default arithmetic, which allows TensorFloat-32.
macro_rules! choose {
    ($call:literal, $found:expr, $count:expr, $precision:expr) => {{
        let usable: Vec<_> = $found
            .iter()
            .take($count as usize)
            .filter(|p| {
                p.status == cudnnStatus_t::CUDNN_STATUS_SUCCESS
                    && p.memory <= MOST_WORKSPACE
                    && ($precision != Precision::F32 || p.mathType == math($precision))
            })
            .collect();
        let same_each_time = usable
            .iter()
            .find(|p| p.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC)
            .or_else(|| usable.first());
        match same_each_time {
            Some(best) => (best.algo, best.mathType),
            None => {
                return Err(GpuError::Cudnn {
                    call: $call,
                    text: "no algorithm for this convolution".to_owned(),
                });
            }
        }
    }};
}

/// A convolution with its algorithms.
pub(super) struct Prepared {
    cudnn: Arc<Cudnn>,
    descriptors: Descriptors,
    forward: Pass<sys::cudnnConvolutionFwdAlgo_t>,
    image: Pass<sys::cudnnConvolutionBwdDataAlgo_t>,
    kernel: Pass<sys::cudnnConvolutionBwdFilterAlgo_t>,
}

// SAFETY: descriptors are not changed after they are made, and are used only while the handle is
// locked.
unsafe impl Send for Prepared {}
// SAFETY: as above.
unsafe impl Sync for Prepared {}

/// Factors of the new result and of what the memory held before.
const ONE: f32 = 1.0;
const ZERO: f32 = 0.0;

fn factor(of: &'static f32) -> *const c_void {
    ptr::from_ref(of).cast()
}

impl Prepared {
    /// Lets cuDNN time its algorithms for the three passes (in memory that cuDNN takes for that)
    /// and chooses the best. The calling thread has entered the GPU's context.
    pub(super) fn new(
        cudnn: &Arc<Cudnn>,
        shape: ConvShape,
        precision: Precision,
    ) -> Result<Self, GpuError> {
        let descriptors = Descriptors::new(&shape, precision)?;
        let handle = cudnn.handle();
        let d = &descriptors;
        let trial = Conv::of(&shape, math(precision))?;
        let (wanted, mut count) = (ALGORITHMS as c_int, 0);
        // SAFETY: descriptors and handle live. `found` has room for as many results as are asked
        // for; they are plain numbers, for which zeros are valid.
        let (forward, image, kernel) = unsafe {
            let mut found: [sys::cudnnConvolutionFwdAlgoPerf_t; ALGORITHMS] = std::mem::zeroed();
            ok(
                "cudnnFindConvolutionForwardAlgorithm",
                sys::cudnnFindConvolutionForwardAlgorithm(
                    *handle,
                    d.image.0,
                    d.kernel.0,
                    trial.0,
                    d.result.0,
                    wanted,
                    &raw mut count,
                    found.as_mut_ptr(),
                ),
            )?;
            let (algorithm, found_math) = choose!("forward", found, count, precision);
            let (conv, mut workspace) = (Conv::of(&shape, found_math)?, 0);
            ok(
                "cudnnGetConvolutionForwardWorkspaceSize",
                sys::cudnnGetConvolutionForwardWorkspaceSize(
                    *handle,
                    d.image.0,
                    d.kernel.0,
                    conv.0,
                    d.result.0,
                    algorithm,
                    &raw mut workspace,
                ),
            )?;
            let forward = Pass { conv, algorithm, workspace };

            let mut found: [sys::cudnnConvolutionBwdDataAlgoPerf_t; ALGORITHMS] =
                std::mem::zeroed();
            ok(
                "cudnnFindConvolutionBackwardDataAlgorithm",
                sys::cudnnFindConvolutionBackwardDataAlgorithm(
                    *handle,
                    d.kernel.0,
                    d.result.0,
                    trial.0,
                    d.image.0,
                    wanted,
                    &raw mut count,
                    found.as_mut_ptr(),
                ),
            )?;
            let (algorithm, found_math) = choose!("backward, image", found, count, precision);
            let (conv, mut workspace) = (Conv::of(&shape, found_math)?, 0);
            ok(
                "cudnnGetConvolutionBackwardDataWorkspaceSize",
                sys::cudnnGetConvolutionBackwardDataWorkspaceSize(
                    *handle,
                    d.kernel.0,
                    d.result.0,
                    conv.0,
                    d.image.0,
                    algorithm,
                    &raw mut workspace,
                ),
            )?;
            let image = Pass { conv, algorithm, workspace };

            let mut found: [sys::cudnnConvolutionBwdFilterAlgoPerf_t; ALGORITHMS] =
                std::mem::zeroed();
            ok(
                "cudnnFindConvolutionBackwardFilterAlgorithm",
                sys::cudnnFindConvolutionBackwardFilterAlgorithm(
                    *handle,
                    d.image.0,
                    d.result.0,
                    trial.0,
                    d.kernel.0,
                    wanted,
                    &raw mut count,
                    found.as_mut_ptr(),
                ),
            )?;
            let (algorithm, found_math) = choose!("backward, kernel", found, count, precision);
            let (conv, mut workspace) = (Conv::of(&shape, found_math)?, 0);
            ok(
                "cudnnGetConvolutionBackwardFilterWorkspaceSize",
                sys::cudnnGetConvolutionBackwardFilterWorkspaceSize(
                    *handle,
                    d.image.0,
                    d.result.0,
                    conv.0,
                    d.kernel.0,
                    algorithm,
                    &raw mut workspace,
                ),
            )?;
            (forward, image, Pass { conv, algorithm, workspace })
        };
        drop(handle);
        Ok(Self { cudnn: Arc::clone(cudnn), descriptors, forward, image, kernel })
    }
}

impl Convolution for Prepared {
    fn workspace(&self) -> usize {
        self.forward.workspace.max(self.image.workspace).max(self.kernel.workspace)
    }

    unsafe fn forward(
        &self,
        x: u64,
        w: u64,
        bias: Option<u64>,
        y: u64,
        Workspace(work, bytes): Workspace,
    ) -> Result<bool, GpuError> {
        let (handle, d, pass) = (self.cudnn.handle(), &self.descriptors, &self.forward);
        let (x, w, y, work) =
            (x as *const c_void, w as *const c_void, y as *mut c_void, work as *mut c_void);
        let Some(bias) = bias else {
            // SAFETY: the descriptors live, and the memory is as large as they say (the caller's
            // promise).
            ok("cudnnConvolutionForward", unsafe {
                sys::cudnnConvolutionForward(
                    *handle,
                    factor(&ONE),
                    d.image.0,
                    x,
                    d.kernel.0,
                    w,
                    pass.conv.0,
                    pass.algorithm,
                    work,
                    bytes,
                    factor(&ZERO),
                    d.result.0,
                    y,
                )
            })?;
            return Ok(true);
        };
        // cuDNN fuses bias and ReLU with this algorithm only.
        let fusing =
            sys::cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
        if pass.algorithm != fusing {
            return Ok(false);
        }
        // SAFETY: as above; the result's memory is also named as the summand, with the factor 0.
        let status = unsafe {
            sys::cudnnConvolutionBiasActivationForward(
                *handle,
                factor(&ONE),
                d.image.0,
                x,
                d.kernel.0,
                w,
                pass.conv.0,
                pass.algorithm,
                work,
                bytes,
                factor(&ZERO),
                d.result.0,
                y,
                d.bias.0,
                bias as *const c_void,
                d.relu.0,
                d.result.0,
                y,
            )
        };
        // Some versions and GPUs don't have this combination; cuDNN then does nothing.
        Ok(status == cudnnStatus_t::CUDNN_STATUS_SUCCESS)
    }

    unsafe fn backward_image(
        &self,
        w: u64,
        dy: u64,
        dx: u64,
        Workspace(work, bytes): Workspace,
    ) -> Result<(), GpuError> {
        let (handle, d, pass) = (self.cudnn.handle(), &self.descriptors, &self.image);
        // SAFETY: the descriptors live, and the memory is as large as they say (the caller's
        // promise).
        ok("cudnnConvolutionBackwardData", unsafe {
            sys::cudnnConvolutionBackwardData(
                *handle,
                factor(&ONE),
                d.kernel.0,
                w as *const c_void,
                d.result.0,
                dy as *const c_void,
                pass.conv.0,
                pass.algorithm,
                work as *mut c_void,
                bytes,
                factor(&ZERO),
                d.image.0,
                dx as *mut c_void,
            )
        })
    }

    unsafe fn backward_kernel(
        &self,
        x: u64,
        dy: u64,
        dw: u64,
        Workspace(work, bytes): Workspace,
    ) -> Result<(), GpuError> {
        let (handle, d, pass) = (self.cudnn.handle(), &self.descriptors, &self.kernel);
        // SAFETY: the descriptors live, and the memory is as large as they say (the caller's
        // promise).
        ok("cudnnConvolutionBackwardFilter", unsafe {
            sys::cudnnConvolutionBackwardFilter(
                *handle,
                factor(&ONE),
                d.image.0,
                x as *const c_void,
                d.result.0,
                dy as *const c_void,
                pass.conv.0,
                pass.algorithm,
                work as *mut c_void,
                bytes,
                factor(&ZERO),
                d.kernel.0,
                dw as *mut c_void,
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::{LAST, convolution};
    use super::*;

    #[test]
    fn cudnn_agrees_about_the_sizes_of_all_convolutions() {
        // SAFETY: opening cuDNN runs its constructors, which can't be avoided when using it.
        if !unsafe { sys::is_culib_present() } {
            eprintln!("SKIPPED: no libcudnn here (LD_LIBRARY_PATH), no descriptor was made");
            return;
        }
        for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
            for layer in 0..LAST {
                let shape = convolution(layer, 16, 64, 96);
                let descriptors = Descriptors::new(&shape, precision).unwrap();
                let conv = Conv::of(&shape, math(precision)).unwrap();
                let [mut n, mut c, mut h, mut w] = [0; 4];
                // SAFETY: the descriptors live, cuDNN writes the four numbers.
                let status = unsafe {
                    sys::cudnnGetConvolution2dForwardOutputDim(
                        conv.0,
                        descriptors.image.0,
                        descriptors.kernel.0,
                        &raw mut n,
                        &raw mut c,
                        &raw mut h,
                        &raw mut w,
                    )
                };
                ok("cudnnGetConvolution2dForwardOutputDim", status).unwrap();
                let (height, width) = shape.result();
                let wanted = [16, shape.output, height, width].map(|size| size as c_int);
                assert_eq!([n, c, h, w], wanted, "layer {layer}, {}", precision.name());
            }
        }
    }
}

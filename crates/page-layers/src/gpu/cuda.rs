//! A GPU through CUDA's driver. Libraries are opened when they are first needed (cudarc,
//! `dynamic-loading`), so the program also starts where there are none. NVRTC compiles the kernels
//! when a GPU is opened, for that GPU and with the toolkit that is installed there, so neither the
//! build machine nor the tarball has to know either. cuDNN 9 needs NVRTC anyway.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::result::{self as driver, DriverError};
use cudarc::driver::sys;
use cudarc::nvrtc::result as nvrtc;

use super::cudnn::{Cudnn, Prepared};
use super::machine::{ConvShape, Convolution, GpuError, Machine, Precision, SLOTS, macros};

/// The kernels' source.
const KERNELS: &str = include_str!("kernels.cu");

/// Threads in a block, the same number as in `kernels.cu`.
const THREADS: u32 = 256;

/// CUDA's answer as an error that names the call.
fn ok<T>(call: &'static str, result: Result<T, DriverError>) -> Result<T, GpuError> {
    result.map_err(|error| GpuError::Driver { call, text: text_of(error) })
}

fn text_of(error: DriverError) -> String {
    match (error.error_name(), error.error_string()) {
        (Ok(name), Ok(text)) => format!("{} ({})", text.to_string_lossy(), name.to_string_lossy()),
        _ => format!("error {}", error.0 as u32),
    }
}

/// A number that is copied to the host: page-locked memory for it, and the event that follows the
/// copy.
struct Slot {
    value: *mut f32,
    arrived: sys::CUevent,
}

/// A GPU, its kernels, and one stream in which everything happens.
pub(super) struct Cuda {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    module: sys::CUmodule,
    functions: Mutex<HashMap<&'static CStr, Function>>,
    slots: [Slot; SLOTS],
    cudnn: Arc<Cudnn>,
    /// Prepared convolutions. Choosing their algorithms takes a while, and the next layer's network
    /// has the same convolutions.
    prepared: Mutex<HashMap<ConvShape, Arc<Prepared>>>,
    precision: Precision,
    name: String,
}

#[derive(Clone, Copy)]
struct Function(sys::CUfunction);

// SAFETY: handles of CUDA's driver may be used by any thread that has made their context its
// current one, which `enter` does at the beginning of every call. The GPU writes the page-locked
// memory only between `fetch` and the event that `fetched` waits for.
unsafe impl Send for Cuda {}
// SAFETY: as above; the driver locks what it shares between threads, and cuDNN's handle has a lock
// of its own.
unsafe impl Sync for Cuda {}
// SAFETY: a function handle belongs to the module, which lives as long as the `Cuda` that keeps
// both.
unsafe impl Send for Function {}

impl std::fmt::Debug for Cuda {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cuda({}, {})", self.name, self.precision.name())
    }
}

impl Cuda {
    /// Opens GPU number `index` for the wanted precision, or for the fastest that it has.
    pub(super) fn open(index: usize, wanted: Option<Precision>) -> Result<Self, GpuError> {
        find_libraries()?;
        ok("cuInit", driver::init())?;
        let device = ok("cuDeviceGet", driver::device::get(index as i32))?;
        let name = ok("cuDeviceGetName", driver::device::get_name(device))?;
        let attribute = |attribute| {
            // SAFETY: `device` is from cuDeviceGet.
            ok("cuDeviceGetAttribute", unsafe { driver::device::get_attribute(device, attribute) })
        };
        use sys::CUdevice_attribute as Attribute;
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let precision = precision_for(major, wanted);
        let image = compile(&format!("sm_{major}{minor}"), precision)?;
        // SAFETY: `device` is from cuDeviceGet; the context is given back in `drop`.
        let context =
            ok("cuDevicePrimaryCtxRetain", unsafe { driver::primary_ctx::retain(device) })?;
        let opened = Self::open_context(context, &image);
        let (stream, module, slots, cudnn) = opened.inspect_err(|_| {
            // SAFETY: it was retained above, and nothing of it is kept.
            let _ = unsafe { driver::primary_ctx::release(device) };
        })?;
        Ok(Self {
            device,
            context,
            stream,
            module,
            functions: Mutex::default(),
            slots,
            cudnn: Arc::new(cudnn),
            prepared: Mutex::default(),
            precision,
            name,
        })
    }

    fn open_context(
        context: sys::CUcontext,
        image: &[u8],
    ) -> Result<(sys::CUstream, sys::CUmodule, [Slot; SLOTS], Cudnn), GpuError> {
        // SAFETY: the context was just retained.
        ok("cuCtxSetCurrent", unsafe { driver::ctx::set_current(context) })?;
        let stream =
            ok("cuStreamCreate", driver::stream::create(driver::stream::StreamKind::NonBlocking))?;
        // SAFETY: `image` is the machine code that NVRTC made: an ELF file, which says itself how
        // long it is.
        let module = ok("cuModuleLoadData", unsafe {
            driver::module::load_data(image.as_ptr().cast::<c_void>())
        })?;
        let mut slots: [Slot; SLOTS] = std::array::from_fn(|_| Slot {
            value: std::ptr::null_mut(),
            arrived: std::ptr::null_mut(),
        });
        for slot in &mut slots {
            // SAFETY: the memory is given back in `drop`, and an f32 fits.
            let value = ok("cuMemHostAlloc", unsafe { driver::malloc_host(size_of::<f32>(), 0) })?;
            let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
            let arrived = ok("cuEventCreate", driver::event::create(flags))?;
            *slot = Slot { value: value.cast(), arrived };
        }
        Ok((stream, module, slots, Cudnn::open(stream.cast())?))
    }

    /// Makes the GPU's context the current one of the calling thread.
    fn enter(&self) -> Result<(), GpuError> {
        // SAFETY: the context lives as long as `self`.
        ok("cuCtxSetCurrent", unsafe { driver::ctx::set_current(self.context) })
    }

    fn function(&self, name: &'static CStr) -> Result<sys::CUfunction, GpuError> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(name) {
            return Ok(function.0);
        }
        // SAFETY: the module lives as long as `self`.
        let found = unsafe { driver::module::get_function(self.module, name.to_owned()) };
        let function = ok("cuModuleGetFunction", found)?;
        functions.insert(name, Function(function));
        Ok(function)
    }
}

impl Machine for Cuda {
    fn precision(&self) -> Precision {
        self.precision
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn allocate(&self, bytes: usize) -> Result<u64, GpuError> {
        self.enter()?;
        // SAFETY: the caller gives it back with `free`.
        let address =
            unsafe { driver::malloc_sync(bytes.max(1)) }.map_err(|error| match error.0 {
                sys::cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY => {
                    GpuError::Memory { megabytes: bytes.div_ceil(1 << 20) }
                }
                _ => GpuError::Driver { call: "cuMemAlloc", text: text_of(error) },
            })?;
        // SAFETY: these bytes were just taken; the stream fills them before everything that uses
        // them.
        let filled = unsafe { driver::memset_d8_async(address, 0, bytes, self.stream) };
        ok("cuMemsetD8Async", filled).inspect_err(|_| {
            // SAFETY: it was taken above, and nobody has its address.
            let _ = unsafe { driver::free_sync(address) };
        })?;
        Ok(address)
    }

    unsafe fn free(&self, address: u64) {
        // cuMemFree waits until the GPU has finished its work. An error can't be reported from
        // here.
        //
        // SAFETY: the caller's promise.
        let _ = self.enter().and_then(|()| ok("cuMemFree", unsafe { driver::free_sync(address) }));
    }

    unsafe fn write(&self, to: u64, bytes: &[u8]) -> Result<(), GpuError> {
        self.enter()?;
        // The driver doesn't promise that it has read pageable memory when the call returns, and
        // the caller may then change `bytes` or give them back: so this waits for the copy.
        //
        // SAFETY: the caller's promise; the wait below ends before `bytes` does.
        ok("cuMemcpyHtoDAsync", unsafe { driver::memcpy_htod_async(to, bytes, self.stream) })?;
        // SAFETY: the stream lives as long as `self`.
        ok("cuStreamSynchronize", unsafe { driver::stream::synchronize(self.stream) })
    }

    unsafe fn read(&self, from: u64, bytes: &mut [u8]) -> Result<(), GpuError> {
        self.enter()?;
        // SAFETY: the caller's promise; the wait below ends before `bytes` does.
        ok("cuMemcpyDtoHAsync", unsafe { driver::memcpy_dtoh_async(bytes, from, self.stream) })?;
        // SAFETY: the stream lives as long as `self`.
        ok("cuStreamSynchronize", unsafe { driver::stream::synchronize(self.stream) })
    }

    unsafe fn fetch(&self, from: u64, slot: usize) -> Result<(), GpuError> {
        self.enter()?;
        let Slot { value, arrived } = &self.slots[slot];
        // SAFETY: the caller's promise; the slot's memory holds an f32, lives as long as `self`,
        // and is read only after the event.
        let copied = unsafe {
            sys::cuMemcpyDtoHAsync_v2(value.cast(), from, size_of::<f32>(), self.stream).result()
        };
        ok("cuMemcpyDtoHAsync", copied)?;
        // SAFETY: event and stream live as long as `self`.
        ok("cuEventRecord", unsafe { driver::event::record(*arrived, self.stream) })
    }

    fn fetched(&self, slot: usize) -> Result<f32, GpuError> {
        self.enter()?;
        // SAFETY: the event lives as long as `self`.
        ok("cuEventSynchronize", unsafe { driver::event::synchronize(self.slots[slot].arrived) })?;
        // SAFETY: the copy to the slot is finished, and no other begins before this returns.
        Ok(unsafe { self.slots[slot].value.read_volatile() })
    }

    unsafe fn launch(
        &self,
        kernel: &'static CStr,
        blocks: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<(), GpuError> {
        self.enter()?;
        let function = self.function(kernel)?;
        // SAFETY: the caller's promise; the driver copies the arguments before it returns.
        ok("cuLaunchKernel", unsafe {
            driver::launch_kernel(
                function,
                (blocks, 1, 1),
                (THREADS, 1, 1),
                0,
                self.stream,
                arguments,
            )
        })
    }

    fn convolution(&self, shape: ConvShape) -> Result<Arc<dyn Convolution>, GpuError> {
        self.enter()?;
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = prepared.get(&shape) {
            return Ok(Arc::clone(known) as Arc<dyn Convolution>);
        }
        let new = Arc::new(Prepared::new(&self.cudnn, shape, self.precision)?);
        prepared.insert(shape, Arc::clone(&new));
        Ok(new)
    }

    fn memory_used(&self) -> usize {
        let info = self.enter().and_then(|()| ok("cuMemGetInfo", driver::mem_get_info()));
        info.map_or(0, |(free, total)| total.saturating_sub(free))
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // Buffers keep the machine alive, so none is in use here. An error can't be reported from
        // here.
        if self.enter().is_err() {
            return;
        }
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).clear();
        // SAFETY: all of these are from `open`, and nothing uses them after the stream is empty.
        unsafe {
            let _ = driver::stream::synchronize(self.stream);
            self.cudnn.close();
            for Slot { value, arrived } in &self.slots {
                let _ = driver::event::destroy(*arrived);
                let _ = driver::free_host(value.cast());
            }
            let _ = driver::module::unload(self.module);
            let _ = driver::stream::destroy(self.stream);
            let _ = driver::primary_ctx::release(self.device);
        }
    }
}

/// cudarc panics where a library is missing, so we look for each of them first.
fn find_libraries() -> Result<(), GpuError> {
    // SAFETY: opening CUDA's libraries runs their constructors, which can't be avoided when using
    // them.
    let missing = unsafe {
        if !sys::is_culib_present() {
            Some("NVIDIA's driver (libcuda.so.1)")
        } else if !cudarc::nvrtc::sys::is_culib_present() {
            Some("CUDA's run-time compiler (libnvrtc.so.12 or .13)")
        } else if !cudarc::cudnn::sys::is_culib_present() {
            Some("cuDNN (libcudnn.so.9)")
        } else {
            None
        }
    };
    missing.map_or(Ok(()), |library| Err(GpuError::Library(library)))
}

/// The precision that a GPU of this compute capability computes in.
fn precision_for(major: i32, wanted: Option<Precision>) -> Precision {
    let best = if major >= 8 { Precision::Bf16 } else { Precision::F32 };
    match wanted {
        Some(wanted) if wanted > best => {
            tracing::warn!(
                "the GPU has no {} (compute capability 8.0 or later): f32 is used",
                wanted.name()
            );
            best
        }
        Some(wanted) => wanted,
        None => best,
    }
}

/// The kernels, compiled for `architecture`, such as `sm_90`.
pub(super) fn compile(architecture: &str, precision: Precision) -> Result<Vec<u8>, GpuError> {
    let failed = |log: String| GpuError::Compile { architecture: architecture.to_owned(), log };
    let source = CString::new(KERNELS).map_err(|error| failed(error.to_string()))?;
    let program =
        nvrtc::create_program(&source, Some(c"kernels.cu")).map_err(|e| failed(e.to_string()))?;
    let mut options = vec![format!("--gpu-architecture={architecture}"), "--std=c++17".to_owned()];
    options.extend(macros(precision));
    // SAFETY: the program is the one made above, and it is destroyed once, at the end.
    unsafe {
        let result = nvrtc::compile_program(program, &options).map_err(|error| {
            let log = nvrtc::get_program_log(program).unwrap_or_default();
            let log: Vec<u8> = log.into_iter().map(|c| c as u8).take_while(|c| *c != 0).collect();
            failed(format!("{error}\n{}", String::from_utf8_lossy(&log)))
        });
        let image = result.and_then(|()| binary(program).map_err(|e| failed(e.to_string())));
        let _ = nvrtc::destroy_program(program);
        image
    }
}

/// Machine code rather than PTX: a driver that is older than the toolkit may not be able to read
/// its PTX.
///
/// # Safety
///
/// The program has been compiled for a real architecture and still exists.
unsafe fn binary(program: cudarc::nvrtc::sys::nvrtcProgram) -> Result<Vec<u8>, nvrtc::NvrtcError> {
    use cudarc::nvrtc::sys;
    let mut size = 0;
    // SAFETY: the caller's promise; the buffer is as long as NVRTC says.
    unsafe {
        sys::nvrtcGetCUBINSize(program, &raw mut size).result()?;
        let mut image = vec![0u8; size];
        sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()).result()?;
        Ok(image)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn an_old_card_computes_in_f32_whatever_is_wanted() {
        assert_eq!(precision_for(7, None), Precision::F32);
        assert_eq!(precision_for(7, Some(Precision::Tf32)), Precision::F32);
        assert_eq!(precision_for(8, None), Precision::Bf16);
        assert_eq!(precision_for(9, Some(Precision::F32)), Precision::F32);
        assert_eq!(precision_for(9, Some(Precision::Tf32)), Precision::Tf32);
    }

    /// NVRTC where `./run_tests` has installed it, or where the system has it.
    fn has_nvrtc() -> bool {
        if let Some(folder) = std::env::var_os("HPC_TRAINER_TEST_NVRTC") {
            let files = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
            let named = |path: &PathBuf, what: &str| path.to_string_lossy().contains(what);
            let (builtins, compiler): (Vec<_>, Vec<_>) = files
                .filter(|path| named(path, "/libnvrtc") && !named(path, ".alt."))
                .partition(|path| named(path, "builtins"));
            assert!(!compiler.is_empty(), "no libnvrtc in {}", folder.display());
            for path in builtins.iter().chain(&compiler) {
                // SAFETY: NVIDIA's own libraries, which stay open for good.
                let library = unsafe { libloading::Library::new(path) };
                // From now on the same library is found by its name.
                std::mem::forget(library.unwrap());
            }
        }
        // SAFETY: as in `find_libraries`.
        unsafe { cudarc::nvrtc::sys::is_culib_present() }
    }

    #[test]
    fn the_kernels_compile_for_every_card_where_the_compiler_is() {
        if !has_nvrtc() {
            eprintln!(
                "SKIPPED: no libnvrtc here (HPC_TRAINER_TEST_NVRTC, LD_LIBRARY_PATH): the \
                 kernels were compiled for no GPU"
            );
            return;
        }
        // From Ampere to Blackwell; before them Turing, which computes in f32 alone.
        for architecture in ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"] {
            assert!(!compile(architecture, Precision::Bf16).unwrap().is_empty());
        }
        for (architecture, precision) in
            [("sm_75", Precision::F32), ("sm_90", Precision::F32), ("sm_90", Precision::Tf32)]
        {
            assert!(!compile(architecture, precision).unwrap().is_empty());
        }
        assert!(matches!(compile("sm_1", Precision::F32), Err(GpuError::Compile { .. })));
    }
}

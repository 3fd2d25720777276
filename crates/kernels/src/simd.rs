//! Vectors of f32 for three kinds of processor; the kind is chosen when the program runs.
//!
//! The build targets plain x86-64, because one binary must start on every node. So the kernels are
//! generic over [`Simd`], and [`dispatch`] runs them inside a function that is compiled for what
//! the processor has. Everything between that function and an intrinsic is `inline(always)`: code
//! that is not inlined would be compiled without the wide registers.

use wide::{f32x4, u32x4};

use super::level::Level;
use super::precision::{Precision, pair};

/// One kind of vector register.
pub(super) trait Simd: Copy {
    /// Values in one register.
    const LANES: usize;
    /// Whether there are 32 registers, not 16.
    const MANY_REGISTERS: bool;
    /// Whether products are of bfloat16: then there are [`Self::dot`], [`Self::narrow`] and
    /// [`Self::pair`].
    const BF16: bool;
    /// The register.
    type V: Copy;

    /// The same value in every lane.
    fn splat(value: f32) -> Self::V;
    /// The first [`Self::LANES`] values of a slice that has at least so many.
    fn load(from: &[f32]) -> Self::V;
    /// Writes the first [`Self::LANES`] values of a slice that has at least so many.
    fn store(to: &mut [f32], v: Self::V);
    /// # Safety
    /// [`Self::LANES`] values must be readable at `from`.
    unsafe fn load_ptr(from: *const f32) -> Self::V;
    /// # Safety
    /// [`Self::LANES`] values must be writable at `to`.
    unsafe fn store_ptr(to: *mut f32, v: Self::V);
    /// As [`Self::store_ptr`], but not by way of the caches: for what nobody reads before it would
    /// have left them. A usual store fetches the line from memory first.
    ///
    /// # Safety
    /// As for [`Self::store_ptr`]; besides, `to` must be a multiple of the register's size.
    unsafe fn stream_ptr(to: *mut f32, v: Self::V);
    /// [`Self::stream_ptr`] if `far`, else [`Self::store_ptr`].
    ///
    /// # Safety
    /// As for these.
    #[inline(always)]
    unsafe fn put_ptr(to: *mut f32, v: Self::V, far: bool) {
        // SAFETY: the caller's promise.
        unsafe { if far { Self::stream_ptr(to, v) } else { Self::store_ptr(to, v) } }
    }
    /// Fetches a cache line that is needed soon; any address will do.
    fn prefetch(at: *const f32);
    /// `a + b`.
    fn add(a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`.
    fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the processor can.
    fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `max(v, 0)`; NaN stays NaN, so that a diverged training is noticed.
    fn relu(v: Self::V) -> Self::V;
    /// `v` where `y > 0`, else 0: the gradient of a ReLU whose output was `y`.
    fn where_positive(y: Self::V, v: Self::V) -> Self::V;

    /// `a₀ b₀ + a₁ b₁ + c`, where each lane of `a` and `b` has the bits of two bfloat16.
    fn dot(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The values of `first` and then those of `second` as bfloat16, two in a lane.
    fn narrow(first: Self::V, second: Self::V) -> Self::V;
    /// In each lane the value of `first` and that of `second` as bfloat16.
    fn pair(first: Self::V, second: Self::V) -> Self::V;
}

/// Work that runs with the widest vectors that the processor has.
pub(super) trait Kernel {
    /// Does the work; must be `inline(always)`, as must be all that it calls.
    fn run<S: Simd>(self);
}

/// Runs `kernel` with the processor's best vectors. Other threads see afterwards what it has
/// written, also what it has streamed.
pub(super) fn dispatch(kernel: impl Kernel) {
    let is_bf16 = Precision::of_process() == Precision::Bf16;
    match Level::detect() {
        Level::Portable if is_bf16 => kernel.run::<Portable<true>>(),
        Level::Portable => kernel.run::<Portable<false>>(),
        // SAFETY: `detect` has seen the features that the function needs.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::run_avx2(kernel) },
        // SAFETY: as above; `has_bf16` has seen the others, or the precision would be f32.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 if is_bf16 => unsafe { x86::run_avx512_bf16(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::run_avx512(kernel) },
    }
}

/// Four values, which every processor can handle. As arrays of f32, they would take the compiler
/// two minutes: it then looks for vectors in code that is written out value by value.
#[derive(Clone, Copy)]
pub(super) struct Portable<const BF16: bool>;

const FOUR: usize = 4;

impl<const BF16: bool> Simd for Portable<BF16> {
    const LANES: usize = FOUR;
    const MANY_REGISTERS: bool = false;
    const BF16: bool = BF16;
    type V = f32x4;

    #[inline(always)]
    fn splat(value: f32) -> Self::V {
        f32x4::splat(value)
    }
    #[inline(always)]
    fn load(from: &[f32]) -> Self::V {
        let from = &from[..FOUR];
        // SAFETY: the slice above has four values.
        unsafe { Self::load_ptr(from.as_ptr()) }
    }
    #[inline(always)]
    fn store(to: &mut [f32], v: Self::V) {
        to[..FOUR].copy_from_slice(v.as_array());
    }
    #[inline(always)]
    unsafe fn load_ptr(from: *const f32) -> Self::V {
        // SAFETY: the caller vouches for four readable values; the read asks for no alignment.
        unsafe { from.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_ptr(to: *mut f32, v: Self::V) {
        // SAFETY: the caller vouches for four writable values; the write asks for no alignment.
        unsafe { to.cast::<Self::V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn stream_ptr(to: *mut f32, v: Self::V) {
        // SAFETY: the caller vouches for four writable values.
        unsafe { Self::store_ptr(to, v) }
    }
    #[inline(always)]
    fn prefetch(_at: *const f32) {}
    #[inline(always)]
    fn add(a: Self::V, b: Self::V) -> Self::V {
        a + b
    }
    #[inline(always)]
    fn sub(a: Self::V, b: Self::V) -> Self::V {
        a - b
    }
    #[inline(always)]
    fn mul(a: Self::V, b: Self::V) -> Self::V {
        a * b
    }
    #[inline(always)]
    fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not `mul_add`: without the instruction that is a call into the C library for each value.
        a * b + c
    }
    #[inline(always)]
    fn relu(v: Self::V) -> Self::V {
        v.simd_le(f32x4::ZERO).select(f32x4::ZERO, v)
    }
    #[inline(always)]
    fn where_positive(y: Self::V, v: Self::V) -> Self::V {
        y.simd_gt(f32x4::ZERO) & v
    }
    #[inline(always)]
    fn dot(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        let halves = |lanes: f32x4| -> [f32x4; 2] {
            let bits: u32x4 = bytemuck::cast(lanes);
            [bits << 16, bits & u32x4::splat(0xffff_0000)].map(bytemuck::cast)
        };
        let ([a0, a1], [b0, b1]) = (halves(a), halves(b));
        a0 * b0 + a1 * b1 + c
    }
    #[inline(always)]
    fn narrow(first: Self::V, second: Self::V) -> Self::V {
        let ([a, b, c, d], [e, f, g, h]) = (first.to_array(), second.to_array());
        f32x4::new([pair(a, b), pair(c, d), pair(e, f), pair(g, h)])
    }
    #[inline(always)]
    fn pair(first: Self::V, second: Self::V) -> Self::V {
        let (first, second) = (first.to_array(), second.to_array());
        f32x4::new(std::array::from_fn(|i| pair(first[i], second[i])))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use super::{Kernel, Simd};

    #[target_feature(enable = "avx512f,avx2,fma")]
    pub(super) fn run_avx512(kernel: impl Kernel) {
        kernel.run::<Avx512<false>>();
        _mm_sfence();
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx2,fma")]
    pub(super) fn run_avx512_bf16(kernel: impl Kernel) {
        kernel.run::<Avx512<true>>();
        _mm_sfence();
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn run_avx2(kernel: impl Kernel) {
        kernel.run::<Avx2>();
        _mm_sfence();
    }

    /// Sixteen values. Only [`run_avx512`] and [`run_avx512_bf16`] name this type, and they are
    /// entered only where AVX-512 F was detected, the latter with `BF16` only where AVX-512 BF16
    /// and BW were, too: that is what makes every intrinsic below sound.
    #[derive(Clone, Copy)]
    pub(super) struct Avx512<const BF16: bool>;

    /// The numbers of the sixteen 16-bit lanes of two registers' halves, by turns.
    const BY_TURNS: [u16; 32] = {
        let mut turns = [0; 32];
        let mut lane = 0;
        while lane < 32 {
            turns[lane as usize] = lane / 2 + lane % 2 * 16;
            lane += 1;
        }
        turns
    };

    impl<const BF16: bool> Simd for Avx512<BF16> {
        const LANES: usize = 16;
        const MANY_REGISTERS: bool = true;
        const BF16: bool = BF16;
        type V = __m512;

        #[inline(always)]
        fn splat(value: f32) -> __m512 {
            // SAFETY: see the type.
            unsafe { _mm512_set1_ps(value) }
        }
        #[inline(always)]
        fn load(from: &[f32]) -> __m512 {
            let from = &from[..16];
            // SAFETY: see the type; the slice above has sixteen values.
            unsafe { _mm512_loadu_ps(from.as_ptr()) }
        }
        #[inline(always)]
        fn store(to: &mut [f32], v: __m512) {
            let to = &mut to[..16];
            // SAFETY: see the type; the slice above has sixteen values.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
        }
        #[inline(always)]
        unsafe fn load_ptr(from: *const f32) -> __m512 {
            // SAFETY: see the type; the caller vouches for sixteen readable values.
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store_ptr(to: *mut f32, v: __m512) {
            // SAFETY: see the type; the caller vouches for sixteen writable values.
            unsafe { _mm512_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn stream_ptr(to: *mut f32, v: __m512) {
            // SAFETY: see the type; the caller vouches for sixteen writable values at a multiple
            // of 64 bytes.
            unsafe { _mm512_stream_ps(to, v) }
        }
        #[inline(always)]
        fn prefetch(at: *const f32) {
            // SAFETY: a hint, which never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        }
        #[inline(always)]
        fn add(a: __m512, b: __m512) -> __m512 {
            // SAFETY: see the type.
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        fn sub(a: __m512, b: __m512) -> __m512 {
            // SAFETY: see the type.
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        fn mul(a: __m512, b: __m512) -> __m512 {
            // SAFETY: see the type.
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: see the type.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn relu(v: __m512) -> __m512 {
            // SAFETY: see the type. If one operand is NaN, the instruction returns the second
            // operand.
            unsafe { _mm512_max_ps(_mm512_setzero_ps(), v) }
        }
        #[inline(always)]
        fn where_positive(y: __m512, v: __m512) -> __m512 {
            // SAFETY: see the type.
            unsafe {
                _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(y, _mm512_setzero_ps()), v)
            }
        }
        #[inline(always)]
        fn dot(a: __m512, b: __m512, c: __m512) -> __m512 {
            assert!(BF16);
            let halves = |lanes| {
                // SAFETY: both are registers of 512 bits, and any bits are values of both.
                unsafe { transmute::<__m512, __m512bh>(lanes) }
            };
            // SAFETY: see the type.
            unsafe { _mm512_dpbf16_ps(c, halves(a), halves(b)) }
        }
        #[inline(always)]
        fn narrow(first: __m512, second: __m512) -> __m512 {
            assert!(BF16);
            // SAFETY: as above. The lower half of the result is the second operand's.
            unsafe { transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(second, first)) }
        }
        #[inline(always)]
        fn pair(first: __m512, second: __m512) -> __m512 {
            assert!(BF16);
            // SAFETY: as above; the array has as many bytes as the register.
            unsafe {
                let turns = _mm512_loadu_si512(BY_TURNS.as_ptr().cast());
                let halves = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first));
                _mm512_castsi512_ps(_mm512_permutexvar_epi16(turns, halves))
            }
        }
    }

    /// Eight values. Only [`run_avx2`] names this type, and it is entered only where AVX2 and FMA
    /// were detected.
    #[derive(Clone, Copy)]
    pub(super) struct Avx2;

    impl Simd for Avx2 {
        const LANES: usize = 8;
        const MANY_REGISTERS: bool = false;
        const BF16: bool = false;
        type V = __m256;

        #[inline(always)]
        fn splat(value: f32) -> __m256 {
            // SAFETY: see the type.
            unsafe { _mm256_set1_ps(value) }
        }
        #[inline(always)]
        fn load(from: &[f32]) -> __m256 {
            let from = &from[..8];
            // SAFETY: see the type; the slice above has eight values.
            unsafe { _mm256_loadu_ps(from.as_ptr()) }
        }
        #[inline(always)]
        fn store(to: &mut [f32], v: __m256) {
            let to = &mut to[..8];
            // SAFETY: see the type; the slice above has eight values.
            unsafe { _mm256_storeu_ps(to.as_mut_ptr(), v) }
        }
        #[inline(always)]
        unsafe fn load_ptr(from: *const f32) -> __m256 {
            // SAFETY: see the type; the caller vouches for eight readable values.
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store_ptr(to: *mut f32, v: __m256) {
            // SAFETY: see the type; the caller vouches for eight writable values.
            unsafe { _mm256_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn stream_ptr(to: *mut f32, v: __m256) {
            // SAFETY: see the type; the caller vouches for eight writable values at a multiple of
            // 32 bytes.
            unsafe { _mm256_stream_ps(to, v) }
        }
        #[inline(always)]
        fn prefetch(at: *const f32) {
            // SAFETY: a hint, which never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        }
        #[inline(always)]
        fn add(a: __m256, b: __m256) -> __m256 {
            // SAFETY: see the type.
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        fn sub(a: __m256, b: __m256) -> __m256 {
            // SAFETY: see the type.
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        fn mul(a: __m256, b: __m256) -> __m256 {
            // SAFETY: see the type.
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: see the type.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn relu(v: __m256) -> __m256 {
            // SAFETY: see the type. If one operand is NaN, the instruction returns the second
            // operand.
            unsafe { _mm256_max_ps(_mm256_setzero_ps(), v) }
        }
        #[inline(always)]
        fn where_positive(y: __m256, v: __m256) -> __m256 {
            // SAFETY: see the type.
            unsafe { _mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(y, _mm256_setzero_ps()), v) }
        }
        fn dot(_a: __m256, _b: __m256, _c: __m256) -> __m256 {
            unreachable!("AVX2 has no products of bfloat16")
        }
        fn narrow(_first: __m256, _second: __m256) -> __m256 {
            unreachable!("AVX2 has no bfloat16")
        }
        fn pair(_first: __m256, _second: __m256) -> __m256 {
            unreachable!("AVX2 has no bfloat16")
        }
    }
}

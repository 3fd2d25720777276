//! What the processor offers, and how much of it is used.

use std::sync::OnceLock;

/// What the processor offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// What every processor of its kind has, such as SSE2 or NEON.
    Portable,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// `avx2` or `portable`: use less than the processor has.
const VARIABLE: &str = "HPC_TRAINER_SIMD";
const PORTABLE: &str = "portable";

impl Level {
    /// The best that this processor has, or less where `HPC_TRAINER_SIMD` says `avx2` or
    /// `portable`, so that the tests reach the kernels for other processors too.
    pub(super) fn detect() -> Self {
        static LEVEL: OnceLock<Level> = OnceLock::new();
        *LEVEL.get_or_init(|| match std::env::var(VARIABLE).as_deref() {
            Ok(PORTABLE) => Self::Portable,
            Ok("avx2") => Self::best(false),
            _ => Self::best(true),
        })
    }

    /// Whether there are products of bfloat16: on processors that have an instruction for them.
    /// With `HPC_TRAINER_SIMD=portable` they are imitated, for the tests.
    pub(super) fn has_bf16() -> bool {
        if std::env::var(VARIABLE).as_deref() == Ok(PORTABLE) {
            return true;
        }
        #[cfg(target_arch = "x86_64")]
        if Self::detect() == Self::Avx512 {
            return is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw");
        }
        false
    }

    fn best(wide: bool) -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if wide && is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        let _ = wide; // elsewhere there is one kind only
        Self::Portable
    }
}

//! The precision of the products on the CPU.

use std::sync::OnceLock;

use super::level::Level;

/// `f32` or `bf16`: the precision of the products on the CPU.
const VARIABLE: &str = "HPC_TRAINER_CPU_PRECISION";

static CHOSEN: OnceLock<Precision> = OnceLock::new();

/// What the products of convolutions are computed with. Sums are f32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// f32, as in Keras.
    #[default]
    F32,
    /// Factors are rounded to bfloat16 (eight digits of f32's 24), two of which are multiplied in
    /// the time of one.
    Bf16,
}

impl Precision {
    /// The precision of this process: f32 until [`Self::adopt`].
    pub(super) fn of_process() -> Self {
        CHOSEN.get().copied().unwrap_or_default()
    }

    /// Computes from now on as `HPC_TRAINER_CPU_PRECISION` asks for. To be called before anything
    /// is computed that later results depend on; the first call decides.
    ///
    /// # Errors
    /// A sentence without a full stop when it asks for what is not known, or for what this
    /// processor has no instruction for: f32 is taken then.
    pub fn adopt() -> Result<Self, String> {
        let wanted = Self::wanted()?;
        Ok(*CHOSEN.get_or_init(|| wanted))
    }

    fn wanted() -> Result<Self, String> {
        let wanted = std::env::var(VARIABLE).unwrap_or_default();
        match wanted.to_ascii_lowercase().as_str() {
            "" | "f32" => Ok(Self::F32),
            "bf16" if Level::has_bf16() => Ok(Self::Bf16),
            "bf16" => {
                Err(format!("{VARIABLE}=bf16, but no AVX-512 BF16 can be used here: f32 is taken"))
            }
            _ => Err(format!("{VARIABLE}={wanted:?} is neither f32 nor bf16: f32 is taken")),
        }
    }

    /// What a product makes of a factor.
    pub fn rounded(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::Bf16 => f32::from_bits(u32::from(bf16(value)) << 16),
        }
    }

    /// Its name in `HPC_TRAINER_CPU_PRECISION`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

/// The bits of the bfloat16 that is nearest to a value; of two that are as near, the even one.
pub(super) fn bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// Two bfloat16 as the bits of one f32, `first` in the lower half.
pub(super) fn pair(first: f32, second: f32) -> f32 {
    f32::from_bits(u32::from(bf16(first)) | u32::from(bf16(second)) << 16)
}

//! Adam exactly as Keras 2.15 computes it.

use candle_core::{CpuStorage, Device, InplaceOp2, InplaceOp3, Layout, Result, Tensor, Var, bail};
use rayon::prelude::*;

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
/// Keras adds ε to `√v` before the bias correction (`w -= α·m / (√v + ε)`, with the correction
/// inside α). candle's AdamW and the paper's first form add it to the corrected `√v̂`. In the first
/// steps the two differ by up to a factor of 30 for gradients around 1e-7.
const EPSILON: f64 = 1e-7;

/// Number of values in one job.
const PIECE: usize = 1 << 14;

/// The optimiser and its moments.
pub struct Adam {
    learning_rate: f64,
    step: u64,
    first: Vec<Tensor>,
    second: Vec<Tensor>,
}

/// The state of the optimiser, for a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamState {
    /// Steps taken.
    pub step: u64,
    /// First moments of each parameter, in the parameters' order.
    pub first: Vec<Vec<f32>>,
    /// Second moments.
    pub second: Vec<Vec<f32>>,
}

impl Adam {
    /// An optimiser in its initial state for `parameters`.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    pub fn new(parameters: &[Var], learning_rate: f64) -> Result<Self> {
        let zeros = || parameters.iter().map(|p| p.zeros_like()).collect::<Result<Vec<_>>>();
        Ok(Self { learning_rate, step: 0, first: zeros()?, second: zeros()? })
    }

    /// An optimiser that continues from `state`.
    ///
    /// # Errors
    /// When `state` belongs to other parameters.
    pub fn resume(parameters: &[Var], learning_rate: f64, state: AdamState) -> Result<Self> {
        let load = |moments: Vec<Vec<f32>>| {
            if moments.len() != parameters.len() {
                bail!("{} moments for {} parameters", moments.len(), parameters.len());
            }
            let pairs = moments.into_iter().zip(parameters);
            pairs.map(|(m, p)| Tensor::from_vec(m, p.shape(), p.device())).collect::<Result<Vec<_>>>()
        };
        Ok(Self { learning_rate, step: state.step, first: load(state.first)?, second: load(state.second)? })
    }

    /// Copies the state out.
    ///
    /// # Errors
    /// When the device fails.
    pub fn state(&self) -> Result<AdamState> {
        let save = |moments: &[Tensor]| {
            moments.iter().map(|m| m.flatten_all()?.to_vec1::<f32>()).collect::<Result<Vec<_>>>()
        };
        Ok(AdamState { step: self.step, first: save(&self.first)?, second: save(&self.second)? })
    }

    /// Updates every parameter once, in place.
    ///
    /// # Errors
    /// When a gradient has another shape than its parameter or the device fails.
    pub fn step(&mut self, parameters: &[Var], gradients: &[Tensor]) -> Result<()> {
        if gradients.len() != self.first.len() || parameters.len() != self.first.len() {
            bail!("{} gradients for {} parameters", gradients.len(), self.first.len());
        }
        self.step += 1;
        // Keras computes the powers in f32 (`tf.pow(tf.cast(beta, f32), local_step)`), so the
        // correction is f32 too.
        let power = |beta: f64| (beta as f32).powf(self.step as f32);
        let alpha = self.learning_rate as f32 * (1.0 - power(BETA_2)).sqrt() / (1.0 - power(BETA_1));
        for (i, (parameter, gradient)) in parameters.iter().zip(gradients).enumerate() {
            let (first, second) = (&mut self.first[i], &mut self.second[i]);
            if let Device::Cpu = parameter.device() {
                first.inplace_op2(gradient, &FirstMoment)?;
                second.inplace_op2(gradient, &SecondMoment)?;
                parameter.as_tensor().inplace_op3(first, second, &Move { alpha })?;
            } else {
                *first = (&*first + ((gradient - &*first)? * (1.0 - BETA_1))?)?;
                *second = (&*second + ((gradient.sqr()? - &*second)? * (1.0 - BETA_2))?)?;
                let change = ((&*first * f64::from(alpha))? / (second.sqrt()? + EPSILON)?)?;
                parameter.set(&(parameter.as_tensor() - change)?)?;
            }
        }
        Ok(())
    }
}

fn whole<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("Adam needs contiguous tensors"),
    }
}

fn whole_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        _ => bail!("Adam needs contiguous f32 tensors"),
    }
}

struct FirstMoment;

impl InplaceOp2 for FirstMoment {
    fn name(&self) -> &'static str {
        "adam-first-moment"
    }
    fn cpu_fwd(&self, m: &mut CpuStorage, lm: &Layout, g: &CpuStorage, lg: &Layout) -> Result<()> {
        let rate = (1.0 - BETA_1) as f32;
        whole_mut(m, lm)?.par_chunks_mut(PIECE).zip(whole(g, lg)?.par_chunks(PIECE)).for_each(|(m, g)| {
            m.iter_mut().zip(g).for_each(|(m, g)| *m += (g - *m) * rate);
        });
        Ok(())
    }
}

struct SecondMoment;

impl InplaceOp2 for SecondMoment {
    fn name(&self) -> &'static str {
        "adam-second-moment"
    }
    fn cpu_fwd(&self, v: &mut CpuStorage, lv: &Layout, g: &CpuStorage, lg: &Layout) -> Result<()> {
        let rate = (1.0 - BETA_2) as f32;
        whole_mut(v, lv)?.par_chunks_mut(PIECE).zip(whole(g, lg)?.par_chunks(PIECE)).for_each(|(v, g)| {
            v.iter_mut().zip(g).for_each(|(v, g)| *v += (g * g - *v) * rate);
        });
        Ok(())
    }
}

struct Move {
    alpha: f32,
}

impl InplaceOp3 for Move {
    fn name(&self) -> &'static str {
        "adam-move"
    }
    fn cpu_fwd(
        &self,
        w: &mut CpuStorage,
        lw: &Layout,
        m: &CpuStorage,
        lm: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> Result<()> {
        let (m, v) = (whole(m, lm)?, whole(v, lv)?);
        let moments = m.par_chunks(PIECE).zip(v.par_chunks(PIECE));
        whole_mut(w, lw)?.par_chunks_mut(PIECE).zip(moments).for_each(|(w, (m, v))| {
            for ((w, m), v) in w.iter_mut().zip(m).zip(v) {
                *w -= m * self.alpha / (v.sqrt() + EPSILON as f32);
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three values and their gradients in four steps: ordinary, around ε, large and vanishing.
    const GRADIENTS: [[f32; 3]; 4] =
        [[0.1, 1e-7, -3.0], [-0.2, 1e-7, 2.5], [0.05, -3e-7, 0.0], [0.0, 0.0, 1e-3]];

    /// What `tf.keras.optimizers.Adam(1e-4)` of TensorFlow 2.15.1 made of them, starting from (1,
    /// -0.5, 0.25).
    const KERAS: [[f32; 3]; 4] = [
        [0.999_9, -0.500_003_04, 0.250_1],
        [0.999_936_6, -0.500_007_33, 0.250_103_8],
        [0.999_950_23, -0.500_004_95, 0.250_106_75],
        [0.999_961_44, -0.500_003_04, 0.250_109_14],
    ];

    fn values(var: &Var) -> Vec<f32> {
        var.to_vec1().unwrap()
    }

    fn gradient(step: usize) -> Tensor {
        Tensor::new(&GRADIENTS[step], &Device::Cpu).unwrap()
    }

    #[test]
    fn four_steps_are_those_of_keras() {
        let parameter = Var::new(&[1f32, -0.5, 0.25], &Device::Cpu).unwrap();
        let parameters = [parameter];
        let mut adam = Adam::new(&parameters, 1e-4).unwrap();
        for (step, wanted) in KERAS.iter().enumerate() {
            adam.step(&parameters, &[gradient(step)]).unwrap();
            for (got, wanted) in values(&parameters[0]).iter().zip(wanted) {
                assert!((got - wanted).abs() <= 6e-8, "step {step}: {got} instead of {wanted}");
            }
        }
    }

    #[test]
    fn an_optimiser_goes_on_from_its_state_to_the_bit() {
        let start = || [Var::new(&[1f32, -0.5, 0.25], &Device::Cpu).unwrap()];
        let (whole, parts) = (start(), start());
        let mut adam = Adam::new(&whole, 1e-4).unwrap();
        let mut first = Adam::new(&parts, 1e-4).unwrap();
        for step in 0..2 {
            adam.step(&whole, &[gradient(step)]).unwrap();
            first.step(&parts, &[gradient(step)]).unwrap();
        }
        let mut second = Adam::resume(&parts, 1e-4, first.state().unwrap()).unwrap();
        for step in 2..4 {
            adam.step(&whole, &[gradient(step)]).unwrap();
            second.step(&parts, &[gradient(step)]).unwrap();
        }
        assert_eq!(values(&whole[0]), values(&parts[0]));
        assert_eq!(adam.state().unwrap(), second.state().unwrap());
    }

    #[test]
    fn a_state_of_other_parameters_is_refused() {
        let parameters = [Var::new(&[1f32, 2.0], &Device::Cpu).unwrap()];
        let state = AdamState { step: 1, first: vec![vec![0.0; 3]], second: vec![vec![0.0; 2]] };
        assert!(Adam::resume(&parameters, 1e-4, state).is_err());
        let state = AdamState { step: 1, first: vec![], second: vec![] };
        assert!(Adam::resume(&parameters, 1e-4, state).is_err());
    }
}

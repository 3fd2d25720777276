//! Adam exactly as Keras 2.15 computes it.

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, Device, InplaceOp2, InplaceOp3, Layout, Result, Tensor, Var, bail};
use candle_nn::Optimizer;
use rayon::prelude::*;

use crate::hyperparameters::{BETA_1, BETA_2, EPSILON};

/// Number of values in one job.
const PIECE: usize = 1 << 14;

/// The optimiser with its parameters and their moments. Everything but the learning rate is the
/// training contract's ([`hyperparameters`](crate::hyperparameters)).
pub struct KerasAdam {
    parameters: Vec<Var>,
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

impl KerasAdam {
    /// An optimiser in its initial state for `parameters`.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    pub fn new(parameters: &[Var], learning_rate: f64) -> Result<Self> {
        let zeros = || parameters.iter().map(|p| p.zeros_like()).collect::<Result<Vec<_>>>();
        let (first, second) = (zeros()?, zeros()?);
        Ok(Self { parameters: parameters.to_vec(), learning_rate, step: 0, first, second })
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
            pairs
                .map(|(m, p)| Tensor::from_vec(m, p.shape(), p.device()))
                .collect::<Result<Vec<_>>>()
        };
        let (first, second) = (load(state.first)?, load(state.second)?);
        Ok(Self { parameters: parameters.to_vec(), learning_rate, step: state.step, first, second })
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

    /// Moves every parameter once, in place, by its gradient (in the parameters' order).
    ///
    /// # Errors
    /// When a gradient has another shape than its parameter or the device fails.
    pub fn apply(&mut self, gradients: &[Tensor]) -> Result<()> {
        if gradients.len() != self.parameters.len() {
            bail!("{} gradients for {} parameters", gradients.len(), self.parameters.len());
        }
        let alpha = self.next_alpha();
        for (index, gradient) in gradients.iter().enumerate() {
            self.move_one(index, gradient, alpha)?;
        }
        Ok(())
    }

    /// Counts a step; the learning rate with the step's bias correction.
    fn next_alpha(&mut self) -> f32 {
        self.step += 1;
        // Keras takes the powers in f32 (`tf.pow(tf.cast(beta, f32), local_step)`), and so the
        // correction too.
        let power = |beta: f64| (beta as f32).powf(self.step as f32);
        self.learning_rate as f32 * (1.0 - power(BETA_2)).sqrt() / (1.0 - power(BETA_1))
    }

    fn move_one(&mut self, index: usize, gradient: &Tensor, alpha: f32) -> Result<()> {
        let parameter = &self.parameters[index];
        let (first, second) = (&mut self.first[index], &mut self.second[index]);
        if let Device::Cpu = parameter.device() {
            first.inplace_op2(gradient, &FirstMoment)?;
            second.inplace_op2(gradient, &SecondMoment)?;
            return parameter.as_tensor().inplace_op3(first, second, &Move { alpha });
        }
        // A `PageNetwork` on another device. Detached: a gradient may carry the graph it came from.
        let gradient = gradient.detach();
        *first = (&*first + ((&gradient - &*first)? * (1.0 - BETA_1))?)?;
        *second = (&*second + ((gradient.sqr()? - &*second)? * (1.0 - BETA_2))?)?;
        let change = ((&*first * f64::from(alpha))? / (second.sqrt()? + EPSILON)?)?;
        parameter.set(&(parameter.as_tensor().detach() - change)?)
    }
}

impl Optimizer for KerasAdam {
    /// The learning rate.
    type Config = f64;

    fn new(parameters: Vec<Var>, learning_rate: f64) -> Result<Self> {
        Self::new(&parameters, learning_rate)
    }

    /// Moves the parameters that have a gradient in the store.
    fn step(&mut self, gradients: &GradStore) -> Result<()> {
        let alpha = self.next_alpha();
        for index in 0..self.parameters.len() {
            if let Some(gradient) = gradients.get(self.parameters[index].as_tensor()) {
                let gradient = gradient.contiguous()?;
                self.move_one(index, &gradient, alpha)?;
            }
        }
        Ok(())
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.learning_rate = learning_rate;
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
        whole_mut(m, lm)?.par_chunks_mut(PIECE).zip(whole(g, lg)?.par_chunks(PIECE)).for_each(
            |(m, g)| {
                m.iter_mut().zip(g).for_each(|(m, g)| *m += (g - *m) * rate);
            },
        );
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
        whole_mut(v, lv)?.par_chunks_mut(PIECE).zip(whole(g, lg)?.par_chunks(PIECE)).for_each(
            |(v, g)| {
                v.iter_mut().zip(g).for_each(|(v, g)| *v += (g * g - *v) * rate);
            },
        );
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
        let mut adam = KerasAdam::new(&parameters, 1e-4).unwrap();
        for (step, wanted) in KERAS.iter().enumerate() {
            adam.apply(&[gradient(step)]).unwrap();
            for (got, wanted) in values(&parameters[0]).iter().zip(wanted) {
                assert!((got - wanted).abs() <= 6e-8, "step {step}: {got} instead of {wanted}");
            }
        }
    }

    #[test]
    fn candle_s_tape_moves_the_parameters_as_a_list_of_gradients_does() {
        let start = || Var::new(&[1f32, -0.5, 0.25], &Device::Cpu).unwrap();
        let (by_list, by_tape, untouched) = (start(), start(), start());
        let mut list = KerasAdam::new(std::slice::from_ref(&by_list), 1e-4).unwrap();
        let parameters = vec![by_tape.clone(), untouched.clone()];
        let mut tape = <KerasAdam as Optimizer>::new(parameters, 1e-4).unwrap();
        for step in 0..4 {
            list.apply(&[gradient(step)]).unwrap();
            let loss = by_tape.mul(&gradient(step)).unwrap().sum_all().unwrap();
            tape.backward_step(&loss).unwrap();
        }
        assert_eq!(values(&by_list), values(&by_tape));
        assert_eq!(values(&untouched), values(&start()));
    }

    #[test]
    fn an_optimiser_goes_on_from_its_state_to_the_bit() {
        let start = || [Var::new(&[1f32, -0.5, 0.25], &Device::Cpu).unwrap()];
        let (whole, parts) = (start(), start());
        let mut adam = KerasAdam::new(&whole, 1e-4).unwrap();
        let mut first = KerasAdam::new(&parts, 1e-4).unwrap();
        for step in 0..2 {
            adam.apply(&[gradient(step)]).unwrap();
            first.apply(&[gradient(step)]).unwrap();
        }
        let mut second = KerasAdam::resume(&parts, 1e-4, first.state().unwrap()).unwrap();
        for step in 2..4 {
            adam.apply(&[gradient(step)]).unwrap();
            second.apply(&[gradient(step)]).unwrap();
        }
        assert_eq!(values(&whole[0]), values(&parts[0]));
        assert_eq!(adam.state().unwrap(), second.state().unwrap());
    }

    #[test]
    fn a_state_of_other_parameters_is_refused() {
        let parameters = [Var::new(&[1f32, 2.0], &Device::Cpu).unwrap()];
        let state = AdamState { step: 1, first: vec![vec![0.0; 3]], second: vec![vec![0.0; 2]] };
        assert!(KerasAdam::resume(&parameters, 1e-4, state).is_err());
        let state = AdamState { step: 1, first: vec![], second: vec![] };
        assert!(KerasAdam::resume(&parameters, 1e-4, state).is_err());
    }
}

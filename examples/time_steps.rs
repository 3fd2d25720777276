//! Training steps on demand, for bench/compare.sh: `time_steps BATCH SIDE` makes a network and a
//! batch, says `ready`, then does one step (forward, backward, Adam) for each line that it reads
//! and answers with the loss. Whoever asks measures. The peers in bench/ do the same in Python.
#![allow(missing_docs)]

use std::error::Error;
use std::io::{BufRead as _, Write as _};

use base::wipe::Wiping;
use candle_core::{DType, Device, Tensor};
use page_layers::{CpuPrecision, KerasAdam, Network, initial_weights};

/// The programs' allocator, which begins images at a cache line.
#[global_allocator]
static MEMORY: Wiping = Wiping;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = || -> Result<usize, Box<dyn Error>> {
        Ok(arguments.next().ok_or("usage: time_steps BATCH SIDE")?.parse()?)
    };
    let (batch, side) = (number()?, number()?);
    let device = Device::Cpu;
    CpuPrecision::adopt()?;
    let network = Network::new(&initial_weights(0)?)?;
    let mut adam = KerasAdam::new(network.parameters(), 1e-4)?;
    let x = Tensor::rand(0f32, 1., (batch, side, side, 3), &device)?;
    let y = x.mean_keepdim(3)?.gt(0.5)?.to_dtype(DType::F32)?;

    let mut answer = std::io::stdout().lock();
    writeln!(answer, "ready")?;
    answer.flush()?;
    for line in std::io::stdin().lock().lines() {
        line?;
        let step = network.loss_and_gradients(&x, &y)?;
        adam.apply(&step.gradients)?;
        for gradient in step.gradients {
            network.reclaim(gradient)?;
        }
        writeln!(answer, "{:.6}", step.loss)?;
        answer.flush()?;
    }
    Ok(())
}

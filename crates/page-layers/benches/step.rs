//! Seconds for a training step of 16 patches, and for predicting one and 16, on all threads of
//! rayon's global pool (`RAYON_NUM_THREADS` sets it): `cargo bench --bench step`.

use std::error::Error;
use std::time::Duration;

use base::wipe::Wiping;
use candle_core::{DType, Device, Tensor};
use criterion::{BatchSize, BenchmarkId, Criterion};
use page_layers::{KerasAdam, Network, Predictor, initial_weights};

/// The programs' allocator, which begins images at a cache line.
#[global_allocator]
static MEMORY: Wiping = Wiping;

fn images(n: usize, side: usize) -> candle_core::Result<Tensor> {
    Tensor::rand(0f32, 1., (n, side, side, 3), &Device::Cpu)
}

fn step(criterion: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let mut group = criterion.benchmark_group("training step of 16");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5));
    for side in [64, 256] {
        let network = Network::new(&initial_weights(3)?)?;
        let mut adam = KerasAdam::new(network.parameters(), 1e-4)?;
        let x = images(16, side)?;
        let y = x.mean_keepdim(3)?.gt(0.5)?.to_dtype(DType::F32)?;
        let mut one_step = || -> Result<(), Box<dyn Error>> {
            let step = network.loss_and_gradients(&x, &y)?;
            Ok(adam.apply(&step.gradients)?)
        };
        let mut failed = None;
        group.bench_function(BenchmarkId::from_parameter(format!("{side}x{side}")), |bencher| {
            bencher.iter(|| one_step().map_err(|error| failed = Some(error)));
        });
        failed.map_or(Ok(()), Err)?;
    }
    group.finish();
    Ok(())
}

fn predict(criterion: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let mut group = criterion.benchmark_group("prediction");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5));
    for (n, side) in [(1, 256), (16, 64)] {
        let predictor = Predictor::new(&initial_weights(3)?, &Device::Cpu)?;
        let x = images(n, side)?.flatten_all()?.to_vec1::<f32>()?;
        let mut failed = None;
        group.bench_function(
            BenchmarkId::from_parameter(format!("{n} of {side}x{side}")),
            |bencher| {
                bencher.iter_batched(
                    || (),
                    |()| predictor.predict(&x, side, side).map_err(|error| failed = Some(error)),
                    BatchSize::SmallInput,
                );
            },
        );
        failed.map_or(Ok(()), Err)?;
    }
    group.finish();
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut criterion = Criterion::default().configure_from_args();
    step(&mut criterion)?;
    predict(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}

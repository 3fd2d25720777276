//! Seconds for a training step of 16 patches, and for predicting one and 16, on all threads of
//! rayon's global pool (`RAYON_NUM_THREADS` sets it): `cargo bench --bench step`.
#![allow(missing_docs, reason = "criterion_group! makes an undocumented function")]
#![allow(clippy::unwrap_used, reason = "a benchmark that fails should stop")]

use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use page_layers::{KerasAdam, Network, Predictor, initial_weights};

fn images(n: usize, side: usize) -> Tensor {
    Tensor::rand(0f32, 1., (n, side, side, 3), &Device::Cpu).unwrap()
}

fn step(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("training step of 16");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5));
    for side in [64, 256] {
        let network = Network::new(&initial_weights(3).unwrap()).unwrap();
        let mut adam = KerasAdam::new(network.parameters(), 1e-4).unwrap();
        let x = images(16, side);
        let y = x.mean_keepdim(3).unwrap().gt(0.5).unwrap().to_dtype(DType::F32).unwrap();
        group.bench_function(BenchmarkId::from_parameter(format!("{side}x{side}")), |bencher| {
            bencher.iter(|| {
                let step = network.loss_and_gradients(&x, &y).unwrap();
                adam.apply(&step.gradients).unwrap();
            });
        });
    }
    group.finish();
}

fn predict(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("prediction");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5));
    for (n, side) in [(1, 256), (16, 64)] {
        let predictor = Predictor::new(&initial_weights(3).unwrap(), &Device::Cpu).unwrap();
        let x = images(n, side).flatten_all().unwrap().to_vec1::<f32>().unwrap();
        group.bench_function(
            BenchmarkId::from_parameter(format!("{n} of {side}x{side}")),
            |bencher| {
                bencher.iter_batched(
                    || (),
                    |()| predictor.predict(&x, side, side).unwrap(),
                    BatchSize::SmallInput,
                );
            },
        );
    }
    group.finish();
}

criterion_group!(benches, step, predict);
criterion_main!(benches);

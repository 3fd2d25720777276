//! Each operation of the network by itself, forward and backward, for 4 patches of 256×256 on all
//! threads of rayon's global pool: `cargo bench --bench ops [FILTER]`. The throughput is in
//! multiplications and additions of the direct sum (convolutions) or in values (the rest). `step`
//! has the whole training step.
#![allow(missing_docs, reason = "criterion_group! makes an undocumented function")]
#![allow(clippy::unwrap_used, reason = "a benchmark that fails should stop")]

use std::time::Duration;

use candle_core::{CustomOp1, CustomOp2, CustomOp3, DType, Device, Tensor};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use page_layers::keras::CONV_LAYERS;
use page_layers::ops::{BinaryCrossEntropy, Buffers, Conv, MaxPool};

const BATCH: usize = 4;
const SIDE: usize = 256;

/// Side of each layer's input.
const SIDES: [usize; 14] = {
    let (half, quarter) = (SIDE / 2, SIDE / 4);
    [SIDE, SIDE, half, half, quarter, quarter, quarter, half, half, half, SIDE, SIDE, SIDE, SIDE]
};

fn image(side: usize, channels: usize) -> Tensor {
    Tensor::randn(0f32, 1., (BATCH, side, side, channels), &Device::Cpu).unwrap()
}

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    group
}

/// A layer with its input (two where they are concatenated) and parameters.
struct Layer {
    name: String,
    conv: Conv,
    images: Vec<Tensor>,
    parameters: Tensor,
    buffers: Buffers,
    /// Of the direct sum, forward.
    flop: u64,
}

fn layer(number: usize) -> Layer {
    let (shape, side) = (CONV_LAYERS[number], SIDES[number]);
    let (input, output) = (shape.input, shape.output);
    let buffers = Buffers::default();
    let (conv, channels) = match number {
        6 | 9 => (Conv::upsampled(input, output, &buffers), vec![input]),
        7 | 10 => {
            let skip = if number == 7 { 64 } else { 32 };
            (Conv::concatenated(skip, input - skip, output, &buffers), vec![skip, input - skip])
        }
        _ => {
            (Conv::new(shape.kernel, input, output, number < 13, number > 0, &buffers), vec![input])
        }
    };
    let conv = conv.unwrap();
    let parameters = Tensor::randn(0f32, 0.05, conv.parameter_shape(), &Device::Cpu).unwrap();
    let images = channels.into_iter().map(|channels| image(side, channels)).collect();
    let result = BATCH * side * side * if matches!(number, 6 | 9) { 4 } else { 1 };
    let flop = 2 * (result * shape.kernel * shape.kernel * input * output) as u64;
    let name = format!("{} {}x{side}x{side}, {input} to {output}", shape.name, BATCH);
    Layer { name, conv, images, parameters, buffers, flop }
}

impl Layer {
    fn forward(&self) -> Tensor {
        match &self.images[..] {
            [skip, up] => skip.apply_op3_no_bwd(up, &self.parameters, &self.conv),
            images => images[0].apply_op2_no_bwd(&self.parameters, &self.conv),
        }
        .unwrap()
    }

    fn backward(&self, result: &Tensor, grad: &Tensor) {
        let gradients = match &self.images[..] {
            [skip, up] => {
                let (a, b, p) =
                    CustomOp3::bwd(&self.conv, skip, up, &self.parameters, result, grad).unwrap();
                [a, b, p]
            }
            images => {
                let (a, p) =
                    CustomOp2::bwd(&self.conv, &images[0], &self.parameters, result, grad).unwrap();
                [a, None, p]
            }
        };
        for gradient in gradients.into_iter().flatten() {
            self.buffers.reclaim(gradient).unwrap();
        }
    }
}

fn convolutions(criterion: &mut Criterion) {
    for number in 0..CONV_LAYERS.len() {
        let layer = layer(number);
        let mut group = group(criterion, &layer.name);
        group.throughput(Throughput::Elements(layer.flop));
        group.bench_function("forward", |bencher| {
            bencher.iter(|| layer.buffers.reclaim(layer.forward()).unwrap());
        });
        let result = layer.forward();
        let grad = result.randn_like(0., 1.).unwrap();
        // The first layer has no gradient of its input.
        group.throughput(Throughput::Elements(layer.flop * if number == 0 { 1 } else { 2 }));
        group.bench_function("backward", |bencher| bencher.iter(|| layer.backward(&result, &grad)));
        group.finish();
    }
}

fn pooling(criterion: &mut Criterion) {
    let buffers = Buffers::default();
    let pool = MaxPool { buffers: buffers.clone() };
    for (side, channels) in [(SIDE, 32), (SIDE / 2, 64)] {
        let x = image(side, channels);
        let mut group = group(criterion, &format!("max pool {BATCH}x{side}x{side}x{channels}"));
        group.throughput(Throughput::Elements(x.elem_count() as u64));
        group.bench_function("forward", |bencher| {
            bencher.iter(|| buffers.reclaim(x.apply_op1_no_bwd(&pool).unwrap()).unwrap());
        });
        let y = x.apply_op1_no_bwd(&pool).unwrap();
        let grad = y.randn_like(0., 1.).unwrap();
        group.bench_function("backward", |bencher| {
            bencher.iter(|| buffers.reclaim(pool.bwd(&x, &y, &grad).unwrap().unwrap()).unwrap());
        });
        group.finish();
    }
}

fn loss(criterion: &mut Criterion) {
    let buffers = Buffers::default();
    let op = BinaryCrossEntropy { buffers: buffers.clone() };
    let logits = image(SIDE, 1);
    let targets = logits.gt(0.5).unwrap().to_dtype(DType::F32).unwrap();
    let mut group = group(criterion, &format!("loss {BATCH}x{SIDE}x{SIDE}"));
    group.throughput(Throughput::Elements(logits.elem_count() as u64));
    group.bench_function("forward", |bencher| {
        bencher.iter(|| logits.apply_op2_no_bwd(&targets, &op).unwrap());
    });
    let result = logits.apply_op2_no_bwd(&targets, &op).unwrap();
    let grad = Tensor::new(1f32, &Device::Cpu).unwrap();
    group.bench_function("backward", |bencher| {
        bencher.iter(|| {
            let (gradient, _) = op.bwd(&logits, &targets, &result, &grad).unwrap();
            buffers.reclaim(gradient.unwrap()).unwrap();
        });
    });
    group.finish();
}

criterion_group!(benches, convolutions, pooling, loss);
criterion_main!(benches);

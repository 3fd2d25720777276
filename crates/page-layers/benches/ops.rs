//! Each operation of the network by itself, forward and backward, for 4 patches of 256×256 on all
//! threads of rayon's global pool: `cargo bench --bench ops [FILTER]`. The throughput is in
//! multiplications and additions of the direct sum (convolutions) or in values (the rest). `step`
//! has the whole training step.

use std::time::Duration;

use base::wipe::Wiping;
use candle_core::{CustomOp1, CustomOp2, DType, Device, Result, Tensor};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use kernels::{BinaryCrossEntropy, Buffers, Conv, MaxPool};
use page_layers::keras::CONV_LAYERS;

const BATCH: usize = 4;
const SIDE: usize = 256;

/// Side of each layer's input.
const SIDES: [usize; 14] = {
    let (half, quarter) = (SIDE / 2, SIDE / 4);
    [SIDE, SIDE, half, half, quarter, quarter, quarter, half, half, half, SIDE, SIDE, SIDE, SIDE]
};

/// The programs' allocator, which begins images at a cache line.
#[global_allocator]
static MEMORY: Wiping = Wiping;

fn image(side: usize, channels: usize) -> Result<Tensor> {
    Tensor::randn(0f32, 1., (BATCH, side, side, channels), &Device::Cpu)
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

fn layer(number: usize) -> Result<Layer> {
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
    let conv = conv?;
    let parameters = Tensor::randn(0f32, 0.05, conv.parameter_shape(), &Device::Cpu)?;
    let images =
        channels.into_iter().map(|channels| image(side, channels)).collect::<Result<_>>()?;
    let result = BATCH * side * side * if matches!(number, 6 | 9) { 4 } else { 1 };
    let flop = 2 * (result * shape.kernel * shape.kernel * input * output) as u64;
    let name = format!("{} {}x{side}x{side}, {input} to {output}", shape.name, BATCH);
    Ok(Layer { name, conv, images, parameters, buffers, flop })
}

impl Layer {
    fn forward(&self) -> Result<Tensor> {
        match &self.images[..] {
            [skip, up] => skip.apply_op3_no_bwd(up, &self.parameters, &self.conv),
            images => images[0].apply_op2_no_bwd(&self.parameters, &self.conv),
        }
    }

    /// As the network goes back: the gradient is that before the layer's ReLU, and so are those
    /// that come of it.
    fn backward(&self, grad: &Tensor) -> Result<()> {
        let [first, last] = [&self.images[0], &self.images[self.images.len() - 1]];
        let gradients = self.conv.gradients([first, last], &self.parameters, None, grad)?;
        give_back(&self.buffers, gradients)
    }
}

/// Hands the memory of gradients back, for the next call.
fn give_back(buffers: &Buffers, gradients: impl IntoIterator<Item = Option<Tensor>>) -> Result<()> {
    gradients.into_iter().flatten().try_for_each(|gradient| buffers.reclaim(gradient))
}

/// Measures an operation; a benchmark whose operation fails is an error.
fn measure<T>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    operation: impl Fn() -> Result<T>,
) -> Result<()> {
    let mut failed = None;
    group.bench_function(name, |bencher| {
        bencher.iter(|| operation().map_err(|error| failed = Some(error)));
    });
    failed.map_or(Ok(()), Err)
}

fn convolutions(criterion: &mut Criterion) -> Result<()> {
    for number in 0..CONV_LAYERS.len() {
        let layer = layer(number)?;
        let mut group = group(criterion, &layer.name);
        group.throughput(Throughput::Elements(layer.flop));
        measure(&mut group, "forward", || layer.buffers.reclaim(layer.forward()?))?;
        let grad = layer.forward()?.randn_like(0., 1.)?;
        // The first layer has no gradient of its input.
        group.throughput(Throughput::Elements(layer.flop * if number == 0 { 1 } else { 2 }));
        measure(&mut group, "backward", || layer.backward(&grad))?;
        group.finish();
    }
    Ok(())
}

fn pooling(criterion: &mut Criterion) -> Result<()> {
    let buffers = Buffers::default();
    let pool = MaxPool { buffers: buffers.clone() };
    for (side, channels) in [(SIDE, 32), (SIDE / 2, 64)] {
        let x = image(side, channels)?;
        let mut group = group(criterion, &format!("max pool {BATCH}x{side}x{side}x{channels}"));
        group.throughput(Throughput::Elements(x.elem_count() as u64));
        measure(&mut group, "forward", || buffers.reclaim(x.apply_op1_no_bwd(&pool)?))?;
        let y = x.apply_op1_no_bwd(&pool)?;
        let grad = y.randn_like(0., 1.)?;
        measure(&mut group, "backward", || give_back(&buffers, [pool.bwd(&x, &y, &grad)?]))?;
        group.finish();
    }
    Ok(())
}

fn loss(criterion: &mut Criterion) -> Result<()> {
    let buffers = Buffers::default();
    let op = BinaryCrossEntropy { buffers: buffers.clone() };
    let logits = image(SIDE, 1)?;
    let targets = logits.gt(0.5)?.to_dtype(DType::F32)?;
    let mut group = group(criterion, &format!("loss {BATCH}x{SIDE}x{SIDE}"));
    group.throughput(Throughput::Elements(logits.elem_count() as u64));
    measure(&mut group, "forward", || logits.apply_op2_no_bwd(&targets, &op))?;
    let result = logits.apply_op2_no_bwd(&targets, &op)?;
    let grad = Tensor::new(1f32, &Device::Cpu)?;
    measure(&mut group, "backward", || {
        let (gradient, _) = op.bwd(&logits, &targets, &result, &grad)?;
        give_back(&buffers, [gradient])
    })?;
    group.finish();
    Ok(())
}

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    convolutions(&mut criterion)?;
    pooling(&mut criterion)?;
    loss(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}

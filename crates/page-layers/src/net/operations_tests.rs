//! Every operation is compared with a plain f64 sum and its finite differences, on both backends.

use candle_core::{Device, Result, Tensor, Var};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use kernels::{AddPoolGradient, BinaryCrossEntropy, Buffers, Conv, MaxPool, pixel_loss, to_tensor};

use super::module;

/// Whose operation is tried.
#[derive(Clone, Copy, Debug)]
enum Backend {
    /// The own kernels'.
    Native,
    /// The one that `PageNetwork` puts together from candle's.
    Composed,
}

const BACKENDS: [Backend; 2] = [Backend::Native, Backend::Composed];

fn random(rng: &mut ChaCha8Rng, len: usize) -> Vec<f32> {
    (0..len).map(|_| rng.random::<f32>() * 2.0 - 1.0).collect()
}

fn var(values: &[f32], shape: &[usize]) -> Var {
    Var::from_slice(values, shape, &Device::Cpu).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// A layer to test: `inputs` are the channels of the images that are concatenated.
#[derive(Clone, Copy, Debug)]
struct Case {
    kernel: usize,
    inputs: [usize; 2],
    output: usize,
    relu: bool,
    upsample: bool,
    batch: usize,
    height: usize,
    width: usize,
    input_gradient: bool,
}

impl Case {
    fn input(&self) -> usize {
        self.inputs[0] + self.inputs[1]
    }

    fn parameters(&self) -> [usize; 2] {
        [self.kernel * self.kernel * self.input() + 1, self.output]
    }

    /// One value of the result, as a plain sum in f64. `x` is the concatenated image.
    fn reference(
        &self,
        x: &[f64],
        p: &[f64],
        n: usize,
        row: usize,
        column: usize,
        o: usize,
    ) -> f64 {
        let scale = if self.upsample { 2 } else { 1 };
        let (height, width) = (self.height * scale, self.width * scale);
        let before = (self.kernel - 1) / 2;
        let mut sum = p[(self.parameters()[0] - 1) * self.output + o];
        for r in 0..self.kernel {
            for c in 0..self.kernel {
                let (row, column) =
                    ((row + r).wrapping_sub(before), (column + c).wrapping_sub(before));
                if row < height && column < width {
                    let at = ((n * self.height + row / scale) * self.width + column / scale)
                        * self.input();
                    for i in 0..self.input() {
                        let tap = ((r * self.kernel + c) * self.input() + i) * self.output + o;
                        sum += x[at + i] * p[tap];
                    }
                }
            }
        }
        if self.relu { sum.max(0.0) } else { sum }
    }

    fn result(&self) -> [usize; 4] {
        let scale = if self.upsample { 2 } else { 1 };
        [self.batch, self.height * scale, self.width * scale, self.output]
    }

    fn reference_all(&self, x: &[f64], p: &[f64]) -> Vec<f64> {
        let [batch, height, width, output] = self.result();
        let mut y = Vec::new();
        for n in 0..batch {
            for row in 0..height {
                for column in 0..width {
                    y.extend((0..output).map(|o| self.reference(x, p, n, row, column, o)));
                }
            }
        }
        y
    }

    fn run(&self, backend: Backend, images: &[Var], parameters: &Var) -> Result<Tensor> {
        let p = parameters.as_tensor();
        match backend {
            Backend::Native => {
                let buffers = Buffers::default();
                if self.upsample {
                    images[0].apply_op2(p, Conv::upsampled(self.input(), self.output, &buffers)?)
                } else if let [skip, up] = images {
                    let conv =
                        Conv::concatenated(self.inputs[0], self.inputs[1], self.output, &buffers)?;
                    skip.apply_op3(up, p, conv)
                } else {
                    let conv = Conv::new(
                        self.kernel,
                        self.input(),
                        self.output,
                        self.relu,
                        self.input_gradient,
                        &buffers,
                    )?;
                    images[0].apply_op2(p, conv)
                }
            }
            Backend::Composed => {
                let images: Vec<Tensor> = images
                    .iter()
                    .map(|x| x.as_tensor().permute((0, 3, 1, 2)))
                    .collect::<Result<_>>()?;
                let x = Tensor::cat(&images, 1)?.contiguous()?;
                let x = if self.upsample { module::upsample(&x)? } else { x };
                let [rows, output] = self.parameters();
                let shape = (self.kernel, self.kernel, self.input(), output);
                let (kernel, bias) =
                    (p.narrow(0, 0, rows - 1)?.reshape(shape)?, p.narrow(0, rows - 1, 1)?);
                let y = module::convolution(&x, &kernel, &bias)?;
                let y = if self.relu { module::relu(&y)? } else { y };
                y.permute((0, 2, 3, 1))?.contiguous()
            }
        }
    }

    fn check(&self, seed: u64) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let pixels = self.batch * self.height * self.width;
        let parts: Vec<(usize, Vec<f32>)> = self
            .inputs
            .iter()
            .filter(|c| **c > 0)
            .map(|&channels| (channels, random(&mut rng, pixels * channels)))
            .collect();
        let p = random(&mut rng, self.parameters().iter().product());
        let mut x = Vec::new();
        for pixel in 0..pixels {
            for (channels, values) in &parts {
                x.extend(
                    values[pixel * channels..(pixel + 1) * channels].iter().map(|v| f64::from(*v)),
                );
            }
        }
        let p64: Vec<f64> = p.iter().map(|v| f64::from(*v)).collect();
        let wanted = self.reference_all(&x, &p64);
        let r = random(&mut rng, wanted.len());
        // The loss is Σ r · y.
        let loss = |x: &[f64], p: &[f64]| -> f64 {
            self.reference_all(x, p).iter().zip(&r).map(|(y, r)| y * f64::from(*r)).sum()
        };
        let difference = |values: &[f64], at: usize, f: &dyn Fn(&[f64]) -> f64| {
            let mut moved = values.to_vec();
            moved[at] += 1e-6;
            let above = f(&moved);
            moved[at] -= 2e-6;
            (above - f(&moved)) / 2e-6
        };
        // The size of the sums grows with the number of products, and the rounding errors grow with
        // it.
        let scale = ((self.kernel * self.kernel * self.input()) as f64).sqrt();
        for backend in BACKENDS {
            let shape = |channels| [self.batch, self.height, self.width, channels];
            let images: Vec<Var> =
                parts.iter().map(|(c, values)| var(values, &shape(*c))).collect();
            let parameters = var(&p, &self.parameters());
            let y = self.run(backend, &images, &parameters).unwrap();
            assert_eq!(y.dims(), self.result());
            for (i, (y, wanted)) in flat(&y).iter().zip(&wanted).enumerate() {
                let error = (f64::from(*y) - wanted).abs();
                assert!(
                    error < 3e-6 * scale,
                    "{backend:?} {self:?}: y[{i}] = {y} instead of {wanted}"
                );
            }
            let weighted =
                y.mul(&Tensor::from_slice(&r, &self.result(), &Device::Cpu).unwrap()).unwrap();
            let store = weighted.sum_all().unwrap().backward().unwrap();
            let got = flat(store.get(&parameters).unwrap());
            let mut places: Vec<usize> = (0..12).map(|_| rng.random_range(0..p.len())).collect();
            places.push(p.len() - 1);
            for at in places {
                let wanted = difference(&p64, at, &|p| loss(&x, p));
                let error = (f64::from(got[at]) - wanted).abs();
                let bound = 1e-5 * (pixels as f64).sqrt() + 1e-4;
                assert!(
                    error < bound,
                    "{backend:?} {self:?}: dp[{at}] = {} instead of {wanted}",
                    got[at]
                );
            }
            if !self.input_gradient {
                continue;
            }
            for _ in 0..12 {
                let (pixel, channel) =
                    (rng.random_range(0..pixels), rng.random_range(0..self.input()));
                let wanted = difference(&x, pixel * self.input() + channel, &|x| loss(x, &p64));
                let (image, at) = if channel < self.inputs[0] {
                    (0, pixel * self.inputs[0] + channel)
                } else {
                    (1, pixel * self.inputs[1] + channel - self.inputs[0])
                };
                let got = flat(store.get(&images[image]).unwrap())[at];
                let error = (f64::from(got) - wanted).abs();
                assert!(
                    error < 3e-5 * scale,
                    "{backend:?} {self:?}: dx[{pixel}, {channel}] = {got}, not {wanted}"
                );
            }
        }
    }
}

const PLAIN: Case = Case {
    kernel: 3,
    inputs: [32, 0],
    output: 32,
    relu: true,
    upsample: false,
    batch: 2,
    height: 6,
    width: 5,
    input_gradient: true,
};

#[test]
fn convolution_3x3() {
    PLAIN.check(1);
    // Sizes that are no multiple of the tile, and smaller than one.
    Case { height: 1, width: 1, ..PLAIN }.check(2);
    Case { height: 9, width: 2, batch: 1, relu: false, ..PLAIN }.check(3);
    Case { output: 64, height: 4, width: 8, ..PLAIN }.check(4);
}

#[test]
fn convolution_of_a_concatenation() {
    Case { inputs: [32, 64], output: 32, height: 4, width: 5, ..PLAIN }.check(5);
}

#[test]
fn convolution_after_upsampling() {
    Case { kernel: 2, upsample: true, height: 3, width: 4, ..PLAIN }.check(6);
    Case { kernel: 2, upsample: true, height: 1, width: 1, output: 64, ..PLAIN }.check(7);
}

#[test]
fn first_and_last_layers() {
    Case { inputs: [3, 0], input_gradient: false, height: 7, ..PLAIN }.check(8);
    Case { output: 2, height: 19, ..PLAIN }.check(9);
    Case { kernel: 1, inputs: [2, 0], output: 1, relu: false, ..PLAIN }.check(10);
}

/// The network's own backward pass: gradients before the ReLUs go in and come out.
#[test]
fn gradients_before_the_relu_are_those_behind_it_times_its_derivative() {
    let plain = Case { height: 7, width: 9, ..PLAIN };
    let cases = [
        plain,
        Case { inputs: [32, 64], ..plain },
        Case { kernel: 2, upsample: true, ..plain },
        Case { output: 2, ..plain },
        Case { kernel: 1, inputs: [2, 0], output: 1, relu: false, ..plain },
    ];
    for (seed, case) in cases.into_iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(seed as u64);
        let buffers = Buffers::default();
        // Memory that holds other values, and more of it than is needed.
        buffers.give(vec![f32::NAN; 40_000]);
        let conv = match case {
            Case { upsample: true, .. } => Conv::upsampled(case.input(), case.output, &buffers),
            Case { inputs: [skip, up], .. } if up > 0 => {
                Conv::concatenated(skip, up, case.output, &buffers)
            }
            _ => Conv::new(case.kernel, case.input(), case.output, case.relu, true, &buffers),
        };
        let conv = conv.unwrap();
        let tensor = |values: &[f32], shape: &[usize]| {
            Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
        };
        let images: Vec<Tensor> = case
            .inputs
            .iter()
            .filter(|channels| **channels > 0)
            .map(|channels| {
                let shape = [case.batch, case.height, case.width, *channels];
                let values = random(&mut rng, shape.iter().product());
                // Results of a ReLU.
                tensor(&values.iter().map(|x| x.max(0.0)).collect::<Vec<_>>(), &shape)
            })
            .collect();
        let images = [&images[0], images.last().unwrap()];
        let parameters =
            tensor(&random(&mut rng, case.parameters().iter().product()), &case.parameters());
        let y = match case.inputs {
            [_, 0] => images[0].apply_op2_no_bwd(&parameters, &conv).unwrap(),
            _ => images[0].apply_op3_no_bwd(images[1], &parameters, &conv).unwrap(),
        };
        let gy = random(&mut rng, y.elem_count());
        let open = |gradient: &[f32], y: &Tensor| -> Vec<f32> {
            gradient.iter().zip(flat(y)).map(|(g, y)| if y > 0.0 { *g } else { 0.0 }).collect()
        };
        let before = if case.relu { open(&gy, &y) } else { gy.clone() };
        let behind =
            conv.gradients(images, &parameters, Some(&y), &tensor(&gy, &case.result())).unwrap();
        let ahead =
            conv.gradients(images, &parameters, None, &tensor(&before, &case.result())).unwrap();
        let count = if case.inputs[1] > 0 { 2 } else { 1 };
        for (image, (behind, ahead)) in images[..count].iter().zip(behind.iter().zip(&ahead)) {
            let (behind, ahead) = (flat(behind.as_ref().unwrap()), flat(ahead.as_ref().unwrap()));
            assert!(behind.iter().any(|g| *g != 0.0), "{case:?}");
            assert_eq!(ahead, open(&behind, image), "{case:?}: an image's gradient");
        }
        let [behind, ahead] = [behind, ahead].map(|gradients| flat(gradients[2].as_ref().unwrap()));
        assert_eq!(behind, ahead, "{case:?}: the parameters' gradient");
    }
}

fn pool(backend: Backend, x: &Tensor) -> Tensor {
    match backend {
        Backend::Native => x.apply_op1(MaxPool { buffers: Buffers::default() }).unwrap(),
        Backend::Composed => {
            let y =
                module::max_pool(&x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()).unwrap();
            y.permute((0, 2, 3, 1)).unwrap()
        }
    }
}

#[test]
fn max_pool_gives_the_whole_gradient_to_the_first_maximum() {
    for backend in BACKENDS {
        // Two windows of two channels: a unique maximum, ties of two, of four, and of zeros.
        let x =
            var(&[0., 5., 1., 5., 7., 0., 7., 0., 3., 2., 2., 5., 7., 0., 1., 0.], &[1, 2, 4, 2]);
        let y = pool(backend, x.as_tensor());
        assert_eq!(flat(&y), [3., 5., 7., 0.], "{backend:?}");
        let g = Tensor::new(&[[[[10f32, 20.], [30., 40.]]]], &Device::Cpu).unwrap();
        let store = y.mul(&g).unwrap().sum_all().unwrap().backward().unwrap();
        let wanted = [0., 20., 0., 0., 30., 40., 0., 0., 10., 0., 0., 0., 0., 0., 0., 0.];
        assert_eq!(flat(store.get(&x).unwrap()), wanted, "{backend:?}");
    }
}

#[test]
fn the_gradient_of_a_pool_is_added_to_the_one_that_is_there() {
    let x = Tensor::new(&[1f32, 2., 3., 4., 4., 0., 0., 0.], &Device::Cpu)
        .unwrap()
        .reshape((1, 2, 4, 1))
        .unwrap();
    let into = Tensor::ones_like(&x).unwrap();
    let g = Tensor::new(&[10f32, 20.], &Device::Cpu).unwrap().reshape((1, 1, 2, 1)).unwrap();
    into.inplace_op3(&x, &g, &AddPoolGradient).unwrap();
    assert_eq!(flat(&into), [1., 1., 1., 21., 11., 1., 1., 1.]);
}

#[test]
fn relu_has_no_derivative_at_zero() {
    for backend in BACKENDS {
        let case = Case { batch: 1, height: 4, width: 4, ..PLAIN };
        let image = var(&vec![0.0; 16 * 32], &[1, 4, 4, 32]);
        let parameters = var(&vec![0.0; case.parameters().iter().product()], &case.parameters());
        let y = case.run(backend, std::slice::from_ref(&image), &parameters).unwrap();
        let store = y.sum_all().unwrap().backward().unwrap();
        assert!(flat(store.get(&parameters).unwrap()).iter().all(|g| *g == 0.0), "{backend:?}");
    }
}

#[test]
fn loss_and_its_gradient_are_keras_s_also_far_from_zero() {
    let logits = [0.0f32, 1.5, -3.0, 20.0, -40.0, 16.0, -16.0, 0.25];
    let targets = [1.0f32, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0];
    let reference = |x: &[f64]| {
        // ln(1 + e^x) - x y, in the form that keeps f64's digits on both sides.
        let one = |(x, y): (&f64, &f32)| x.max(0.0) - x * f64::from(*y) + (-x.abs()).exp().ln_1p();
        x.iter().zip(&targets).map(one).sum::<f64>() / x.len() as f64
    };
    let x64: Vec<f64> = logits.iter().map(|x| f64::from(*x)).collect();
    for backend in BACKENDS {
        let x = var(&logits, &[1, 2, 4, 1]);
        let y = Tensor::from_slice(&targets, (1, 2, 4, 1), &Device::Cpu).unwrap();
        let loss = match backend {
            Backend::Native => {
                x.apply_op2(&y, BinaryCrossEntropy { buffers: Buffers::default() }).unwrap()
            }
            Backend::Composed => module::binary_cross_entropy(x.as_tensor(), &y).unwrap(),
        };
        let got = f64::from(loss.to_scalar::<f32>().unwrap());
        assert!(
            (got - reference(&x64)).abs() < 2e-6,
            "{backend:?}: {got} instead of {}",
            reference(&x64)
        );
        let gradient = flat(loss.backward().unwrap().get(&x).unwrap());
        for (at, got) in gradient.iter().enumerate() {
            let mut moved = x64.clone();
            moved[at] += 1e-5;
            let above = reference(&moved);
            moved[at] -= 2e-5;
            let wanted = (above - reference(&moved)) / 2e-5;
            assert!(
                (f64::from(*got) - wanted).abs() < 1e-6,
                "{backend:?} {at}: {got} instead of {wanted}"
            );
        }
    }
    // What TensorFlow 2.15.1's `evaluate` and `fit` gave, sigmoid layer or not.
    assert_eq!((pixel_loss(30.0, 0.0), pixel_loss(-40.0, 1.0)), (30.0, 40.0));
    assert!(pixel_loss(f32::NAN, 1.0).is_nan());
}

#[test]
fn a_batch_without_images_has_gradients_of_0() {
    let buffers = Buffers::default();
    let filtered = Conv::new(3, 32, 32, true, true, &buffers).unwrap();
    let lowered = Conv::new(3, 3, 32, true, false, &buffers).unwrap();
    let upsampled = Conv::upsampled(32, 32, &buffers).unwrap();
    for (conv, input, side) in [(filtered, 32, 8), (lowered, 3, 8), (upsampled, 32, 16)] {
        // What an earlier step has left.
        (0..4).for_each(|n| buffers.give(vec![7.0; 40_000 << n]));
        let zeros =
            |shape: [usize; 4]| Tensor::from_vec(Vec::<f32>::new(), &shape[..], &Device::Cpu);
        let x = zeros([0, 8, 8, input]).unwrap();
        let gy = zeros([0, side, side, 32]).unwrap();
        let p =
            Tensor::ones(conv.parameter_shape(), candle_core::DType::F32, &Device::Cpu).unwrap();
        let [_, _, gradient] = conv.gradients([&x, &x], &p, None, &gy).unwrap();
        assert!(flat(&gradient.unwrap()).iter().all(|value| *value == 0.0), "{conv:?}");
    }
}

#[test]
fn the_shortest_vector_that_fits_is_used_again() {
    let buffers = Buffers::default();
    for len in [100, 40, 1000, 120] {
        buffers.give(vec![1.0; len]);
    }
    assert_eq!(buffers.take_exactly(30).len(), 30);
    assert_eq!(buffers.take(30).len(), 40);
    assert_eq!(buffers.take(30).len(), 100);
    assert_eq!(buffers.take_exactly(120).len(), 120);
    assert_eq!(buffers.take(30).len(), 30, "1000 values are too good for 30");
    assert_eq!(buffers.take(1000).len(), 1000);
}

#[test]
fn a_tensor_gives_all_of_its_memory_back() {
    let buffers = Buffers::default();
    let tensor = to_tensor(vec![1.0, 2.0, 3.0, 4.0, 9.0], &(2, 2).into()).unwrap();
    assert_eq!(tensor.to_vec2::<f32>().unwrap(), [[1.0, 2.0], [3.0, 4.0]]);
    buffers.reclaim(tensor).unwrap();
    assert_eq!(buffers.take(4).len(), 5);
}

#[test]
fn a_factor_is_rounded_to_the_nearest_bfloat16() {
    let step = 2f32.powi(-7); // between two of them, from 1 on
    for (value, rounded) in [
        (1.0, 1.0),
        (1.0 + 0.49 * step, 1.0),
        (1.0 + 0.5 * step, 1.0),
        (1.0 + 0.51 * step, 1.0 + step),
        (1.0 + 1.5 * step, 1.0 + 2.0 * step),
        (-1.0 - 0.51 * step, -1.0 - step),
        (f32::MAX, f32::INFINITY),
        (f32::NEG_INFINITY, f32::NEG_INFINITY),
        (1e-45, 0.0),
    ] {
        assert_eq!(kernels::Precision::Bf16.rounded(value), rounded, "{value}");
        assert_eq!(kernels::Precision::F32.rounded(value), value);
    }
    // All bits of the lower half are set: rounding up must not make it a number.
    let nan = f32::from_bits(0x7f80_ffff);
    assert!(kernels::Precision::Bf16.rounded(nan).is_nan());
}

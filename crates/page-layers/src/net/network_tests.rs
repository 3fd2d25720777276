//! The whole network: our own kernels compared with candle's operations, and with themselves on
//! other numbers of threads.

use candle_core::{DType, Device, Tensor};
use candle_nn::{Module, VarBuilder};

use crate::keras::Weights;
use crate::topology::{CONV_LAYERS, LAST};
use crate::{
    KerasAdam, Network, PageNetwork, Predictor, binary_cross_entropy, initial_weights, variables,
};
use kernels::Buffers;

fn batch(n: usize, h: usize, w: usize) -> (Tensor, Tensor) {
    // A fixed pattern with exact zeros, as inverted white paper has.
    let values: Vec<f32> = (0..n * h * w * 3)
        .map(|i| if i % 5 < 2 { 0.0 } else { (i * 7919 % 256) as f32 / 255.0 })
        .collect();
    let x = Tensor::from_vec(values, (n, h, w, 3), &Device::Cpu).unwrap();
    let y = x.mean_keepdim(3).unwrap().gt(0.3).unwrap().to_dtype(DType::F32).unwrap();
    (x, y)
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn relative(a: &[f32], b: &[f32]) -> f64 {
    let square =
        |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    (square(&mut a.iter().zip(b).map(|(a, b)| a - b)) / square(&mut b.iter().copied())).sqrt()
}

#[test]
fn a_batch_in_parts_has_the_loss_and_the_gradients_of_the_whole() {
    let (x, y) = batch(5, 16, 20);
    let weights = initial_weights(3).unwrap();
    let whole = Network::new(&weights).unwrap();
    let expected = whole.loss_and_gradients(&x, &y).unwrap();
    let logits = flat(&whole.forward_logits(&x).unwrap());
    // Of 5 images: five parts, one of 2, 2 and 1, one of 3 and 2.
    for at_a_time in [1, 2 * 16 * 20, 4 * 16 * 20] {
        let network = Network::new(&weights).unwrap().going_through(at_a_time);
        // The second step works in memory that the first one has left.
        for _ in 0..2 {
            let step = network.loss_and_gradients(&x, &y).unwrap();
            assert!((step.loss - expected.loss).abs() < 1e-6, "{at_a_time}");
            for (index, (part, whole)) in step.gradients.iter().zip(&expected.gradients).enumerate()
            {
                let difference = relative(&flat(part), &flat(whole));
                assert!(difference < 1e-5, "{at_a_time}, layer {index}: {difference}");
            }
            step.gradients.into_iter().for_each(|part| network.reclaim(part).unwrap());
        }
        assert_eq!(flat(&network.forward_logits(&x).unwrap()), logits, "{at_a_time}");
    }
}

#[test]
fn the_channels_of_a_standardised_network_have_mean_0_and_deviation_1() {
    let (x, _) = batch(2, 16, 20);
    let drawn = initial_weights(4).unwrap();
    let weights = Network::new(&drawn).unwrap().standardised(&x).unwrap();
    // The first layer, computed anew.
    let pixels = flat(&x);
    let (kernel, bias) = weights.layer(0);
    for channel in [0, 31] {
        let (mut sum, mut squares) = (0.0, 0.0);
        for (n, row, column) in (0..2 * 16 * 20).map(|i| (i / 320, i / 20 % 16, i % 20)) {
            let mut value = f64::from(bias[channel]);
            for (tap, below, right) in (0..9).map(|tap| (tap, tap / 3, tap % 3)) {
                let (row, column) = (row + below, column + right);
                if (1..17).contains(&row) && (1..21).contains(&column) {
                    let pixel = 3 * (320 * n + 20 * (row - 1) + column - 1);
                    value += (0..3)
                        .map(|c| pixels[pixel + c] * kernel[32 * (3 * tap + c) + channel])
                        .map(f64::from)
                        .sum::<f64>();
                }
            }
            sum += value;
            squares += value * value;
        }
        let mean = sum / 640.0;
        assert!(mean.abs() < 1e-5, "{channel}: {mean}");
        let deviation = (squares / 640.0 - mean * mean).sqrt();
        assert!((deviation - 1.0).abs() < 1e-5, "{channel}: {deviation}");
    }
    // All layers: what is standardised stays as it is, and the last layer was never changed.
    let again = Network::new(&weights).unwrap().standardised(&x).unwrap();
    for (layer, (once, twice)) in weights.tensors().iter().zip(again.tensors()).enumerate() {
        let most = once.iter().zip(twice).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(most < 1e-4, "tensor {layer}: {most}");
    }
    assert!(weights.layer(5).0 != drawn.layer(5).0);
    assert_eq!(weights.tensors()[26..], drawn.tensors()[26..]);
}

#[test]
fn the_own_kernels_compute_what_candle_s_operations_do() {
    let (x, y) = batch(2, 16, 20);
    let weights = initial_weights(3).unwrap();
    let network = Network::new(&weights).unwrap();
    let step = network.loss_and_gradients(&x, &y).unwrap();

    let map = variables(&weights, &Device::Cpu).unwrap();
    let module =
        PageNetwork::new(&VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu)).unwrap();
    let logits = module.forward(&x).unwrap();
    let loss = binary_cross_entropy(&logits, &y).unwrap();
    let store = loss.backward().unwrap();
    let loss = loss.to_scalar::<f32>().unwrap();
    assert!((step.loss - loss).abs() < 1e-5, "{} and {loss}", step.loss);
    let data = map.data().lock().unwrap();
    for (ours, layer) in step.gradients.iter().zip(&CONV_LAYERS) {
        let of = |part: &str| flat(store.get(&data[&format!("{}.{part}", layer.name)]).unwrap());
        let (ours, theirs) = (flat(ours), [of("kernel"), of("bias")].concat());
        let name = layer.name;
        assert!(
            theirs.iter().any(|g| *g != 0.0),
            "{name} has no gradient: a dead seed shows nothing"
        );
        // A single pixel whose ReLU switches because of rounding makes 1e-4 on an image this small.
        assert!(relative(&ours, &theirs) < 1e-3, "{name}: {}", relative(&ours, &theirs));
    }
    let ours = network.forward_logits(&x).unwrap();
    assert_eq!(ours.dims(), [2, 16, 20, 1]);
    assert!(relative(&flat(&ours), &flat(&logits)) < 1e-5);
    assert!((network.loss(&ours, &y).unwrap() - loss).abs() < 1e-5);
}

#[test]
fn training_is_the_same_to_the_bit_on_any_number_of_threads() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (x, y) = batch(3, 32, 40);
            let network = Network::new(&initial_weights(3).unwrap()).unwrap();
            let mut adam = KerasAdam::new(network.parameters(), 1e-3).unwrap();
            let mut losses = Vec::new();
            for _ in 0..2 {
                let step = network.loss_and_gradients(&x, &y).unwrap();
                adam.apply(&step.gradients).unwrap();
                losses.push(step.loss.to_bits());
            }
            (losses, network.weights().unwrap())
        })
    };
    let one = run(1);
    for threads in [2, 3] {
        assert!(run(threads) == one, "{threads} threads differ from one");
    }
}

#[test]
fn weights_come_back_as_they_went_in() {
    let (first, second) = (initial_weights(1).unwrap(), initial_weights(2).unwrap());
    let network = Network::new(&first).unwrap();
    assert_eq!(network.weights().unwrap(), first);
    network.set_weights(&second).unwrap();
    assert_eq!(network.weights().unwrap(), second);
}

#[test]
fn a_prediction_does_not_depend_on_the_images_beside_it() {
    let (x, _) = batch(2, 12, 16);
    let predictor = Predictor::new(&initial_weights(3).unwrap(), &Device::Cpu).unwrap();
    let images = flat(&x);
    let both = predictor.predict(&images, 12, 16).unwrap();
    let second = predictor.predict(&images[3 * 12 * 16..], 12, 16).unwrap();
    assert_eq!(both[12 * 16..], second);
    assert!(both.iter().all(|p| (0.0..=1.0).contains(p)));
}

#[test]
fn sizes_that_the_network_cannot_halve_twice_are_refused() {
    let predictor = Predictor::new(&initial_weights(3).unwrap(), &Device::Cpu).unwrap();
    for (values, height, width) in [(3 * 6 * 8, 6, 8), (3 * 8 * 8 + 1, 8, 8), (0, 8, 8), (12, 0, 4)]
    {
        assert!(predictor.predict(&vec![0.0; values], height, width).is_err(), "{height}x{width}");
    }
}

#[test]
fn what_is_kept_for_smaller_images_goes_when_larger_ones_come() {
    let buffers = Buffers::default();
    let network = Network::predicting(&initial_weights(3).unwrap(), &buffers).unwrap();
    for (side, stays) in [(8, false), (16, false), (8, true), (16, true), (20, false)] {
        // A vector of one value: the network asks for none so short.
        buffers.give(vec![7.0]);
        network.forward_logits(&batch(1, side, side).0).unwrap();
        assert_eq!(buffers.take_exactly(1) == [7.0], stays, "{side}");
    }
}

/// An image of doubles: height, width, channels, and the values row by row.
type Exact = (usize, usize, usize, Vec<f64>);

/// A convolution of [`CONV_LAYERS`], term by term.
fn exact_conv(weights: &Weights, index: usize, (height, width, input, x): &Exact) -> Exact {
    let layer = CONV_LAYERS[index];
    let (kernel, bias) = weights.layer(index);
    // A 2×2 kernel pads below and on the right only.
    let before = (layer.kernel - 1) / 2;
    let mut y = Vec::with_capacity(height * width * layer.output);
    for at in 0..height * width {
        let mut sums: Vec<f64> = bias.iter().map(|value| f64::from(*value)).collect();
        for tap in 0..layer.kernel * layer.kernel {
            let row = (at / width + tap / layer.kernel).wrapping_sub(before);
            let column = (at % width + tap % layer.kernel).wrapping_sub(before);
            if row < *height && column < *width {
                for channel in 0..*input {
                    let value = x[(row * width + column) * input + channel];
                    let factors = &kernel[(tap * input + channel) * layer.output..];
                    sums.iter_mut().zip(factors).for_each(|(s, f)| *s += value * f64::from(*f));
                }
            }
        }
        y.extend(sums.iter().map(|s| if index < LAST { s.max(0.0) } else { *s }));
    }
    (*height, *width, layer.output, y)
}

/// Half as large, or twice.
fn exact_scaled(
    (_, width, channels, x): &Exact,
    size: (usize, usize),
    of: impl Fn(usize, usize, &dyn Fn(usize, usize) -> f64) -> f64,
) -> Exact {
    let pixels = (0..size.0).flat_map(|row| (0..size.1).map(move |column| (row, column)));
    let y = pixels.flat_map(|(row, column)| {
        let of = &of;
        (0..*channels).map(move |channel| {
            of(row, column, &|row, column| x[(row * width + column) * channels + channel])
        })
    });
    (size.0, size.1, *channels, y.collect())
}

fn exact_pool(x: &Exact) -> Exact {
    exact_scaled(x, (x.0 / 2, x.1 / 2), |row, column, x| {
        let four = [(0, 0), (0, 1), (1, 0), (1, 1)];
        four.map(|(r, c)| x(2 * row + r, 2 * column + c)).into_iter().fold(0.0, f64::max)
    })
}

fn exact_up(x: &Exact) -> Exact {
    exact_scaled(x, (2 * x.0, 2 * x.1), |row, column, x| x(row / 2, column / 2))
}

fn exact_join(skip: &Exact, up: &Exact) -> Exact {
    let pixels = skip.3.chunks_exact(skip.2).zip(up.3.chunks_exact(up.2));
    (skip.0, skip.1, skip.2 + up.2, pixels.flat_map(|(a, b)| [a, b].concat()).collect())
}

/// The probabilities of an image, in double precision, as Keras's table of layers says.
fn exact(weights: &Weights, image: &[f32], height: usize, width: usize) -> Vec<f64> {
    let conv = |index, x: &Exact| exact_conv(weights, index, x);
    let x = (height, width, 3, image.iter().map(|value| f64::from(*value)).collect());
    let first = conv(1, &conv(0, &x));
    let second = conv(3, &conv(2, &exact_pool(&first)));
    let third = conv(5, &conv(4, &exact_pool(&second)));
    let second = exact_join(&second, &conv(6, &exact_up(&third)));
    let second = conv(8, &conv(7, &second));
    let first = exact_join(&first, &conv(9, &exact_up(&second)));
    let logits = conv(13, &conv(12, &conv(11, &conv(10, &first))));
    logits.3.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect()
}

#[test]
fn a_prediction_is_that_of_the_exact_network_to_five_digits() {
    let (height, width) = (20, 28);
    let (x, _) = batch(1, height, width);
    let images = flat(&x);
    for seed in [3, 5] {
        // As sure as a trained network: half of its logits lie beyond 3.
        let mut tensors = initial_weights(seed).unwrap().tensors().to_vec();
        tensors[2 * LAST].iter_mut().for_each(|value| *value *= 12.0);
        let weights = Weights::new(tensors).unwrap();
        let predictor = Predictor::new(&weights, crate::Device::Cpu).unwrap();
        let found = predictor.predict(&images, height, width).unwrap();
        let expected = exact(&weights, &images, height, width);
        let (least, most) =
            expected.iter().fold((1.0, 0.0), |(a, b): (f64, f64), p| (a.min(*p), b.max(*p)));
        assert!(most - least > 0.1, "seed {seed}: {least} to {most} shows little");
        let difference =
            found.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        println!("seed {seed}: {difference:.1e}, of {least:.3} to {most:.3}");
        assert!(difference < 1e-5, "seed {seed}: {difference}");
    }
}

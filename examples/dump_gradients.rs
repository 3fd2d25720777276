//! Computes loss, gradients, probabilities and ten Adam steps for the weights and the batch in a
//! folder, and writes them there: the trainer's half of `tests/keras/gradients.py`, which compares
//! them with TensorFlow's.
//!
//! `dump_gradients FOLDER`. Tensors are files of little-endian f32: `weight00` to `weight27`, `x`
//! (NHWC) and `y` come in, with `shape.json` = `[n, h, w]`; `loss`, `probability`, `gradient00`…,
//! `trained00`… go out.

use std::error::Error;
use std::path::Path;

use candle_core::{Device, Tensor};
use page_layers::keras::{CONV_LAYERS, Weights};
use page_layers::{KerasAdam, Network, Predictor};

/// Adam steps taken from the given weights.
const STEPS: usize = 10;

fn read(folder: &Path, name: &str) -> Result<Vec<f32>, Box<dyn Error>> {
    let bytes = std::fs::read(folder.join(name))?;
    Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

fn write(folder: &Path, name: &str, values: &[f32]) -> std::io::Result<()> {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(folder.join(name), bytes)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: dump_gradients FOLDER")?;
    let folder = Path::new(&folder);
    let [n, h, w]: [usize; 3] = serde_json::from_slice(&std::fs::read(folder.join("shape.json"))?)?;
    let weights =
        (0..28).map(|i| read(folder, &format!("weight{i:02}"))).collect::<Result<_, _>>()?;
    let weights = Weights::new(weights)?;
    let device = Device::Cpu;
    let images = read(folder, "x")?;
    let x = Tensor::from_slice(&images, (n, h, w, 3), &device)?;
    let y = Tensor::from_vec(read(folder, "y")?, (n, h, w, 1), &device)?;

    write(folder, "probability", &Predictor::new(&weights, &device)?.predict(&images, h, w)?)?;
    let network = Network::new(&weights)?;
    let step = network.loss_and_gradients(&x, &y)?;
    write(folder, "loss", &[step.loss])?;
    for (i, (gradient, layer)) in step.gradients.iter().zip(&CONV_LAYERS).enumerate() {
        let values = gradient.flatten_all()?.to_vec1::<f32>()?;
        let (kernel, bias) = values.split_at(layer.kernel_len());
        write(folder, &format!("gradient{:02}", 2 * i), kernel)?;
        write(folder, &format!("gradient{:02}", 2 * i + 1), bias)?;
    }
    let mut adam = KerasAdam::new(network.parameters(), 1e-4)?;
    for _ in 0..STEPS {
        let step = network.loss_and_gradients(&x, &y)?;
        adam.apply(&step.gradients)?;
    }
    for (i, values) in network.weights()?.tensors().iter().enumerate() {
        write(folder, &format!("trained{i:02}"), values)?;
    }
    Ok(())
}

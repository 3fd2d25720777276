//! The network on a GPU: one batch size, one image size, all memory taken once.
//!
//! Everything here only gives orders, which the GPU carries out one after another. A batch that is
//! not full is computed like a full one: its surplus images are empty and don't count.

use std::sync::Arc;

use super::layout::{self, LAST, Layout, PARTS, View, Views};
use super::machine::{Buffer, Convolution, GpuError, Machine, Workspace};
use super::pages::Cuts;
use super::steps::{Image, Size, Steps, Table};
use crate::keras::{CONV_LAYERS, Weights};
use crate::net::adam::AdamState;
use crate::net::network::NetworkError;

/// β₁ and β₂ of Adam. They are rounded to f32 before the first steps' bias correction, as in Keras.
const BETAS: [f32; 2] = [0.9, 0.999];

/// Images between the layers, named by the layer that makes them. `Cat7` and `Cat10` hold the
/// channels of the skip connection first, then the upsampled ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
enum At {
    Input,
    Y0,
    Cat10,
    Pool1,
    Y2,
    Cat7,
    Pool3,
    Y4,
    Pad5,
    Y7,
    Pad8,
    Y10,
    Y11,
    Y12,
    /// A layer's result before bias and ReLU; in the backward pass, the gradient there.
    Z,
}

/// What only training needs.
struct Training {
    /// Gradient of a layer's input.
    gy: Buffer,
    /// Gradients of the two joined images. Their skip parts are needed again later.
    cat_10: Buffer,
    cat_7: Buffer,
    /// Gradients of the kernels, in the layout of the convolutions.
    kernels: Buffer,
    /// Gradients of the other parameters, in the parameters' order.
    direct: Buffer,
    parts: Buffer,
    loss: Buffer,
    first: Buffer,
    second: Buffer,
    steps: u64,
}

/// The network with its parameters on a GPU.
pub(super) struct Engine {
    machine: Arc<dyn Machine>,
    images: u32,
    height: u32,
    width: u32,
    layout: Layout,
    table: Table,
    master: Buffer,
    kernels: Buffer,
    convolutions: Vec<Arc<dyn Convolution>>,
    /// Whether the machine adds bias and ReLU within the convolution; the first pass finds that
    /// out.
    fused: [bool; LAST],
    workspace: Buffer,
    workspace_bytes: usize,
    at: Vec<Buffer>,
    targets: Buffer,
    /// Partial sums of the loss and the counts.
    sums: Buffer,
    totals: Buffer,
    /// Images from the host, and logits to the host.
    host: Option<Buffer>,
    training: Option<Training>,
    /// Images of the current batch that count.
    samples: u32,
}

impl Engine {
    /// Takes the memory for batches of `images` images, and for training if it is wanted.
    pub(super) fn new(
        machine: &Arc<dyn Machine>,
        weights: &Weights,
        (images, height, width): (usize, usize, usize),
        training: bool,
    ) -> Result<Self, GpuError> {
        let largest = images.max(1) * (height + 4) * (width + 4) * 96;
        if height % 4 != 0 || width % 4 != 0 || largest > i32::MAX as usize {
            return Err(GpuError::Batch(images, height, width));
        }
        let (images, height, width) = (images.max(1) as u32, height as u32, width as u32);
        let layout = Layout::new();
        // This comes first, because cuDNN needs memory of its own to choose its algorithms.
        let convolutions = (0..LAST)
            .map(|layer| machine.convolution(layout::convolution(layer, images, height, width)))
            .collect::<Result<Vec<_>, _>>()?;
        let workspace_bytes = convolutions.iter().map(|c| c.workspace()).max().unwrap_or(0);
        let size = machine.precision().bytes();
        let zeros = |count: usize, size: usize| Buffer::zeros(machine, count * size);
        let pixels = (images * height * width) as usize;
        let pad = |scale: u32, channels| View::padded(height / scale, width / scale, channels).values(images);
        let z = (pixels * 64).max(pad(2, 128)).max(pad(4, 256));
        let lengths = [
            pixels * 8,
            pixels * 32,
            pixels * 96,
            pixels / 4 * 32,
            pixels / 4 * 64,
            pixels / 4 * 192,
            pixels / 16 * 64,
            pixels / 16 * 256,
            pad(4, 256),
            pixels / 4 * 128,
            pad(2, 128),
            pixels * 64,
            pixels * 64,
            pixels * 8,
            z,
        ];
        let at = lengths.into_iter().map(|len| zeros(len, size)).collect::<Result<_, _>>()?;
        let training = if training {
            Some(Training {
                gy: zeros(z, size)?,
                cat_10: zeros(pixels * 96, size)?,
                cat_7: zeros(pixels / 4 * 192, size)?,
                kernels: zeros(layout.compute, size)?,
                direct: zeros(layout.parameters, 4)?,
                parts: zeros(layout.parts, 4)?,
                loss: zeros(1, 4)?,
                first: zeros(layout.parameters, 4)?,
                second: zeros(layout.parameters, 4)?,
                steps: 0,
            })
        } else {
            None
        };
        let segments = zeros(layout.segments.len(), size_of::<layout::Segment>())?;
        segments.write(&layout.segments)?;
        let mut engine = Self {
            table: Table { buffer: segments, count: layout.segments.len() as u32 },
            master: zeros(layout.parameters, 4)?,
            kernels: zeros(layout.compute, size)?,
            workspace: zeros(workspace_bytes.max(1), 1)?,
            workspace_bytes,
            targets: zeros(pixels, 4)?,
            sums: zeros(PARTS as usize * 8, 8)?,
            totals: zeros(8, 8)?,
            fused: [true; LAST],
            machine: Arc::clone(machine),
            host: None,
            samples: 0,
            images,
            height,
            width,
            layout,
            convolutions,
            at,
            training,
        };
        engine.set_weights(weights)?;
        Ok(engine)
    }

    /// Number of images in a batch, their height and their width.
    pub(super) fn shape(&self) -> (usize, usize, usize) {
        (self.images as usize, self.height as usize, self.width as usize)
    }

    fn steps(&self) -> Steps<'_> {
        Steps { machine: &*self.machine }
    }

    fn buffer(&self, at: At) -> &Buffer {
        &self.at[at as usize]
    }

    fn size(&self, scale: u32, channels: u32) -> Size {
        Size { images: self.images, height: self.height / scale, width: self.width / scale, channels }
    }

    fn pixels(&self) -> usize {
        self.images as usize * self.height as usize * self.width as usize
    }

    fn counted(&self) -> usize {
        self.samples as usize * self.height as usize * self.width as usize
    }

    // ── Parameters ──

    /// Overwrites the parameters.
    pub(super) fn set_weights(&mut self, weights: &Weights) -> Result<(), GpuError> {
        self.master.write(&self.layout.pack(&layout::layers_of(weights)))?;
        let master = self.master.holding("parameters", self.layout.parameters * 4)?;
        let kernels = self.kernels.holding("kernels", self.layout.compute * self.value())?;
        self.steps().copy_kernels(&self.table, master, kernels)
    }

    /// Copies the parameters out.
    pub(super) fn weights(&self) -> Result<Weights, NetworkError> {
        Ok(layout::weights_of(self.unpacked(&self.master)?)?)
    }

    fn unpacked(&self, buffer: &Buffer) -> Result<Vec<Vec<f32>>, GpuError> {
        let mut all = vec![0f32; self.layout.parameters];
        buffer.read(&mut all)?;
        Ok(self.layout.unpack(&all))
    }

    /// Number of steps taken, and the first and second moments of each layer.
    pub(super) fn moments(&self) -> Result<AdamState, GpuError> {
        let training = self.training()?;
        let (first, second) = (self.unpacked(&training.first)?, self.unpacked(&training.second)?);
        Ok(AdamState { step: training.steps, first, second })
    }

    /// Continues from such a state.
    pub(super) fn set_moments(
        &mut self,
        steps: u64,
        first: &[Vec<f32>],
        second: &[Vec<f32>],
    ) -> Result<(), GpuError> {
        let training = self.training()?;
        training.first.write(&self.layout.pack(first))?;
        training.second.write(&self.layout.pack(second))?;
        self.training_mut()?.steps = steps;
        Ok(())
    }

    fn training(&self) -> Result<&Training, GpuError> {
        self.training.as_ref().ok_or(GpuError::Extent { what: "training", needed: 1, found: 0 })
    }

    fn training_mut(&mut self) -> Result<&mut Training, GpuError> {
        self.training.as_mut().ok_or(GpuError::Extent { what: "training", needed: 1, found: 0 })
    }

    fn value(&self) -> usize {
        self.machine.precision().bytes()
    }

    /// Bias of a layer, f32.
    fn bias(&self, layer: usize) -> Result<u64, GpuError> {
        let segment = self.layout.bias(layer);
        self.master.part("a bias", segment.master as usize, segment.length as usize, 4)
    }

    /// Kernel and bias of the last layer, f32, side by side.
    fn last(&self) -> Result<u64, GpuError> {
        self.master.part("the last layer", self.layout.kernel(LAST).master as usize, 16, 4)
    }

    // ── Input ──

    /// Loads the current batch from images and targets (f32, NHWC) that the host has cut.
    pub(super) fn take(&mut self, images: &[f32], targets: Option<&[f32]>) -> Result<(), GpuError> {
        let pixels = self.height as usize * self.width as usize;
        if self.host.is_none() {
            self.host = Some(Buffer::zeros(&self.machine, self.pixels() * 3 * 4)?);
        }
        self.samples = (images.len() / (3 * pixels)) as u32;
        if let Some(host) = &self.host {
            host.write(images)?;
            self.steps().take_samples(host, self.samples, self.size(1, 8), self.buffer(At::Input))?;
        }
        targets.map_or(Ok(()), |targets| self.targets.write(targets))
    }

    /// Loads the current batch: `samples` samples, beginning with number `first` of the cuts.
    pub(super) fn cut(&mut self, cuts: &Cuts, first: usize, samples: usize) -> Result<(), GpuError> {
        self.samples = samples.min(self.images as usize) as u32;
        self.steps().cut_samples(
            &cuts.list,
            first,
            self.samples,
            self.size(1, 8),
            self.buffer(At::Input),
            &self.targets,
        )
    }

    /// The current batch as the first layer sees it, without the padding channels, and its targets:
    /// for checks.
    pub(super) fn input(&self) -> Result<(Vec<f32>, Vec<f32>), GpuError> {
        let (values, mut targets) = (8 * self.pixels(), vec![0f32; self.pixels()]);
        self.targets.read(&mut targets)?;
        let all: Vec<f32> = if self.value() == 2 {
            let mut bits = vec![0u16; values];
            self.buffer(At::Input).read(&mut bits)?;
            bits.into_iter().map(|bits| f32::from_bits(u32::from(bits) << 16)).collect()
        } else {
            let mut all = vec![0f32; values];
            self.buffer(At::Input).read(&mut all)?;
            all
        };
        Ok((all.chunks_exact(8).flat_map(|pixel| pixel[..3].to_vec()).collect(), targets))
    }

    // ── Forward ──

    fn work(&self) -> Result<Workspace, GpuError> {
        Ok(Workspace(self.workspace.holding("work space", self.workspace_bytes)?, self.workspace_bytes))
    }

    /// The address of a layer's kernel as its convolution takes it, in a buffer laid out like the
    /// kernels.
    fn kernel(&self, of: &Buffer, layer: usize) -> Result<u64, GpuError> {
        let (first, len) = (self.layout.kernel(layer).compute, self.shape_of(layer).lengths()[1]);
        of.part("a kernel", first as usize, len, self.value())
    }

    fn shape_of(&self, layer: usize) -> super::machine::ConvShape {
        layout::convolution(layer, self.images, self.height, self.width)
    }

    /// The addresses of the image and the result of a layer's convolution.
    fn ends(&self, layer: usize, x: &Buffer, y: &Buffer) -> Result<[u64; 2], GpuError> {
        let [image, _, result] = self.shape_of(layer).lengths();
        Ok([
            x.holding("a layer's image", image * self.value())?,
            y.holding("a layer's result", result * self.value())?,
        ])
    }

    /// Convolution without bias and ReLU, into `Z`.
    fn convolve(&self, layer: usize, x: At) -> Result<(), GpuError> {
        let [x, y] = self.ends(layer, self.buffer(x), self.buffer(At::Z))?;
        let w = self.kernel(&self.kernels, layer)?;
        // SAFETY: `ends` and `kernel` have checked the lengths; `work` is as large as the largest
        // convolution needs.
        unsafe { self.convolutions[layer].forward(x, w, None, y, self.work()?).map(drop) }
    }

    /// Convolution with bias and ReLU.
    fn plain(&mut self, layer: usize, x: At, y: At) -> Result<(), GpuError> {
        let w = self.kernel(&self.kernels, layer)?;
        if self.fused[layer] {
            let [from, to] = self.ends(layer, self.buffer(x), self.buffer(y))?;
            let segment = self.layout.bias(layer);
            let bias = self.kernels.part(
                "a bias",
                segment.compute as usize,
                segment.length as usize,
                self.value(),
            )?;
            // SAFETY: as in `convolve`; the bias has a value for each channel.
            self.fused[layer] =
                unsafe { self.convolutions[layer].forward(from, w, Some(bias), to, self.work()?) }?;
        }
        if !self.fused[layer] {
            self.convolve(layer, x)?;
            let (height, width) = self.shape_of(layer).result();
            let channels = self.shape_of(layer).output;
            let view = View::plain(height, width, channels);
            let size = Size { images: self.images, height, width, channels };
            let z = Image { buffer: self.buffer(At::Z), view };
            self.steps().activate(z, Image { buffer: self.buffer(y), view }, self.bias(layer)?, size)?;
        }
        Ok(())
    }

    /// Bias and ReLU from `Z` into a part of a joined image, and the pooled image.
    fn pool(&self, layer: usize, y: Image<'_>, pooled: At, size: Size) -> Result<(), GpuError> {
        let view = View::plain(2 * size.height, 2 * size.width, size.channels);
        let z = Image { buffer: self.buffer(At::Z), view };
        self.steps().activate_pool(z, y, self.buffer(pooled), self.bias(layer)?, size)
    }

    /// Bias and ReLU from `Z`, which is read as `view`.
    fn activate(&self, layer: usize, view: View, y: Image<'_>, size: Size) -> Result<(), GpuError> {
        self.steps().activate(Image { buffer: self.buffer(At::Z), view }, y, self.bias(layer)?, size)
    }

    fn image(&self, at: At, view: View) -> Image<'_> {
        Image { buffer: self.buffer(at), view }
    }

    /// All layers but the last, for the current batch.
    fn forward(&mut self) -> Result<(), GpuError> {
        let v = Views::of(self.height, self.width);
        let plain = |size: Size| View::plain(size.height, size.width, size.channels);
        self.plain(0, At::Input, At::Y0)?;
        self.convolve(1, At::Y0)?;
        self.pool(1, self.image(At::Cat10, v.skip_1), At::Pool1, self.size(2, 32))?;
        self.plain(2, At::Pool1, At::Y2)?;
        self.convolve(3, At::Y2)?;
        self.pool(3, self.image(At::Cat7, v.skip_3), At::Pool3, self.size(4, 64))?;
        self.plain(4, At::Pool3, At::Y4)?;
        self.convolve(5, At::Y4)?;
        let size = self.size(4, 256);
        self.activate(5, plain(size), self.image(At::Pad5, v.pad_5), size)?;
        self.convolve(6, At::Pad5)?;
        self.activate(6, v.split_6, self.image(At::Cat7, v.up_6), self.size(2, 128))?;
        self.plain(7, At::Cat7, At::Y7)?;
        self.convolve(8, At::Y7)?;
        let size = self.size(2, 128);
        self.activate(8, plain(size), self.image(At::Pad8, v.pad_8), size)?;
        self.convolve(9, At::Pad8)?;
        self.activate(9, v.split_9, self.image(At::Cat10, v.up_9), self.size(1, 64))?;
        self.plain(10, At::Cat10, At::Y10)?;
        self.plain(11, At::Y10, At::Y11)?;
        self.plain(12, At::Y11, At::Y12)
    }

    /// Logits of the current samples.
    pub(super) fn logits(&mut self) -> Result<Vec<f32>, GpuError> {
        self.forward()?;
        // The incoming images are no longer needed.
        if self.host.is_none() {
            self.host = Some(Buffer::zeros(&self.machine, self.pixels() * 3 * 4)?);
        }
        let mut out = vec![0f32; self.counted()];
        if let Some(host) = &self.host {
            self.steps().logits(self.buffer(At::Y12), self.last()?, self.pixels(), host)?;
            host.read(&mut out)?;
        }
        Ok(out)
    }

    /// Adds what the metrics of the current samples are computed from to the totals.
    pub(super) fn count(&mut self) -> Result<(), GpuError> {
        self.forward()?;
        let (y, last, counted) = (self.buffer(At::Y12), self.last()?, self.counted());
        self.steps().count_pixels(y, &self.targets, last, counted, &self.sums, &self.totals)
    }

    /// Sets the totals to zero.
    pub(super) fn reset_totals(&self) -> Result<(), GpuError> {
        self.totals.write(&[0f64; 8])
    }

    /// True positives, false positives, false negatives, loss, probabilities and their squares.
    pub(super) fn totals(&self) -> Result<[f64; 6], GpuError> {
        let mut all = [0f64; 6];
        self.totals.read(&mut all)?;
        Ok(all)
    }

    // ── Training ──

    /// Loss and gradients of the current samples. They stay on the GPU.
    pub(super) fn backward(&mut self) -> Result<(), GpuError> {
        self.forward()?;
        let t = self.training()?;
        let (v, steps) = (Views::of(self.height, self.width), self.steps());
        let places = [
            self.layout.kernel(LAST).master,
            self.layout.bias(LAST).master,
            self.layout.bias(LAST - 1).master,
        ];
        let z = self.buffer(At::Z);
        steps.loss_gradient(
            self.buffer(At::Y12),
            &self.targets,
            self.last()?,
            (self.pixels(), self.counted()),
            z,
            &self.sums,
            &t.loss,
            &t.direct,
            places,
        )?;
        let plain = |size: Size| View::plain(size.height, size.width, size.channels);
        let gate = |layer: usize, gy: Image<'_>, y: Image<'_>, gz: View, size: Size| {
            steps.gate(gy, y, Image { buffer: z, view: gz }, size, self.parts(layer)?)
        };
        // A layer whose result has no gaps in memory; neither has its gradient.
        let plain_gate = |layer: usize, y: At, size: Size| {
            let view = plain(size);
            gate(layer, Image { buffer: &t.gy, view }, self.image(y, view), view, size)
        };

        self.both(12, At::Y11, &t.gy)?;
        plain_gate(11, At::Y11, self.size(1, 64))?;
        self.both(11, At::Y10, &t.gy)?;
        plain_gate(10, At::Y10, self.size(1, 64))?;
        self.both(10, At::Cat10, &t.cat_10)?;
        let up = Image { buffer: &t.cat_10, view: v.up_9 };
        gate(9, up, self.image(At::Cat10, v.up_9), v.split_9, self.size(1, 64))?;
        self.both(9, At::Pad8, &t.gy)?;
        let (size, gy) = (self.size(2, 128), Image { buffer: &t.gy, view: v.pad_8 });
        gate(8, gy, self.image(At::Pad8, v.pad_8), plain(size), size)?;
        self.both(8, At::Y7, &t.gy)?;
        plain_gate(7, At::Y7, self.size(2, 128))?;
        self.both(7, At::Cat7, &t.cat_7)?;
        let up = Image { buffer: &t.cat_7, view: v.up_6 };
        gate(6, up, self.image(At::Cat7, v.up_6), v.split_6, self.size(2, 128))?;
        self.both(6, At::Pad5, &t.gy)?;
        let (size, gy) = (self.size(4, 256), Image { buffer: &t.gy, view: v.pad_5 });
        gate(5, gy, self.image(At::Pad5, v.pad_5), plain(size), size)?;
        self.both(5, At::Y4, &t.gy)?;
        plain_gate(4, At::Y4, self.size(4, 256))?;
        self.both(4, At::Pool3, &t.gy)?;
        let skip = Image { buffer: &t.cat_7, view: v.skip_3 };
        let y = self.image(At::Cat7, v.skip_3);
        steps.gate_pool(skip, &t.gy, y, z, self.size(4, 64), self.parts(3)?)?;
        self.both(3, At::Y2, &t.gy)?;
        plain_gate(2, At::Y2, self.size(2, 64))?;
        self.both(2, At::Pool1, &t.gy)?;
        let skip = Image { buffer: &t.cat_10, view: v.skip_1 };
        let y = self.image(At::Cat10, v.skip_1);
        steps.gate_pool(skip, &t.gy, y, z, self.size(2, 32), self.parts(1)?)?;
        self.both(1, At::Y0, &t.gy)?;
        plain_gate(0, At::Y0, self.size(1, 32))?;
        self.kernel_gradient(0, At::Input)?;
        let parts = t.parts.holding("partial sums", self.layout.parts * 4)?;
        steps.sum_biases(&self.table, parts, t.direct.holding("gradients", self.layout.parameters * 4)?)
    }

    /// Address of a layer's partial sums.
    fn parts(&self, layer: usize) -> Result<u64, GpuError> {
        let segment = self.layout.bias(layer);
        let len = PARTS as usize * segment.output as usize;
        self.training()?.parts.part("partial sums", segment.parts as usize, len, 4)
    }

    /// Gradient of a layer's kernel from the gradient in `Z`.
    fn kernel_gradient(&self, layer: usize, x: At) -> Result<(), GpuError> {
        let [x, dy] = self.ends(layer, self.buffer(x), self.buffer(At::Z))?;
        let dw = self.kernel(&self.training()?.kernels, layer)?;
        // SAFETY: as in `convolve`.
        unsafe { self.convolutions[layer].backward_kernel(x, dy, dw, self.work()?) }
    }

    /// Gradients of a layer's kernel and, to `dx`, of its image.
    fn both(&self, layer: usize, x: At, dx: &Buffer) -> Result<(), GpuError> {
        self.kernel_gradient(layer, x)?;
        let [dx, dy] = self.ends(layer, dx, self.buffer(At::Z))?;
        let w = self.kernel(&self.kernels, layer)?;
        // SAFETY: as in `convolve`.
        unsafe { self.convolutions[layer].backward_image(w, dy, dx, self.work()?) }
    }

    /// One step of Adam with the gradients of [`Self::backward`]. If the loss is not finite,
    /// nothing changes.
    pub(super) fn step(&mut self, learning_rate: f64) -> Result<(), GpuError> {
        let training = self.training_mut()?;
        training.steps += 1;
        let [first, second] = BETAS.map(|beta| 1.0 - beta.powf(training.steps as f32));
        let alpha = learning_rate as f32 * second.sqrt() / first;
        let t = self.training()?;
        let all = |buffer: &Buffer| buffer.holding("parameters", self.layout.parameters * 4);
        let kernels = |buffer: &Buffer| buffer.holding("kernels", self.layout.compute * self.value());
        let state = [all(&self.master)?, all(&t.first)?, all(&t.second)?, kernels(&self.kernels)?];
        let loss = t.loss.holding("the loss", 4)?;
        self.steps().adam(&self.table, [kernels(&t.kernels)?, all(&t.direct)?], loss, alpha, state)
    }

    /// Starts copying the last step's loss to the host.
    pub(super) fn fetch_loss(&self, slot: usize) -> Result<(), GpuError> {
        let loss = self.training()?.loss.holding("the loss", 4)?;
        // SAFETY: the buffer holds an f32.
        unsafe { self.machine.fetch(loss, slot) }
    }

    /// The loss that [`Self::fetch_loss`] has copied.
    pub(super) fn fetched(&self, slot: usize) -> Result<f32, GpuError> {
        self.machine.fetched(slot)
    }

    /// Loss and gradients (`[k · k · in + 1, out]` a layer) of the last [`Self::backward`].
    pub(super) fn gradients(&self) -> Result<(f32, Vec<Vec<f32>>), GpuError> {
        let t = self.training()?;
        let out = Buffer::zeros(&self.machine, self.layout.parameters * 4)?;
        let kernels = t.kernels.holding("kernels", self.layout.compute * self.value())?;
        let direct = t.direct.holding("gradients", self.layout.parameters * 4)?;
        let to = out.holding("gradients", self.layout.parameters * 4)?;
        self.steps().gather_gradients(&self.table, [kernels, direct], to)?;
        let mut loss = [0f32];
        t.loss.read(&mut loss)?;
        Ok((loss[0], self.unpacked(&out)?))
    }
}

const _: () = assert!(CONV_LAYERS.len() == LAST + 1);

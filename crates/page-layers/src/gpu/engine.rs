//! The network on a GPU: one batch size, one image size, all memory taken once.
//!
//! Everything here only gives orders, which the GPU carries out one after another. A batch that is
//! not full is computed like a full one: its surplus images are empty and don't count.

use std::sync::Arc;

use super::layout::{self, LAST, Layout, PARTS, Segment};
use super::machine::{Buffer, Convolution, GpuError, Machine, Workspace};
use super::pages::Cuts;
use super::steps::{Image, Size, Steps, Table};
use crate::hyperparameters::{BETA_1, BETA_2};
use crate::keras::Weights;
use crate::net::adam::AdamState;
use crate::net::error::NetworkError;
use crate::topology::{NODES, Operation, node_of};

/// What only training needs.
struct Training {
    /// Gradient of a layer's input.
    gy: Buffer,
    /// Gradients of the joined images, by node: their skip parts are needed again later.
    joined: Vec<Option<Buffer>>,
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
    /// The results of the nodes, where they have a place of their own ([`layout::home`]).
    images_of: Vec<Option<Buffer>>,
    /// A layer's result before bias and ReLU; in the backward pass, the gradient there.
    z: Buffer,
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
        let joins = |node: usize| NODES[node].operation == Operation::Concat;
        let home = |node: usize| layout::home(node, height, width);
        // `Z` holds each layer's result, and a buffer of the same size the gradient of each layer's
        // image but the joined ones.
        let needed = |layer: usize| {
            let [image, _, result] = layout::convolution(layer, images, height, width).lengths();
            if joins(layout::read_by(layer)) { result } else { result.max(image) }
        };
        let z = (0..LAST).map(needed).max().unwrap_or(0);
        // What an upsampling makes is never there; the last layer makes the logits.
        let has_image = |node: usize| {
            NODES[node].operation != Operation::Upsample
                && node != node_of(LAST)
                && home(node).owner == node
        };
        let buffers = |wanted: &dyn Fn(usize) -> bool| -> Result<Vec<Option<Buffer>>, GpuError> {
            let buffer = |node: usize| {
                let values = home(node).view.values(images);
                wanted(node).then(|| Buffer::zeros(machine, values * size)).transpose()
            };
            (0..NODES.len()).map(buffer).collect()
        };
        let training = if training {
            Some(Training {
                gy: zeros(z, size)?,
                joined: buffers(&joins)?,
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
            images_of: buffers(&has_image)?,
            z: zeros(z, size)?,
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

    /// The image of a node that has a place of its own.
    fn buffer(&self, node: usize) -> Result<&Buffer, GpuError> {
        self.images_of[node].as_ref().ok_or(GpuError::NoImage(NODES[node].name))
    }

    fn size(&self, node: usize) -> Size {
        let [height, width, channels] = layout::extent(node, self.height, self.width);
        Size { images: self.images, height, width, channels }
    }

    /// The result of a node, wherever it lies.
    fn image(&self, node: usize) -> Result<Image<'_>, GpuError> {
        let home = layout::home(node, self.height, self.width);
        Ok(Image { buffer: self.buffer(home.owner)?, view: home.view })
    }

    /// The result of a layer before bias and ReLU, or its gradient.
    fn z(&self, layer: usize) -> Image<'_> {
        Image { buffer: &self.z, view: layout::raw_result(layer, self.height, self.width) }
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
        self.training.as_ref().ok_or(GpuError::NotForTraining)
    }

    fn training_mut(&mut self) -> Result<&mut Training, GpuError> {
        self.training.as_mut().ok_or(GpuError::NotForTraining)
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
            self.steps().take_samples(host, self.samples, self.size(0), self.buffer(0)?)?;
        }
        targets.map_or(Ok(()), |targets| self.targets.write(targets))
    }

    /// Loads the current batch: `samples` samples, beginning with number `first` of the cuts. More
    /// than a batch holds are an error, as in [`Self::take`].
    pub(super) fn cut(
        &mut self,
        cuts: &Cuts,
        first: usize,
        samples: usize,
    ) -> Result<(), GpuError> {
        let pixels = self.height as usize * self.width as usize;
        self.targets.holding("a batch's targets", samples * pixels * 4)?;
        self.samples = samples as u32;
        self.steps().cut_samples(
            &cuts.list,
            first,
            self.samples,
            self.size(0),
            self.buffer(0)?,
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
            self.buffer(0)?.read(&mut bits)?;
            bits.into_iter().map(|bits| f32::from_bits(u32::from(bits) << 16)).collect()
        } else {
            let mut all = vec![0f32; values];
            self.buffer(0)?.read(&mut all)?;
            all
        };
        Ok((all.chunks_exact(8).flat_map(|pixel| pixel[..3].to_vec()).collect(), targets))
    }

    // ── Forward ──

    fn work(&self) -> Result<Workspace, GpuError> {
        Ok(Workspace(
            self.workspace.holding("work space", self.workspace_bytes)?,
            self.workspace_bytes,
        ))
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

    /// The image that a layer's convolution takes.
    fn input_of(&self, layer: usize) -> Result<&Buffer, GpuError> {
        self.buffer(layout::read_by(layer))
    }

    /// Convolution without bias and ReLU, into `Z`.
    fn convolve(&self, layer: usize) -> Result<(), GpuError> {
        let [x, y] = self.ends(layer, self.input_of(layer)?, &self.z)?;
        let w = self.kernel(&self.kernels, layer)?;
        // SAFETY: `ends` and `kernel` have checked the lengths; `work` is as large as the largest
        // convolution needs.
        unsafe { self.convolutions[layer].forward(x, w, None, y, self.work()?).map(drop) }
    }

    /// Convolution with bias and ReLU in one, to the layer's own image; false when the machine
    /// can't.
    fn convolve_fused(&self, layer: usize) -> Result<bool, GpuError> {
        let w = self.kernel(&self.kernels, layer)?;
        let [from, to] = self.ends(layer, self.input_of(layer)?, self.buffer(node_of(layer))?)?;
        let Segment { compute, length, .. } = *self.layout.bias(layer);
        let bias = self.kernels.part("a bias", compute as usize, length as usize, self.value())?;
        // SAFETY: as in `convolve`; the bias has a value for each channel.
        unsafe { self.convolutions[layer].forward(from, w, Some(bias), to, self.work()?) }
    }

    /// A layer: convolution, bias and ReLU, and the pooling behind it.
    fn layer(&mut self, layer: usize) -> Result<(), GpuError> {
        let node = node_of(layer);
        if let Some(pooled) = layout::reader(node, Operation::Pool) {
            self.convolve(layer)?;
            let (y, bias) = (self.image(node)?, self.bias(layer)?);
            let to = self.buffer(pooled)?;
            return self.steps().activate_pool(self.z(layer), y, to, bias, self.size(pooled));
        }
        // A result that lies as the convolution leaves it.
        let in_place = self.image(node)?.view == self.z(layer).view;
        if in_place && self.fused[layer] {
            self.fused[layer] = self.convolve_fused(layer)?;
            if self.fused[layer] {
                return Ok(());
            }
        }
        self.convolve(layer)?;
        self.steps().activate(self.z(layer), self.image(node)?, self.bias(layer)?, self.size(node))
    }

    /// All layers but the last, for the current batch.
    fn forward(&mut self) -> Result<(), GpuError> {
        (0..LAST).try_for_each(|layer| self.layer(layer))
    }

    /// The image that the last layer reads.
    fn last_image(&self) -> Result<&Buffer, GpuError> {
        self.input_of(LAST)
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
            self.steps().logits(self.last_image()?, self.last()?, self.pixels(), host)?;
            host.read(&mut out)?;
        }
        Ok(out)
    }

    /// Adds what the metrics of the current samples are computed from to the totals.
    pub(super) fn count(&mut self) -> Result<(), GpuError> {
        self.forward()?;
        let (y, last, counted) = (self.last_image()?, self.last()?, self.counted());
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
        let places = [
            self.layout.kernel(LAST).master,
            self.layout.bias(LAST).master,
            self.layout.bias(LAST - 1).master,
        ];
        self.steps().loss_gradient(
            self.last_image()?,
            &self.targets,
            self.last()?,
            (self.pixels(), self.counted()),
            &self.z,
            &self.sums,
            &t.loss,
            &t.direct,
            places,
        )?;
        for layer in (0..LAST).rev() {
            // The loss has left the gradient before the ReLU of the layer below the last.
            if layer + 1 < LAST {
                self.gate(layer)?;
            }
            self.kernel_gradient(layer)?;
            if layer > 0 {
                self.image_gradient(layer)?;
            }
        }
        let parts = t.parts.holding("partial sums", self.layout.parts * 4)?;
        let direct = t.direct.holding("gradients", self.layout.parameters * 4)?;
        self.steps().sum_biases(&self.table, parts, direct)
    }

    /// Where the gradient of a node's image is left.
    fn gradient_of(&self, owner: usize) -> Result<&Buffer, GpuError> {
        let t = self.training()?;
        Ok(t.joined[owner].as_ref().unwrap_or(&t.gy))
    }

    /// The gradient before a layer's ReLU, to `Z`, from the one of its result.
    fn gate(&self, layer: usize) -> Result<(), GpuError> {
        let node = node_of(layer);
        let (y, parts) = (self.image(node)?, self.parts(layer)?);
        let home = layout::home(node, self.height, self.width);
        let gy = Image { buffer: self.gradient_of(home.owner)?, view: home.view };
        match layout::reader(node, Operation::Pool) {
            Some(pooled) => {
                let from = self.gradient_of(pooled)?;
                self.steps().gate_pool(gy, from, y, &self.z, self.size(pooled), parts)
            }
            None => self.steps().gate(gy, y, self.z(layer), self.size(node), parts),
        }
    }

    /// Address of a layer's partial sums.
    fn parts(&self, layer: usize) -> Result<u64, GpuError> {
        let segment = self.layout.bias(layer);
        let len = PARTS as usize * segment.output as usize;
        self.training()?.parts.part("partial sums", segment.parts as usize, len, 4)
    }

    /// Gradient of a layer's kernel from the gradient in `Z`.
    fn kernel_gradient(&self, layer: usize) -> Result<(), GpuError> {
        let [x, dy] = self.ends(layer, self.input_of(layer)?, &self.z)?;
        let dw = self.kernel(&self.training()?.kernels, layer)?;
        // SAFETY: as in `convolve`.
        unsafe { self.convolutions[layer].backward_kernel(x, dy, dw, self.work()?) }
    }

    /// Gradient of the image that a layer reads from the gradient in `Z`.
    fn image_gradient(&self, layer: usize) -> Result<(), GpuError> {
        let dx = self.gradient_of(layout::read_by(layer))?;
        let [dx, dy] = self.ends(layer, dx, &self.z)?;
        let w = self.kernel(&self.kernels, layer)?;
        // SAFETY: as in `convolve`.
        unsafe { self.convolutions[layer].backward_image(w, dy, dx, self.work()?) }
    }

    /// One step of Adam with the gradients of [`Self::backward`]. If the loss is not finite, no
    /// weight and no moment changes; the step is counted all the same.
    pub(super) fn step(&mut self, learning_rate: f64) -> Result<(), GpuError> {
        let training = self.training_mut()?;
        training.steps += 1;
        // The bias correction is f32's, as Keras takes it.
        let [first, second] =
            [BETA_1, BETA_2].map(|beta| 1.0 - (beta as f32).powf(training.steps as f32));
        let alpha = learning_rate as f32 * second.sqrt() / first;
        let t = self.training()?;
        let all = |buffer: &Buffer| buffer.holding("parameters", self.layout.parameters * 4);
        let kernels =
            |buffer: &Buffer| buffer.holding("kernels", self.layout.compute * self.value());
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

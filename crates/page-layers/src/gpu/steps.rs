//! The kernels of `kernels.cu`, called with checked memory. The argument lists here and there must
//! be the same.

use std::ffi::c_void;

use super::layout::{PARTS, View};
use super::machine::{Buffer, GpuError, Machine};

/// Threads of a block.
const THREADS: usize = 256;

/// More blocks than any GPU runs at a time; each thread goes on to further values anyway.
const MOST_BLOCKS: usize = 4096;

/// Blocks per segment in kernels that go over all parameters; the largest segment has 590,000.
const EACH: u32 = 64;

/// Starts a kernel with addresses (u64), numbers and views as its arguments.
macro_rules! launch {
    ($machine:expr, $kernel:literal, $blocks:expr; $($argument:expr),* $(,)?) => {
        $machine.launch(
            $kernel,
            $blocks,
            &mut [$((&raw const *&$argument).cast::<c_void>().cast_mut()),*],
        )
    };
}

fn blocks_for(values: usize) -> u32 {
    values.div_ceil(THREADS).clamp(1, MOST_BLOCKS) as u32
}

/// An image in a buffer.
#[derive(Clone, Copy)]
pub(super) struct Image<'a> {
    pub(super) buffer: &'a Buffer,
    pub(super) view: View,
}

/// Size of a batch of images, with the number of channels that are used.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) images: u32,
    pub(super) height: u32,
    pub(super) width: u32,
    pub(super) channels: u32,
}

impl Size {
    fn pixels(&self) -> usize {
        self.images as usize * self.height as usize * self.width as usize
    }

    fn values(&self) -> usize {
        self.pixels() * self.channels as usize
    }
}

/// The kernels on one machine.
#[derive(Clone, Copy)]
pub(super) struct Steps<'a> {
    pub(super) machine: &'a dyn Machine,
}

impl Steps<'_> {
    fn size(&self) -> usize {
        self.machine.precision().bytes()
    }

    fn image(&self, image: Image<'_>, images: u32) -> Result<u64, GpuError> {
        image.buffer.holding("an image", image.view.values(images) * self.size())
    }

    /// Cuts samples out of their pages, beginning with number `first`.
    pub(super) fn cut_samples(
        &self,
        cuts: &Buffer,
        first: usize,
        samples: u32,
        size: Size,
        x: &Buffer,
        targets: &Buffer,
    ) -> Result<(), GpuError> {
        let cuts = cuts.part("cuts", first, samples as usize, size_of::<super::Cut>())?;
        let x = x.holding("the input", size.pixels() * 8 * self.size())?;
        let targets = targets.holding("targets", size.pixels() * 4)?;
        let blocks = blocks_for(size.pixels());
        // SAFETY: the types are the kernel's, and the lengths are checked above. `Cuts` keeps the
        // pages and masks that the cuts point to, and the kernel stays inside of them for every
        // place.
        unsafe {
            launch!(self.machine, c"cut_samples", blocks;
                cuts, samples, size.images, size.height, size.width, x, targets)
        }
    }

    /// Takes images that the host has cut.
    pub(super) fn take_samples(
        &self,
        from: &Buffer,
        samples: u32,
        size: Size,
        x: &Buffer,
    ) -> Result<(), GpuError> {
        let given = samples as usize * size.height as usize * size.width as usize;
        let from = from.holding("images", given * 3 * 4)?;
        let x = x.holding("the input", size.pixels() * 8 * self.size())?;
        let blocks = blocks_for(size.pixels());
        // SAFETY: the types are the kernel's, the lengths are checked above.
        unsafe {
            launch!(self.machine, c"take_samples", blocks;
                from, samples, size.images, size.height, size.width, x)
        }
    }

    /// `y = ReLU(z + bias)`.
    pub(super) fn activate(
        &self,
        z: Image<'_>,
        y: Image<'_>,
        bias: u64,
        size: Size,
    ) -> Result<(), GpuError> {
        let (from, to) = (self.image(z, size.images)?, self.image(y, size.images)?);
        let Size { images, height, width, channels } = size;
        let blocks = blocks_for(size.values() / 8);
        // SAFETY: the types are the kernel's, the images are as large as their views, and `bias` is
        // a segment of the parameters, which has a value for each channel.
        unsafe {
            launch!(self.machine, c"activate", blocks;
                from, z.view, to, y.view, bias, images, height, width, channels)
        }
    }

    /// As [`Self::activate`], and writes the maximum of each 2×2 window to `pooled`, whose size is
    /// `size`.
    pub(super) fn activate_pool(
        &self,
        z: Image<'_>,
        y: Image<'_>,
        pooled: &Buffer,
        bias: u64,
        size: Size,
    ) -> Result<(), GpuError> {
        let (from, to) = (self.image(z, size.images)?, self.image(y, size.images)?);
        let pooled = pooled.holding("a pooled image", size.values() * self.size())?;
        let Size { images, height, width, channels } = size;
        let blocks = blocks_for(size.values() / 8);
        // SAFETY: as in `activate`.
        unsafe {
            launch!(self.machine, c"activate_pool", blocks;
                from, z.view, to, y.view, pooled, bias, images, height, width, channels)
        }
    }

    /// The last layer alone.
    pub(super) fn logits(
        &self,
        y: &Buffer,
        last: u64,
        pixels: usize,
        out: &Buffer,
    ) -> Result<(), GpuError> {
        let y = y.holding("the last image", pixels * 8 * self.size())?;
        let out = out.holding("logits", pixels * 4)?;
        let (blocks, pixels) = (blocks_for(pixels), pixels as u64);
        // SAFETY: the types are the kernel's, the lengths are checked above; `last` is the last
        // layer's kernel and bias, 16 values side by side.
        unsafe { launch!(self.machine, c"logits", blocks; y, last, pixels, out) }
    }

    /// Loss of the first `counted` pixels, and its gradients: before the last ReLU to `gz`; those
    /// of the last layer and of the bias before it to `gradients` (the last three numbers are the
    /// places).
    #[expect(clippy::too_many_arguments, reason = "a kernel's")]
    pub(super) fn loss_gradient(
        &self,
        y: &Buffer,
        targets: &Buffer,
        last: u64,
        (pixels, counted): (usize, usize),
        gz: &Buffer,
        parts: &Buffer,
        loss: &Buffer,
        gradients: &Buffer,
        places: [u32; 3],
    ) -> Result<(), GpuError> {
        let y = y.holding("the last image", pixels * 8 * self.size())?;
        let gz = gz.holding("the last gradient", pixels * 8 * self.size())?;
        let targets = targets.holding("targets", counted * 4)?;
        let parts = parts.holding("partial sums", PARTS as usize * 8 * 4)?;
        let loss = loss.holding("the loss", 4)?;
        let most = places.into_iter().max().unwrap_or_default() as usize + 2;
        let gradients = gradients.holding("gradients", most * 4)?;
        let (pixels, counted) = (pixels as u64, counted as u64);
        let [kernel, bias, below] = places;
        // SAFETY: the types are the kernels', the lengths are checked above; `last` as in `logits`.
        unsafe {
            launch!(self.machine, c"loss_gradient", PARTS;
                y, targets, last, pixels, counted, gz, parts)?;
            launch!(self.machine, c"finish_loss", 1;
                parts, PARTS, counted, loss, gradients, kernel, bias, below)
        }
    }

    /// Adds what the metrics of the first `counted` pixels are computed from to `total`.
    pub(super) fn count_pixels(
        &self,
        y: &Buffer,
        targets: &Buffer,
        last: u64,
        counted: usize,
        parts: &Buffer,
        total: &Buffer,
    ) -> Result<(), GpuError> {
        let y = y.holding("the last image", counted * 8 * self.size())?;
        let targets = targets.holding("targets", counted * 4)?;
        let parts = parts.holding("partial sums", PARTS as usize * 8 * 8)?;
        let total = total.holding("totals", 8 * 8)?;
        let counted = counted as u64;
        // SAFETY: the types are the kernels', the lengths are checked above; `last` as in `logits`.
        unsafe {
            launch!(self.machine, c"count_pixels", PARTS; y, targets, last, counted, parts)?;
            launch!(self.machine, c"add_counts", 1; parts, PARTS, total)
        }
    }

    /// The gradient before a ReLU with the result `y`, from the gradient after it; the sums for the
    /// bias go to `parts`.
    pub(super) fn gate(
        &self,
        gy: Image<'_>,
        y: Image<'_>,
        gz: Image<'_>,
        size: Size,
        parts: u64,
    ) -> Result<(), GpuError> {
        let [from, result, to] = [
            self.image(gy, size.images)?,
            self.image(y, size.images)?,
            self.image(gz, size.images)?,
        ];
        let Size { images, height, width, channels } = size;
        // SAFETY: the types are the kernel's, the images are as large as their views; `parts` has
        // room for PARTS rows of this layer's channels.
        unsafe {
            launch!(self.machine, c"gate", PARTS;
                from, gy.view, result, y.view, to, gz.view, images, height, width, channels, parts)
        }
    }

    /// As [`Self::gate`], for a result that was used by a skip connection and by a pooling; `size`
    /// is the pooled size, `gz` has no gaps.
    pub(super) fn gate_pool(
        &self,
        skip: Image<'_>,
        pooled: &Buffer,
        y: Image<'_>,
        gz: &Buffer,
        size: Size,
        parts: u64,
    ) -> Result<(), GpuError> {
        let (from, result) = (self.image(skip, size.images)?, self.image(y, size.images)?);
        let pooled = pooled.holding("a pooled gradient", size.values() * self.size())?;
        let to = gz.holding("a gradient", 4 * size.values() * self.size())?;
        let Size { images, height, width, channels } = size;
        // SAFETY: as in `gate`.
        unsafe {
            launch!(self.machine, c"gate_pool", PARTS;
                from, skip.view, pooled, result, y.view, to, images, height, width, channels, parts)
        }
    }

    /// The biases' gradients from the partial sums.
    pub(super) fn sum_biases(
        &self,
        table: &Table,
        parts: u64,
        gradients: u64,
    ) -> Result<(), GpuError> {
        let (segments, each) = (table.address()?, 32u32);
        // SAFETY: the types are the kernel's; the segments' places lie in the three (`Layout`), and
        // no layer has more than 32 · 8 channels.
        unsafe {
            launch!(self.machine, c"sum_biases", table.count * each;
                segments, each, parts, PARTS, gradients)
        }
    }

    /// A step of Adam, and the kernels for the next pass.
    pub(super) fn adam(
        &self,
        table: &Table,
        gradients: [u64; 2],
        loss: u64,
        alpha: f32,
        [master, first, second, kernels]: [u64; 4],
    ) -> Result<(), GpuError> {
        let segments = table.address()?;
        let [of_kernels, direct] = gradients;
        // SAFETY: the types are the kernels'; the segments' places lie in all of these (`Layout`).
        unsafe {
            launch!(self.machine, c"adam", table.count * EACH;
                segments, EACH, of_kernels, direct, loss, alpha, master, first, second, kernels)?;
            launch!(self.machine, c"expand_kernels", table.count * EACH;
                segments, EACH, master, kernels)
        }
    }

    /// The kernels as the convolutions take them, from the parameters.
    pub(super) fn copy_kernels(
        &self,
        table: &Table,
        master: u64,
        kernels: u64,
    ) -> Result<(), GpuError> {
        let segments = table.address()?;
        // SAFETY: as in `adam`.
        unsafe {
            launch!(self.machine, c"copy_kernels", table.count * EACH;
                segments, EACH, master, kernels)?;
            launch!(self.machine, c"expand_kernels", table.count * EACH;
                segments, EACH, master, kernels)
        }
    }

    /// All gradients in the parameters' order.
    pub(super) fn gather_gradients(
        &self,
        table: &Table,
        gradients: [u64; 2],
        out: u64,
    ) -> Result<(), GpuError> {
        let segments = table.address()?;
        let [of_kernels, direct] = gradients;
        // SAFETY: as in `adam`.
        unsafe {
            launch!(self.machine, c"gather_gradients", table.count * EACH;
                segments, EACH, of_kernels, direct, out)
        }
    }
}

/// The segments in the machine's memory.
pub(super) struct Table {
    pub(super) buffer: Buffer,
    pub(super) count: u32,
}

impl Table {
    fn address(&self) -> Result<u64, GpuError> {
        self.buffer.holding("segments", self.count as usize * size_of::<super::layout::Segment>())
    }
}

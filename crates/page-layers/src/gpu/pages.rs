//! Pages in a GPU's memory, and where the samples lie on them.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::machine::{Buffer, GpuError, Machine};
use crate::page::page::Page;
use crate::patch::samples::{Place, Samples};

/// Where a sample lies on its page and how it is varied, laid out as in `kernels.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub(super) struct Cut {
    bgr: u64,
    mask: u64,
    height: u32,
    width: u32,
    words: u32,
    top: i32,
    left: i32,
    mirrored: u32,
    lighter: f32,
    unused: u32,
}

/// A page's bytes, and the bits of those of its layers that were used so far.
struct OnCard {
    page: Arc<Page>,
    bgr: Arc<Buffer>,
    masks: Vec<(usize, Arc<Buffer>)>,
}

/// The places of samples in a GPU's memory, together with all memory that they point to.
pub(super) struct Cuts {
    pub(super) list: Buffer,
    _pages: Vec<Arc<Buffer>>,
}

/// The pages that samples came from so far. They stay in the GPU's memory.
#[derive(Default)]
pub(super) struct Pages(Vec<OnCard>);

impl Pages {
    /// The places of all these samples; `None` when one of them is not cut out of a page. Pages
    /// that are seen for the first time are copied to the GPU.
    pub(super) fn cuts(
        &mut self,
        machine: &Arc<dyn Machine>,
        samples: &dyn Samples,
        order: &[usize],
    ) -> Result<Option<Cuts>, GpuError> {
        let mut cuts = Vec::with_capacity(order.len());
        for &index in order {
            let Some(place) = samples.place(index, (0, 0)) else { return Ok(None) };
            cuts.push(self.cut(machine, &place)?);
        }
        let list = Buffer::zeros(machine, cuts.len() * size_of::<Cut>())?;
        list.write(&cuts)?;
        let all = self.0.iter().flat_map(|known| {
            std::iter::once(&known.bgr)
                .chain(known.masks.iter().map(|(_, mask)| mask))
                .map(Arc::clone)
        });
        Ok(Some(Cuts { list, _pages: all.collect() }))
    }

    fn cut(&mut self, machine: &Arc<dyn Machine>, place: &Place<'_>) -> Result<Cut, GpuError> {
        let (page, layer) = (place.page, place.layer);
        let at = match self.0.iter().position(|known| Arc::ptr_eq(&known.page, page)) {
            Some(at) => at,
            None => {
                let bgr = Buffer::zeros(machine, page.bgr().len())?;
                bgr.write(page.bgr())?;
                self.0.push(OnCard {
                    page: Arc::clone(page),
                    bgr: Arc::new(bgr),
                    masks: Vec::new(),
                });
                self.0.len() - 1
            }
        };
        let known = &mut self.0[at];
        let seen = known.masks.iter().find(|(index, _)| *index == layer);
        let mask = match seen.map(|(_, mask)| Arc::clone(mask)) {
            Some(mask) => mask,
            None => {
                let words = page.layers()[layer].mask.words();
                let mask = Arc::new(Buffer::zeros(machine, size_of_val(words))?);
                mask.write(words)?;
                known.masks.push((layer, Arc::clone(&mask)));
                mask
            }
        };
        let words = page.layers()[layer].mask.words_per_row();
        Ok(Cut {
            bgr: known.bgr.holding("a page", 3 * page.width() * page.height())?,
            mask: mask.holding("a mask", words * page.height() * 8)?,
            height: page.height() as u32,
            width: page.width() as u32,
            words: words as u32,
            top: place.top as i32,
            left: place.left as i32,
            mirrored: u32::from(place.left_right) | u32::from(place.up_down) << 1,
            lighter: place.lighter,
            unused: 0,
        })
    }
}

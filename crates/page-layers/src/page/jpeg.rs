//! JPEGs as libjpeg-turbo decodes them, on which OpenCV's `imread` stands.
//!
//! The `jpeg-decoder` crate does the decoding. Before it begins, [`survey`] walks over the file's
//! markers and refuses what that crate would decode to other pixels, and what is not a whole page.
//! While it decodes, [`Spliced`] makes sure that a scan which ends too early is an error, not a
//! grey area.

use std::io::{self, BufRead, Read, Seek as _};

use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, RgbImage};
use jpeg_decoder::{ColorTransform, Decoder, PixelFormat};
use thiserror::Error;

use super::source::Source;

/// Most scans of a file. Progressive files have about 10; without a limit, a small file could keep
/// a core busy for hours.
const MAX_SCANS: usize = 1000;

/// Bytes of ones that [`Spliced`] puts behind a scan: more than a decoder reads ahead.
const FILLER: usize = 32;

/// A JPEG that can't be used.
#[derive(Debug, Error)]
pub(crate) enum JpegError {
    /// The file ends early, or lacks a part of its picture.
    #[error("ends before the page does")]
    Truncated,
    /// A form of JPEG that is not decoded.
    #[error("{0}")]
    Form(String),
    /// The file breaks a rule of the format.
    #[error("{0}")]
    Damaged(String),
    /// More pixels than are taken: width and height.
    #[error("{0}x{1} pixels")]
    TooLarge(u32, u32),
    /// The file can't be read.
    #[error(transparent)]
    Read(io::Error),
}

impl From<io::Error> for JpegError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Read(error),
        }
    }
}

/// Decodes a JPEG of at most `most` pixels, as 8-bit grey or RGB, and tells how it is to be turned.
///
/// Memory: 3 bytes a pixel stay. While decoding it is up to 6, with four colours 8; in a
/// progressive file 2 more for each value, that is up to 12 or 16.
pub(super) fn decode(
    mut reader: Source<'_>,
    most: u64,
) -> Result<(DynamicImage, Orientation), JpegError> {
    reader.rewind()?;
    let survey = survey(&mut reader, most)?;
    reader.rewind()?;
    let mut spliced = Spliced::new(reader, survey.scan_ends);
    let mut decoder = Decoder::new(&mut spliced);
    decoder.set_color_transform(survey.colours);
    let decoded = decoder.decode();
    let info = decoder.info();
    // A damaged EXIF block is no reason to refuse a page: OpenCV ignores it too.
    let turned = decoder.exif_data().and_then(Orientation::from_exif_chunk);
    let values = match (decoded, spliced.beyond) {
        (Ok(values), _) => values,
        (Err(jpeg_decoder::Error::Io(error)), _) => return Err(error.into()),
        (Err(_), true) => return Err(JpegError::Truncated),
        (Err(error), false) => return Err(JpegError::Damaged(error.to_string())),
    };
    let broken = || JpegError::Damaged("the decoder returned another size".into());
    let info = info.ok_or_else(broken)?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    let image = match info.pixel_format {
        PixelFormat::L8 => GrayImage::from_raw(width, height, values).map(DynamicImage::ImageLuma8),
        PixelFormat::RGB24 => {
            RgbImage::from_raw(width, height, values).map(DynamicImage::ImageRgb8)
        }
        PixelFormat::CMYK32 => {
            RgbImage::from_raw(width, height, printed(values)).map(DynamicImage::ImageRgb8)
        }
        PixelFormat::L16 => None,
    };
    Ok((image.ok_or_else(broken)?, turned.unwrap_or(Orientation::NoTransforms)))
}

/// RGB of four inks, each 0 where there is none of it, by OpenCV's rule for libjpeg's values (which
/// are 255 there).
fn printed(mut inks: Vec<u8>) -> Vec<u8> {
    let pixels = inks.len() / 4;
    for pixel in 0..pixels {
        let black = 255 - u32::from(inks[4 * pixel + 3]);
        for colour in 0..3 {
            let ink = u32::from(inks[4 * pixel + colour]);
            // At most `black`, which is a byte.
            inks[3 * pixel + colour] = (black - ((ink * black) >> 8)) as u8;
        }
    }
    inks.truncate(3 * pixels);
    inks.shrink_to_fit();
    inks
}

/// What the markers of a JPEG tell.
#[derive(Debug)]
struct Survey {
    /// How its values become colours.
    colours: ColorTransform,
    /// Where each scan's data end: the place of the first byte behind them.
    scan_ends: Vec<u64>,
}

/// One colour of the frame.
#[derive(Debug)]
struct Component {
    id: u8,
    /// Sampling factors, horizontal and vertical, 1 to 4.
    factors: (u32, u32),
    /// The coefficients, a bit for each of 64, whose last bits were in a scan.
    complete: u64,
}

/// The frame header.
#[derive(Debug)]
struct Frame {
    progressive: bool,
    width: u32,
    height: u32,
    /// Largest sampling factors.
    most: (u32, u32),
    components: Vec<Component>,
}

/// Walks over the markers of a file up to its end.
fn survey(reader: &mut Source<'_>, most: u64) -> Result<Survey, JpegError> {
    let mut file = Walk { reader, at: 0 };
    if [file.byte()?, file.byte()?] != [0xff, 0xd8] {
        return Err(damaged("it does not begin as a JPEG"));
    }
    let (mut jfif, mut adobe, mut frame, mut scan_ends) = (false, None, None, Vec::new());
    let mut next = None;
    loop {
        let code = match next.take() {
            Some(code) => code,
            None => file.marker()?,
        };
        match code {
            0xd9 => break,
            // Without a length: a restart that came too late, and a marker for private use.
            0xd0..=0xd7 | 0x01 => {}
            code @ 0xc0..=0xcf if !matches!(code, 0xc4 | 0xc8 | 0xcc) => {
                let segment = file.segment()?;
                if frame.is_some() {
                    return Err(JpegError::Form("several frames".into()));
                }
                frame = Some(frame_header(code, &segment, most)?);
            }
            0xcc => return Err(JpegError::Form("arithmetic coding".into())),
            0xdc => return Err(JpegError::Form("its height at the end".into())),
            0xda => {
                let segment = file.segment()?;
                let frame =
                    frame.as_mut().ok_or_else(|| damaged("a scan comes before the frame"))?;
                if scan_ends.len() == MAX_SCANS {
                    return Err(JpegError::Form(format!("more than {MAX_SCANS} scans")));
                }
                let start = file.at;
                let (end, code) = file.scan()?;
                next = Some(code);
                scan_ends.push(end);
                scan_header(frame, &segment, end - start)?;
            }
            0xe0 => jfif |= file.segment()?.starts_with(b"JFIF\0"),
            0xee => {
                let segment = file.segment()?;
                if segment.starts_with(b"Adobe") && segment.len() >= 12 {
                    adobe = Some(segment[11]);
                }
            }
            0xc0..=0xfe => drop(file.segment()?),
            code => {
                return Err(damaged(&format!("there is a marker of the unknown kind {code:#04x}")));
            }
        }
    }
    let frame = frame.ok_or(JpegError::Truncated)?;
    if frame.components.iter().any(|component| component.complete != u64::MAX) {
        return Err(JpegError::Truncated);
    }
    Ok(Survey { colours: colours(&frame, jfif, adobe), scan_ends })
}

fn damaged(problem: &str) -> JpegError {
    JpegError::Damaged(problem.into())
}

/// Reads a frame header (SOF); `code` is its marker's second byte.
fn frame_header(code: u8, segment: &[u8], most: u64) -> Result<Frame, JpegError> {
    let form = |what: &str| Err(JpegError::Form(what.into()));
    match code {
        0xc0..=0xc2 => {}
        0xc3 => return form("lossless compression"),
        0xc9..=0xcb => return form("arithmetic coding"),
        _ => return form("several resolutions"),
    }
    let [bits, h1, h0, w1, w0, count, rest @ ..] = segment else {
        return Err(damaged("the frame header is too short"));
    };
    let height = u32::from(u16::from_be_bytes([*h1, *h0]));
    let width = u32::from(u16::from_be_bytes([*w1, *w0]));
    if *bits != 8 {
        return form(&format!("{bits} bits a colour"));
    }
    if width == 0 {
        return Err(damaged("its width is 0"));
    }
    if height == 0 {
        return form("its height at the end");
    }
    if u64::from(width) * u64::from(height) > most {
        return Err(JpegError::TooLarge(width, height));
    }
    if !matches!(count, 1 | 3 | 4) {
        return form(&format!("{count} colours"));
    }
    if rest.len() != 3 * usize::from(*count) {
        return Err(damaged("the frame header has another length"));
    }
    let component = |c: &[u8]| {
        let factors = (u32::from(c[1] >> 4), u32::from(c[1] & 15));
        Component { id: c[0], factors, complete: 0 }
    };
    let components: Vec<_> = rest.chunks_exact(3).map(component).collect();
    let mut most = (1, 1);
    for Component { factors: (across, down), .. } in &components {
        if !(1..=4).contains(across) || !(1..=4).contains(down) {
            return Err(damaged("a sampling factor is not between 1 and 4"));
        }
        most = (most.0.max(*across), most.1.max(*down));
    }
    if components.iter().any(|c| most.0 % c.factors.0 != 0 || most.1 % c.factors.1 != 0) {
        return form("colours at two thirds or three quarters of the resolution");
    }
    Ok(Frame { progressive: code == 0xc2, width, height, most, components })
}

/// Notes what a scan of `bytes` bytes brings, and refuses one that can't be whole or is decoded
/// wrongly.
fn scan_header(frame: &mut Frame, segment: &[u8], bytes: u64) -> Result<(), JpegError> {
    let Some((&count, rest)) = segment.split_first() else {
        return Err(damaged("a scan header is empty"));
    };
    let count = usize::from(count);
    if !(1..=4).contains(&count) || rest.len() != 2 * count + 3 {
        return Err(damaged("a scan header has another length"));
    }
    let (named, parameters) = rest.split_at(2 * count);
    let [first, last, bits] = [parameters[0], parameters[1], parameters[2]];
    let (refines, low) = (bits >> 4 != 0, bits & 15);
    if first > 63 || last > 63 || first > last {
        return Err(damaged("a scan header names coefficients that do not exist"));
    }
    let mut blocks = 0;
    for name in named.chunks_exact(2) {
        let Some(component) = frame.components.iter_mut().find(|c| c.id == name[0]) else {
            return Err(damaged("a scan header names a colour that does not exist"));
        };
        let (across, down) = component.factors;
        // Blocks of a whole row and column, as the scan is padded where it holds several colours.
        let padded = |side: u32, most: u32, factor: u32| side.div_ceil(8 * most) * factor;
        let all =
            (padded(frame.width, frame.most.0, across), padded(frame.height, frame.most.1, down));
        if count > 1 {
            blocks += u64::from(all.0) * u64::from(all.1);
        } else {
            // Section A.2.2: alone in a scan a colour has as many blocks as it needs. The decoder
            // takes those that the page would have at full resolution, which is more for a colour
            // at, say, 2 of 4.
            let needed =
                |side: u32, most: u32, factor: u32| (side * factor).div_ceil(most).div_ceil(8);
            let alone = (
                needed(frame.width, frame.most.0, across),
                needed(frame.height, frame.most.1, down),
            );
            let taken = (all.0.min(frame.width.div_ceil(8)), all.1.min(frame.height.div_ceil(8)));
            if alone != taken {
                return Err(JpegError::Form(
                    "each colour by itself in uncommon resolutions".into(),
                ));
            }
            blocks = u64::from(alone.0) * u64::from(alone.1);
        }
        if !frame.progressive {
            component.complete = u64::MAX;
        } else if low == 0 {
            component.complete |= u64::MAX >> (63 - (last - first)) << first;
        }
    }
    // Each block takes a code of at least one bit, and another one for what follows its first
    // coefficient. Only the later coefficients of a progressive file may say in one code that many
    // blocks have none.
    let least = match (frame.progressive, first, refines) {
        (false, ..) => 2 * blocks,
        (true, 0, _) => blocks,
        (true, ..) => 0,
    };
    if bytes.saturating_mul(8) < least {
        return Err(JpegError::Truncated);
    }
    Ok(())
}

/// What the values mean, by libjpeg-turbo's rule: JFIF, then Adobe's marker, then the names of the
/// colours.
fn colours(frame: &Frame, jfif: bool, adobe: Option<u8>) -> ColorTransform {
    let ids: Vec<u8> = frame.components.iter().map(|component| component.id).collect();
    match (ids.as_slice(), jfif, adobe) {
        ([_], ..) => ColorTransform::Grayscale,
        ([_, _, _], true, _) => ColorTransform::YCbCr,
        ([_, _, _], false, Some(0)) => ColorTransform::RGB,
        ([_, _, _], false, Some(_)) => ColorTransform::YCbCr,
        (b"RGB", false, None) => ColorTransform::RGB,
        ([_, _, _], false, None) => ColorTransform::YCbCr,
        (_, _, None | Some(0)) => ColorTransform::CMYK,
        (_, _, Some(_)) => ColorTransform::YCCK,
    }
}

/// A file that is read marker by marker.
struct Walk<'a, 's> {
    reader: &'a mut Source<'s>,
    /// Place of the next byte.
    at: u64,
}

impl Walk<'_, '_> {
    fn byte(&mut self) -> Result<u8, JpegError> {
        let mut byte = [0];
        self.reader.read_exact(&mut byte)?;
        self.at += 1;
        Ok(byte[0])
    }

    /// Second byte of the next marker; what lies before it is passed over, as libjpeg does.
    fn marker(&mut self) -> Result<u8, JpegError> {
        loop {
            while self.byte()? != 0xff {}
            let mut code = 0xff;
            while code == 0xff {
                code = self.byte()?;
            }
            if code != 0 {
                return Ok(code);
            }
        }
    }

    /// The bytes of a segment behind its length.
    fn segment(&mut self) -> Result<Vec<u8>, JpegError> {
        let length = u16::from_be_bytes([self.byte()?, self.byte()?]);
        let Some(length) = length.checked_sub(2) else {
            return Err(damaged("a segment's length is less than 2"));
        };
        let mut bytes = vec![0; usize::from(length)];
        self.reader.read_exact(&mut bytes)?;
        self.at += u64::from(length);
        Ok(bytes)
    }

    /// Passes over the data of a scan and the marker behind them, which is no restart; returns
    /// where the data end and the marker's second byte.
    fn scan(&mut self) -> Result<(u64, u8), JpegError> {
        loop {
            let data = self.reader.fill_buf()?;
            if data.is_empty() {
                return Err(JpegError::Truncated);
            }
            let Some(plain) = data.iter().position(|byte| *byte == 0xff) else {
                let all = data.len();
                self.reader.consume(all);
                self.at += all as u64;
                continue;
            };
            self.reader.consume(plain + 1);
            self.at += plain as u64 + 1;
            let end = self.at - 1;
            let mut code = 0xff;
            while code == 0xff {
                code = self.byte()?;
            }
            // 0xff is a value where 0 follows, and a restart where 0xd0 to 0xd7 does.
            if !matches!(code, 0x00 | 0xd0..=0xd7) {
                return Ok((end, code));
            }
        }
    }
}

/// A JPEG with bytes of ones between the data of each scan and the marker behind it. No Huffman
/// code consists of ones alone, so that a decoder which needs more data than there are fails, where
/// it would go on with zeros at a marker; one which has what it needs passes over them in search of
/// the marker.
struct Spliced<R> {
    reader: R,
    /// Place of the next byte in the file.
    at: u64,
    /// Where the ones go, from the first to the last.
    ends: std::vec::IntoIter<u64>,
    /// Where they go next.
    end: Option<u64>,
    /// Bytes of them that are still to be given out, with those that mark them as values.
    filler: usize,
    /// Whether the last byte given out was one of them.
    beyond: bool,
}

impl<R: Read> Spliced<R> {
    fn new(reader: R, ends: Vec<u64>) -> Self {
        let mut ends = ends.into_iter();
        let end = ends.next();
        Self { reader, at: 0, ends, end, filler: 0, beyond: false }
    }
}

impl<R: Read> Read for Spliced<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.end == Some(self.at) {
            self.end = self.ends.next();
            self.filler = 2 * FILLER;
        }
        if let (1.., Some(out)) = (self.filler, out.first_mut()) {
            *out = if self.filler.is_multiple_of(2) { 0xff } else { 0 };
            self.filler -= 1;
            self.beyond = true;
            return Ok(1);
        }
        let most = match self.end {
            // No less than 1: at the end itself there is filler.
            Some(end) => out.len().min(usize::try_from(end - self.at).unwrap_or(usize::MAX)),
            None => out.len(),
        };
        let length = self.reader.read(&mut out[..most])?;
        self.at += length as u64;
        self.beyond = false;
        Ok(length)
    }
}

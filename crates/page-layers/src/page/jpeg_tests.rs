//! JPEGs in all their forms against libjpeg-turbo's values. `jpegs/make.c` says how the files were
//! made.

use std::io::Cursor;

use image::DynamicImage;

use super::jpeg::{JpegError, decode};
use super::source::source;

/// Largest difference from libjpeg's values: the decoder rounds otherwise where colours are
/// enlarged.
const TOLERANCE: u8 = 3;

/// A file, its bytes, and what libjpeg-turbo makes of it.
type Case = (&'static str, &'static [u8], &'static [u8]);

macro_rules! cases {
    ($($name:literal: $($how:literal)*;)*) => {
        &[$($((
            concat!($name, "_", $how),
            include_bytes!(concat!("jpegs/", $name, "_", $how, ".jpg")),
            include_bytes!(concat!("jpegs/", $name, ".ppm")),
        ),)*)*]
    };
}

const CASES: &[Case] = cases! {
    "grey": "plain" "restart" "progressive";
    "grey_22": "plain" "restart" "progressive";
    "rgb": "plain" "restart" "progressive" "separate" "paired";
    "ycc": "plain" "restart" "progressive" "separate" "paired";
    "ycc_21": "plain" "restart" "progressive" "separate" "paired";
    "ycc_12": "plain" "restart" "progressive" "separate" "paired";
    "ycc_22": "plain" "restart" "progressive" "separate" "paired";
    "ycc_41": "plain" "restart" "progressive" "separate" "paired";
    "ycc_42": "plain" "restart" "progressive" "separate" "paired";
    "ycc_22_21_12": "plain" "restart" "progressive" "separate" "paired";
    "cmyk": "plain" "restart" "progressive" "separate" "paired";
    "cmyk_22": "plain" "restart" "progressive" "separate" "paired";
    "ycck": "plain" "restart" "progressive" "separate" "paired";
    "ycck_22": "plain" "restart" "progressive" "separate" "paired";
};

fn case(name: &str) -> Vec<u8> {
    CASES.iter().find(|(found, ..)| *found == name).unwrap().1.to_vec()
}

fn decoded(bytes: &[u8]) -> Result<DynamicImage, JpegError> {
    decode(source(Cursor::new(bytes)), 1 << 20).map(|(image, _)| image)
}

/// The values of a PPM of 37×19 pixels; of a PGM each three times.
fn values(file: &[u8]) -> Vec<u8> {
    let (head, body) = file.split_at(b"P6\n37 19\n255\n".len());
    match head {
        b"P6\n37 19\n255\n" => body.to_vec(),
        b"P5\n37 19\n255\n" => body.iter().flat_map(|value| [*value; 3]).collect(),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn assert_seen(name: &str, bytes: &[u8], file: &[u8]) {
    let image = decoded(bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!((image.width(), image.height()), (37, 19), "{name}");
    let (seen, expected) = (image.into_rgb8().into_raw(), values(file));
    assert_eq!(seen.len(), expected.len(), "{name}");
    let most = seen.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(most <= Some(TOLERANCE), "{name} differs by {most:?}");
}

/// Replaces the bytes at the only place where they are.
#[track_caller]
fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let places: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(old)).collect();
    let [place] = places[..] else { panic!("{old:?} is at {places:?}") };
    [&bytes[..place], new, &bytes[place + old.len()..]].concat()
}

#[track_caller]
fn refused(bytes: &[u8], word: &str) {
    let error = decoded(bytes).unwrap_err();
    assert!(error.to_string().contains(word), "{word:?} is not in: {error}");
}

#[test]
fn every_form_is_seen_as_libjpeg_sees_it() {
    CASES.iter().for_each(|(name, bytes, file)| assert_seen(name, bytes, file));
}

#[test]
fn what_the_values_mean_is_decided_as_libjpeg_decides_it() {
    let (rgb, rgb_values) =
        (case("rgb_plain"), CASES.iter().find(|c| c.0 == "rgb_plain").unwrap().2);
    // The names of Y, Cb and Cr, but Adobe's marker says RGB.
    let named = replaced(&rgb, b"R\x11\0G\x11\0B\x11\0", b"\x01\x11\0\x02\x11\0\x03\x11\0");
    let named =
        replaced(&named, b"\xff\xda\0\x0c\x03R\0G\0B\0", b"\xff\xda\0\x0c\x03\x01\0\x02\0\x03\0");
    assert_seen("rgb named as ycc", &named, rgb_values);
    // Without Adobe's marker the names count.
    let adobe = b"\xff\xee\0\x0eAdobe";
    let unmarked = |bytes: &[u8]| replaced(bytes, adobe, b"\xff\xee\0\x0eOther");
    assert_seen("rgb by its names", &unmarked(&rgb), rgb_values);
    let as_ycc = decoded(&unmarked(&named)).unwrap().into_rgb8().into_raw();
    assert!(as_ycc.iter().zip(values(rgb_values)).any(|(a, b)| a.abs_diff(b) > 50));
    // Four colours without a marker are inks.
    let cmyk = CASES.iter().find(|c| c.0 == "cmyk_plain").unwrap();
    assert_seen("cmyk unmarked", &unmarked(cmyk.1), cmyk.2);
}

#[test]
fn a_part_of_a_file_is_never_taken_for_a_page() {
    for (name, bytes, file) in CASES {
        let scan = bytes.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
        for length in 2..bytes.len() {
            let part = &bytes[..length];
            let error = decoded(part).expect_err(name);
            assert!(matches!(error, JpegError::Truncated), "{name}, {length} bytes: {error}");
            // The same with the mark of an end, as some programs add it, where at least a byte of
            // data is lost.
            if (scan + 16..bytes.len() - 2).contains(&length) && part.last() != Some(&0xff) {
                match decoded(&[part, &[0xff, 0xd9]].concat()) {
                    Err(JpegError::Truncated | JpegError::Damaged(_)) => {}
                    Err(error) => panic!("{name}, {length} bytes and an end: {error}"),
                    // The last bits of a progressive file are corrections of single coefficients by
                    // their last bit.
                    Ok(image) => {
                        let seen = image.into_rgb8().into_raw();
                        let most = seen.iter().zip(values(file)).map(|(a, b)| a.abs_diff(b)).max();
                        let few = name.ends_with("progressive") && most < Some(20);
                        assert!(few, "{name}, {length} bytes and an end: a difference of {most:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_follows_the_end_does_not_matter() {
    let (name, bytes, file) = CASES.iter().find(|c| c.0 == "ycc_22_separate").unwrap();
    assert_seen(name, &[bytes, &b"and a second picture \xff\xd8"[..]].concat(), file);
}

#[test]
fn forms_that_are_not_decoded_are_named() {
    let plain = case("ycc_plain");
    let frame =
        |code: u8, bits: u8| replaced(&plain, b"\xff\xc0\0\x11\x08", &[0xff, code, 0, 0x11, bits]);
    refused(&frame(0xc1, 12), "12 bits");
    refused(&frame(0xc3, 8), "lossless");
    refused(&frame(0xc5, 8), "several resolutions");
    refused(&frame(0xc9, 8), "arithmetic coding");
    refused(&replaced(&plain, b"\x08\0\x13\0\x25\x03", b"\x08\0\0\0\x25\x03"), "height at the end");
    refused(&replaced(&plain, b"\x08\0\x13\0\x25\x03", b"\x08\0\x13\0\0\x03"), "width is 0");
    refused(&replaced(&plain, b"\0\x25\x03\x01", b"\0\x25\x02\x01"), "2 colours");
    // Cr at two thirds of Y's resolution, and at zero.
    refused(&replaced(&plain, b"\x01\x11\0\x02\x11\x01", b"\x01\x31\0\x02\x21\x01"), "two thirds");
    refused(&replaced(&plain, b"\x02\x11\x01", b"\x02\x01\x01"), "sampling factor");
    // A colour at half of the resolution that would be alone in its scan: 2 of 4.
    let separate = case("ycc_41_separate");
    refused(&replaced(&separate, b"\x02\x11\x01", b"\x02\x21\x01"), "uncommon resolutions");
    let first = plain.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
    let endless = [&plain[..plain.len() - 2], &plain[first..plain.len() - 2].repeat(1000)].concat();
    refused(&endless, "more than 1000 scans");
}

#[test]
fn a_size_is_refused_before_anything_else_is_read() {
    let plain = case("ycc_plain");
    let forged = replaced(&plain, b"\x08\0\x13\0\x25\x03", b"\x08\xff\xff\xff\xff\x03");
    let frame = forged.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    for bytes in [&forged[..], &forged[..frame + 19]] {
        assert!(matches!(decoded(bytes), Err(JpegError::TooLarge(65535, 65535))));
    }
    // As large as is taken, but the data are those of a small page.
    let large = replaced(&plain, b"\x08\0\x13\0\x25\x03", b"\x08\x04\0\x04\0\x03");
    assert!(matches!(decoded(&large), Err(JpegError::Truncated)));
}

#[test]
fn damage_never_panics() {
    for (name, bytes, _) in CASES {
        for at in (0..bytes.len()).step_by(5) {
            for value in [0, 0xff, bytes[at] ^ 0x10] {
                let mut bytes = bytes.to_vec();
                bytes[at] = value;
                // Whatever comes of it, it is no larger than what is taken.
                if let Ok(image) = decoded(&bytes) {
                    assert!(
                        u64::from(image.width()) * u64::from(image.height()) <= 1 << 20,
                        "{name}"
                    );
                }
            }
        }
    }
}
